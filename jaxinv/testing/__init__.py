"""Checks for operators, priors, samplers and solvers of your own: those that this package runs on itself.

Each is a function that returns `None`, or raises an `AssertionError` which says what was measured, what is allowed and
what to do. Call them from a test.
"""

from ._latent_method import check_latent_method as check_latent_method
from ._noise import check_noise as check_noise
from ._operators import check_linear_operator as check_linear_operator, check_operator as check_operator
from ._posterior_method import check_posterior_method as check_posterior_method
from ._priors import check_generative_prior as check_generative_prior
from ._regularisers import check_regulariser as check_regulariser
from ._sampler import check_sampler as check_sampler
from ._score import check_score as check_score
from ._solver import check_solver as check_solver
from ._stopping_rule import check_stopping_rule as check_stopping_rule

__all__ = [
    "check_generative_prior",
    "check_latent_method",
    "check_linear_operator",
    "check_noise",
    "check_operator",
    "check_posterior_method",
    "check_regulariser",
    "check_sampler",
    "check_score",
    "check_solver",
    "check_stopping_rule",
]
