"""Samplers of the reverse process."""
