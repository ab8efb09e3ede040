"""Regularisers `R`: the objective of every solver is `-log p(y | x) + weight * R(x)`."""

from .._proximal_map import (
    AbstractProximalMap as AbstractProximalMap,
    image_gradient as image_gradient,
    image_gradient_adjoint as image_gradient_adjoint,
)
from ._base import AbstractRegulariser as AbstractRegulariser, Scaled as Scaled, Sum as Sum
from ._constraints import Box as Box, NonNegative as NonNegative
from ._gaussian import Gaussian as Gaussian
from ._penalties import (
    L1 as L1,
    GroupL1 as GroupL1,
    Huber as Huber,
    NuclearNorm as NuclearNorm,
    Tikhonov as Tikhonov,
)
from ._split import AbstractSplit as AbstractSplit
from ._tv import (
    TGV as TGV,
    TV as TV,
    Anisotropic as Anisotropic,
    Isotropic as Isotropic,
    Smoothed as Smoothed,
)
from ._wavelets import Wavelets as Wavelets

__all__ = [
    "AbstractProximalMap",
    "AbstractRegulariser",
    "AbstractSplit",
    "Anisotropic",
    "Box",
    "Gaussian",
    "GroupL1",
    "Huber",
    "Isotropic",
    "L1",
    "NonNegative",
    "NuclearNorm",
    "Scaled",
    "Smoothed",
    "Sum",
    "TGV",
    "TV",
    "Tikhonov",
    "Wavelets",
    "image_gradient",
    "image_gradient_adjoint",
]
