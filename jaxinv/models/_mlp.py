"""Dense layers."""

import math
from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float


class MLP(nnx.Module):
    """Dense layers with an activation between them, `(n, sizes[0]) -> (n, sizes[-1])`; images are flattened."""

    def __init__(self, sizes: Sequence[int], *, activation: Callable[[Array], Array] = jax.nn.silu, rngs: nnx.Rngs):
        self.activation = activation
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nnx.List([nnx.Linear(into, out, rngs=rngs) for into, out in pairs])

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n out"]:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
