"""The recipes: a network, and the options of its fit that were measured to go together."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import optax
from flax import nnx
from jaxtyping import Array

from .._arrays import as_parameter, check_count
from .._checks import checked
from .._types import Checked, IntLike, Scalar
from ..models import SkipUNet
from ..regularisers import TV, AbstractRegulariser, Isotropic
from ..requirements import Parametric, Requirement, not_negative, positive, requirement
from ..training import muon
from ._start import AbstractStart, FromNoise
from ._stopping import AbstractStopping, FixedSteps, HeldOut

# The standard deviation of the uniform noise from 0 to .1 that the reference has for its input.
_REFERENCE_STD = 0.1 / 12**0.5


class Recipe(Parametric):
    """A network, and the options of its fit that go together: the `recipe` of `dip.reconstruct`.

    `photograph()` and `tomography(weight)` make the two that are measured. `dataclasses.replace` changes a part of one,
    and so does an option that is given to `reconstruct` beside it.

    - `num_steps`, `start`, `stopping`, `regulariser`, `weight`, `optimiser`, `learning_rate`, `jitter`, `ema`: as in
        `dip.reconstruct`.
    - `weight_by_noise`: a number over the standard deviation of the noise, added to `weight`; an option `weight`
        of `reconstruct` is in place of both. Of a noise that is not the same everywhere it is the root of the mean
        variance, and of photons that of their Gaussian approximation.
    - `input_channels`, `channels`, `skip_channels`, `scales`: static; of the `SkipUNet` that `network` makes.

    !!! example
        ```python
        import dataclasses
        import jaxinv
        longer = dataclasses.replace(jaxinv.dip.photograph(), num_steps=5000)
        ```
    """

    num_steps: IntLike = eqx.field(default=2500, static=True)
    start: AbstractStart = FromNoise()
    stopping: AbstractStopping = FixedSteps()
    regulariser: AbstractRegulariser | None = None
    weight: Array = eqx.field(default=0.0, converter=as_parameter)
    weight_by_noise: Array = eqx.field(default=0.0, converter=as_parameter)
    optimiser: optax.GradientTransformation | None = eqx.field(default=None, static=True)
    learning_rate: Array = eqx.field(default=1e-2, converter=as_parameter)
    jitter: Array = eqx.field(default=0.0, converter=as_parameter)
    ema: Array = eqx.field(default=0.0, converter=as_parameter)
    input_channels: IntLike = eqx.field(default=32, static=True)
    channels: IntLike | tuple[int, ...] = eqx.field(default=32, static=True)
    skip_channels: IntLike | tuple[int, ...] = eqx.field(default=4, static=True)
    scales: IntLike = eqx.field(default=5, static=True)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_count(self.input_channels, "input_channels")

    def requirements(self) -> tuple[Requirement, ...]:
        average = requirement("`ema` must be at least 0 and below 1", self.ema, lambda v: (v >= 0) & (v < 1))
        rates = positive("learning_rate", self.learning_rate), not_negative("jitter", self.jitter)
        weights = not_negative("weight", self.weight), not_negative("weight_by_noise", self.weight_by_noise)
        return *weights, *rates, average

    def network(self, image_shape: Checked[Sequence[int]], *, rngs: Checked[nnx.Rngs]) -> SkipUNet:
        """The network of the recipe.

        **Arguments:**

        - `image_shape`: the shape of an image, `(h, w, c)`, such as `likelihood.operator.domain.shape`.
        - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
        """
        return SkipUNet(
            image_shape,
            input_shape=(*image_shape[:2], self.input_channels),
            channels=self.channels,
            skip_channels=self.skip_channels,
            scales=self.scales,
            rngs=rngs,
        )


@checked()
def photograph(*, num_steps: IntLike = 2500) -> Recipe:
    """The recipe for photographs, with values in [0, 1]: to denoise, inpaint, enlarge or sharpen them.

    An input of 32 channels of noise, as weak as the noise that is added to it in every step; Adam; an average of the
    images; and of these the one that best predicts a twentieth of the measurement, which the network does not see. So
    neither the number of steps nor the true image need be known.

    **Arguments:**

    - `num_steps`: static, the most steps. Raise it for large pictures with little noise.

    **Returns:** a `Recipe`.

    **Reference:** Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018, but for what is held out, and the width of the
    network.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        from jaxinv import dip
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((32, 32, 1), 2), jaxinv.noise.Gaussian(0.05))
        y = likelihood.simulate(jaxinv.data.shepp_logan(32), key=jax.random.key(0))
        recipe = dip.photograph()
        network = recipe.network((32, 32, 1), rngs=nnx.Rngs(0))
        image = dip.reconstruct(likelihood, network, y, key=jax.random.key(1), recipe=recipe, num_steps=20).value
        ```
    """
    return Recipe(
        num_steps=num_steps,
        start=FromNoise(std=_REFERENCE_STD),
        stopping=HeldOut(0.05),
        regulariser=TV(Isotropic()),
        weight_by_noise=0.3,
        jitter=1 / 30,
        ema=0.99,
    )


@checked()
def tomography(weight: Scalar, *, num_steps: IntLike = 2000, learning_rate: Checked[float] = 0.03) -> Recipe:
    """The recipe for tomography, of images with values in [0, 1]: total variation, and Muon.

    An input of 32 channels of noise, wide skips, Muon with a falling rate, which learns what few angles say little
    about, and an average of the images. Total variation keeps the network from noise, so all steps are taken.

    **Arguments:**

    - `weight`: the weight of total variation, a scalar. Choose that with which `classical.tv` is good;
        `.001 l^2 / std^2` is a first one, where `l` is half the width of the image and `std` a fortieth of the mean of
        the sinogram.
    - `num_steps`: static. The rate falls over so many, so give them here, not to `reconstruct`.
    - `learning_rate`: the first rate of Muon, a Python number.

    **Returns:** a `Recipe`.

    **Reference:** Baguer, Leuschner, Schmidt, Computed tomography reconstruction using deep image prior and learned
    reconstruction methods, 2020; Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        import jaxinv
        from jaxinv import dip
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 8, endpoint=False))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jaxinv.data.shepp_logan(16), key=jax.random.key(0))
        recipe = dip.tomography(5.0, num_steps=10)
        network = recipe.network((16, 16, 1), rngs=nnx.Rngs(0))
        image = dip.reconstruct(likelihood, network, y, key=jax.random.key(1), recipe=recipe).value
        ```
    """
    return Recipe(
        num_steps=num_steps,
        regulariser=TV(Isotropic()),
        weight=weight,
        optimiser=_falling_muon(learning_rate, check_count(num_steps, "num_steps")),
        ema=0.99,
        skip_channels=16,
    )


@functools.lru_cache(maxsize=64)
def _falling_muon(learning_rate: float, num_steps: int) -> optax.GradientTransformation:
    """Muon whose rate falls by a cosine to a hundredth; one for each setting, as `jax.jit` compares by identity."""
    falling = lambda rate: optax.cosine_decay_schedule(rate, num_steps, 0.01)
    return muon(falling(learning_rate), adam_learning_rate=falling(learning_rate / 3))


# The options of `dip.reconstruct` without a recipe.
_DEFAULTS: dict[str, Any] = {
    "num_steps": None,
    "start": FromNoise(),
    "stopping": FixedSteps(),
    "regulariser": None,
    "weight": 0.0,
    "weight_by_noise": None,
    "optimiser": None,
    "learning_rate": 1e-2,
    "jitter": 0.0,
    "ema": 0.0,
}


def filled(recipe: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options of `dip.reconstruct`, where those that are `None` are those of the recipe, or the defaults.

    **Raises:** `ValueError` for what is no recipe, or where nothing tells the number of steps.
    """
    if not (recipe is None or isinstance(recipe, Recipe)):
        raise ValueError(
            f"`recipe` must be a `dip.Recipe`, such as `dip.photograph()`; got {recipe!r}. Its network is made by "
            "`recipe.network(image_shape, rngs=rngs)`."
        )
    found = {name: getattr(recipe, name, default) for name, default in _DEFAULTS.items()}
    by_noise = found["weight_by_noise"] if options["weight"] is None else None
    options = {name: found.get(name) if option is None else option for name, option in options.items()}
    if options["num_steps"] is None:
        raise ValueError("Give the number of steps, `num_steps`, or a recipe, such as `recipe=dip.photograph()`.")
    return options | {"weight_by_noise": by_noise}
