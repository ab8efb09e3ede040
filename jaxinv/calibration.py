"""The estimation of unknown numbers of a measurement: a centre of rotation, a blur width, a gain, a noise level."""

import abc
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import classical
from ._arrays import HIGHEST, as_factor, check_count, is_concrete
from ._checks import checked
from ._module import Module
from ._solution import RESULTS, Solution, reject
from ._types import Checked, PyTree, Scalar, State
from .likelihood import Likelihood
from .operators import FunctionOperator
from .oracles import Gaussian
from .regularisers import AbstractRegulariser, Tikhonov, image_gradient
from .requirements import Requirement, not_negative, valid

__all__ = ["AbstractCriterion", "Evidence", "PenalisedMisfit", "calibrate"]

# A grid of more points is a mistake: it would take hours and all memory.
_MOST_POINTS = 1_000_000


class AbstractCriterion(Module):
    """A function that is smallest for the right parameters: `-log p(y | parameters)`, or an approximation of it."""

    @abc.abstractmethod
    def __call__(self, likelihood: Checked[Likelihood], y: State) -> Array:
        """The criterion of a likelihood with certain parameters, in units of `-log p`.

        **Arguments:**

        - `likelihood`: the likelihood with these parameters.
        - `y`: the measurement.

        **Returns:** a scalar.
        """


