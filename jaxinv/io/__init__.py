"""Files: images and measurements of any scanner, and pytrees as safetensors. None of them holds executable code."""

from .._formats import (
    Measurement as Measurement,
    read as read,
    read_image as read_image,
    write as write,
)
from .._writing import check_writable as check_writable, write_bytes as write_bytes
from ._trees import (
    leaf_names as leaf_names,
    load as load,
    read_json as read_json,
    read_metadata as read_metadata,
    save as save,
)

__all__ = ["Measurement", "load", "read", "read_image", "save", "write"]
