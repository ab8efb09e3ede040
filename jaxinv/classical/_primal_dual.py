"""The primal-dual method for sums of regularisers, of which `tv` is a case."""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import multiply, safe_sqrt, standard_promotion
from .._differentiation import Unrolled
from .._jit import verb
from .._loop import divergence_threshold, stands_still
from .._solution import RESULTS, Solution
from .._types import Checked, Key, PyTree, Scalar, State, Stats
from .._workarounds import rounded
from ..likelihood import Likelihood, Whitened
from ..noise import AbstractGaussianNoise, AbstractNoise
from ..regularisers import AbstractRegulariser, AbstractSplit
from ._first_order import AbstractFirstOrder, Iterate
from ._solver import Problem, drive, prepare_problem, square_of


@verb(traced=("weight", "norm"), tolerances=("rtol", "atol"))
def primal_dual(
    likelihood: Likelihood,
    regulariser: AbstractRegulariser,
    y: State,
    *,
    weight: Scalar,
    constraint: Checked[AbstractRegulariser | None] = None,
    exact: bool = True,
    norm: Scalar | None = None,
    max_steps: int = 5000,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | None] = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * R(x)` for a sum `R` of any number of regularisers, by a primal-dual method.

    `R` is a sum of functions of linear maps of the image, `sum_i F_i(K_i x)` (`AbstractRegulariser.splits`). The data
    term and each `F_i` have a dual variable, and steps by the norm of their map, `K_i / |K_i|`. One of the terms whose
    prox has a closed form on the image itself needs none: the constraint, or `L1`, so that entries are exactly in
    bounds, or exactly 0. Over-relaxed, and balanced by the sizes of data and weights, so that the iteration does not
    depend on the units of the image.

    **Arguments:**

    - `likelihood`: a linear operator and its noise.
    - `regulariser`: such as `TV() + 0.1 * L1()`, of those of `jaxinv.regularisers` with a prox, and `TV`, `TGV`,
      `Wavelets`, `Tikhonov(operator)`, or one of your own with `splits`. The factors are array leaves: a grid of
      weights is one `jax.vmap`.
    - `y`: one measurement.
    - `weight`: of the whole sum, a scalar, not negative.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`.
    - `exact`: whether photon noise enters by its likelihood, static; `False` for its Gaussian approximation
      (`noise.linearise`). It makes no difference to Gaussian noise.
    - `norm`: of the operator, where it is known; else it is estimated in the first rounds, from a fixed start.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and objective by less than `atol + rtol * size`. Steps
      are shorter the more terms there are, so lower `rtol` for long sums.
    - `differentiate`: `None` or `Unrolled()`.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`.

    **Raises:** `ValueError` for a non-linear operator, a regulariser without prox and `splits`, noise without a `prox`
    (take `exact=False`), or wrong shapes.

    **Reference:** Condat, A primal-dual splitting method for convex optimization involving Lipschitzian, proximable and
    linear composite terms, 2013; Pock, Chambolle, Diagonal preconditioning for first order primal-dual algorithms in
    convex optimization, 2011.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import regularisers
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((16, 16, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 4:12].set(1.0), key=jax.random.key(0))
        regulariser = regularisers.TV() + 0.2 * regularisers.L1()
        image = jaxinv.classical.primal_dual(
            likelihood, regulariser, y, weight=5.0, constraint=regularisers.NonNegative()
        ).value
        ```

    On 16 x 16 images the objective is that of CVXPY, relative to 1e-5, for all pairs of regularisers that
    `benchmarks/results/primal_dual_optima.txt` lists, with `rtol=1e-8`.
    """
    method = PrimalDual(exact)
    problem, result = method.prepare(
        likelihood, regulariser, y, weight=weight, constraint=constraint, norm=norm, rtol=rtol, atol=atol
    )
    return drive(method, problem, result, max_steps=max_steps, differentiate=differentiate)


class AbstractMisfit(eqx.Module):
    """The data term as a function of `B x`, by the prox of its conjugate."""

    @abc.abstractmethod
    def step(self, dual: State, field: State, step: Array) -> tuple[State, Array]:
        """The next dual variable from `B x` at the extrapolated image, and the value of the data term near there."""


class LeastSquares(AbstractMisfit):
    """`1/2 ||B x - b||^2`."""

    data: State

    def step(self, dual: State, field: State, step: Array) -> tuple[State, Array]:
        residual = jax.tree.map(jnp.subtract, field, self.data)
        shrink = 1 / (1 + step)
        moved = jax.tree.map(lambda d, r: rounded(shrink * d) + rounded((shrink * step) * r), dual, residual)
        return moved, 0.5 * square_of(residual)


class Exact(AbstractMisfit):
    """`-log p(y | A x)` of noise with a prox, in units of the standard deviation: the `B x` of its approximation."""

    noise: AbstractNoise
    y: State
    measured: State
    std: State

    def step(self, dual: State, field: State, step: Array) -> tuple[State, Array]:
        ahead = jax.tree.map(lambda d, f: d + step * f, dual, field)
        # Moreau's identity gives the prox of the conjugate. The prox is that of the prediction, whose unit is not that
        # of `B x`.
        steps = jax.tree.map(lambda s: s**2 / step, self.std)
        at = jax.tree.map(lambda a, s: a * s / step, ahead, self.std)
        near = self.noise.prox(at, self.y, self.measured, steps)
        moved = jax.tree.map(lambda a, n, s: a - step * n / s, ahead, near, self.std)
        # The likelihood is evaluated at the result of the prox. That of the extrapolated image may have negative
        # counts.
        return moved, self.noise.negative_log_likelihood(near, self.y, self.measured)


class Splitting(eqx.Module):
    """The problem of `PrimalDual`.

    - `splits`: the terms that have a dual variable.
    - `direct`: a regulariser whose prox is taken on the image itself, or `None`, and `weight` its weight.
    - `constraint`: one whose prox comes after that, or `None`.
    - `norms`: bounds of the norms of the maps of the terms.
    - `size`: the norm of the data, in units of the noise.
    """

    base: Problem
    misfit: AbstractMisfit
    splits: tuple[AbstractSplit, ...]
    direct: AbstractRegulariser | None
    weight: Array
    constraint: AbstractRegulariser | None
    norms: tuple[Array | float, ...]
    size: Array

    @property
    def operator(self) -> Whitened:
        return self.base.operator

    @property
    def norm(self) -> Array | None:
        return self.base.norm

    def with_norm(self, norm: Array) -> "Splitting":
        return eqx.tree_at(lambda p: p.base, self, self.base.with_norm(norm))

    @property
    def has_prox(self) -> bool:
        return self.direct is not None or self.constraint is not None

    def prox(self, x: Array, step: Array) -> Array:
        x = x if self.direct is None else self.direct.prox(x, step * self.weight)
        return x if self.constraint is None else self.constraint.prox(x, step)

    def penalty(self, x: Array, auxiliary: tuple[PyTree, ...]) -> Array:
        """`weight R(x)`."""
        terms = [split.value(split.forward(x, w)) for split, w in zip(self.splits, auxiliary, strict=True)]
        return sum(terms, self.direct_penalty(x))

    def direct_penalty(self, x: Array) -> Array:
        return jnp.zeros_like(self.weight) if self.direct is None else self.weight * self.direct(x)


class Rest(NamedTuple):
    """The state of `PrimalDual` beside the image and the dual variable of the data.

    - `duals`, `auxiliary`: of each term.
    - `prediction`: of the image.
    - `best`: where there is a prox on the image, its last value, which obeys the constraint, and the prediction of it.
    - `value`: the objective of the last extrapolated image.
    """

    duals: tuple[PyTree[Array], ...]
    auxiliary: tuple[PyTree, ...]
    prediction: State
    best: tuple[Array, State] | None
    value: Array


_RELAXATION = 1.8  # it must be below 2


class PrimalDual(AbstractFirstOrder):
    """The method of `classical.primal_dual`, for `classical.solve`.

    - `exact`: whether photon noise enters by its likelihood, static.
    - `balance`: the step of the image in units of the guess that is made of the sizes of data and weights, static,
      while the steps of the dual variables are divided by it. Sums converge fastest between .05 and .3, those with
      `TGV` near the lower end; `tv` takes 1. It changes the number of steps, not the limit.

    The state is an image with its dual variables. A step without relaxation leads from `x` to `v`; the dual step is
    made at `u = 2 v - x`, so that each step measures this image only, and `x` moves towards it.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import classical, regularisers
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        regulariser = regularisers.TV() + regularisers.L1()
        solution = classical.solve(likelihood, regulariser, y, method=classical.PrimalDual(), weight=1.0)
        ```
    """

    exact: bool = eqx.field(default=True, static=True)
    balance: float = eqx.field(default=0.15, static=True)

    def prepare(
        self,
        likelihood: Likelihood,
        regulariser: AbstractRegulariser,
        y: State,
        *,
        weight: Scalar,
        constraint: AbstractRegulariser | None = None,
        norm: Scalar | None = None,
        rtol: Scalar = 1e-5,
        atol: Scalar = 0.0,
    ) -> tuple[Splitting, RESULTS]:
        base, result = prepare_problem(likelihood, regulariser, y, "primal_dual", weight, constraint, norm, rtol, atol)
        return self.split(base), result

    def split(self, base: Problem) -> Splitting:
        """The problem of this method, from one that is prepared."""
        splits = base.regulariser.splits(base.weight)
        on_image = [(split, split.regulariser) for split in splits if split.regulariser is not None]
        # The image has one constraint, which may be a term of the sum, and before it the prox of one separable term;
        # without a constraint, the prox of any one term.
        inner = [(split, of) for split, of in on_image if not of.is_constraint]
        bounds = [(split, of) for split, of in on_image if of.is_constraint]
        constraint, used = base.constraint, []
        if constraint is None and bounds:
            used, constraint = [bounds[0][0]], bounds[0][1]
        if constraint is not None:
            inner = [(split, of) for split, of in inner if of.is_separable] if constraint.is_separable else []
        used = used + [split for split, _ in inner[:1]]
        rest = tuple(split for split in splits if all(split is not other for other in used))
        return Splitting(
            base=base,
            misfit=self._misfit(base),
            splits=rest,
            direct=inner[0][1] if inner else None,
            weight=inner[0][0].weight if inner else base.weight,
            constraint=constraint,
            norms=tuple(split.norm() for split in rest),
            size=safe_sqrt(2 * base.at_zero),
        )

    def _misfit(self, base: Problem) -> AbstractMisfit:
        noise, measured = base.likelihood.noise, base.likelihood.operator.measured
        if isinstance(noise, AbstractGaussianNoise) or not self.exact:
            return LeastSquares(base.data)
        _, std = noise.linearise(base.y)
        # A noise without a prox says so here, before the loop.
        jax.eval_shape(lambda noise, *arguments: noise.prox(*arguments), noise, base.y, base.y, measured, std)
        return Exact(noise, base.y, measured, std)

    def init(self, problem: Splitting, /, *, key: Key | None = None) -> Iterate:
        x, prediction = problem.base.zero()
        auxiliary = tuple(split.auxiliary(x) for split in problem.splits)
        # Only the shapes matter: a linear map of 0 is 0.
        shapes = [jax.eval_shape(split.forward, x, w) for split, w in zip(problem.splits, auxiliary, strict=True)]
        duals = tuple(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape) for shape in shapes)
        # This is the value of a problem that cannot be solved, which takes no step.
        best = (x, prediction) if problem.has_prox else None
        return Iterate(x, prediction, Rest(duals, auxiliary, prediction, best, jnp.zeros_like(problem.size)))

    def sizes(self, problem: Splitting, bound: Array) -> Array:
        # Sizes of the primal and the dual solution, a guess: their ratio balances the steps. At the solution the
        # whitened residual is near white noise of unit variance, and the other dual variables are bounded by weights.
        norms = [jnp.asarray(norm).astype(bound.dtype) for norm in problem.norms]
        primal_size = problem.size / bound
        count = sum(leaf.size for leaf in jax.tree.leaves(problem.base.data))
        entries = math.prod(problem.operator.domain.shape)
        squares = [
            entries * norm**2 * (split.weight / bound**2) ** 2
            for norm, split in zip(norms, problem.splits, strict=True)
        ]
        dual_size = jnp.sqrt(sum(squares, count / bound**2))
        ratio = jnp.clip(jnp.where(primal_size > 0, primal_size / dual_size, 1), 1e-3, 1e3)
        # ||(B / |B|, K_1 / |K_1|, ...)||^2 is at most the number of maps.
        root = math.sqrt(1 / (1 + len(norms)))
        ratio = self.balance * ratio
        # The step of the image, doubled because it leads to the extrapolated image, and the steps of dual variables.
        steps = [2 * root * ratio / bound**2, root / ratio, *(root / ratio * (bound / norm) ** 2 for norm in norms)]
        return jax.lax.stop_gradient(jnp.stack(steps))

    def dual(self, problem: Splitting, state: Iterate) -> State:
        return state.measurement

    @standard_promotion()
    def primal(self, problem: Splitting, state: Iterate, back: Array, sizes: Array) -> Array:
        for split, dual in zip(problem.splits, state.rest.duals, strict=True):
            back = back + split.adjoint(dual)[0]
        if not problem.has_prox:
            return state.image - rounded(sizes[0] * back)
        step = 0.5 * sizes[0]
        return 2 * problem.prox(state.image - rounded(step * back), step) - state.image

    @standard_promotion()
    def update(
        self, problem: Splitting, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, RESULTS]:
        x, q, (duals, auxiliary, predicted, _, objective) = state
        new_q, value = problem.misfit.step(q, problem.operator.whiten(prediction), sizes[1])
        new_duals, new_auxiliary = [], []
        for split, dual, w, step in zip(problem.splits, duals, auxiliary, sizes[2:], strict=True):
            ahead = w if w is None else jax.tree.map(lambda w, g: w - sizes[0] * g, w, split.adjoint(dual)[1])
            field = split.forward(new, ahead)
            stepped = jax.tree.map(lambda p, f, step=step: p + rounded(multiply(step, f)), dual, field)
            new_duals.append(split.dual_prox(stepped, step))
            new_auxiliary.append(ahead)
            value = value + split.value(field)
        value = value + problem.direct_penalty(new)

        base = problem.base
        rounding = jnp.finfo(value.dtype).eps * base.at_zero
        still = stands_still((new - x) / 2, new, value, objective, base.rtol, base.atol, rounding)
        diverged = value > divergence_threshold(base.at_zero)
        finished = (still & (index > 0)) | diverged
        middle = lambda new, old: 0.5 * (new + old)
        half = lambda new, old: old + rounded(_RELAXATION / 2 * (new - old))
        relax = lambda new, old: old + rounded(_RELAXATION * (new - old))
        best = None
        if problem.has_prox:
            # The prox led half way between the two, up to rounding; predictions are linear.
            image = middle(new, x) if problem.constraint is None else problem.constraint.prox(middle(new, x), sizes[0])
            best = image, jax.tree.map(middle, prediction, predicted)
        # The prediction is linear in its image, so the same combination of predictions is that of the image.
        rest = Rest(
            jax.tree.map(relax, tuple(new_duals), duals),
            jax.tree.map(half, tuple(new_auxiliary), auxiliary),
            jax.tree.map(half, prediction, predicted),
            best,
            value,
        )
        moved = Iterate(half(new, x), jax.tree.map(relax, new_q, q), rest)
        return moved, finished, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)

    def finish(self, problem: Splitting, state: Iterate, /, *, key: Key | None = None) -> tuple[Array, Stats]:
        rest = state.rest
        x, prediction = (state.image, rest.prediction) if rest.best is None else rest.best
        return x, {"objective": problem.base.fit(prediction) + problem.penalty(x, rest.auxiliary)}

    def indicator(self, state: Iterate) -> PyTree[Array]:
        # A state is finite if the prediction and the maps of the image are: all other parts are made of these.
        return state.rest.value
