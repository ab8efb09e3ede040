"""The formats of measurements and images, one file for each; `jaxinv.io` has what is public. Nothing here needs JAX."""

from ._matlab import check_elements as check_elements
from ._measurement import Measurement as Measurement
from ._read import (
    as_image as as_image,
    peek as peek,
    read as read,
    read_image as read_image,
    slices_of as slices_of,
    suffix_of as suffix_of,
)
from ._write import write as write
