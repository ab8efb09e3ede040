"""What can be known of a learned prior, and of samples of its posterior, without the truth."""
