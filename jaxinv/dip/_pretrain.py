"""Pretraining of a deep image prior on synthetic images."""

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .. import data
from .._arrays import check_count, check_floating, check_image_shape, check_key, subkeys
from .._checks import checked
from .._types import Checked, IntLike, Key, Network, ProgressMeter, Scalar, Stats
from ..likelihood import Likelihood, prepare
from ..training import fit
from ._network import prepare_network
from ._start import AbstractStart, FromAdjoint, FromFBP, make_input


@checked()
def pretrain(
    likelihood: Likelihood,
    network: Network,
    *,
    key: Key,
    num_steps: IntLike,
    batch_size: IntLike = 4,
    start: Checked[AbstractStart | None] = None,
    images: Callable[..., Array] | None = None,
    optimiser: Checked[optax.GradientTransformation | None] = None,
    learning_rate: Checked[Scalar | optax.Schedule] = 1e-3,
    ema: Checked[float | None] = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Checked[ProgressMeter | None] = None,
    chunk_size: Checked[int | None] = None,
) -> tuple[Network, Stats]:
    """Train a network to clean up simple reconstructions of synthetic images, before it is fitted to a measurement.

    The educated deep image prior: `min_theta E ||F_theta(z0(y)) - x||^2 / d` over images `x`, their simulated
    measurements `y` and the inputs `z0(y)` that `start` makes of these, all drawn anew in every step. Then
    `reconstruct(likelihood, network, y, start=start, ...)` tunes all weights, or those of the decoder with
    `frozen=("down",)`. It runs on the host.

    **Arguments:**

    - `likelihood`: the operator and the noise to come.
    - `network`: as in `reconstruct`; not changed.
    - `key`: a typed key.
    - `num_steps`, `batch_size`: static.
    - `start`: `FromFBP()`, the default for tomographs (`operator.is_tomograph`), or `FromAdjoint()`, the default for
        others.
    - `images`: `images(n, *, key) -> (n, *domain)`, traceable. Default: `data.ellipses`, cut to the size of the domain,
        in [0, 1]. Functions compare by identity: define it once.
    - `optimiser`, `learning_rate`, `ema`, `checkpoint`, `progress`, `chunk_size`: as in `training.fit`.

    **Returns:** the trained network, and the history of `training.fit`.

    **Raises:** `ValueError` for images, or a network, that do not fit the operator.

    **Reference:** Barbano, Leuschner, Schmidt, Denker, Hauptmann, Maass, Jin, An educated warm start for deep image
    prior-based micro CT reconstruction, 2022.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        import jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 8, endpoint=False))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        network = jaxinv.models.SkipUNet((16, 16, 1), scales=1, channels=4, rngs=nnx.Rngs(0))
        network, history = jaxinv.dip.pretrain(likelihood, network, key=jax.random.key(0), num_steps=5, batch_size=2)
        y = likelihood.simulate(jaxinv.data.shepp_logan(16), key=jax.random.key(1))
        start = jaxinv.dip.FromFBP()
        image = jaxinv.dip.reconstruct(likelihood, network, y, key=jax.random.key(2), start=start, num_steps=5).value
        ```
    """
    check_key(key)
    batch_size = check_count(batch_size, "batch_size")
    if not isinstance(likelihood, Likelihood):
        raise ValueError(f"`likelihood` must be a `jaxinv.Likelihood`; got {type(likelihood).__name__}.")
    operator = likelihood.operator
    if start is None:
        start = FromFBP() if operator.is_tomograph else FromAdjoint()
    if not isinstance(start, AbstractStart):
        raise ValueError(f"`start` must be `FromFBP()` or `FromAdjoint()` of `jaxinv.dip`; got {start!r}.")
    if images is None:
        images = _Ellipses(check_image_shape(operator.domain.shape))
    parts = prepare_network(network, likelihood, ())
    loss = _Supervised(likelihood, start, images, parts.input_shape, batch_size)
    # The loss draws its own images; the batch is a placeholder.
    placeholder = jnp.zeros((batch_size, 1))
    return fit(
        parts.merge(parts.weights),
        loss,
        placeholder,
        key=key,
        optimiser=optimiser,
        learning_rate=learning_rate,
        num_steps=num_steps,
        batch_size=batch_size,
        ema=ema,
        checkpoint=checkpoint,
        progress=progress,
        chunk_size=chunk_size,
    )


class _Supervised(eqx.Module):
    """The loss on a batch that is drawn from the key."""

    likelihood: Likelihood
    start: AbstractStart
    images: Any = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def __call__(self, network: Network, batch: Any, *, key: Key) -> Float[Array, ""]:
        del batch
        domain, count = self.likelihood.operator.domain, self.count
        image_key, noise_key = subkeys(key, 2)
        x = check_floating(jnp.asarray(self.images(count, key=image_key)), "images", "pretrain")
        if x.shape != (count, *domain.shape):
            raise ValueError(
                f"`images({count}, key=...)` must return images of the operator's domain, of shape "
                f"{(count, *domain.shape)}; it returned {x.shape}."
            )
        x = x.astype(domain.dtype)

        def make(x: Array, key: Key) -> Array:
            measure_key, start_key = subkeys(key, 2)
            likelihood, y, _ = prepare(self.likelihood, self.likelihood.simulate(x, key=measure_key))
            return make_input(self.start, likelihood, y, self.shape, key=start_key)

        keys = jax.vmap(lambda i: jax.random.fold_in(noise_key, i))(jnp.arange(count))
        output = network(jax.vmap(make)(x, keys))
        if output.shape != x.shape:
            raise ValueError(f"The network makes {output.shape} of a batch; the images are {x.shape}.")
        return jnp.mean(jnp.abs(output - x) ** 2)


class _Ellipses(eqx.Module):
    """`data.ellipses` of any height, width and number of channels."""

    shape: tuple[int, int, int] = eqx.field(static=True)

    def __call__(self, n: int, *, key: Key) -> Float[Array, "n h w c"]:
        h, w, c = self.shape
        size = max(h, w)
        x = data.ellipses(n * c, size, key=key).reshape(n, c, size, size)
        top, left = np.array([size - h, size - w]) // 2
        return jnp.moveaxis(x[:, :, top : top + h, left : left + w], 1, -1)
