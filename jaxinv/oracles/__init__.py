"""Priors with exact answers: posteriors, evidences, scores and denoisers in closed form."""

from ._gaussian import Gaussian as Gaussian
from ._latent import GaussianLatent as GaussianLatent
from ._low_rank import LowRank as LowRank
from ._mixture import GaussianMixture as GaussianMixture

__all__ = [
    "Gaussian",
    "GaussianLatent",
    "GaussianMixture",
    "LowRank",
]
