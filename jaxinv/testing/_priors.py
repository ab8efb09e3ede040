"""The check of generative priors: decoder, energy and draws of the latent belong together."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._prior import AbstractGenerativePrior
from .._types import Checked, Key
from ._compare import (
    combine,
    difference,
    draw,
    generator,
    inner,
    is_double,
    keys_of,
    name_of,
    require,
    require_array_leaves,
    require_mapped_equals_loop,
    require_wrong_shapes_raise,
    size,
    tolerance_of,
)


def check_generative_prior(
    prior: Checked[AbstractGenerativePrior],
    *,
    key: Key,
    num_draws: int = 4000,
    deviations: float = 5.0,
    tolerance: float | None = None,
    mapped_tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a generative prior.

    It checks shapes and dtypes of `decode`, `energy`, `sample_latent` and, where there is one, `encode`, and that wrong
    shapes raise `ValueError`; that the gradients of image and energy agree with finite differences; that `energy` is
    `-log p` of the law that `sample_latent` draws from; and that `jax.vmap` equals a loop.

    The law is checked by Stein's identities, which hold for a density that is smooth and falls off: the gradient of
    the energy at draws `z` has mean 0, and its products with `z` have the identity for their mean.

    **Arguments:**

    - `prior`: a `generative.AbstractGenerativePrior`.
    - `key`: for the draws.
    - `num_draws`: how many draws the law is checked by; 0 for a prior whose draws are only starts, as those of
        `FunctionPrior` are, or whose density jumps.
    - `deviations`: by how many standard errors the means may be off.
    - `tolerance`: the largest error of a gradient, relative to its size. The default is 2e-2 in single precision and
        1e-6 in double, as for `check_operator`; activations with a kink deserve more.
    - `mapped_tolerance`: how far a batch may be from a loop, relative to the size of the answer; the default is 1e-5 in
        single precision and 1e-12 in double.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian(jnp.zeros((2, 2, 1)), jnp.eye(4)).as_latent()
        jaxinv.testing.check_generative_prior(prior, key=jax.random.key(0))
        ```
    """
    name, random = name_of(prior), generator(key)
    require(
        isinstance(prior, AbstractGenerativePrior),
        f"{name} is not a `generative.AbstractGenerativePrior`. Inherit from that class.",
    )
    require_array_leaves(prior)
    for which in ("latent_shape", "image_shape"):
        shape = getattr(prior, which)
        require(
            isinstance(shape, tuple) and all(isinstance(n, int) for n in shape),
            f"{name}.{which} is {shape!r}; it must be a tuple of integers, and static.",
        )
    z = _check_draws(prior, key)
    _check_parts(prior, z)
    _check_gradients(prior, z, random, tolerance)
    keys = keys_of(key, 3)
    latents = [(np.asarray(_latent(prior, k)),) for k in keys]
    rounding = tolerance_of(z, mapped_tolerance)
    require_mapped_equals_loop(
        lambda u: _mapped(prior, u), lambda u: _image_and_energy(prior, u), latents, rounding, f"{name}"
    )
    if num_draws:
        _check_law(prior, keys_of(key, num_draws), deviations)


_latent = jax.jit(lambda prior, key: prior.sample_latent(key=key))
_latents = jax.jit(jax.vmap(lambda prior, key: prior.sample_latent(key=key), in_axes=(None, 0)))
_image_and_energy = jax.jit(lambda prior, z: (prior.decode(z), prior.energy(z)))
_mapped = jax.jit(jax.vmap(lambda prior, z: (prior.decode(z), prior.energy(z)), in_axes=(None, 0)))
_slopes = jax.jit(jax.vmap(lambda prior, z: jax.grad(lambda u: prior.energy(u))(z), in_axes=(None, 0)))


@jax.jit
def _gradients(prior: Any, z: Any, weights: Any) -> Any:
    along = lambda u: jnp.stack([jnp.sum(weights * prior.decode(u)), prior.energy(u)])
    return along(z), jax.jacrev(along)(z)


