"""Helpers of the unrolled networks: their operator, batches of its measurements, and complex states as channels."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import is_complex, is_concrete
from .._types import Checked, PyTree, Scalar, Struct
from ..likelihood import Whitened, domain_dtype
from ..noise import Gaussian
from ..operators import AbstractLinearOperator, AbstractOperator
from ..operators._norm import check_linear
from ._convolutional import convolution


def measured_part(operator: Checked[AbstractOperator], name: str) -> Whitened:
    """The operator with zeros where nothing is measured.

    **Raises:** `ValueError` if it is not linear; the message names the network `name`.
    """
    operator = check_linear(operator, name)
    return Whitened(operator, Gaussian(jnp.ones((), domain_dtype(operator))))


def normalised(operator: Checked[AbstractOperator], norm: Checked[Scalar | None], name: str) -> Any:
    """The measured part of the operator, divided by its norm or a bound of it."""
    measured = measured_part(operator, name)
    if norm is not None:
        check_scalar(norm, "norm")
        # Use NumPy: inside a trace, jax.numpy makes tracers even of concrete numbers.
        if is_concrete(norm) and not 0 < float(np.asarray(norm)) < math.inf:
            raise ValueError(f"`norm` must be positive and finite; got {norm}.")
    return measured / measured.norm_bound(norm)


def check_scalar(value: Any, name: str) -> None:
    """Raise unless `value` is one real number, concrete or traced."""
    if jnp.ndim(value) != 0 or jnp.iscomplexobj(value):
        raise ValueError(f"`{name}` must be a real scalar; got {value!r}.")


def input_shape(operator: AbstractLinearOperator) -> tuple[int, ...] | None:
    """The shape of one measurement, which every network has as that of its input; `None` for a stack."""
    return None if isinstance(operator.codomain, tuple) else tuple(operator.codomain.shape)


def check_measurements(y: Any, operator: AbstractLinearOperator, name: str) -> PyTree[Array]:
    """`y` as a batch of measurements `(n, *codomain)`, in the dtype of the codomain and zero where nothing is measured.

    **Raises:** `ValueError` that names the shape of `y` and the expected one.
    """
    codomain = operator.codomain
    if isinstance(codomain, tuple) and not (isinstance(y, tuple | list) and len(y) == len(codomain)):
        raise ValueError(
            f"{name} expects measurements as a tuple of {len(codomain)} batches, as the operator is a stack; got "
            f"{type(y).__name__}{f' of {len(y)}' if isinstance(y, tuple | list) else ''}."
        )
    y = tuple(y) if isinstance(codomain, tuple) else y
    batches = jax.tree.map(lambda struct, leaf: _check_batch(leaf, struct, name), codomain, y)
    counts = {batch.shape[0] for batch in jax.tree.leaves(batches)}
    if len(counts) > 1:
        raise ValueError(f"{name} expects as many measurements in each part of the stack; got {sorted(counts)}.")
    measured_only = lambda batch, m: jnp.where(m[None] > 0, batch, jnp.zeros((), batch.dtype))
    return jax.tree.map(measured_only, batches, operator.measured)


def _check_batch(y: Any, struct: jax.ShapeDtypeStruct, name: str) -> Array:
    y, shape = jnp.asarray(y), tuple(struct.shape)
    if y.ndim != len(shape) + 1 or y.shape[1:] != shape:
        advice = "They may belong to another operator."
        if y.shape == shape:
            advice = "Add the batch axis: `y[None]`."
        elif (*y.shape[1:], 1) == shape:
            advice = "Add the channel axis: `y[..., None]`."
        raise ValueError(
            f"{name} expects measurements of shape (n, {', '.join(map(str, shape))}); got {y.shape}. {advice}"
        )
    if jnp.iscomplexobj(y) and not is_complex(struct):
        raise ValueError(f"{name} expects real measurements; got {y.dtype}. Take their real part.")
    return y.astype(struct.dtype)


def grid_of(struct: Struct, name: str) -> tuple[int, int, int]:
    """Height, width and channels of one image or measurement as an input of convolutions.

    Real and imaginary part are separate channels. An array of another shape than `(h, w, c)` is one column of pixels.
    """
    if isinstance(struct, tuple):
        raise ValueError(
            f"{name} takes one array for each image and measurement; this operator has a stack of {len(struct)}. "
            "`models.LearnedGradient` takes stacks of measurements."
        )
    shape = tuple(struct.shape)
    h, w, c = shape if len(shape) == 3 else (math.prod(shape), 1, 1)
    return h, w, 2 * c if is_complex(struct) else c


def to_grid(x: Array, struct: jax.ShapeDtypeStruct, grid: tuple[int, int, int]) -> Float[Array, "n h w c"]:
    """Images or measurements `(n, *struct.shape)` as real channels."""
    n, (h, w, c) = x.shape[0], grid
    if not is_complex(struct):
        return x.reshape(n, h, w, c)
    x = x.reshape(n, h, w, c // 2)
    return jnp.concatenate([x.real, x.imag], axis=-1)


def from_grid(z: Float[Array, "n h w c"], struct: jax.ShapeDtypeStruct) -> Array:
    """The inverse of `to_grid`."""
    if is_complex(struct):
        real, imaginary = jnp.split(z, 2, axis=-1)
        z = jax.lax.complex(real, imaginary)
    return z.reshape(z.shape[0], *struct.shape).astype(struct.dtype)


class Block(nnx.Module):
    """Three 3 x 3 convolutions with activations between them, `(n, h, w, into) -> (n, h, w, out)`.

    - `zero`: whether the last convolution starts as zero.
    """

    def __init__(
        self,
        into: int,
        out: int,
        width: int,
        *,
        activation: Callable[[Array], Array],
        zero: bool = False,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        first, second = convolution(into, width, rngs=rngs), convolution(width, width, rngs=rngs)
        self.layers = nnx.List([first, second, convolution(width, out, zero=zero, rngs=rngs)])

    def __call__(self, x: Float[Array, "n h w into"]) -> Float[Array, "n h w out"]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
