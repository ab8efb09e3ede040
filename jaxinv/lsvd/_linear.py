"""Networks without hidden layers."""

import math

from flax import nnx

from ..models import AbstractTrunk
from ..models._mlp import MLP
from ..models._trunks import Activation


class Linear(AbstractTrunk):
    """Affine maps: with them the learned SVD is a reduced-rank regression, trained by stochastic gradients."""

    def encoder(self, image_shape: tuple[int, ...], size: int, *, activation: Activation, rngs: nnx.Rngs) -> nnx.Module:
        return MLP((math.prod(image_shape), size), activation=activation, rngs=rngs)

    def decoder(self, size: int, image_shape: tuple[int, ...], *, activation: Activation, rngs: nnx.Rngs) -> nnx.Module:
        return MLP((size, math.prod(image_shape)), activation=activation, rngs=rngs)
