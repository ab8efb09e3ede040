"""Imaging inverse problems in JAX, with priors learned without paired data."""

from . import (
    classical as classical,
    data as data,
    diffusion as diffusion,
    dip as dip,
    generative as generative,
    io as io,
    lsvd as lsvd,
    metrics as metrics,
    models as models,
    noise as noise,
    operators as operators,
    oracles as oracles,
    plotting as plotting,
    regularisers as regularisers,
    scale as scale,
    subspace as subspace,
    training as training,
    unrolled as unrolled,
)
from ._differentiation import Implicit as Implicit, Unrolled as Unrolled
from ._solution import RESULTS as RESULTS, Solution as Solution
from ._version import __version__ as __version__
from .likelihood import Likelihood as Likelihood
