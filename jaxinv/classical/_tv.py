"""Total variation by a primal-dual method."""

import jax
from jaxtyping import Array

from .._arrays import check_image_shape
from .._differentiation import Implicit, Unrolled, attach_implicit, check_differentiate
from .._jit import verb
from .._solution import RESULTS, Solution
from .._types import Checked, Scalar, State
from ..likelihood import Likelihood
from ..regularisers import TV, AbstractRegulariser, Anisotropic, Isotropic, Smoothed
from ._primal_dual import PrimalDual
from ._solver import Problem, drive, prepare_problem


@verb(traced=("weight", "norm"), tolerances=("rtol", "atol"))
def tv(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    kind: Isotropic | Anisotropic | Smoothed | None = None,
    constraint: Checked[AbstractRegulariser | None] = None,
    exact: bool = False,
    norm: Scalar | None = None,
    max_steps: int = 2000,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * TV(x)` by the primal-dual method of Chambolle and Pock.

    Both the data term and the variation are dualised: `K = (B / |B|, grad / sqrt(8))`, with `B` the operator whitened
    by the noise, and steps balanced by the sizes of data and weight, so that the iteration does not depend on the
    units of the image. Over-relaxed. Photon noise enters by its Gaussian approximation (`noise.linearise`), unless
    `exact`. `primal_dual` is this for any sum of regularisers.

    **Arguments:**

    - `likelihood`: a linear operator on images `(h, w, c)`, and its noise.
    - `y`: one measurement.
    - `weight`: a scalar, not negative.
    - `kind`: `regularisers.Isotropic()` (the default), `Anisotropic()` or `Smoothed(eps)`.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`; not with `Implicit()`.
    - `exact`: whether photon noise enters by its likelihood, static, in place of its Gaussian approximation. That
      weighs bins by the counts themselves, and so is about one photon too low in flat regions. Not with `Implicit()`.
    - `norm`: of the operator, where it is known; else it is estimated in the first rounds, from a fixed start.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and objective by less than `atol + rtol * size`.
    - `differentiate`: `None`, `Unrolled()`, or, for `Smoothed(eps)` only, `Implicit()`.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`.

    **Raises:** `ValueError` for a non-linear operator, wrong shapes, or `Implicit()` with a kind that is not smooth.

    **Reference:** Chambolle, Pock, A first-order primal-dual algorithm for convex problems with applications to
    imaging, 2011.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((16, 16, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 4:12].set(1.0), key=jax.random.key(0))
        image = jaxinv.classical.tv(likelihood, y, weight=5.0).value
        ```
    """
    check_differentiate(differentiate)
    regulariser = TV(Isotropic() if kind is None else kind)
    if isinstance(differentiate, Implicit) and not regulariser.is_smooth:
        raise ValueError(
            f"`Implicit()` needs a smooth objective, and {regulariser.kind} is not smooth. Take "
            "`kind=regularisers.Smoothed(eps)`, or `differentiate=Unrolled()`."
        )
    if isinstance(differentiate, Implicit) and (constraint is not None or exact):
        raise ValueError(
            "`Implicit()` is for `tv` without a constraint and with the Gaussian approximation of photon noise. Take "
            "`differentiate=Unrolled()`."
        )
    check_image_shape(likelihood.operator.domain.shape)
    inputs = (likelihood, y, weight, regulariser)
    method = PrimalDual(exact, balance=1.0)
    base, result = prepare_problem(likelihood, regulariser, y, "tv", weight, constraint, norm, rtol, atol)
    problem = method.split(base)
    if not isinstance(differentiate, Implicit):
        return drive(method, problem, result, max_steps=max_steps, differentiate=differentiate)
    solution = drive(method, jax.lax.stop_gradient(problem), result, max_steps=max_steps)
    frozen, at = jax.lax.stop_gradient((base, solution.value))
    curvature = lambda v: jax.jvp(lambda x: _gradient(frozen, x), (at,), (v,))[1]
    ok = solution.result == RESULTS.successful
    x = attach_implicit(differentiate, solution.value, lambda x: _gradient(base, x), curvature, ok, inputs)
    # The prediction of the loop knows no derivative.
    objective = base.objective(x, base.likelihood.operator(x))
    return Solution(x, solution.result, solution.stats | {"objective": objective})


def _gradient(problem: Problem, x: Array) -> Array:
    slope = problem.operator.adjoint(problem.residual(problem.likelihood.operator(x)))
    return slope + problem.weight * problem.regulariser.gradient(x)
