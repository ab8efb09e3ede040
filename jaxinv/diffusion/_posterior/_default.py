"""The method of `posterior_sample` where none is named."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ...likelihood import Likelihood
from ...operators import AbstractLinearOperator
from ._dps import DPS
from ._method import AbstractPosteriorMethod
from ._moment_matching import MomentMatching
from ._tds import TDS

# Measurements up to which a vector-Jacobian product for each of them is affordable.
FEW = 16
# With an exact score a sixth of the particles is effective at worst, on mixtures of 25 modes.
_TEMPERED = 0.05


def default_method(likelihood: Likelihood) -> AbstractPosteriorMethod:
    """Twisted sampling where few measurements may leave many modes, else moment matching; `DPS` if not linear."""
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        return DPS()
    codomain: Any = likelihood.operator.codomain
    real = lambda leaf: math.prod(leaf.shape) * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
    measurements = sum(real(leaf) for leaf in jax.tree.leaves(codomain))
    return TDS(particles=1024, temper_below=_TEMPERED) if measurements <= FEW else MomentMatching()
