"""Noise models: the law of a measurement `y` given the noiseless one, `A x`. `Likelihood` pairs one with an operator.

A measurement is an array, or for `operators.stack` a tuple of arrays. Parameters are array leaves that broadcast to a
measurement (a scalar, or an array of its rank), so a sweep over noise levels or doses is one `jax.vmap`.
"""

from ._base import AbstractGaussianNoise as AbstractGaussianNoise, AbstractNoise as AbstractNoise
from ._gaussian import CorrelatedGaussian as CorrelatedGaussian, Gaussian as Gaussian
from ._photon import Poisson as Poisson, TransmissionPoisson as TransmissionPoisson

__all__ = ["AbstractGaussianNoise", "AbstractNoise", "CorrelatedGaussian", "Gaussian", "Poisson", "TransmissionPoisson"]
