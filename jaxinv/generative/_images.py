"""Images made by a generative prior: random ones, and those between two latents."""

import abc

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_count, check_key, common_dtype
from .._jit import verb
from .._prior import AbstractGenerativePrior, check_prior
from .._types import ArrayLike, Checked, IntLike, Key, Scalar
from ..requirements import Parametric


@verb
def sample(prior: Checked[AbstractGenerativePrior], n: IntLike, *, key: Key) -> Array:
    """Draw images `G(z)`, with latents from the prior.

    **Arguments:**

    - `prior`: a generative prior.
    - `n`: static, the number of images.
    - `key`: a typed key; image `i` depends on the key and `i` only.

    **Returns:** `(n, *image_shape)`.

    **Raises:** `ValueError` unless `n` is a positive integer.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        images = jaxinv.generative.sample(prior, 16, key=jax.random.key(0))
        ```
    """
    check_key(key)
    prior = check_prior(prior)
    check_count(n, "n")
    draw = lambda i: prior.decode(prior.sample_latent(key=jax.random.fold_in(key, i)))
    return jax.vmap(draw)(jnp.arange(n))


class AbstractPath(Parametric):
    """A path from one latent to another. A path of your own implements the call."""

    @abc.abstractmethod
    def __call__(self, z0: Array, z1: Array, t: Scalar) -> Array:
        """The latent at `t`.

        **Arguments:**

        - `z0`, `z1`: the ends, two latents of one shape and dtype.
        - `t`: a scalar in `[0, 1]`.

        **Returns:** a latent: `z0` at 0, `z1` at 1.
        """


class Linear(AbstractPath):
    """The straight line, `(1 - t) z0 + t z1`."""

    def __call__(self, z0: Array, z1: Array, t: Scalar) -> Array:
        return z0 + jnp.asarray(t) * (z1 - z0)


class Spherical(AbstractPath):
    """The great arc between two latents, `(sin((1 - t) a) z0 + sin(t a) z1) / sin(a)`, where `a` is their angle.

    Standard normal latents of many dimensions lie near a sphere, which the straight line leaves. Where the latents have
    nearly the same or the opposite direction, or one is 0, the path is the straight line.

    **Reference:** Shoemake, Animating rotation with quaternion curves, 1985; White, Sampling generative networks, 2016.
    """

    def __call__(self, z0: Array, z1: Array, t: Scalar) -> Array:
        squares = jnp.sum(z0**2) * jnp.sum(z1**2)
        cosine = jnp.sum(z0 * z1) / jnp.sqrt(jnp.where(squares > 0, squares, 1))
        # Below this sine, rounding leaves the angle with less than half of its digits.
        curved = (squares > 0) & (1 - cosine**2 > jnp.finfo(z0.dtype).eps)
        angle = jnp.arccos(jnp.where(curved, cosine, 0))
        first, second = jnp.sin((1 - t) * angle) / jnp.sin(angle), jnp.sin(t * angle) / jnp.sin(angle)
        return jnp.where(curved, first, 1 - t) * z0 + jnp.where(curved, second, t) * z1


@verb
def interpolate(
    prior: Checked[AbstractGenerativePrior],
    z0: ArrayLike,
    z1: ArrayLike,
    num: IntLike,
    *,
    kind: Checked[AbstractPath] = Linear(),  # noqa: B008
) -> Array:
    """Make images on a path between two latents, `G(z(t))` at `num` equidistant `t` from 0 to 1.

    **Arguments:**

    - `prior`: a generative prior.
    - `z0`, `z1`: latents, of `latent_shape`.
    - `num`: static, at least 2: both ends are included.
    - `kind`: `Linear()`, or `Spherical()` where latents are standard normal; `kind(z0, z1, t)` is the latent itself.

    **Returns:** `(num, *image_shape)`.

    **Raises:** `ValueError` for latents of other sizes, or fewer than two images.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        kind = jaxinv.generative.Spherical()
        images = jaxinv.generative.interpolate(prior, jnp.ones(5), -jnp.arange(5.0), 7, kind=kind)
        ```
    """
    prior = check_prior(prior)
    kind = Linear() if kind is None else kind
    if not isinstance(kind, AbstractPath):
        raise ValueError(f"`kind` must be `Linear()` or `Spherical()`; got {kind!r}.")
    if isinstance(num, bool) or not isinstance(num, int) or num < 2:
        raise ValueError(f"`num` must be a static integer of at least 2; got {num!r}.")
    z0, z1 = as_parameter(z0), as_parameter(z1)
    for name, z in (("z0", z0), ("z1", z1)):
        if z.shape != tuple(prior.latent_shape):
            raise ValueError(
                f"`{name}` must be one latent of shape {tuple(prior.latent_shape)}; got {z.shape}. Map over several "
                "with `jax.vmap`."
            )
    dtype = common_dtype(z0, z1)
    z0, z1 = z0.astype(dtype), z1.astype(dtype)
    return jax.vmap(lambda t: prior.decode(kind(z0, z1, t)))(jnp.linspace(0, 1, num, dtype=dtype))
