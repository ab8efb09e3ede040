"""The network of a deep image prior, taken apart into its weights and the rest."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._networks import as_network
from .._types import Checked, Network, Struct
from ..likelihood import Likelihood, domain_dtype
from ..training._chunk import Split, split
from ..training._options import check_weights


class SplitNetwork(eqx.Module):
    """A network, taken apart.

    - `weights`: the weights that are tuned, by name; `frozen`: those that are not; `rest`: everything else.
    - `input_shape`: the shape of `z0` without the batch axis, where the network states it.
    """

    weights: dict[str, Array]
    frozen: dict[str, Array]
    rest: Split
    input_shape: tuple[int, ...] | None = eqx.field(static=True)

    def merge(self, weights: dict[str, Array]) -> Any:
        """The network with these tuned weights."""
        return self.rest.merge({**self.frozen, **weights})

    def check_image(self, z0: Array, domain: Struct) -> None:
        """Raise unless the network makes an image of the domain from this input."""
        batch = jax.ShapeDtypeStruct((1, *z0.shape), z0.dtype)
        image = eqx.filter_eval_shape(lambda network, z: network(z), self.merge(self.weights), batch)
        found, expected = getattr(image, "shape", None), (1, *domain.shape)
        if found != expected:
            what = type(image).__name__ if found is None else f"shape {tuple(found)}"
            raise ValueError(
                f"From an input of shape {(1, *z0.shape)} the network makes {what}; the operator takes images of shape "
                f"{tuple(domain.shape)}, so it must be {expected}. Networks take and return a batch."
            )
        if jnp.issubdtype(image.dtype, jnp.complexfloating) and not jnp.issubdtype(domain.dtype, jnp.complexfloating):
            raise ValueError(f"The network makes a complex image; the operator takes one of dtype {domain.dtype}.")


def prepare_network(network: Network, likelihood: Likelihood, frozen: Checked[tuple[str, ...]]) -> SplitNetwork:
    """Take a network apart, in the dtype of the solve.

    **Raises:** `ValueError` if it cannot be called, has no weights, or has none of a `frozen` name.
    """
    if not callable(network):
        raise ValueError(f"A network is called as `network(z0)`; {type(network).__name__} cannot be called.")
    shape = getattr(network, "input_shape", None)
    real = domain_dtype(likelihood.operator)
    cast = lambda leaf: leaf.astype(real) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    weights, rest = split(as_network(network))
    weights = jax.tree.map(cast, weights)
    check_weights(weights, network, "network")
    if isinstance(frozen, str) or not all(isinstance(name, str) for name in frozen):
        raise ValueError(f"`frozen` must be a tuple of beginnings of names, such as ('down',); got {frozen!r}.")
    missing = [beginning for beginning in frozen if not any(name.startswith(beginning) for name in weights)]
    frozen_weights = {name: weight for name, weight in weights.items() if name.startswith(tuple(frozen))}
    if missing or len(frozen_weights) == len(weights):
        raise ValueError(
            f"`frozen={tuple(frozen)}` must name some weights and leave others to tune; the network has "
            f"{', '.join(list(weights)[:8])}{' ...' if len(weights) > 8 else ''}."
        )
    tuned = {name: weight for name, weight in weights.items() if name not in frozen_weights}
    return SplitNetwork(tuned, frozen_weights, rest, None if shape is None else tuple(shape))
