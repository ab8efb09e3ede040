"""Score-based diffusion: noising processes, scores, samplers, likelihoods."""

from ._ancestral import Ancestral as Ancestral
from ._ddim import DDIM as DDIM
from ._dpm_solver import DPMSolver as DPMSolver
from ._encode import decode as decode, encode as encode
from ._flow_matching import FlowMatching as FlowMatching
from ._forward import forward as forward, trajectory as trajectory
from ._heun import Heun as Heun
from ._log_prob import log_prob as log_prob
from ._loss import score_matching_loss as score_matching_loss
from ._parametrisation import (
    AbstractParametrisation as AbstractParametrisation,
    Denoiser as Denoiser,
    Noise as Noise,
    Score as Score,
    Velocity as Velocity,
)
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
    MomentMatching as MomentMatching,
    PiGDM as PiGDM,
    PnPDM as PnPDM,
    PnPFlow as PnPFlow,
    REDDiff as REDDiff,
    Replacement as Replacement,
    posterior_sample as posterior_sample,
)
from ._preconditioned import Preconditioned as Preconditioned
from ._predictor_corrector import PredictorCorrector as PredictorCorrector
from ._prior import ProbabilityFlowPrior as ProbabilityFlowPrior
from ._probability_flow import ProbabilityFlow as ProbabilityFlow
from ._process import AbstractProcess as AbstractProcess
from ._reverse_sde import ReverseSDE as ReverseSDE
from ._sample import sample as sample
from ._sampler import AbstractSampler as AbstractSampler, AbstractStepper as AbstractStepper
from ._schedule import (
    AbstractSchedule as AbstractSchedule,
    Karras as Karras,
    UniformLogSNR as UniformLogSNR,
    UniformTime as UniformTime,
)
from ._score import score_from as score_from
from ._sub_vp import SubVP as SubVP
from ._ve import VE as VE
from ._vp import VP as VP
from ._weighting import (
    AbstractWeighting as AbstractWeighting,
    LikelihoodWeighting as LikelihoodWeighting,
    NoiseWeighting as NoiseWeighting,
    VelocityWeighting as VelocityWeighting,
)
