"""Checks of learned priors, and of samples of their posteriors, that need no true image."""
