"""How good a reconstruction is. One image at a time, never a batch: map over a set with `jax.vmap`."""

from ._bits_per_dim import bits_per_dim as bits_per_dim
from ._nrmse import nrmse as nrmse
from ._psnr import psnr as psnr
from ._ssim import GaussianWindow as GaussianWindow, UniformWindow as UniformWindow, ssim as ssim
