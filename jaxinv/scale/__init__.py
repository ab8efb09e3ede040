"""Solving many problems on many devices and machines, in a run that goes on where it was stopped."""

from ._plan import Plan as Plan, plan as plan
from ._processes import ProcessError as ProcessError
from ._results import Addressable as Addressable
from ._solve_many import solve_many as solve_many
from ._stored import StoredArray as StoredArray, open_results as open_results

__all__ = [
    "Addressable",
    "Plan",
    "ProcessError",
    "StoredArray",
    "open_results",
    "plan",
    "solve_many",
]
