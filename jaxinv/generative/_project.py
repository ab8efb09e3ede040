"""The nearest point of the range of a generator, and its latent."""

from typing import Any

import jax.numpy as jnp
import optax

from .._arrays import as_parameter, safe_sqrt
from .._differentiation import Implicit, Unrolled
from .._jit import verb
from .._prior import AbstractGenerativePrior, check_prior
from .._solution import Solution
from .._types import ArrayLike, Checked, IntLike, Key, Scalar
from ..likelihood import Likelihood
from ..noise import Gaussian
from ..operators import Mask
from ._algorithm import Alternating
from ._reconstruct import reconstruct
from ._start import AbstractStart, FromPrior


@verb(traced=("learning_rate",), tolerances=("rtol", "atol"))
def project(
    prior: Checked[AbstractGenerativePrior],
    x: ArrayLike,
    *,
    key: Key,
    optimiser: Checked[optax.GradientTransformation | Alternating | None] = None,
    learning_rate: Scalar = 0.05,
    restarts: IntLike = 1,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    max_steps: IntLike = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> Solution:
    """Find the image of the generator that is nearest to `x`: `G(z)` with `z = argmin ||G(z) - x||^2`.

    Its distance to `x` is an error that no reconstruction in the range of the generator can beat.

    **Arguments:**

    - `prior`: a generative prior.
    - `x`: one image of `image_shape`, of a real floating dtype.
    - `key`, `optimiser`, `learning_rate`, `restarts`, `start`, `max_steps`, `rtol`, `atol`, `differentiate`: as
      in `reconstruct`, of which this is the case without operator, noise and energy.

    **Returns:** the `Solution` of `reconstruct`: `value` is the image, `aux["latent"]` its latent. Its `stats` hold in
    addition the `distance`, `||G(z) - x||`.

    **Raises:** `ValueError` if the image does not fit the prior, and as `reconstruct`.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        x = jax.random.uniform(jax.random.key(0), (8, 8, 1))
        nearest = jaxinv.generative.project(prior, x, key=jax.random.key(1)).value
        ```
    """
    return _invert(
        prior,
        x,
        key=key,
        weight=jnp.zeros(()),
        optimiser=optimiser,
        learning_rate=learning_rate,
        restarts=restarts,
        start=start,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        differentiate=differentiate,
    )


@verb(traced=("weight", "learning_rate"), tolerances=("rtol", "atol"))
def encode(
    prior: Checked[AbstractGenerativePrior],
    x: ArrayLike,
    *,
    key: Key,
    weight: Scalar = 0.0,
    optimiser: Checked[optax.GradientTransformation | Alternating | None] = None,
    learning_rate: Scalar = 0.05,
    restarts: IntLike = 1,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    max_steps: IntLike = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> Solution:
    """Find the latent of an image by inversion of the generator: `argmin_z 1/2 ||G(z) - x||^2 + weight * energy(z)`.

    Use it for priors without an encoder, such as a GAN. It is also more accurate than an encoder, from whose latent it
    can begin: `start=From(prior.encode(x))`.

    **Arguments:** as `project`, and

    - `weight`: the weight of the energy, not negative. Raise it where latents far from the prior are of no use.

    **Returns:** a `Solution` whose `value` is the latent, of `latent_shape`; `aux["image"]` is what it decodes to;
    `stats` and the rest of `aux` as `project`.

    **Raises:** as `project`.

    **Reference:** Lipton, Tripathi, Precise recovery of latent vectors from generative adversarial networks, 2017.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        z = jaxinv.generative.encode(prior, prior.decode(jnp.ones(5)), key=jax.random.key(0)).value
        ```
    """
    solution = _invert(
        prior,
        x,
        key=key,
        weight=weight,
        optimiser=optimiser,
        learning_rate=learning_rate,
        restarts=restarts,
        start=start,
        max_steps=max_steps,
        rtol=rtol,
        atol=atol,
        differentiate=differentiate,
    )
    aux = solution.aux | {"image": solution.value}
    return Solution(solution.aux["latent"], solution.result, solution.stats, aux)


def _invert(prior: Any, x: Any, **options: Any) -> Solution:
    """The reconstruction from a measurement that is the image itself, without noise."""
    prior = check_prior(prior)
    x = as_parameter(x)
    shape = tuple(prior.image_shape)
    if x.shape != shape or jnp.iscomplexobj(x):
        batch = " It looks like a batch: map with `jax.vmap`." if x.shape[1:] == shape else ""
        raise ValueError(f"`x` must be one real image of shape {shape}; got {x.shape} of dtype {x.dtype}.{batch}")
    # The identity in the dtype of the image.
    likelihood = Likelihood(Mask(jnp.ones(shape, x.dtype)), Gaussian(jnp.ones((), x.dtype)))
    solution = reconstruct(likelihood, prior, x, **options)
    square = jnp.sum((solution.value - x) ** 2)
    distance = safe_sqrt(square)
    return Solution(solution.value, solution.result, solution.stats | {"distance": distance}, solution.aux)