class PenalisedMisfit(AbstractCriterion):
    """`min_x -log p(y | x, parameters) + weight * R(x)`: how well any plausible image explains the measurement.

    It suits parameters of the geometry: wrong ones leave a measurement that no image explains. It is the evidence of a
    Gaussian prior without its determinant, so it does not suit parameters by which an image is blurred or scaled, or
    the level of the noise: `Evidence` does.

    - `weight`: the weight, not negative: `1 / d^2` for images in which neighbours differ by about `d`.
    - `regulariser`: quadratic; by default half the squared differences of neighbours.
    - `max_steps`: the number of steps of conjugate gradients, static.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        from jaxinv.calibration import PenalisedMisfit
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((8, 8, 1), 2), jaxinv.noise.Gaussian(0.1))
        value = PenalisedMisfit(10.0)(likelihood, jnp.ones((4, 4, 1)))
        ```
    """

    weight: Array
    regulariser: AbstractRegulariser | None
    max_steps: int = eqx.field(static=True)

    def __init__(self, weight: Scalar, regulariser: Checked[AbstractRegulariser | None] = None, max_steps: int = 50):
        self.weight = jnp.asarray(as_factor(weight))
        self.regulariser = regulariser
        self.max_steps = check_count(max_steps, "max_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("weight", self.weight),)

    def __call__(self, likelihood: Checked[Likelihood], y: State) -> Array:
        regulariser = self.regulariser
        if regulariser is None:
            domain: Any = likelihood.operator.domain
            regulariser = Tikhonov(FunctionOperator(image_gradient, domain))
        solution = classical.tikhonov(
            likelihood, y, weight=self.weight, regulariser=regulariser, max_steps=self.max_steps, rtol=1e-4
        )
        value = likelihood.negative_log_likelihood(solution.value, y) + self.weight * regulariser(solution.value)
        solved = (solution.result == RESULTS.successful) | (solution.result == RESULTS.max_steps_reached)
        # A point at which nothing could be solved, such as a negative noise level, is never chosen.
        return jnp.where(solved, value, jnp.nan)


class Evidence(AbstractCriterion):
    """`-log p(y | parameters)`, exactly, under a Gaussian prior of the images, and Gaussian noise.

    It suits every parameter, also gain, blur and the level of the noise. It applies the operator once for each factor
    of the prior: one that was made of a hundred images by `oracles.Gaussian.from_samples` is quick, and a full
    covariance is for images of at most a thousand pixels.

    - `prior`: the Gaussian prior.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        from jaxinv.calibration import Evidence
        prior = jaxinv.oracles.Gaussian(jnp.zeros((4, 4, 1)), jnp.eye(16))
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        value = Evidence(prior)(likelihood, jnp.ones((2, 2, 1)))
        ```
    """

    prior: Gaussian

    def __init__(self, prior: Checked[Gaussian]):
        if not isinstance(prior, Gaussian):
            raise ValueError(f"`prior` must be a `jaxinv.oracles.Gaussian`; got {type(prior).__name__}.")
        self.prior = prior

    def __call__(self, likelihood: Checked[Likelihood], y: State) -> Array:
        return -self.prior.evidence(likelihood, y)


@checked()
def calibrate(
    build: Checked[Callable[[PyTree], Likelihood]],
    parameters: PyTree,
    y: State,
    *,
    widths: PyTree,
    criterion: Checked[AbstractCriterion],
    resolution: PyTree | None = None,
    grid: int = 9,
    max_steps: int = 6,
) -> Solution:
    """Estimate unknown numbers of a measurement: `min_p criterion(build(p), y)`, with standard errors.

    All points of a grid are evaluated at once, by `jax.vmap`. From the best of them Newton's method goes on with the
    curvature of the criterion at the scale at which it matters: each step fits a parabola to points a quarter of a
    standard error apart, but not closer than `resolution`. Such differences average over the kinks of linear
    interpolation, which would dominate a derivative.

    **Arguments:**

    - `build`: `build(parameters) -> Likelihood`, which JAX traces. What is static in an operator, such as `pixel_size`,
      cannot be a parameter.
    - `parameters`: the first guess, a real number or a tree of them, such as `{"offset": 0.0, "gain": 1.0}`.
    - `widths`: how far each may be from the guess, a tree like `parameters`. The search stays within.
    - `y`: the measurement.
    - `criterion`: `PenalisedMisfit(weight)` for geometry, `Evidence(prior)` for all, or one of your own.
    - `resolution`: the smallest distance over which the criterion is smooth, a tree like `parameters`: a quarter of a
      pixel for the centre of rotation, whose criterion has ripples of the period of the pixels. By default 0, for what
      is smooth.
    - `grid`: the number of points for each parameter, static; at least 3. There are `grid ** n` points for `n`.
    - `max_steps`: the number of steps of Newton's method, static.

    **Returns:** a `Solution`; its value is a tree like `parameters`. `aux` is a dict: `standard_error`, a tree like
    `parameters`, and `covariance`, `(n, n)`, the inverse of the curvature. Errors of the model, such as the coarseness
    of the pixels, are not in it. `stats` has the `criterion` at the solution. The result is `breakdown`, and the
    standard error NaN, where the criterion has no minimum within the widths; `nonfinite_measurement` and
    `invalid_parameter` as for every verb.

    **Raises:** `ValueError` for trees that are not alike, widths that are not positive, or too small a grid.

    **Reference:** MacKay, Bayesian interpolation, 1992 (evidence and its curvature); Donath et al., Toward optimal
    reconstruction of three-dimensional tomographic images: rotation axis, 2006.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import calibration, noise, operators
        angles = jnp.linspace(0, jnp.pi, 40, endpoint=False)
        scan = lambda offset: jaxinv.Likelihood(
            operators.ParallelBeam((16, 16, 1), angles, 36, pixel_size=2.0, centre_offset=offset), noise.Gaussian(0.1)
        )
        y = scan(1.3).simulate(jaxinv.data.shepp_logan(16), key=jax.random.key(0))
        misfit = calibration.PenalisedMisfit(100.0)
        found = calibration.calibrate(scan, 0.0, y, widths=3.0, criterion=misfit, resolution=0.5)
        print(found.value, found.aux["standard_error"])
        ```

    The centre of rotation of simulated scans (60 views over half a turn, 64 bins, noise of .5 to 5 %, of Shepp and
    Logan's phantom with pixels of a quarter bin) was found to .07 bin with pixels of two bins and `resolution=0.5`, six
    cases out of six. With pixels of one bin, which fit more of the noise, errors were up to .25 bin.
    """
    if not isinstance(criterion, AbstractCriterion):
        raise ValueError(f"`criterion` must be one of `jaxinv.calibration`; got {criterion!r}.")
    if not callable(build):
        raise ValueError(f"`build` must be a function of the parameters that returns a likelihood; got {build!r}.")
    if check_count(grid, "grid") < 3:
        raise ValueError(f"`grid` must be at least 3, so that a minimum has neighbours; got {grid}.")
    check_count(max_steps, "max_steps")
    first, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(_as_real, parameters))
    if first.size == 0 or grid**first.size > _MOST_POINTS:
        raise ValueError(
            f"`grid={grid}` for {first.size} parameters makes {grid**first.size:.3g} points; one to {_MOST_POINTS} are "
            "evaluated. Take a smaller grid, or one parameter after the other."
        )
    if is_concrete(first) and not bool(jnp.all(jnp.isfinite(first))):
        raise ValueError(f"`parameters` must be finite; got {parameters}.")
    half = _like(widths, parameters, "widths", first)
    least = jnp.zeros_like(first) if resolution is None else _like(resolution, parameters, "resolution", first)
    if is_concrete(half) and not bool(jnp.all((half > 0) & (half < jnp.inf))):
        raise ValueError(f"`widths` must be positive and finite; got {widths}.")
    if is_concrete(least) and not bool(jnp.all((least >= 0) & (least < jnp.inf))):
        raise ValueError(f"`resolution` must be finite and not negative; got {resolution}.")
    lattice = np.array(list(itertools.product(np.linspace(-1, 1, grid), repeat=first.size)))
    points = first[None] + jnp.asarray(lattice, first.dtype) * half[None]
    values = _evaluate(build, unravel, criterion, points, y)
    centre = points[jnp.nanargmin(jnp.where(jnp.isfinite(values), values, jnp.inf))]
    step = 2 * half / (grid - 1)
    for _ in range(max_steps):
        centre, step, _, _ = _newton(build, unravel, criterion, centre, step, least, first, half, y)
    _, _, value, hessian = _newton(build, unravel, criterion, centre, step, least, first, half, y)
    covariance, positive = _inverse(hessian)
    inside = jnp.all(jnp.abs(centre - first) < half * (1 - 1e-4))
    good = positive & inside & jnp.isfinite(value)
    covariance = jnp.where(good, covariance, jnp.nan)
    errors = jnp.sqrt(jnp.diagonal(covariance))
    numbers = jnp.stack([first, half, least])
    known = jnp.all(jnp.isfinite(numbers)) & jnp.all(half > 0) & jnp.all(least >= 0)
    result = reject(RESULTS.successful, valid(criterion) & known)
    result = RESULTS.where((result == RESULTS.successful) & ~good, RESULTS.breakdown, result)
    finite = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), y))
    result = RESULTS.where(finite, result, RESULTS.nonfinite_measurement)
    aux = {"standard_error": unravel(errors), "covariance": covariance}
    return Solution(unravel(jnp.where(known, centre, 0)), result, {"criterion": value}, aux)


