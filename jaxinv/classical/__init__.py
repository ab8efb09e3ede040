"""Classical reconstructions, the baselines of everything learned."""

from ._choose_weight import (
    GCV as GCV,
    SURE as SURE,
    AbstractCriterion as AbstractCriterion,
    DiscrepancyPrinciple as DiscrepancyPrinciple,
    HeldOutMeasurements as HeldOutMeasurements,
    choose_weight as choose_weight,
)
from ._expectation_maximisation import mlem as mlem, osem as osem
from ._fbp import Cosine as Cosine, Hann as Hann, RamLak as RamLak, SheppLogan as SheppLogan, fbp as fbp
from ._fista import FISTA as FISTA, fista as fista
from ._gaussian import gaussian as gaussian
from ._ista import ISTA as ISTA, ista as ista
from ._primal_dual import PrimalDual as PrimalDual, primal_dual as primal_dual
from ._sirt import sirt as sirt
from ._solver import AbstractSolver as AbstractSolver, Problem as Problem, solve as solve
from ._tikhonov import tikhonov as tikhonov
from ._tsvd import tsvd as tsvd
from ._tv import tv as tv

__all__ = [
    "AbstractCriterion",
    "AbstractSolver",
    "DiscrepancyPrinciple",
    "GCV",
    "HeldOutMeasurements",
    "SURE",
    "choose_weight",
    "FISTA",
    "ISTA",
    "PrimalDual",
    "Problem",
    "Cosine",
    "Hann",
    "RamLak",
    "SheppLogan",
    "fbp",
    "fista",
    "gaussian",
    "ista",
    "mlem",
    "osem",
    "primal_dual",
    "sirt",
    "solve",
    "tikhonov",
    "tsvd",
    "tv",
]
