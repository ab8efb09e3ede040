"""The methods that let the image leave the range of the generator: `Relaxed` and `Soft`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_factor
from .._prior import AbstractGenerativePrior
from .._proximal_map import AbstractProximalMap
from .._solution import RESULTS
from .._types import Checked, Scalar, State
from ..likelihood import Likelihood, domain_dtype, prepare_parameter
from ..regularisers import L1, AbstractRegulariser, Tikhonov
from ..regularisers._constraints import check_constraint
from ..requirements import Requirement, positive
from ._constrained import Constrained
from ._gaussian_deviation import eliminate
from ._method import AbstractLatentMethod


class Relaxed(AbstractLatentMethod):
    """The image deviates from the range of the generator by a penalised `u`: `x = G(z) + u` with

    `min_{z, u} -log p(y | G(z) + u) + weight * energy(z) + method.weight * deviation(u)`.

    - `deviation`: one of `jaxinv.regularisers`. `L1()`, the default, is for sparse deviations, as in the paper; `TV()`
      for piecewise constant ones; `Tikhonov()` for short ones; `Gaussian(residual_gaussian(prior, images, rank=50))`
      for those that the generator is known to miss. With a linear operator and Gaussian noise a Gaussian deviation is
      eliminated in closed form, and only the latent is searched for.
    - `weight`: a positive scalar; a wrong value sets the code of the problem. It has the scale of the deviations: for
      `L1()` the inverse of their mean size, for `Tikhonov()` the inverse of their variance, as they are in the images,
      not in the noise. So it has no default but for `Gaussian(...)`, whose covariance is that scale and whose weight
      is 1. `deviation_weight` finds it from images, and `choose_weight` by the discrepancy principle.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`, for the image. It takes a
      smooth deviation, or an `optimiser` of optax; without one, `Alternating()` minimises.

    Without an `optimiser`, Adam minimises a smooth objective and `Alternating()` any other.

    **Raises:** `ValueError` if `deviation` is not a regulariser, or has no scale and there is no `weight`.

    **Reference:** Dhar, Grover, Ermon, Modeling sparse deviations for compressed sensing using generative models, 2018;
    Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.ones((64, 2)) / 8).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = jnp.ones((8, 8, 1)).at[3, 3].set(5.0)
        method = jaxinv.generative.Relaxed(jaxinv.regularisers.L1(), 10.0)
        solution = jaxinv.generative.reconstruct(likelihood, prior, y, key=jax.random.key(0), method=method)
        spike = solution.aux["deviation"]
        ```
    """

    deviation: AbstractRegulariser
    weight: Array
    constraint: AbstractRegulariser | None

    def __init__(
        self,
        deviation: Checked[AbstractRegulariser] = L1(),  # noqa: B008
        weight: Checked[Scalar | None] = None,
        constraint: Checked[AbstractRegulariser | None] = None,
    ):
        self.deviation = _check_deviation(L1() if deviation is None else deviation, "Relaxed")
        self.weight = as_factor(_check_weight(weight, self.deviation, "Relaxed"))
        self.constraint = None if constraint is None else check_constraint(constraint)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("weight", self.weight),)

    @property
    def is_smooth(self) -> bool:
        return self.constraint is None and self.deviation.is_smooth

    def prepare(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: RESULTS
    ) -> tuple[AbstractLatentMethod, RESULTS]:
        deviation, weight, result = _prepare_deviation(self, likelihood, prior, result)
        if self.constraint is not None:
            return Constrained(deviation, weight, self.constraint).prepare(likelihood, prior, y, result)
        eliminated = eliminate(likelihood, y, deviation, weight)
        return (Relaxed(deviation, weight) if eliminated is None else eliminated), result

    def init(self, prior: AbstractGenerativePrior, z: Array) -> tuple[Array, Array]:
        return z, jnp.zeros(tuple(prior.image_shape), z.dtype)

    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: tuple[Array, Array],
    ) -> tuple[Array, Array | float]:
        fit = likelihood.negative_log_likelihood(self.image(prior, variables), y)
        smooth, penalty = fit + weight * prior.energy(variables[0]), self.weight * self.deviation(variables[1])
        return (smooth + penalty, 0.0) if self.proximal_map() is None else (smooth, penalty)

    def proximal_map(self) -> AbstractProximalMap | None:
        if self.constraint is not None:
            return Constrained(self.deviation, self.weight, self.constraint).proximal_map()
        return self.deviation.proximal_map(self.weight)

    def image(self, prior: AbstractGenerativePrior, variables: tuple[Array, Array]) -> Array:
        return prior.decode(variables[0]) + variables[1]

    def latent(self, variables: tuple[Array, Array]) -> Array:
        return variables[0]

    def scaled(self, factor: Array) -> "Relaxed":
        return Relaxed(self.deviation, self.weight * factor.astype(self.weight.dtype), self.constraint)


class Soft(AbstractLatentMethod):
    """The image is free, and penalised by its distance to the range of the generator:

    `min_{z, x} -log p(y | x) + weight * energy(z) + method.weight * deviation(x - G(z))`.

    It has the objective of `Relaxed` with the same deviation, in other variables: here a step in `z` leaves the image
    where it is, there it leaves the deviation.

    - `deviation`: a smooth regulariser. `Tikhonov()`, the default, is half the squared distance, and
      `Gaussian(residual_gaussian(prior, images, rank=50))` the distance by the covariance of what the generator is
      known to miss, which is eliminated as in `Relaxed`.
    - `weight`: a positive scalar. The `l` of `l ||G(z) - x||^2` is `weight = 2 l`. It has no default but for
      `Gaussian(...)`, as in `Relaxed`: for `Tikhonov()` it is the inverse of the variance of the deviations, which
      `deviation_weight` finds from images.
    - `constraint`: as in `Relaxed`.

    **Raises:** `ValueError` if `deviation` is not a smooth regulariser, or has no scale and there is no `weight`.

    **Reference:** Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models,
    2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.ones((64, 2)) / 8).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.ones((8, 8, 1)), key=jax.random.key(0))
        method = jaxinv.generative.Soft(weight=10.0)
        image = jaxinv.generative.reconstruct(likelihood, prior, y, key=jax.random.key(1), method=method).value
        ```
    """

    deviation: AbstractRegulariser
    weight: Array
    constraint: AbstractRegulariser | None

    def __init__(
        self,
        deviation: Checked[AbstractRegulariser] = Tikhonov(),  # noqa: B008
        weight: Checked[Scalar | None] = None,
        constraint: Checked[AbstractRegulariser | None] = None,
    ):
        self.deviation = _check_deviation(Tikhonov() if deviation is None else deviation, "Soft")
        if not self.deviation.is_smooth:
            raise ValueError(
                f"Soft(deviation): {type(self.deviation).__name__} is not smooth, so the distance would not be smooth "
                "in the latent. `Relaxed(deviation, weight)` has the same objective and takes it; or take Tikhonov(), "
                "Gaussian(prior) or TV(Smoothed(eps))."
            )
        self.weight = as_factor(_check_weight(weight, self.deviation, "Soft"))
        self.constraint = None if constraint is None else check_constraint(constraint)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("weight", self.weight),)

    @property
    def is_smooth(self) -> bool:
        return self.constraint is None

    def prepare(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: RESULTS
    ) -> tuple[AbstractLatentMethod, RESULTS]:
        deviation, weight, result = _prepare_deviation(self, likelihood, prior, result)
        if self.constraint is not None:
            return Constrained(deviation, weight, self.constraint).prepare(likelihood, prior, y, result)
        eliminated = eliminate(likelihood, y, deviation, weight)
        return (Soft(deviation, weight) if eliminated is None else eliminated), result

    def init(self, prior: AbstractGenerativePrior, z: Array) -> tuple[Array, Array]:
        return z, prior.decode(z)

    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: tuple[Array, Array],
    ) -> tuple[Array, Array | float]:
        z, x = variables
        distance = self.deviation(x - prior.decode(z))
        return likelihood.negative_log_likelihood(x, y) + weight * prior.energy(z) + self.weight * distance, 0.0

    def proximal_map(self) -> AbstractProximalMap | None:
        if self.constraint is not None:
            return Constrained(self.deviation, self.weight, self.constraint).proximal_map()
        return None

    def image(self, prior: AbstractGenerativePrior, variables: tuple[Array, Array]) -> Array:
        del prior
        return variables[1]

    def latent(self, variables: tuple[Array, Array]) -> Array:
        return variables[0]

    def scaled(self, factor: Array) -> "Soft":
        return Soft(self.deviation, self.weight * factor.astype(self.weight.dtype), self.constraint)


def _check_deviation(deviation: Any, name: str) -> AbstractRegulariser:
    """Return `deviation`, which must be a regulariser."""
    if not isinstance(deviation, AbstractRegulariser):
        raise ValueError(
            f"{name}(deviation, weight): `deviation` must be one of `jaxinv.regularisers`, such as L1() or "
            f"Gaussian(residual_gaussian(prior, images, rank=50)); got {type(deviation).__name__}."
        )
    return deviation


def _check_weight(weight: Scalar | None, deviation: AbstractRegulariser, name: str) -> Scalar:
    """The weight, which may be left out where the deviation is a Gaussian energy, and so has a scale of its own."""
    if weight is not None:
        return weight
    if eqx.filter_eval_shape(lambda d: d.gaussian_factor(jnp.ones(())), deviation) is None:
        raise ValueError(
            f"{name}(deviation, weight): give a `weight`. {type(deviation).__name__} does not know how far images "
            "deviate from the range of the generator, and no number fits all: for L1() it is about the inverse of "
            "their mean absolute deviation, for Tikhonov() the inverse of its variance. "
            "`deviation_weight(prior, images, deviation)` finds it, and Gaussian(residual_gaussian(prior, images, "
            "rank=50)) needs none."
        )
    return 1.0


def _prepare_deviation(
    method: Relaxed | Soft, likelihood: Likelihood, prior: AbstractGenerativePrior, result: RESULTS
) -> tuple[AbstractRegulariser, Array, RESULTS]:
    """The deviation and its weight in the dtype of the solve, once the deviation is known to take an image."""
    weight, result = prepare_parameter(
        method.weight, likelihood.operator, result, positive=True, name="the weight of the method"
    )
    real = domain_dtype(likelihood.operator)
    deviation = jax.tree.map(
        lambda leaf: leaf.astype(real) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, method.deviation
    )
    struct = jax.ShapeDtypeStruct(tuple(prior.image_shape), real)
    value = jax.eval_shape(lambda u: deviation(u), struct)
    if value.shape != ():
        raise ValueError(
            f"{type(method).__name__}(deviation): the regulariser must give a scalar for an image of shape "
            f"{struct.shape}; it gives {value}."
        )
    return deviation, weight, result