@eqx.filter_jit
def _evaluate(build: Any, unravel: Any, criterion: AbstractCriterion, points: Array, y: State) -> Array:
    return jax.vmap(lambda point: criterion(build(unravel(point)), y))(points)


def _newton(
    build: Any,
    unravel: Any,
    criterion: AbstractCriterion,
    centre: Array,
    step: Array,
    least: Array,
    first: Array,
    half: Array,
    y: State,
) -> tuple[Array, Array, Array, Array]:
    """The next centre and step, and the value and the curvature at this centre, from differences of these steps."""
    count = centre.size
    offsets = _stencil(count)
    values = _evaluate(build, unravel, criterion, centre[None] + jnp.asarray(offsets, centre.dtype) * step[None], y)
    here, plus, minus = values[0], values[1 : count + 1], values[count + 1 : 2 * count + 1]
    gradient = (plus - minus) / 2
    hessian = jnp.diag(plus + minus - 2 * here)
    for k, (i, j) in enumerate(itertools.combinations(range(count), 2)):
        mixed = values[2 * count + 1 + k] - plus[i] - plus[j] + here
        hessian = hessian.at[i, j].set(mixed).at[j, i].set(mixed)
    covariance, positive = _inverse(hessian)
    move = -jnp.matmul(covariance, gradient, precision=HIGHEST)
    # Where the parabola opens downwards, the best point of the stencil is next.
    best = jnp.asarray(offsets, centre.dtype)[jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))]
    move = jnp.where(positive & jnp.all(jnp.isfinite(move)), jnp.clip(move, -1, 1), best)
    target = jnp.clip(centre + move * step, first - half, first + half)
    # The points of the stencil are a quarter of a standard error apart: if they were closer, rounding would dominate;
    # if farther apart, the terms that a parabola neglects.
    error = jnp.where(positive, 0.25 * jnp.sqrt(jnp.abs(jnp.diagonal(covariance))) * step, step)
    return target, jnp.clip(error, jnp.maximum(least, step / 8), step), here, hessian / step[:, None] / step[None]


def _stencil(count: int) -> np.ndarray:
    unit = np.eye(count)
    pairs = [unit[i] + unit[j] for i, j in itertools.combinations(range(count), 2)]
    return np.concatenate([np.zeros((1, count)), unit, -unit, np.array(pairs).reshape(-1, count)])


def _inverse(hessian: Array) -> tuple[Array, Array]:
    """The inverse of a symmetric matrix, and whether it is positive definite; the identity where it is not."""
    finite = jnp.all(jnp.isfinite(hessian))
    identity = jnp.eye(len(hessian), dtype=hessian.dtype)
    # The curvature is scaled to ones on the diagonal, so that parameters of any unit have equal weight.
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(hessian), jnp.finfo(hessian.dtype).tiny))
    scaled = jnp.where(finite, hessian / scale[:, None] / scale[None], identity)
    values, vectors = jnp.linalg.eigh(scaled)
    positive = finite & (values[0] > 1e-6) & jnp.all(jnp.diagonal(hessian) > 0)
    safe = jnp.where(positive, values, 1)
    inverse = jnp.matmul(vectors / safe[None], vectors.T, precision=HIGHEST) / scale[:, None] / scale[None]
    return jnp.where(positive, inverse, identity), positive


def _as_real(value: Any) -> Array:
    array = jnp.asarray(as_factor(value))
    if jnp.iscomplexobj(array):
        raise ValueError(f"`parameters` must be real numbers; got {array.dtype}. Take the real and imaginary parts.")
    return array.astype(jnp.result_type(float))


def _like(tree: Any, parameters: Any, name: str, first: Array) -> Array:
    if jax.tree.structure(tree) != jax.tree.structure(parameters):
        raise ValueError(f"`{name}` must be a tree like `parameters`; got {tree}, and the parameters are {parameters}.")
    spread = jax.tree.map(lambda value, p: jnp.broadcast_to(_as_real(value), jnp.shape(p)), tree, parameters)
    return jax.flatten_util.ravel_pytree(spread)[0].astype(first.dtype)
