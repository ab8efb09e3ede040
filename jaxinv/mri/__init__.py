"""The preparation of magnetic resonance measurements: coil maps, noise covariance and coil compression.

`coil_maps(kspace)` estimates the sensitivities of the coils from the fully sampled middle of k-space, for
`operators.MultiCoilFourier`; `noise_covariance` and `prewhiten` make the noise white, so that `noise.Gaussian(1.0)` is
right; `compress_coils` combines many coils to a few. A complex image enters a prior of real images by
`operators.RealAndImaginary`.
"""

from ._coil_maps import (
    AbstractCoilMaps as AbstractCoilMaps,
    ESPIRiT as ESPIRiT,
    LowResolution as LowResolution,
    coil_maps as coil_maps,
)
from ._coils import compress_coils as compress_coils, noise_covariance as noise_covariance, prewhiten as prewhiten

__all__ = [
    "AbstractCoilMaps",
    "ESPIRiT",
    "LowResolution",
    "coil_maps",
    "compress_coils",
    "noise_covariance",
    "prewhiten",
]
