"""The tasks of the commands: the kinds of measurement that they simulate."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import noise, operators
from .._types import Key
from ..likelihood import Likelihood

Shape = tuple[int, ...]
# The most entries of a matrix of noise images, a quarter gigabyte; other operators have a quarter as many.
_LARGEST_MATRIX = 2**26


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
    """Inner products with Gaussian noise images; their number is a fifth of that of the pixels.

    Large images have rows of a cosine transform, after random signs, for noise images: those need no matrix.
    """
    size = math.prod(shape)
    count = max(1, size // 5)
    if count * size <= _LARGEST_MATRIX:
        return operators.Matrix(jax.random.normal(key, (count, size)), shape)
    sign_key, row_key = jax.random.split(key)
    signs = jax.random.rademacher(sign_key, shape, jnp.float32)
    rows = jax.random.choice(row_key, size, (count,), replace=False)
    # The entries have mean square 1, as those of the noise images.
    measure = lambda x: math.sqrt(size) * jax.scipy.fft.dctn(signs * x, norm="ortho").ravel()[rows]
    return operators.FunctionOperator(measure, jax.ShapeDtypeStruct(shape, jnp.float32))


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
    # One product with a matrix applies it to a batch, where the matrix is small.
    if math.prod(operator.domain.shape) * math.prod(operator.codomain.shape) <= _LARGEST_MATRIX // 4:
        operator = operators.materialise(operator)
    return Likelihood(operator, noise.Gaussian(std))
