"""Gaussian deviations, eliminated: for each latent the best one has a closed form."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood, Whitened, prepare_parameter, whiten
from ..noise import AbstractGaussianNoise
from ..operators import AbstractLinearOperator
from ..oracles._update import Observation, _rows, observe
from ..regularisers import AbstractRegulariser, Gaussian, Scaled
from ._deviation import enter_deviation
from ._method import AbstractLatentMethod, AbstractMethod

HIGHEST = jax.lax.Precision.HIGHEST


class Eliminated(AbstractLatentMethod):
    """`min_z min_u -log p(y | G(z) + u) + weight * energy(z) + R(u)` with the inner minimum in closed form.

    For a linear operator, Gaussian noise and `u = mean + factor w` with `R(u) = 1/2 ||w||^2` it is
    `1/2 r^T (I + B B^T)^{-1} r` with `r` the whitened residual of `G(z) + mean` and `B` the whitened operator on the
    factor, that is `1/2 ||r - B w||^2 + 1/2 ||w||^2` at `w = gain r`: two products with matrices made once, whose
    rounding enters squared. The Hessian in `z` is the Schur complement of the joint one, so a minimiser, and its
    derivatives, are those of the joint problem.

    **Reference:** Golub, Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate, 1973.
    """

    operator: Whitened
    observation: Observation
    gain: Array
    mean: Array
    factor: Array

    def objective(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, weight: Array, variables: Array
    ) -> tuple[Array, Array | float]:
        del likelihood, y
        residual, deviation = self._best(prior.decode(variables))
        rest = residual - jnp.matmul(self.observation.design, deviation, precision=HIGHEST)
        fit = 0.5 * (jnp.sum(rest**2) + jnp.sum(deviation**2)) + self.observation.noise_constant
        return fit + weight * prior.energy(variables), 0.0

    def image(self, prior: AbstractGenerativePrior, variables: Array) -> Array:
        decoded = prior.decode(variables)
        step = jnp.matmul(self.factor, self._best(decoded)[1], precision=HIGHEST)
        return decoded + self.mean + step.reshape(decoded.shape)

    def _best(self, decoded: Array) -> tuple[Array, Array]:
        """The residual of a decoded image, and the coefficients of the deviation that is best for it."""
        residual = self.observation.data - _rows(self.operator, self.operator(decoded))
        return residual, jnp.matmul(self.gain, residual, precision=HIGHEST)


def enter_with_deviation(
    method: Any, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
) -> tuple[AbstractMethod, Any]:
    """`enter` of a method with a `deviation` and a `weight`: without the deviation, where that has a closed form."""
    weight, result = prepare_parameter(
        method.weight, likelihood.operator, result, positive=True, name="the weight of the method"
    )
    deviation = enter_deviation(method.deviation, likelihood, prior, type(method).__name__)
    eliminated = _eliminate(likelihood, y, deviation, weight)
    return (type(method)(deviation, weight) if eliminated is None else eliminated), result


def _eliminate(likelihood: Likelihood, y: State, deviation: AbstractRegulariser, weight: Array) -> Eliminated | None:
    """The problem without the deviation, where that has a closed form; else `None`. The weight is positive."""
    while isinstance(deviation, Scaled):
        deviation, weight = deviation.regulariser, weight * deviation.factor.astype(weight.dtype)
    operator = likelihood.operator
    if not (
        isinstance(deviation, Gaussian)
        and isinstance(operator, AbstractLinearOperator)
        and isinstance(likelihood.noise, AbstractGaussianNoise)
    ):
        return None
    positive = weight > 0
    factor = deviation.basis * (deviation.std / jnp.sqrt(jnp.where(positive, weight, 1)))[None, :]
    observation = observe(likelihood, y, deviation.mean, factor)
    whitened, _ = whiten(likelihood, y, "a Gaussian deviation")
    return Eliminated(whitened, observation, observation.gain(), deviation.mean, factor)
