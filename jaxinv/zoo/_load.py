"""The priors of the package's weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import diffusion, generative, io, models, pnp
from ._card import file_of

_DIGIT = (28, 28, 1)


def load(name: str) -> pnp.AbstractDenoiser | diffusion.AbstractScore | generative.VAEPrior:
    """A trained prior.

    What a name begins with is the images, which are in [0, 1]: `mnist` are digits of shape `(28, 28, 1)`. What it ends
    with is the prior: `vae` a `generative.VAEPrior`, `score` a `diffusion.AbstractScore`, and `denoiser` a
    `pnp.AbstractDenoiser` with the range of noise levels that it was trained for. The weights are stored in half
    precision and returned in single precision; `zoo.card(name)` says what they were trained on, and what they reach.

    **Arguments:**

    - `name`: one of `zoo.names()`.

    **Returns:** the prior, a pytree whose leaves are the weights.

    **Raises:** `ValueError` for another name.

    !!! example
        ```python
        import jax
        from jaxinv import Likelihood, generative, noise, operators, zoo
        prior = zoo.load("mnist-vae")
        digit = generative.sample(prior, 1, key=jax.random.key(0))[0]
        likelihood = Likelihood(operators.Downsample((28, 28, 1), 4), noise.Gaussian(0.1))
        y = likelihood.simulate(digit, key=jax.random.key(1))
        solution = generative.reconstruct(likelihood, prior, y, key=jax.random.key(2), max_steps=200)
        ```
    """
    path = file_of(name)
    make, prior = _KINDS[name]
    half = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16)
    # Only shapes: nothing is drawn for weights that the file holds.
    network = io.load(path, jax.tree.map(half, jax.eval_shape(lambda: make(nnx.Rngs(0)))))
    return prior(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), network))


def _denoiser(largest: float) -> Callable[[Any], pnp.AbstractDenoiser]:
    return lambda network: pnp.denoiser_from(network, sigma_range=(0.0, largest))


def _score(network: Any) -> diffusion.AbstractScore:
    return diffusion.score_from(network, diffusion.VP(), diffusion.Preconditioned(0.131, 0.308))


_KINDS: dict[str, tuple[Callable[[nnx.Rngs], Any], Callable[[Any], Any]]] = {
    "photographs-denoiser": (
        lambda rngs: models.DRUNet((None, None, 3), widths=(32, 48, 64), num_blocks=1, rngs=rngs),
        _denoiser(0.2),
    ),
    "mnist-denoiser": (
        lambda rngs: models.DRUNet(_DIGIT, widths=(16, 32), num_blocks=1, rngs=rngs),
        _denoiser(1.0),
    ),
    "mnist-score": (lambda rngs: models.UNet(_DIGIT, rngs=rngs), _score),
    "mnist-vae": (lambda rngs: models.VAE(_DIGIT, 16, widths=(256, 128), rngs=rngs), generative.VAEPrior),
}
