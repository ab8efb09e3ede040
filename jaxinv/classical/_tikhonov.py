"""Quadratic regularisation by conjugate gradients."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._conjugate_gradients import conjugate_gradients
from .._differentiation import Implicit, attach_implicit, check_differentiate
from .._solution import RESULTS, Solution
from .._types import Scalar, State
from .._verb import verb
from ..likelihood import Likelihood, Whitened, prepare, prepare_parameter, whiten
from ..regularisers import AbstractRegulariser, Tikhonov


@verb
def tikhonov(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    regulariser: Any = None,
    max_steps: int = 500,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    differentiate: Any = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * R(x)` for a quadratic `R`, by conjugate gradients.

    The normal equations `(A* S^{-1} A + weight L* L) x = A* S^{-1} y`, with `S` the covariance of the noise,
    matrix-free from `x = 0`. With `weight=0` it is least squares, the solution of least norm. Photon noise enters
    by its Gaussian approximation (`noise.linearise`): penalised weighted least squares.

    **Arguments:**

    - `likelihood`: a linear operator and its noise.
    - `y`: one measurement, of the shape of the operator's codomain.
    - `weight`: a scalar, not negative. The `l` of `||A x - y||^2 + l ||x||^2` is `weight = l / std^2`.
    - `regulariser`: quadratic: `regularisers.Tikhonov(L)`, `regularisers.Gaussian(prior)`, sums and scalings of them;
      default `Tikhonov()`, `1/2 ||x||^2`.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when the residual of the normal equations is at most `atol + rtol * |A* S^{-1} y|`.
    - `differentiate`: `None`, `Unrolled()`, or `Implicit()`, which is exact here.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`, `residual`.

    **Raises:** `ValueError` for a non-linear operator, a regulariser that is not quadratic, or wrong shapes.

    **Reference:** Hestenes, Stiefel, Methods of conjugate gradients for solving linear systems, 1952.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.Convolution(jnp.ones((3, 3)) / 9, (16, 16, 1))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.ones((16, 16, 1)), key=jax.random.key(0))
        image = jaxinv.classical.tikhonov(likelihood, y, weight=1.0).value
        ```
    """
    check_differentiate(differentiate)
    regulariser = Tikhonov() if regulariser is None else regulariser
    if not (isinstance(regulariser, AbstractRegulariser) and regulariser.is_quadratic):
        raise ValueError(
            "`tikhonov` needs a quadratic regulariser, Tikhonov(L) or Gaussian(prior) or sums of them; got "
            f"{regulariser}. For TV take `classical.tv`, for L1 `classical.fista`."
        )
    prepared, data, result = prepare(likelihood, y)
    inputs = (likelihood, y, weight, regulariser)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    whitened, b = whiten(prepared, data, "tikhonov")
    regulariser = jax.tree.map(lambda leaf: leaf.astype(_matching(leaf.dtype, weight.dtype)), regulariser)
    problem = _Quadratic(whitened, regulariser, weight, b)

    frozen = jax.lax.stop_gradient(problem) if isinstance(differentiate, Implicit) else problem
    downhill = frozen.downhill_at_zero()
    solved = conjugate_gradients(
        lambda v, problem: problem.curvature(v),
        downhill,
        frozen,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
        result=result,
        differentiate=differentiate,
    )
    x, result = solved.x, solved.result
    if isinstance(differentiate, Implicit):
        ok = result == RESULTS.successful
        x = attach_implicit(differentiate, x, problem.gradient, frozen.curvature, ok, inputs)
    objective = prepared.negative_log_likelihood(x, data) + weight * regulariser(x)
    stats = {"num_steps": solved.num_steps, "objective": objective, "residual": jnp.sqrt(solved.square)}
    return Solution(x, result, stats)


class _Quadratic(eqx.Module):
    """`1/2 ||B x - b||^2 + weight R(x)`."""

    operator: Whitened
    regulariser: AbstractRegulariser
    weight: Array
    data: State

    def gradient(self, x: Array) -> Array:
        residual = jax.tree.map(jnp.subtract, self.operator(x), self.data)
        return self.operator.adjoint(residual) + self.weight * self.regulariser.gradient(x)

    def downhill_at_zero(self) -> Array:
        """Minus the gradient at 0, where the prediction is 0: the operator is not applied."""
        back = self.operator.adjoint(self.data)
        return back - self.weight * self.regulariser.gradient(jnp.zeros_like(back))

    def curvature(self, v: Array) -> Array:
        # The derivative, not a difference of two gradients: a prior's mean would cancel to rounding in it.
        linear = jax.jvp(self.regulariser.gradient, (jnp.zeros_like(v),), (v,))[1]
        return self.operator.normal(v) + self.weight * linear


def _matching(dtype: Any, real: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.result_type(real, jnp.complex64)
    return real if jnp.issubdtype(dtype, jnp.floating) else dtype
