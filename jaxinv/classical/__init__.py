"""Classical reconstructions, the baselines of everything learned."""

from ._fbp import Cosine as Cosine, Hann as Hann, RamLak as RamLak, SheppLogan as SheppLogan, fbp as fbp
from ._fista import fista as fista
from ._gaussian import gaussian as gaussian
from ._ista import ista as ista
from ._tikhonov import tikhonov as tikhonov
from ._tsvd import tsvd as tsvd
from ._tv import tv as tv

__all__ = [
    "Cosine",
    "Hann",
    "RamLak",
    "SheppLogan",
    "fbp",
    "fista",
    "gaussian",
    "ista",
    "tikhonov",
    "tsvd",
    "tv",
]
