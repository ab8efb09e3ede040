"""Any likelihood, with the step size that gradient steps on it bear."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._score import AbstractScore
from ..._types import State
from ...likelihood import Likelihood, whiten
from ...operators import AbstractLinearOperator, norm
from ...operators._base import is_concrete
from .._processes._process import AbstractProcess
from ._problem import enter

# Of a power iteration whose result is a step size.
_RTOL = 1e-2
_STEPS = 30


class CurvedProblem(eqx.Module):
    """Any likelihood, prepared, with its curvature where that is the same at every image."""

    score: AbstractScore
    likelihood: Likelihood
    y: State
    everywhere: Array | None
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def process(self) -> AbstractProcess:
        return self.score.process

    def slope(self, x: Array) -> Array:
        """The gradient of `-log p(y | x)`."""
        return jax.grad(lambda x: self.likelihood.negative_log_likelihood(x, self.y))(x)

    def curvature(self, x: Array) -> Array:
        """`||S^{-1/2} A'(x)||^2`, with the derivative of the operator: how curved `-log p(y | x)` is, at most.

        By a power iteration. `S` is the covariance of the noise, for photon noise that of `noise.linearise`.
        """
        if self.everywhere is not None:
            return self.everywhere
        return _curvature(Likelihood(self.likelihood.operator.linearise(x), self.likelihood.noise), self.y, x)


def enter_curved(score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[CurvedProblem, Any]:
    """The problem of a method that takes gradient steps on any likelihood."""
    problem, result = enter(score, likelihood, y)
    linear = isinstance(problem.likelihood.operator, AbstractLinearOperator)
    nowhere = jnp.zeros(problem.image.shape, problem.image.dtype)
    everywhere = _curvature(problem.likelihood, problem.y, nowhere) if linear else None
    return CurvedProblem(problem.score, problem.likelihood, problem.y, everywhere, problem.image), result


def _curvature(likelihood: Likelihood, y: State, x: Array) -> Array:
    whitened, _ = whiten(likelihood, y, "the curvature")
    # The documented exception to "keys are never defaulted": the start of the power iteration is fixed.
    key = jax.random.key(0, impl="threefry2x32")
    return (norm(whitened, key=key, rtol=_RTOL, max_steps=_STEPS) ** 2).astype(x.dtype)


def check_step_size(step_size: Array, below: float) -> None:
    """Raise for a step size that is known and out of range."""
    if is_concrete(step_size) and not bool(jnp.all((step_size > 0) & (step_size < below))):
        raise ValueError(f"`step_size` must be positive and below {below:g}; got {step_size}.")
