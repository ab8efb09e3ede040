"""Quadratic regularisation by conjugate gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import multiply
from .._conjugate_gradients import minimise_quadratic
from .._differentiation import Implicit, Unrolled, attach_implicit, check_differentiate
from .._jit import verb
from .._solution import RESULTS, Solution
from .._types import Checked, Scalar, State
from .._workarounds import rounded
from ..likelihood import Likelihood, Whitened, prepare, prepare_parameter, whiten
from ..regularisers import AbstractRegulariser, Tikhonov
from ._primal_dual import PrimalDual
from ._solver import cast_to, drive


@verb(traced=("weight",), tolerances=("rtol", "atol"))
def tikhonov(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    regulariser: Checked[AbstractRegulariser | None] = None,
    constraint: Checked[AbstractRegulariser | None] = None,
    max_steps: int = 500,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
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
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`. With one the steps are those
      of `classical.primal_dual`, which needs more of them: raise `max_steps` to some thousands. Not with `Implicit()`.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when the residual of the normal equations is at most `atol + rtol * |A* S^{-1} y|`;
      with a constraint they are those of `classical.primal_dual`.
    - `differentiate`: `None`, `Unrolled()`, or `Implicit()`, which is exact here.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`, and without a constraint `residual`. The code is
    `breakdown` where the residual that the iteration carries is not the true one, which is computed at the end: the
    operator is not linear to the precision of its dtype, or has another value in another place of the program.

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
    if constraint is not None:
        if isinstance(differentiate, Implicit):
            raise ValueError(
                "`Implicit()` is for `tikhonov` without a constraint. Take `differentiate=Unrolled()`, or leave the "
                "constraint out."
            )
        bounded = PrimalDual(exact=False)
        split, result = bounded.prepare(
            likelihood, regulariser, y, weight=weight, constraint=constraint, rtol=rtol, atol=atol
        )
        return drive(bounded, split, result, max_steps=max_steps, differentiate=differentiate)
    prepared, data, result = prepare(likelihood, y)
    inputs = (likelihood, y, weight, regulariser)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    whitened, b = whiten(prepared, data, "tikhonov")
    cast: AbstractRegulariser = cast_to(regulariser, weight.dtype)
    problem = _Quadratic(whitened, cast, weight, b)
    zeros = lambda struct: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), struct)
    operator = likelihood.operator

    frozen = jax.lax.stop_gradient(problem) if isinstance(differentiate, Implicit) else problem
    solved = minimise_quadratic(
        lambda v, on, problem: problem.downhill(v, on),
        zeros(operator.domain),
        zeros(operator.codomain),
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
    # Conjugate gradients know the prediction; but `Implicit()` gives the image another derivative.
    prediction = operator(x) if isinstance(differentiate, Implicit) else solved.aside
    misfit = prepared.noise.negative_log_likelihood(prediction, data, operator.measured)
    objective = misfit + weight * cast(x)
    stats = {"num_steps": solved.num_steps, "objective": objective, "residual": jnp.sqrt(solved.square)}
    return Solution(x, result, stats)


class _Quadratic(eqx.Module):
    """`1/2 ||B x - b||^2 + weight R(x)`."""

    operator: Whitened
    regulariser: AbstractRegulariser
    weight: Array
    data: State

    def gradient(self, x: Array) -> Array:
        return -self.downhill(x, jnp.ones((), self.weight.dtype))[0]

    def curvature(self, v: Array) -> Array:
        return -self.downhill(v, jnp.zeros((), self.weight.dtype))[0]

    def downhill(self, v: Array, on: Array) -> tuple[Array, State]:
        """`on * b - H v`, with `-b` the gradient at 0 and `H` the Hessian; and the prediction `A v`."""
        prediction = self.operator.operator(v)
        image = self.operator.whiten(prediction)
        residual = jax.tree.map(lambda d, i: rounded(on.astype(d.dtype) * d) - i, self.data, image)
        # The gradient at 0 and the derivative, which add up, for a difference of two gradients would cancel a prior's
        # mean to rounding.
        offset, linear = jax.jvp(self.regulariser.gradient, (jnp.zeros_like(v),), (v,))
        penalty = rounded(multiply(self.weight, rounded(on.astype(v.dtype) * offset) + linear))
        return self.operator.adjoint(residual) - penalty, prediction