def _check_draws(prior: Any, key: Key) -> Any:
    name = name_of(prior)
    z, again = (np.asarray(_latent(prior, key)) for _ in range(2))
    require(
        z.shape == prior.latent_shape and np.issubdtype(z.dtype, np.floating) and np.isfinite(z).all(),
        f"{name}.sample_latent gives shape {z.shape} and dtype {z.dtype}, or values that are not finite; a floating "
        f"array of shape {prior.latent_shape} is expected.",
    )
    require(difference(z, again) == 0, f"{name}.sample_latent gives another draw for the same key.")
    many = np.asarray(_latents(prior, keys_of(key, 2)))
    require(
        difference(many[0], many[1]) > 0,
        f"{name}.sample_latent gives the same draw for two keys; it does not use its `key`.",
    )
    return z


def _check_parts(prior: Any, z: Any) -> None:
    name = name_of(prior)
    struct = jax.ShapeDtypeStruct(z.shape, z.dtype)
    image, energy = jax.eval_shape(_image_and_energy, prior, struct)
    require(
        image.shape == prior.image_shape,
        f"{name}.decode gives shape {image.shape}, but `image_shape` is {prior.image_shape}.",
    )
    require(
        energy.shape == () and jnp.issubdtype(energy.dtype, jnp.floating),
        f"{name}.energy gives shape {energy.shape} and dtype {energy.dtype}; it must be a real scalar.",
    )
    for which in ("decode", "energy"):
        require_wrong_shapes_raise(lambda u, which=which: getattr(prior, which)(u), struct, f"{name}.{which}")
    image = jax.ShapeDtypeStruct(image.shape, image.dtype)
    try:
        code = jax.eval_shape(lambda x: prior.encode(x), image)
    except ValueError:
        return  # it has no encoder, and says so
    require(
        code.shape == prior.latent_shape,
        f"{name}.encode gives shape {code.shape}, but `latent_shape` is {prior.latent_shape}. A prior without an "
        "encoder raises a ValueError.",
    )
    require_wrong_shapes_raise(lambda x: prior.encode(x), image, f"{name}.encode")


def _check_gradients(prior: Any, z: Any, random: np.random.Generator, tolerance: float | None) -> None:
    name, double = name_of(prior), is_double(z)
    allowed = (1e-6 if double else 2e-2) if tolerance is None else tolerance
    step = 1e-5 if double else 5e-3
    image = jax.eval_shape(lambda u: prior.decode(u), jax.ShapeDtypeStruct(z.shape, z.dtype))
    weights, direction = draw(image, random), draw(z, random)
    values, gradients = _gradients(prior, z, weights)
    ahead, behind = (
        np.asarray(_gradients(prior, combine(1, z, sign * step, direction), weights)[0], float) for sign in (1, -1)
    )
    for i, which in enumerate(("decode", "energy")):
        slope, expected = inner(gradients[i], direction).real, (ahead[i] - behind[i]) / (2 * step)
        rounding = 4 * abs(float(values[i])) * float(jnp.finfo(z.dtype).eps) / step
        if which == "decode":
            rounding += 4 * size(weights) * float(jnp.finfo(z.dtype).eps) / step
        require(
            abs(slope - expected) <= allowed * size(gradients[i]) * size(direction) + rounding,
            f"The gradient of {name}.{which} is {slope:.6g} along a direction, and a central difference with step "
            f"{step:.0e} is {expected:.6g}; they may differ by {allowed:.0e} of the sizes of gradient and direction.",
        )


def _check_law(prior: Any, keys: Any, deviations: float) -> None:
    name, latents = name_of(prior), _latents(prior, keys)
    slopes = np.asarray(_slopes(prior, latents), float).reshape(len(keys), -1)
    latents = np.asarray(latents, float).reshape(len(keys), -1)
    products = latents[:, :, None] * slopes[:, None, :] - np.eye(slopes.shape[1])
    for what, numbers in (
        ("the gradient of the energy at draws of `sample_latent` does not have mean 0", slopes),
        ("the products of that gradient with the draws do not have the identity for their mean", products),
    ):
        numbers = numbers.reshape(len(keys), -1)
        errors = numbers.std(axis=0) / np.sqrt(len(keys))
        worst = np.max(np.abs(numbers.mean(axis=0)) / np.where(errors > 0, errors, 1e-300))
        require(
            worst <= deviations,
            f"{name}: {what}; one entry is off by {worst:.1f} standard errors, and at most {deviations:g} are allowed. "
            "`energy` must be -log p of the law of `sample_latent`. Where draws are only starts set `num_draws=0`.",
        )
