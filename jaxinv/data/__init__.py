"""Real and synthetic images and measurements, for examples, tests and training."""

from ._dequantise import dequantise as dequantise
from ._digits import digits as digits
from ._htc2022 import htc2022 as htc2022
from ._mnist import mnist as mnist
from ._phantoms import ellipses as ellipses, shepp_logan as shepp_logan
from ._picture import picture as picture
from ._tooth import tooth as tooth

__all__ = [
    "dequantise",
    "digits",
    "ellipses",
    "htc2022",
    "mnist",
    "picture",
    "shepp_logan",
    "tooth",
]
