"""Figures on disk."""

import io
import os
import pathlib
from typing import TYPE_CHECKING

from .._types import Scalar
from ..io import write_bytes

if TYPE_CHECKING:
    import matplotlib.figure


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike, *, dpi: Scalar = 200) -> pathlib.Path:
    """Write a figure, whole or not at all: a file of that name is replaced only once the new one is complete.

    **Arguments:**

    - `figure`: what the functions of this room return.
    - `path`: the file; its suffix gives the format (png, pdf, svg ...), png without one.
    - `dpi`: pixels per inch, for formats made of pixels.

    **Returns:** the path.

    **Raises:** `ValueError` if the folder does not exist or the format is not known; `OSError` if it cannot be written.

    !!! example
        ```python
        import pathlib, tempfile
        import jax.numpy as jnp
        from jaxinv import plotting
        figure = plotting.compare({"ones": jnp.ones((28, 28, 1))})
        with tempfile.TemporaryDirectory() as folder:
            plotting.save(figure, pathlib.Path(folder) / "ones.png")
        ```
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"The folder {str(path.parent)!r} of the figure {path.name!r} does not exist; make it first.")
    drawing = io.BytesIO()
    figure.savefig(drawing, format=path.suffix[1:] or "png", dpi=dpi)
    write_bytes(path, drawing.getvalue())
    return path
