"""The choice of the weight of a regulariser, by one of four criteria, over a grid that is one `jax.vmap`."""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf, check_count, check_key, is_complex
from .._jit import verb
from .._solution import RESULTS, Solution
from .._types import Abstract, ArrayLike, Checked, Key, State, Struct
from ..likelihood import Likelihood, discrepancy, domain_dtype, gaussian_approximation, prepare
from ..noise import AbstractGaussianNoise
from ..operators import AbstractLinearOperator
from ..operators._restricted import LinearRestricted
from ..requirements import Parametric, Requirement, positive, requirement

# `solve(likelihood, y, weight=...)`, such as `classical.tv`.
Solve = Callable[..., Solution]


class AbstractCriterion(Parametric):
    """A measure of the quality of a weight, without the true image."""

    @property
    def is_random(self) -> bool:
        """Whether it draws, and so needs a key; `True` by default."""
        return True

    @abc.abstractmethod
    def score(
        self, solve: Solve, likelihood: Likelihood, y: State, weight: Array, *, key: Key
    ) -> tuple[Solution, Array]:
        """Solve with one weight.

        **Arguments:**

        - `solve`: as `choose_weight` takes it.
        - `likelihood`, `y`: the problem.
        - `weight`: one weight, a scalar.
        - `key`: the same for all weights, so that these see the same draws.

        **Returns:** the solution, and its score, a scalar.
        """

    def choose(self, scores: Array, weights: Array) -> Array:
        """The index of the best weight: by default that of the lowest score.

        **Arguments:**

        - `scores`: `(n,)`, where NaN stands for a weight whose problem failed.
        - `weights`: `(n,)`.
        """
        del weights
        return jnp.argmin(jnp.where(jnp.isnan(scores), jnp.inf, scores))


class DiscrepancyPrinciple(AbstractCriterion):
    """The largest weight whose image fits the data: `||W (y - A x)||^2 <= factor^2 m`, as the true image does.

    `W` is the whitening of the noise, and `m` the number of real measured values. If no weight fits, the one that comes
    closest. It needs a noise level that is right, and tends to smooth too much.

    - `factor`: positive, the safety factor on the noise.

    **Reference:** Morozov, On the solution of functional equations by the method of regularization, 1966.

    !!! example
        ```python
        from jaxinv import classical
        criterion = classical.DiscrepancyPrinciple(factor=1.1)
        ```
    """

    factor: Array | float = eqx.field(default=1.0, converter=as_leaf)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("factor", self.factor),)

    @property
    def is_random(self) -> bool:
        return False

    def score(
        self, solve: Solve, likelihood: Likelihood, y: State, weight: Array, *, key: Key | None = None
    ) -> tuple[Solution, Array]:
        prepared, data, _ = prepare(likelihood, y)
        solution = solve(likelihood, y, weight=weight)
        return solution, discrepancy(prepared, data, solution.value)

    def choose(self, scores: Array, weights: Array) -> Array:
        fits = scores <= jnp.asarray(self.factor).astype(scores.dtype) ** 2
        largest = jnp.argmax(jnp.where(fits, weights, -jnp.inf))
        return jnp.where(jnp.any(fits), largest, super().choose(scores, weights))


class _AbstractDegrees(AbstractCriterion):
    """A criterion of the residual and the degrees of freedom, `trace(d (W A x) / d (W y))`.

    The trace is estimated from the derivative of the solve along random draws of the noise.
    """

    if TYPE_CHECKING:
        probes = Abstract[int]()
    else:
        probes: eqx.AbstractVar[int]

    def __check_init__(self):
        check_count(self.probes, "probes")

    @abc.abstractmethod
    def of(self, misfit: Array, degrees: Array, count: Array) -> Array:
        """The score from `||W (y - A x)||^2`, the degrees of freedom, and the number of measured values."""

    def score(
        self, solve: Solve, likelihood: Likelihood, y: State, weight: Array, *, key: Key
    ) -> tuple[Solution, Array]:
        prepared, data, _ = prepare(likelihood, y)
        gaussian, data = gaussian_approximation(prepared, data)
        operator, noise = gaussian.operator, gaussian.noise
        assert isinstance(noise, AbstractGaussianNoise)
        noise = noise.restrict(operator.measured, operator.codomain)
        kept = lambda y: jax.tree.map(lambda m, leaf: jnp.where(m > 0, leaf, 0), operator.measured, y)
        zero = jax.tree.map(jnp.zeros_like, data)

        def image(y: State) -> tuple[Array, Solution]:
            solution = solve(gaussian, y, weight=weight)
            return solution.value, solution

        solution: Any = None
        degrees = jnp.zeros((), weight.dtype)
        for i in range(self.probes):
            draw = kept(noise.simulate(zero, key=jax.random.fold_in(key, i)))
            value, change, solution = jax.jvp(image, (data,), (draw,), has_aux=True)
            moved = noise.whiten(kept(jax.jvp(operator, (value,), (change,))[1]))
            products = jax.tree.map(lambda a, b: jnp.sum((jnp.conj(a) * b).real), noise.whiten(draw), moved)
            degrees = degrees + sum(jax.tree.leaves(products)) / self.probes
        residual = noise.whiten(kept(jax.tree.map(jnp.subtract, data, operator(solution.value))))
        misfit = jnp.asarray(sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(residual)))
        count = _number(operator.measured, operator.codomain).astype(misfit.dtype)
        return solution, self.of(misfit, degrees, count)


