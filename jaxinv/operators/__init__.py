"""Forward operators: one image in, one measurement out, with exact adjoints."""

from ._base import AbstractLinearOperator as AbstractLinearOperator, AbstractOperator as AbstractOperator
from ._certify import Certificate as Certificate, certify as certify
from ._convolution import Convolution as Convolution
from ._downsample import Downsample as Downsample
from ._fan_beam import FanBeam as FanBeam
from ._fourier import MaskedFourier as MaskedFourier, MultiCoilFourier as MultiCoilFourier
from ._function import FunctionOperator as FunctionOperator, NonlinearFunction as NonlinearFunction
from ._identity import Identity as Identity, Real as Real
from ._lineax import as_lineax as as_lineax
from ._magnitude import Magnitude as Magnitude
from ._mask import Mask as Mask
from ._matrix import Matrix as Matrix, materialise as materialise
from ._norm import norm as norm
from ._parallel_beam import ParallelBeam as ParallelBeam
from ._stack import batch as batch, stack as stack
