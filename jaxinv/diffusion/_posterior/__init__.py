"""Posterior sampling under a diffusion prior: the verb, its methods, and the parts for further methods."""

from ..._method import advance as advance
from ._annealed_langevin import AnnealedLangevin as AnnealedLangevin
from ._d_flow import DFlow as DFlow
from ._daps import DAPS as DAPS
from ._ddrm import DDRM as DDRM
from ._diffpir import DiffPIR as DiffPIR
from ._dps import DPS as DPS
from ._guidance import (
    AbstractGuidance as AbstractGuidance,
    AbstractTwist as AbstractTwist,
    AbstractTwistView as AbstractTwistView,
    Guided as Guided,
    ShiftView as ShiftView,
    guided_transition as guided_transition,
)
from ._likelihood_draw import (
    AbstractLikelihoodDraw as AbstractLikelihoodDraw,
    Exact as Exact,
    Langevin as Langevin,
)
from ._look_ahead import LookAhead as LookAhead
from ._method import AbstractPosteriorMethod as AbstractPosteriorMethod
from ._moment_matching import MomentMatching as MomentMatching
from ._ot_ode import OTODE as OTODE
from ._pigdm import PiGDM as PiGDM
from ._pnp_flow import PnPFlow as PnPFlow
from ._pnpdm import PnPDM as PnPDM
from ._posterior_sample import posterior_sample as posterior_sample
from ._problem import (
    AbstractProblem as AbstractProblem,
    CurvedProblem as CurvedProblem,
    DenseProblem as DenseProblem,
    ExactProblem as ExactProblem,
    LinearProblem as LinearProblem,
    Problem as Problem,
    any_problem as any_problem,
    curved_problem as curved_problem,
    dense_problem as dense_problem,
    exact_problem as exact_problem,
    linear_problem as linear_problem,
)
from ._red_diff import REDDiff as REDDiff
from ._replacement import Replacement as Replacement
from ._tds import TDS as TDS
from ._tmpd import TMPD as TMPD
