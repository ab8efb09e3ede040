"""Scores, what a network may predict of them, and the loss that trains it."""