class SURE(_AbstractDegrees):
    """The weight with the least unbiased estimate of the error of the prediction, `E ||W (A x - A x_true)||^2 / m`:
    `||W (y - A x)||^2 / m - 1 + 2 degrees / m`, with the degrees of freedom of the solve (Stein's identity).

    It needs a noise level that is right. The degrees are estimated by derivatives in forward mode, so the verb must
    stop by tolerances that are tight enough. Photon noise is replaced by its Gaussian approximation, also in the solve.

    - `probes`: how many random directions estimate the degrees, static. One costs about as much as the solve. Raise it
      for small images: the error of the degrees falls with the root of pixels times probes.

    **Reference:** Stein, Estimation of the mean of a multivariate normal distribution, 1981; Ramani, Blu, Unser,
    Monte-Carlo SURE, 2008.

    !!! example
        ```python
        from jaxinv import classical
        criterion = classical.SURE(probes=2)
        ```
    """

    probes: int = eqx.field(default=1, static=True)

    def of(self, misfit: Array, degrees: Array, count: Array) -> Array:
        return misfit / count - 1 + 2 * degrees / count


class GCV(_AbstractDegrees):
    """The weight with the least generalised cross-validation, `||W (y - A x)||^2 / m / (1 - degrees / m)^2`.

    It needs no noise level, as long as that is the same up to one factor for all entries. The rest is as for `SURE`.

    - `probes`: as for `SURE`, static. It takes more of them, since the score is steeper in the degrees: for some tens
      of measured values about 30.

    **Reference:** Golub, Heath, Wahba, Generalized cross-validation as a method for choosing a good ridge parameter,
    1979; Girard, A fast Monte-Carlo cross-validation procedure for large least squares problems with noisy data, 1989.

    !!! example
        ```python
        from jaxinv import classical
        criterion = classical.GCV()
        ```
    """

    probes: int = eqx.field(default=1, static=True)

    def of(self, misfit: Array, degrees: Array, count: Array) -> Array:
        left = jnp.maximum(1 - degrees / count, jnp.finfo(misfit.dtype).eps)
        return misfit / count / left**2


class HeldOutMeasurements(AbstractCriterion):
    """The weight whose image predicts held-out measurements best: a random part of the entries, which the solve does
    not use.

    The score is `||W (y - A x)||^2` over these entries, over their number: about 1 plus the error of the prediction. It
    needs no noise level, and suits operators whose measurements explain each other, such as projectors. The image of
    the chosen weight is without the entries too; solve again with all of them.

    - `fraction`: the part that is held out, between 0 and 1.

    !!! example
        ```python
        from jaxinv import classical
        criterion = classical.HeldOutMeasurements(0.2)
        ```
    """

    fraction: Array | float = eqx.field(default=0.1, converter=as_leaf)

    def requirements(self) -> tuple[Requirement, ...]:
        words = "`fraction` must lie between 0 and 1, both excluded"
        return (requirement(words, self.fraction, lambda v: (v > 0) & (v < 1)),)

    def score(
        self, solve: Solve, likelihood: Likelihood, y: State, weight: Array, *, key: Key
    ) -> tuple[Solution, Array]:
        operator = likelihood.operator
        if not isinstance(operator, AbstractLinearOperator):
            raise ValueError(f"HeldOutMeasurements is for linear operators; got {type(operator).__name__}.")
        leaves, treedef = jax.tree.flatten(operator.codomain)
        chances = [jax.random.uniform(jax.random.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves)]
        held = [chance < jnp.asarray(self.fraction).astype(chance.dtype) for chance in chances]

        def part(which: list[Array]) -> Likelihood:
            weights = jax.tree.map(
                lambda w, m: w.astype(m.dtype) * (m > 0), treedef.unflatten(which), operator.measured
            )
            return Likelihood(LinearRestricted(operator, weights), likelihood.noise)

        solution = solve(part([~h for h in held]), y, weight=weight)
        prepared, data, _ = prepare(part(held), y)
        return solution, discrepancy(prepared, data, solution.value)


