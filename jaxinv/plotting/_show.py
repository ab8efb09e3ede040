"""Figures before the eyes."""

import io
import os
import sys
from typing import TYPE_CHECKING

from ._save import save

if TYPE_CHECKING:
    import matplotlib.figure

_DPI = 200
_PIXELS = 110  # of the page, for an inch of the figure


def show(figure: "matplotlib.figure.Figure", path: str | os.PathLike | None = None) -> None:
    """Display a figure in a notebook; elsewhere, as in the same notebook run as a script, write it to `path`.

    **Arguments:**

    - `figure`: what the functions of this room return.
    - `path`: the file, as for `plotting.save`; asked for only where there is no notebook.

    **Raises:** `ValueError` as `plotting.save`, and if there is neither a notebook nor a path.

    !!! example
        ```python
        import pathlib, tempfile
        import jax.numpy as jnp
        from jaxinv import plotting
        with tempfile.TemporaryDirectory() as folder:
            plotting.show(plotting.compare({"ones": jnp.ones((28, 28, 1))}), pathlib.Path(folder) / "ones.png")
        ```
    """
    # Imported by whatever runs a notebook; nothing else needs it.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is not None:
        # Displayed as it is, a figure that pyplot does not know appears as its name only.
        from IPython.display import Image, display  # pyright: ignore[reportMissingImports]

        drawing = io.BytesIO()
        figure.savefig(drawing, format="png", dpi=_DPI)
        display(Image(drawing.getvalue(), width=round(_PIXELS * figure.get_figwidth())))
    elif path is not None:
        save(figure, path, dpi=_DPI)
    else:
        raise ValueError("There is no notebook to show the figure in: give a `path` to write it to.")
