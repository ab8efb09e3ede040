"""The deep image prior: networks that are fitted to one measurement."""

from ._admm import ADMM as ADMM
from ._linearised_posterior import linearised_posterior as linearised_posterior
from ._method import (
    AbstractMethod as AbstractMethod,
    AbstractWeightsMethod as AbstractWeightsMethod,
    Evaluation as Evaluation,
    Plain as Plain,
    Problem as Problem,
)
from ._pretrain import pretrain as pretrain
from ._recipe import Recipe as Recipe, photograph as photograph, tomography as tomography
from ._reconstruct import reconstruct as reconstruct
from ._reconstruct_many import reconstruct_many as reconstruct_many
from ._resume import resume as resume
from ._self_guided import SelfGuided as SelfGuided
from ._start import (
    AbstractStart as AbstractStart,
    From as From,
    FromAdjoint as FromAdjoint,
    FromFBP as FromFBP,
    FromNoise as FromNoise,
)
from ._stopping import (
    AbstractStopping as AbstractStopping,
    Discrepancy as Discrepancy,
    FixedSteps as FixedSteps,
    HeldOut as HeldOut,
    StoppingProblem as StoppingProblem,
    WindowedVariance as WindowedVariance,
)

__all__ = [
    "AbstractMethod",
    "AbstractStart",
    "AbstractStopping",
    "AbstractWeightsMethod",
    "ADMM",
    "Discrepancy",
    "Evaluation",
    "FixedSteps",
    "From",
    "FromAdjoint",
    "FromFBP",
    "FromNoise",
    "HeldOut",
    "linearised_posterior",
    "photograph",
    "Plain",
    "pretrain",
    "Problem",
    "Recipe",
    "reconstruct",
    "reconstruct_many",
    "resume",
    "SelfGuided",
    "StoppingProblem",
    "tomography",
    "WindowedVariance",
]