@verb
def choose_weight(
    likelihood: Likelihood,
    solve: Solve,
    y: State,
    *,
    weights: ArrayLike,
    criterion: Checked[AbstractCriterion] = DiscrepancyPrinciple(),  # noqa: B008
    key: Key | None = None,
) -> Solution:
    """Solve with every weight of a grid, and take the best one by a criterion that does without the true image.

    **Arguments:**

    - `likelihood`: operator and noise.
    - `solve`: is called as `solve(likelihood, y, weight=weight)` and returns a `Solution`: `classical.tv`, or a
      function of your own around `classical.primal_dual`. Define it once: another function compiles again.
    - `y`: one measurement.
    - `weights`: `(n,)`, positive, such as `jnp.geomspace(0.1, 100, 13)`. All are one `jax.vmap`.
    - `criterion`: `DiscrepancyPrinciple()` (the default), `SURE()`, `GCV()` or `HeldOutMeasurements()`.
    - `key`: for a criterion that draws: all but the discrepancy principle.

    **Returns:** the `Solution` with the chosen weight. Its `stats` hold in addition the `weight`, and for all weights
    the `scores`; `aux` is the batch of all solutions. A weight whose problem failed is not chosen. If all did, the
    value is 0, and the code that of the first.

    **Raises:** `ValueError` if `weights` are not a list of numbers, or the criterion draws and there is no `key`.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import classical
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((16, 16, 1)), jaxinv.noise.Gaussian(0.2))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 4:12].set(1.0), key=jax.random.key(0))
        solution = classical.choose_weight(
            likelihood, classical.tv, y, weights=jnp.geomspace(0.3, 30, 7), criterion=classical.SURE(),
            key=jax.random.key(1),
        )
        weight, image = solution.stats["weight"], solution.value
        ```
    """
    if not isinstance(criterion, AbstractCriterion):
        raise ValueError(
            f"`criterion` must be DiscrepancyPrinciple(), SURE(), GCV() or HeldOutMeasurements(); got {criterion!r}."
        )
    if not callable(solve):
        raise ValueError(f"`solve` must be a function such as `classical.tv`; got {solve!r}.")
    if criterion.is_random:
        check_key(key)  # pyright: ignore[reportArgumentType]  # which says that a key is missing
    weights = jnp.asarray(weights)
    if weights.ndim != 1 or weights.size == 0 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            f"`weights` must be real numbers in one array of shape (n,), such as jnp.geomspace(.1, 100, 13); got shape "
            f"{weights.shape} and dtype {weights.dtype}."
        )
    weights = weights.astype(domain_dtype(likelihood.operator))
    used: Any = key  # `None` for a criterion that draws nothing
    # A criterion may have solved the problem as `prepare` repaired it, so the code is that of the given problem.
    _, _, prepared = prepare(likelihood, y)

    def solved(likelihood: Likelihood, y: State, *, weight: Array) -> Solution:
        solution = solve(likelihood, y, weight=weight)
        if not isinstance(solution, Solution):
            raise ValueError(
                "`solve(likelihood, y, weight=weight)` must return a `Solution`, as `classical.tv` does; it returned "
                f"{type(solution).__name__}."
            )
        return solution

    def scored(weight: Array) -> tuple[Solution, Array]:
        solution, score = criterion.score(solved, likelihood, y, weight, key=used)
        result = RESULTS.where(prepared == RESULTS.successful, solution.result, prepared)
        return Solution(solution.value, result, solution.stats, solution.aux), score

    grid, scores = jax.vmap(scored)(weights)
    usable = (grid.result == RESULTS.successful) | (grid.result == RESULTS.max_steps_reached)
    scores = jnp.where(usable, scores, jnp.nan)
    index = criterion.choose(scores, weights)
    chosen = jax.tree.map(lambda leaf: leaf[index], grid)
    stats = chosen.stats | {"weight": weights[index], "scores": scores}
    value = jax.tree.map(lambda leaf: jnp.where(jnp.any(usable), leaf, jnp.zeros_like(leaf)), chosen.value)
    return Solution(value, chosen.result, stats, grid)


def _number(measured: State, codomain: Struct) -> Array:
    parts = lambda m, c: jnp.sum(jnp.broadcast_to(m > 0, c.shape)) * (2 if is_complex(c) else 1)
    return jnp.maximum(sum(jax.tree.leaves(jax.tree.map(parts, measured, codomain))), 1)
