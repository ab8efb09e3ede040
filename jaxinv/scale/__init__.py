"""Many problems, on many devices, within the memory there is."""

from ._solve_many import solve_many as solve_many
