"""How good reconstructions and samplers are.

Metrics of images take one image at a time, those of samplers one set of samples, or two: map over more with `jax.vmap`.
"""

from ._bits_per_dim import bits_per_dim as bits_per_dim
from ._calibration_ranks import calibration_ranks as calibration_ranks
from ._coverage import coverage as coverage
from ._mmd import mmd as mmd
from ._mode_weights import mode_weights as mode_weights
from ._nrmse import nrmse as nrmse
from ._psnr import psnr as psnr
from ._sliced_wasserstein import sliced_wasserstein as sliced_wasserstein
from ._ssim import GaussianWindow as GaussianWindow, UniformWindow as UniformWindow, ssim as ssim
from ._wasserstein2_gaussian import wasserstein2_gaussian as wasserstein2_gaussian
