"""Forward operators: one image in, one measurement out, with exact adjoints."""

from .._arrays import check_state as check_state
from ._base import AbstractLinearOperator as AbstractLinearOperator, AbstractOperator as AbstractOperator
from ._certify import Certificate as Certificate, certify as certify
from ._convolution import Convolution as Convolution
from ._downsample import Downsample as Downsample
from ._fourier import (
    MaskedFourier as MaskedFourier,
    MultiCoilFourier as MultiCoilFourier,
    centred_fft as centred_fft,
    centred_ifft as centred_ifft,
)
from ._function import (
    FunctionOperator as FunctionOperator,
    NonlinearFunction as NonlinearFunction,
    as_lineax as as_lineax,
)
from ._magnitude import Magnitude as Magnitude
from ._matrix import Matrix as Matrix, materialise as materialise
from ._norm import norm as norm
from ._pointwise import (
    Identity as Identity,
    Mask as Mask,
    Real as Real,
    RealAndImaginary as RealAndImaginary,
)
from ._stack import batch as batch, stack as stack
from ._tomography import FanBeam as FanBeam, ParallelBeam as ParallelBeam
from ._wavelets import Wavelets as Wavelets

__all__ = [
    "AbstractLinearOperator",
    "AbstractOperator",
    "Certificate",
    "Convolution",
    "Downsample",
    "FanBeam",
    "FunctionOperator",
    "Identity",
    "Magnitude",
    "Mask",
    "MaskedFourier",
    "Matrix",
    "MultiCoilFourier",
    "NonlinearFunction",
    "ParallelBeam",
    "Real",
    "RealAndImaginary",
    "Wavelets",
    "as_lineax",
    "batch",
    "centred_fft",
    "centred_ifft",
    "certify",
    "check_state",
    "materialise",
    "norm",
    "stack",
]
