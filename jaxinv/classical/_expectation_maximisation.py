"""Expectation maximisation for photon counts: `mlem`, and `osem`, which takes a part of the measurement a step."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _loop
from .._arrays import check_count, is_complex
from .._jit import verb
from .._method import AbstractMethod
from .._solution import RESULTS, Solution
from .._types import Key, PyTree, Scalar, State, Stats
from ..likelihood import Likelihood, domain_dtype, prepare
from ..noise import Poisson
from ..operators import AbstractLinearOperator


@verb(tolerances=("rtol", "atol"))
def mlem(
    likelihood: Likelihood, y: State, *, max_steps: int = 1000, rtol: Scalar = 1e-5, atol: Scalar = 0.0
) -> Solution:
    """Maximise the likelihood of photon counts over images that are not negative, by expectation maximisation.

    `x <- x / (A* g) * A*(g y / (g A x + b))`, with `g` the gain and `b` the background of `noise.Poisson`. It needs an
    operator without negative entries, such as a projector or a blur, and then the likelihood grows in every step and
    no entry becomes negative. The maximum fits noise: stop early, by `max_steps`, or regularise by
    `classical.primal_dual`, which takes the same likelihood exactly.

    **Arguments:**

    - `likelihood`: a linear operator without negative entries, and `noise.Poisson`.
    - `y`: one measurement, counts.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and objective by less than `atol + rtol * size`.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`, which is `-log p(y | x)` of the returned image. The
    code is `breakdown` where a negative entry of the operator showed. A pixel that nothing measures is 0.

    **Raises:** `ValueError` for other noise, a non-linear operator, or wrong shapes.

    **Reference:** Shepp, Vardi, Maximum likelihood reconstruction for emission tomography, 1982.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, 3, 12))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Poisson(10.0, background=1.0))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 6:10].set(1.0), key=jax.random.key(0))
        image = jaxinv.classical.mlem(likelihood, y, max_steps=30).value
        ```
    """
    return _maximise(likelihood, y, 1, "mlem", max_steps, rtol, atol)


@verb(tolerances=("rtol", "atol"))
def osem(
    likelihood: Likelihood,
    y: State,
    *,
    subsets: int = 8,
    max_steps: int = 80,
    rtol: Scalar = 0.0,
    atol: Scalar = 0.0,
) -> Solution:
    """`mlem` whose steps take one of several parts of the measurement in turn: every `subsets`-th row.

    Rows are along the first axis; those of a sinogram are angles, and a step computes those of its part alone (other
    operators compute all: `AbstractLinearOperator.rows`). At first each step does what a step of `mlem` does with all
    of them. In the end it does not converge, but goes round in a cycle near the maximum, which is the wider the more
    subsets there are.

    **Arguments:**

    - `likelihood`, `y`: as for `mlem`; the measurement is one array.
    - `subsets`: how many parts, static, at most the length of the first axis.
    - `max_steps`: static; a step takes one subset.
    - `rtol`, `atol`: as for `mlem`, by the likelihood of the subset; by default it takes all steps.

    **Returns:** a `Solution` as that of `mlem`. With the default tolerances its code is `successful` after all steps.

    **Raises:** `ValueError` as `mlem`, and for more subsets than rows.

    **Reference:** Hudson, Larkin, Accelerated image reconstruction using ordered subsets of projection data, 1994.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, 3, 12))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Poisson(10.0))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 6:10].set(1.0), key=jax.random.key(0))
        image = jaxinv.classical.osem(likelihood, y, subsets=4, max_steps=12).value
        ```
    """
    subsets = check_count(subsets, "subsets")
    shape = getattr(likelihood.operator.codomain, "shape", None) if isinstance(likelihood, Likelihood) else ()
    if shape is None or (shape and subsets > shape[0]):
        raise ValueError(
            f"`subsets` must be at most the length of the first axis of the measurement, which is one array; got "
            f"{subsets} for shape {shape}."
        )
    return _maximise(likelihood, y, subsets, "osem", max_steps, rtol, atol)


def _maximise(
    likelihood: Likelihood, y: State, subsets: int, name: str, max_steps: int, rtol: Scalar, atol: Scalar
) -> Solution:
    method = ExpectationMaximisation(subsets)
    problem, result = method.prepare(likelihood, y, name, rtol, atol)
    state, num_steps, result = _loop.run(
        method,
        problem,
        method.init(problem, key=None),
        result=result,
        max_steps=check_count(max_steps, "max_steps") + subsets,
        # Ordered subsets do not converge to a point, so a run that takes all its steps is successful.
        exhausted=RESULTS.max_steps_reached if subsets == 1 else RESULTS.successful,
    )
    x, stats = method.finish(problem, state, key=None)
    return Solution(x, result, {"num_steps": jnp.maximum(num_steps - subsets, 0), **stats})


class CountingProblem(eqx.Module):
    """`-log p(y | x)` of photon counts over images that are not negative.

    - `gain`, `background`: in the shape of the measurement.
    - `measured`: 1 for the entries that are measured, else 0.
    """

    likelihood: Likelihood
    y: State
    gain: State
    background: State
    measured: State
    rtol: Array
    atol: Array

    def part(self, index: Array, subsets: int) -> tuple[Any, tuple[State, State, State, State]]:
        """The operator of a subset, and its data, gain, background and weights; the whole where there is one subset."""
        operator: Any = self.likelihood.operator
        arrays = (self.y, self.gain, self.background, self.measured)
        if subsets == 1:
            return operator, arrays
        number = operator.codomain.shape[0]
        indices = index % subsets + subsets * jnp.arange(-(-number // subsets))
        chosen = jnp.clip(indices, 0, number - 1)
        y, gain, background, measured = (array[chosen] for array in arrays)
        # The last subsets may have one row fewer.
        exists = (indices < number).astype(measured.dtype).reshape(-1, *[1] * (measured.ndim - 1))
        return operator.rows(indices), (y, gain, background, measured * exists)


class CountingState(NamedTuple):
    """The state of the iteration.

    - `image`, `prediction`: the image, and what the subset of the next step measures of it.
    - `sensitivity`: `A* g` of each subset, which the first steps find.
    - `value`: the negative log-likelihood of the image before, by its subset.
    """

    image: Array
    prediction: State
    sensitivity: Array
    value: Array


class ExpectationMaximisation(AbstractMethod[CountingProblem, CountingState]):
    """The method of `mlem` and `osem`.

    A step is the image, from the prediction of the one before, and its prediction for the next subset. The first steps,
    one for each subset, find the sensitivities instead, so that operator and adjoint stand once in the program.
    """

    subsets: int = eqx.field(static=True)

    def prepare(
        self, likelihood: Likelihood, y: State, name: str, rtol: Scalar, atol: Scalar
    ) -> tuple[CountingProblem, RESULTS]:
        prepared, data, result = prepare(likelihood, y)
        operator, noise = prepared.operator, prepared.noise
        if not isinstance(operator, AbstractLinearOperator) or not isinstance(noise, Poisson):
            raise ValueError(
                f"`{name}` is for a linear operator and `noise.Poisson`; got {type(operator).__name__} and "
                f"{type(noise).__name__}. For transmission and other noise take `classical.sirt` or "
                "`classical.primal_dual`."
            )
        if is_complex((operator.domain, operator.codomain)):
            raise ValueError(f"`{name}` is for real images and measurements; {type(operator).__name__} is complex.")
        negative = jax.tree.reduce(jnp.logical_or, jax.tree.map(lambda leaf: jnp.any(leaf < 0), data))
        result = RESULTS.where(negative & (result == RESULTS.successful), RESULTS.nonfinite_measurement, result)
        real = domain_dtype(operator)
        zeros = jax.tree.map(jnp.zeros_like, data)
        background = noise.expected(zeros)
        gain = jax.tree.map(lambda one, b: one - b, noise.expected(jax.tree.map(jnp.ones_like, data)), background)
        measured = jax.tree.map(lambda m, z: z + (m > 0).astype(z.dtype), operator.measured, zeros)
        tolerances = jnp.asarray(rtol, real), jnp.asarray(atol, real)
        return CountingProblem(prepared, data, gain, background, measured, *tolerances), result

    def init(self, problem: CountingProblem, /, *, key: Key | None = None) -> CountingState:
        domain = problem.likelihood.operator.domain
        _, (y, *_) = problem.part(jnp.zeros((), int), self.subsets)
        prediction = jax.tree.map(jnp.zeros_like, y)
        sensitivity = jnp.zeros((self.subsets, *domain.shape), domain.dtype)
        return CountingState(
            jnp.zeros(domain.shape, domain.dtype), prediction, sensitivity, jnp.zeros_like(problem.rtol)
        )

    def step(
        self, problem: CountingProblem, state: CountingState, index: Array, /, *, key: Key | None = None
    ) -> tuple[CountingState, Array, RESULTS]:
        finding, first = index < self.subsets, index == self.subsets
        operator, (y, gain, background, measured) = problem.part(index, self.subsets)
        # The steps begin at the constant image that explains as many counts as there are.
        explained = _total(jax.tree.map(lambda m, g, p: m * g * p, measured, gain, state.prediction))
        counts = _total(jax.tree.map(jnp.multiply, measured, y))
        scale = jnp.where(first & (explained > 0), counts / jnp.where(explained > 0, explained, 1), 1)
        mean = jax.tree.map(lambda g, p, b: scale * g * p + b, gain, state.prediction, background)
        excess = lambda d, m: jnp.where(m > 0, d / jnp.where(m > 0, m, 1), 0)
        weights = jax.tree.map(lambda w, g, d, m: w * g * jnp.where(finding, 1, excess(d, m)), measured, gain, y, mean)
        back = operator.adjoint(weights)
        place = index % self.subsets
        sensitivity = state.sensitivity.at[place].set(jnp.where(finding, back, state.sensitivity[place]))
        own = sensitivity[place]
        moved = jnp.where(own > 0, scale * state.image * back / jnp.where(own > 0, own, 1), 0)
        # A pixel that no ray of this subset crosses stays unchanged; one that no ray of any subset crosses becomes 0.
        seen = jnp.any(sensitivity > 0, axis=0)
        moved = jnp.where((own > 0) | ~seen, moved, scale * state.image)
        new = jnp.where(finding, 1, moved)

        following, (next_y, next_gain, next_background, next_measured) = problem.part(index + 1, self.subsets)
        prediction = following(new)
        means = jax.tree.map(lambda g, p, b: g * p + b, next_gain, prediction, next_background)
        value = _counting_nll(means, next_y, next_measured)
        still = _loop.has_converged(new, state.image, value, state.value, problem.rtol, problem.atol)
        below = jax.tree.map(lambda w, g, p: jnp.any(w * g * p < 0), next_measured, next_gain, prediction)
        wrong = jax.tree.reduce(jnp.logical_or, below, jnp.any(sensitivity < 0))
        moved_state = CountingState(new, prediction, sensitivity, value)
        stop = (still & (index > self.subsets)) & ~finding
        return moved_state, stop | wrong, RESULTS.where(wrong, RESULTS.breakdown, RESULTS.successful)

    def finish(
        self, problem: CountingProblem, state: CountingState, /, *, key: Key | None = None
    ) -> tuple[Array, Stats]:
        likelihood = problem.likelihood
        prediction = state.prediction if self.subsets == 1 else likelihood.operator(state.image)
        measured = likelihood.operator.measured
        return state.image, {"objective": likelihood.noise.negative_log_likelihood(prediction, problem.y, measured)}


def _total(tree: PyTree[Array]) -> Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, tree))


def _counting_nll(means: State, y: State, measured: State) -> Array:
    """`sum(mean - y log(mean))` over the measured entries, which is the negative log-likelihood up to a constant."""

    def part(mean: Array, y: Array, measured: Array) -> Array:
        some = (mean > 0) & (y > 0)
        return jnp.sum(measured * (mean - jnp.where(some, y * jnp.log(jnp.where(some, mean, 1)), 0)))

    return _total(jax.tree.map(part, means, y, measured))
