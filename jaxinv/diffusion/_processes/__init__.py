"""Noising processes, their schedules, and images that they noise."""
