"""The tasks of the commands: the kinds of measurement that they simulate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import noise, operators
from .._types import Key
from ..likelihood import Likelihood

Shape = tuple[int, ...]


def blur(shape: Shape, key: Key) -> operators.AbstractLinearOperator:
    """A 5 x 5 Gaussian blur."""
    del key
    line = jnp.arange(5.0) - 2
    kernel = jnp.exp(-0.5 * (line[:, None] ** 2 + line[None, :] ** 2))
    return operators.Convolution(kernel / kernel.sum(), shape)


def scan(shape: Shape, key: Key) -> operators.AbstractLinearOperator:
    """Ten parallel X-ray projections."""
    del key
    return operators.ParallelBeam(shape, jnp.linspace(0, jnp.pi, 10, endpoint=False))


def compressed(shape: Shape, key: Key) -> operators.AbstractLinearOperator:
    """Inner products with Gaussian noise images; their number is a fifth of that of the pixels."""
    size = shape[0] * shape[1] * shape[2]
    return operators.Matrix(jax.random.normal(key, (max(1, size // 5), size)), shape)


def inpaint(shape: Shape, key: Key) -> operators.AbstractLinearOperator:
    """A quarter of the pixels."""
    return operators.Mask((jax.random.uniform(key, (*shape[:2], 1)) < 0.25).astype(jnp.float32) * jnp.ones(shape))


# Each task has a name, a heading and an operator.
TASKS: dict[str, tuple[str, Callable[[Shape, Key], operators.AbstractLinearOperator]]] = {
    "deblurring": ("Deblurring: 5 x 5 Gaussian blur", blur),
    "tomography": ("Tomography: 10 parallel X-ray projections", scan),
    "compressed-sensing": ("Compressed sensing: a fifth as many random measurements as pixels", compressed),
    "inpainting": ("Inpainting: a quarter of the pixels", inpaint),
}


def measured_by(operator: operators.AbstractLinearOperator, level: float, key: Key) -> Likelihood:
    """The likelihood of an operator with Gaussian noise of `level` times its norm."""
    std = level * operators.norm(operator, key=key)
    # At this size the matrix is small, and one matrix product applies it to a batch.
    return Likelihood(operators.materialise(operator), noise.Gaussian(std))
