"""Sampling the posterior under a diffusion prior."""

from ._dps import DPS as DPS
from ._method import AbstractPosteriorMethod as AbstractPosteriorMethod
from ._moment_matching import MomentMatching as MomentMatching
from ._pigdm import PiGDM as PiGDM
from ._posterior_sample import posterior_sample as posterior_sample
from ._tds import TDS as TDS
from ._tmpd import TMPD as TMPD
