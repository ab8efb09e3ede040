"""Score-based diffusion: noising processes, scores, samplers, likelihoods.

A process (`VP`, `SubVP`, `VE`, `FlowMatching`) turns images into noise. A score belongs to a process: that of a network
is made by `score_from`, that of an oracle by `prior.score(process)`, that of a function by `Score`. Then
`sample(score, shape)` draws images by a sampler (`ReverseSDE`, `DDIM`, `DPMSolver` ...), `log_prob(score, x)` evaluates
their density, and `posterior_sample(likelihood, score, y)` draws from the posterior by a posterior method
(`MomentMatching`, `DPS`, `TDS` ...). Abstract classes say what to implement for a method of your own, and `extend` has
its parts.
"""

from .._score import AbstractProcess as AbstractProcess, AbstractScore as AbstractScore
from . import extend as extend
from ._flow._encode import decode as decode, encode as encode
from ._flow._log_prob import log_prob as log_prob
from ._flow._prior import ProbabilityFlowPrior as ProbabilityFlowPrior
from ._posterior import (
    DAPS as DAPS,
    DDRM as DDRM,
    DPS as DPS,
    OTODE as OTODE,
    TDS as TDS,
    TMPD as TMPD,
    AbstractLikelihoodDraw as AbstractLikelihoodDraw,
    AbstractPosteriorMethod as AbstractPosteriorMethod,
    AnnealedLangevin as AnnealedLangevin,
    DFlow as DFlow,
    DiffPIR as DiffPIR,
    Exact as Exact,
    Langevin as Langevin,
    LookAhead as LookAhead,
    MomentMatching as MomentMatching,
    PiGDM as PiGDM,
    PnPDM as PnPDM,
    PnPFlow as PnPFlow,
    REDDiff as REDDiff,
    Replacement as Replacement,
    posterior_sample as posterior_sample,
)
from ._processes._discrete_vp import DiscreteVP as DiscreteVP
from ._processes._edm import EDM as EDM
from ._processes._flow_matching import FlowMatching as FlowMatching
from ._processes._forward import forward as forward, trajectory as trajectory
from ._processes._schedule import (
    AbstractSchedule as AbstractSchedule,
    Karras as Karras,
    UniformFlow as UniformFlow,
    UniformLogSNR as UniformLogSNR,
    UniformTime as UniformTime,
)
from ._processes._ve import VE as VE
from ._processes._vp import VP as VP, SubVP as SubVP
from ._samplers._ddim import DDIM as DDIM, Ancestral as Ancestral
from ._samplers._dpm_solver import DPMSolver as DPMSolver
from ._samplers._heun import Heun as Heun
from ._samplers._predictor_corrector import PredictorCorrector as PredictorCorrector
from ._samplers._probability_flow import ProbabilityFlow as ProbabilityFlow
from ._samplers._reverse_sde import ReverseSDE as ReverseSDE
from ._samplers._sample import sample as sample
from ._samplers._sampler import AbstractSampler as AbstractSampler, AbstractStepper as AbstractStepper
from ._scores._diffusers import from_diffusers as from_diffusers
from ._scores._loss import (
    AbstractWeighting as AbstractWeighting,
    LikelihoodWeighting as LikelihoodWeighting,
    NoiseWeighting as NoiseWeighting,
    VelocityWeighting as VelocityWeighting,
    score_matching_loss as score_matching_loss,
)
from ._scores._parametrisation import (
    AbstractParametrisation as AbstractParametrisation,
    Denoiser as Denoiser,
    Noise as Noise,
    Velocity as Velocity,
)
from ._scores._preconditioned import Preconditioned as Preconditioned
from ._scores._score import Score as Score, score_from as score_from
from ._trust._check_calibration import check_calibration as check_calibration
from ._trust._check_posterior import PosteriorCheck as PosteriorCheck, check_posterior as check_posterior
from ._trust._check_prior import PriorCheck as PriorCheck, check_prior as check_prior

__all__ = [
    # Verbs.
    "sample",
    "posterior_sample",
    "log_prob",
    "encode",
    "decode",
    "forward",
    "trajectory",
    "score_from",
    "from_diffusers",
    "score_matching_loss",
    # Checks of priors and of samples.
    "check_prior",
    "check_posterior",
    "check_calibration",
    "PriorCheck",
    "PosteriorCheck",
    # Processes.
    "VP",
    "SubVP",
    "VE",
    "FlowMatching",
    "DiscreteVP",
    "EDM",
    # Scores, what a network may predict, and the weights of its loss.
    "Score",
    "Noise",
    "Velocity",
    "Denoiser",
    "Preconditioned",
    "NoiseWeighting",
    "LikelihoodWeighting",
    "VelocityWeighting",
    # Samplers and their times.
    "ReverseSDE",
    "ProbabilityFlow",
    "PredictorCorrector",
    "Ancestral",
    "DDIM",
    "Heun",
    "DPMSolver",
    "UniformTime",
    "UniformFlow",
    "UniformLogSNR",
    "Karras",
    # Posterior methods, and how two of them draw from the likelihood.
    "LookAhead",
    "MomentMatching",
    "TMPD",
    "PiGDM",
    "DPS",
    "DAPS",
    "PnPDM",
    "DiffPIR",
    "DDRM",
    "REDDiff",
    "Replacement",
    "AnnealedLangevin",
    "TDS",
    "DFlow",
    "OTODE",
    "PnPFlow",
    "Exact",
    "Langevin",
    # A flow as a generative prior.
    "ProbabilityFlowPrior",
    # Users implement these; `extend` has the parts.
    "AbstractProcess",
    "AbstractScore",
    "AbstractParametrisation",
    "AbstractWeighting",
    "AbstractSchedule",
    "AbstractSampler",
    "AbstractStepper",
    "AbstractPosteriorMethod",
    "AbstractLikelihoodDraw",
    "extend",
]
