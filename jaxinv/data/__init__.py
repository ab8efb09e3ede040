"""Real and synthetic images and measurements."""

from ._dequantise import dequantise as dequantise
from ._digits import digits as digits
from ._ellipses import ellipses as ellipses
from ._htc2022 import htc2022 as htc2022
from ._mnist import mnist as mnist
from ._picture import picture as picture
from ._shepp_logan import shepp_logan as shepp_logan
from ._tooth import tooth as tooth
