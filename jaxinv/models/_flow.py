"""The normalising flow, a sequence of the couplings of `_coupling.py`."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike, Scalar
from ._conditioner import conditioners
from ._coupling import AbstractCoupling, Affine, Coupling, Parts, cut, join, partitions
from ._trunks import AbstractTrunk, Dense

# Dividing the logits of pixels in [0, 1] by this brings them from +-14 to the size of a latent.
_LOGIT_SCALE = 4.0
# Half a grey level of 256. Dequantised images lie that far from 0 and 1 on average, so 0 itself is far from all
# training images: its latent may be a hundred times as large.
_MARGIN = 1 / 512


class Flow(nnx.Module):
    """A normalising flow: images to latents and back, one to one, with the exact density of the images,

        log p(x) = log N(z; 0, I) + log |det dz/dx|,  z = flow.forward(x).

    Images in `[0, 1]` pass through the logit of `alpha + (1 - 2 alpha) x`, so that the density is supported there; then
    each coupling maps half of the entries with parameters that a network computes from the other half, in a
    checkerboard, in rows and in columns (with several channels, between the channels too). The initial weights make all
    couplings the identity.

    At 28 x 28 pixels it has 2.9 M weights by default, and .15 M with `Convolutional((32,))`: slower steps, but on MNIST
    the better density by far after the same time of training. For large images add levels, as in
    `Convolutional((32, 32))`, since the receptive field of a network is 7 x 7 of its cells.

    `generative.flow_loss` trains a flow on dequantised images, `(255 x + u) / 256`. Exact zeros and ones, as in an
    image that was not dequantised, are far from those: encode `(255 x + .5) / 256`.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`; `d = h w c`, at least 2, is the size of the latents.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `coupling`: `Affine()`, the default, or `RationalQuadratic(bins=8)`.
    - `trunk`: the trunk of the networks in the couplings: `Dense((256, 256))`, the default, or
        `Convolutional(channels)`, which distributes the couplings over its levels, from the finest, each on a grid of
        cells of `2^level x 2^level` pixels.
    - `num_couplings`: the number of couplings, at least 2, since one coupling leaves half of the entries unchanged.
    - `alpha`: the distance of the argument of the logit from 0 and 1, positive and below .5, static; `None` for images
        on the whole real line, which are then not transformed.

    **Raises:** `ValueError` for sizes that are not positive integers, and other wrong options; its methods, for
    anything but a batch.

    !!! cite "Reference"
        Dinh, Sohl-Dickstein, Bengio, Density estimation using Real NVP, 2017; Durkan, Bekasov, Murray, Papamakarios,
        Neural Spline Flows, 2019

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        flow = jaxinv.models.Flow((28, 28, 1), num_couplings=4, rngs=nnx.Rngs(0))
        z, log_det = flow.forward(jnp.full((5, 28, 28, 1), 0.5))  # (5, 784), (5,)
        x = flow.inverse(z)  # (5, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        rngs: Checked[nnx.Rngs],
        coupling: Checked[AbstractCoupling | None] = None,
        trunk: Checked[AbstractTrunk | None] = None,
        num_couplings: IntLike = 8,
        alpha: Checked[Scalar] = 1e-6,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.latent_size = math.prod(self.image_shape)
        coupling = Affine() if coupling is None else coupling
        if not isinstance(coupling, AbstractCoupling):
            raise ValueError(f"`coupling` must be `models.Affine()` or `models.RationalQuadratic()`; got {coupling!r}.")
        if check_count(num_couplings, "num_couplings") < 2:
            raise ValueError("`num_couplings` must be at least 2, or half of the entries stay as they are; got 1.")
        if alpha is not None and not (isinstance(alpha, float) and 0 < alpha < 0.5):
            raise ValueError(
                f"`alpha` must be a Python number between 0 and .5, or None for images on the whole real line; got "
                f"{alpha!r}."
            )
        self.alpha = alpha
        halves = partitions(self.image_shape, num_couplings)
        trunk = Dense((256, 256)) if trunk is None else trunk
        networks = conditioners(trunk, halves, coupling.num_parameters, rngs=rngs)
        pairs = zip(halves, networks, strict=True)
        self.couplings = nnx.List([Coupling(partition, coupling, network) for partition, network in pairs])

    def forward(self, x: ArrayLike) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """The latents of images `x` of shape `(n, h, w, c)`, in the order of the pixels, and `log |det dz/dx|`.

        With `alpha`, an image with pixels outside `[-alpha, 1 + alpha]`, about, has no latent: its `log_det` is minus
        infinity, and its latent is that of the image with those pixels moved to half a grey level inside `[0, 1]`.
        """
        x, log_det = self._unbounded(check_batch(x, self.image_shape, "images", "Flow"))
        parts = cut(x)
        for coupling in self.couplings:
            parts, more = coupling.forward(parts)
            log_det = log_det + more
        return join(parts, self.image_shape).reshape(-1, self.latent_size), log_det

    def inverse(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The images of latents `z` of shape `(n, d)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Flow")
        parts: Parts = cut(z.reshape(-1, *self.image_shape))
        for coupling in reversed(self.couplings):
            parts = coupling.inverse(parts)
        x = join(parts, self.image_shape)
        if self.alpha is None:
            return x
        return (jax.nn.sigmoid(_LOGIT_SCALE * x) - self.alpha) / (1 - 2 * self.alpha)

    def _unbounded(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Float[Array, " n"]]:
        if self.alpha is None:
            return x, jnp.zeros_like(x[:, 0, 0, 0])
        slope = 1 - 2 * self.alpha
        # 1 - x is exact near 1, where 1 - (alpha + (1 - 2 alpha) x) would lose every digit of alpha.
        supported = (self.alpha + slope * x > 0) & (self.alpha + slope * (1 - x) > 0)
        x = jnp.where(supported, x, jnp.clip(x, _MARGIN, 1 - _MARGIN))
        log_p, log_q = jnp.log(self.alpha + slope * x), jnp.log(self.alpha + slope * (1 - x))
        log_slopes = math.log(slope / _LOGIT_SCALE) - log_p - log_q
        log_det = jnp.sum(jnp.where(supported, log_slopes, -jnp.inf), axis=(1, 2, 3))
        return (log_p - log_q) / _LOGIT_SCALE, log_det
