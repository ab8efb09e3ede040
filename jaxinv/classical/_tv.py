"""Total variation by a primal-dual method."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_image_shape, multiply, safe_sqrt, standard_promotion
from .._differentiation import Implicit, Unrolled, attach_implicit, check_differentiate
from .._jit import verb
from .._loop import divergence_threshold, stands_still
from .._solution import RESULTS, Solution
from .._sums import dot
from .._types import Checked, PyTree, Scalar, State
from .._workarounds import rounded
from ..likelihood import Likelihood, Whitened, prepare, prepare_parameter, whiten
from ..regularisers import TV, Anisotropic, Isotropic, Smoothed, image_gradient, image_gradient_adjoint
from ._first_order import AbstractFirstOrder, Iterate, solve


@verb(not_negative=("weight",), positive=("norm",), tolerances=("rtol", "atol"))
def tv(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    kind: Isotropic | Anisotropic | Smoothed | None = None,
    norm: Scalar | None = None,
    max_steps: int = 2000,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * TV(x)` by the primal-dual method of Chambolle and Pock.

    Both the data term and the variation are dualised: `K = (B / |B|, grad / sqrt(8))`, with `B` the operator whitened
    by the noise, and steps balanced by the sizes of data and weight, so that the iteration does not depend on the
    units of the image. Over-relaxed. Photon noise enters by its Gaussian approximation (`noise.linearise`).

    **Arguments:**

    - `likelihood`: a linear operator on images `(h, w, c)`, and its noise.
    - `y`: one measurement.
    - `weight`: a scalar, not negative.
    - `kind`: `regularisers.Isotropic()` (the default), `Anisotropic()` or `Smoothed(eps)`.
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
    check_image_shape(likelihood.operator.domain.shape)
    prepared, data, result = prepare(likelihood, y)
    inputs = (likelihood, y, weight, regulariser)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    if norm is not None:
        norm, result = prepare_parameter(norm, likelihood.operator, result, positive=True, name="norm")
    whitened, b = whiten(prepared, data, "tv")
    problem = _Problem(whitened, regulariser, weight, b)
    frozen = jax.lax.stop_gradient(problem) if isinstance(differentiate, Implicit) else problem
    method = _primal_dual(frozen, rtol, atol)
    state, num_steps, result = solve(method, norm, result, max_steps=max_steps, differentiate=differentiate)
    x, (_, prediction, _) = state.image, state.rest
    if isinstance(differentiate, Implicit):
        at = jax.lax.stop_gradient(x)
        curvature = lambda v: jax.jvp(frozen.gradient, (at,), (v,))[1]
        ok = result == RESULTS.successful
        x = attach_implicit(differentiate, x, problem.gradient, curvature, ok, inputs)
        # The prediction of the loop knows no derivative.
        prediction = prepared.operator(x)
    fit = prepared.noise.negative_log_likelihood(prediction, data, prepared.operator.measured)
    objective = fit + weight * regulariser(x)
    return Solution(x, result, {"num_steps": num_steps, "objective": objective})


class _Problem(eqx.Module):
    """`1/2 ||B x - b||^2 + weight TV(x)`."""

    operator: Whitened
    regulariser: TV
    weight: Array
    data: State

    def gradient(self, x: Array) -> Array:
        residual = jax.tree.map(jnp.subtract, self.operator(x), self.data)
        return self.operator.adjoint(residual) + self.weight * self.regulariser.gradient(x)


# ||(B / |B|, grad / sqrt(8))||^2 is at most 2; the relaxation must be below 2.
_RADIUS = 8.0
_ROOT = math.sqrt(_RADIUS)
_RELAXATION = 1.8


class _PrimalDual(AbstractFirstOrder):
    """Steps in units in which `B` and the gradient have norm 1.

    The state is an image and its two dual variables, the prediction of the image, and the objective of the last
    extrapolated one. That is `u = 2 v - x`, where a step without relaxation leads from `x` to `v`; the dual step is
    made there, so that each step measures this image only, and `x` moves towards it.

    - `size`: of the data.
    """

    problem: _Problem
    size: Array
    rtol: Array
    atol: Array
    rounding: Array
    divergence_threshold: Array

    @property
    def operator(self) -> Whitened:
        return self.problem.operator

    def init(self) -> Iterate:
        domain = self.operator.domain
        x, p = jnp.zeros(domain.shape, domain.dtype), jnp.zeros((2, *domain.shape), domain.dtype)
        q = jax.tree.map(jnp.zeros_like, self.problem.data)
        return Iterate(x, q, (p, q, jnp.zeros_like(self.size)))

    def sizes(self, bound: Array) -> Array:
        # Sizes of the primal and the dual solution, a guess: their ratio balances the steps. At the solution the
        # whitened residual is near white noise of unit variance, and the other dual variable is bounded by the weight.
        primal_size = self.size / bound
        count = sum(leaf.size for leaf in jax.tree.leaves(self.problem.data))
        entries = math.prod(self.operator.domain.shape)
        dual_size = jnp.sqrt(count / bound**2 + entries * _RADIUS * (self.problem.weight / bound**2) ** 2)
        ratio = jnp.clip(jnp.where(primal_size > 0, primal_size / dual_size, 1), 1e-3, 1e3)
        ratio = jax.lax.stop_gradient(ratio)
        # The step of the image, doubled because it leads to the extrapolated image, and the step of the dual variables.
        image, dual = 2 * math.sqrt(0.5) * ratio, math.sqrt(0.5) / ratio
        shrink, radius = 1 / (1 + dual), self.problem.weight * _ROOT / bound**2
        return jnp.stack([image / bound, image / _ROOT, shrink, shrink * dual / bound, dual, radius])

    def dual(self, state: Iterate) -> State:
        return state.measurement

    @standard_promotion()
    def primal(self, state: Iterate, back: Array, sizes: Array) -> Array:
        p, *_ = state.rest
        return state.image - rounded(sizes[0] * back) - rounded(sizes[1] * image_gradient_adjoint(p))

    def update(
        self, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, Any]:
        # Products are rounded before they are added, so that no program contracts the two.
        (_, _, shrink, grow, step, radius), problem = sizes, self.problem
        x, q, (p, predicted, objective) = state
        residual = jax.tree.map(jnp.subtract, self.operator.whiten(prediction), problem.data)
        gradient = image_gradient(new)
        new_q = jax.tree.map(lambda d, r: rounded(shrink * d) + rounded(grow * r), q, residual)
        new_p = _dual_prox(problem.regulariser.kind, p + rounded(multiply(step / _ROOT, gradient)), radius, step)

        value = 0.5 * dot(residual, residual) + problem.weight * problem.regulariser.kind(gradient)
        still = stands_still((new - x) / 2, new, value, objective, self.rtol, self.atol, self.rounding)
        diverged = value > self.divergence_threshold
        finished = (still & (index > 0)) | diverged
        half = lambda new, old: old + rounded(_RELAXATION / 2 * (new - old))
        relax = lambda new, old: old + rounded(_RELAXATION * (new - old))
        # The prediction goes with its image, being linear in it.
        moved = Iterate(
            half(new, x),
            jax.tree.map(relax, new_q, q),
            (relax(new_p, p), jax.tree.map(half, prediction, predicted), value),
        )
        return moved, finished, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)

    def indicator(self, state: Iterate) -> PyTree[Array]:
        # It is made of the whitened prediction and the gradient, and all else of these.
        return state.rest[-1]


def _primal_dual(problem: _Problem, rtol: Scalar, atol: Scalar) -> _PrimalDual:
    square = dot(problem.data, problem.data)
    size = safe_sqrt(square)
    as_real = lambda value: jnp.asarray(value, size.dtype)
    at_zero = 0.5 * square
    rounding = jnp.finfo(size.dtype).eps * at_zero
    return _PrimalDual(problem, size, as_real(rtol), as_real(atol), rounding, divergence_threshold(at_zero))


def _dual_prox(kind: Any, dual: Array, radius: Array, step: Array) -> Array:
    if not isinstance(kind, Smoothed):
        return kind.project(dual, radius)
    # By Moreau's identity from the prox of `radius * sqrt(|g|^2 + eps^2)`, with g = grad x / sqrt(8).
    eps = kind.eps.astype(radius.dtype) / _ROOT
    modulus = jnp.sqrt(jnp.sum(jnp.abs(dual) ** 2, axis=0, keepdims=True) + jnp.finfo(radius.dtype).tiny) / step
    shrink = radius / step
    # Newton from the left on r - a + s r / sqrt(r^2 + eps^2), which is increasing and concave: it converges upwards.
    r = jnp.maximum(modulus - shrink, modulus / (1 + shrink / eps))
    for _ in range(8):
        root_r = jnp.sqrt(r**2 + eps**2)
        r = r - (r - modulus + shrink * r / root_r) / (1 + shrink * eps**2 / root_r**3)
    return multiply(1 - r / modulus, dual)
