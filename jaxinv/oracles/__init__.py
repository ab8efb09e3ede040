"""Priors with exact answers: posteriors, evidences, scores and denoisers in closed form."""

from ._gaussian import Gaussian as Gaussian
from ._latent import GaussianLatent as GaussianLatent
