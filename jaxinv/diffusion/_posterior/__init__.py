"""Sampling the posterior under a diffusion prior."""

from ._annealed_langevin import AnnealedLangevin as AnnealedLangevin
from ._d_flow import DFlow as DFlow
from ._daps import DAPS as DAPS
from ._ddrm import DDRM as DDRM
from ._diffpir import DiffPIR as DiffPIR
from ._dps import DPS as DPS
from ._likelihood_draw import (
    AbstractLikelihoodDraw as AbstractLikelihoodDraw,
    Exact as Exact,
    Langevin as Langevin,
)
from ._method import AbstractPosteriorMethod as AbstractPosteriorMethod
from ._moment_matching import MomentMatching as MomentMatching
from ._ot_ode import OTODE as OTODE
from ._pigdm import PiGDM as PiGDM
from ._pnp_flow import PnPFlow as PnPFlow
from ._pnpdm import PnPDM as PnPDM
from ._posterior_sample import posterior_sample as posterior_sample
from ._red_diff import REDDiff as REDDiff
from ._replacement import Replacement as Replacement
from ._tds import TDS as TDS
from ._tmpd import TMPD as TMPD
