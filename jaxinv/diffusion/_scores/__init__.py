"""Scores, the parametrisations of networks that predict them, and the loss of their training."""
