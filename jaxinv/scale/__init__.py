"""Solving many problems on many devices within the available memory."""

from ._solve_many import solve_many as solve_many

__all__ = [
    "solve_many",
]
