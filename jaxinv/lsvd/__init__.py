"""The learned SVD: autoencoders of images and of measurements, and a map between their latents that is a spectrum."""

from ._diagonalise import diagonalise as diagonalise
from ._filter import AbstractFilter as AbstractFilter, Tikhonov as Tikhonov, Truncation as Truncation
from ._latent_map import Full as Full, Spectrum as Spectrum
from ._linear import Linear as Linear
from ._loss import joint_loss as joint_loss
from ._model import LSVD as LSVD
from ._reconstruct import reconstruct as reconstruct
from ._reduced_rank import (
    ReducedRankRegression as ReducedRankRegression,
    reduced_rank_regression as reduced_rank_regression,
)
from ._train import Joint as Joint, Separate as Separate, train as train
