"""The learned SVD: autoencoders of images and of measurements, and a map between their latents that is a spectrum."""

from ._diagonalise import diagonalise as diagonalise
from ._latent_map import (
    AbstractFilter as AbstractFilter,
    Full as Full,
    Nonlinear as Nonlinear,
    Spectrum as Spectrum,
    Tikhonov as Tikhonov,
    Truncation as Truncation,
)
from ._loss import joint_loss as joint_loss
from ._model import LSVD as LSVD, Linear as Linear
from ._reconstruct import reconstruct as reconstruct
from ._reduced_rank import (
    ReducedRankRegression as ReducedRankRegression,
    reduced_rank_regression as reduced_rank_regression,
)
from ._train import AbstractTraining as AbstractTraining, Joint as Joint, Separate as Separate, train as train

__all__ = [
    "AbstractFilter",
    "AbstractTraining",
    "diagonalise",
    "Full",
    "Joint",
    "joint_loss",
    "Linear",
    "LSVD",
    "Nonlinear",
    "reconstruct",
    "reduced_rank_regression",
    "ReducedRankRegression",
    "Separate",
    "Spectrum",
    "Tikhonov",
    "train",
    "Truncation",
]
