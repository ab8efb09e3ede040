"""What all figures share: their size, text, images and files."""

import io
import math
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .._types import Scalar
from ..io import write_bytes


def characters(inches: float, points: float) -> int:
    # 0.56 em is the mean width of a character of matplotlib's own font, DejaVu Sans.
    return max(int(inches * POINTS / (0.56 * points)), 4)


def wrap(texts: Sequence[str], inches: float, points: float) -> list[str]:
    return ["\n".join(textwrap.wrap(str(text), characters(inches, points))) for text in texts]


def count_lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)


def number(value: float) -> str:
    # Three digits, but no more than three decimals unless all of them are 0.
    return f"{value:.3f}" if 0.01 <= abs(value) < 0.1 else f"{value:#.3g}".rstrip(".")


def ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Both ends of a colour bar and its middle, with as many digits as the larger end needs for three."""
    low, high = limits
    exponent = math.floor(math.log10(max(abs(low), abs(high))))
    values = [low, (low + high) / 2, high]
    if not -3 <= exponent <= 4:
        return [(value, f"{value:.1e}" if value else "0") for value in values]
    labels = [f"{value:.{max(0, 2 - exponent)}f}" for value in values]
    labels = [label.rstrip("0").rstrip(".") if "." in label else label for label in labels]
    return [(value, "0" if label == "-0" else label) for value, label in zip(values, labels, strict=True)]


if TYPE_CHECKING:
    import matplotlib.figure


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike, *, dpi: Scalar = 200) -> pathlib.Path:
    """Write a figure, whole or not at all: a file of that name is replaced only once the new one is complete.

    **Arguments:**

    - `figure`: what the functions of this module return.
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


if TYPE_CHECKING:
    import matplotlib.figure

_DPI = 200
_PIXELS = 110  # of the page, for an inch of the figure


def show(figure: "matplotlib.figure.Figure", path: str | os.PathLike | None = None) -> None:
    """Display a figure in a notebook; elsewhere, as in the same notebook run as a script, write it to `path`.

    **Arguments:**

    - `figure`: what the functions of this module return.
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


if TYPE_CHECKING:
    import matplotlib.figure

HEADING, TITLE, CAPTION, TICK = 10.0, 8.5, 7.0, 6.5  # points
POINTS = 72  # to an inch
_MARGINS = 0.5, 0.12, 0.42, 0.12  # inches: left, right, below, above


def load_matplotlib() -> Any:
    """The package, which is an extra, with the back end that draws into memory."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which comes with the extra `demo`: python -m pip install 'jaxinv[demo]'."
        ) from error
    return matplotlib


def blank(size: tuple[float, float]) -> "matplotlib.figure.Figure":
    """An empty white figure of so many inches, which pyplot knows nothing of."""
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=size, facecolor="white")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def panels(
    titles: list[str], size: tuple[float, float], heading: str | None
) -> tuple["matplotlib.figure.Figure", list[Any]]:
    """A figure with one pair of axes for each title, of so many inches each, at most four side by side."""
    (left, right, below, above), columns = _MARGINS, min(len(titles), 4)
    rows = -(-len(titles) // columns)
    above = above + (1.4 * TITLE / POINTS if any(titles) else 0)
    top = 1.8 * HEADING / POINTS if heading else 0.0
    width, height = left + size[0] + right, below + size[1] + above
    total = columns * width, rows * height + top
    figure = blank(total)
    if heading:
        figure.text(0.5, 1 - 0.4 * top / total[1], heading, ha="center", va="center", fontsize=HEADING)
    axes = []
    for i, title in enumerate(titles):
        x, y = (i % columns) * width + left, total[1] - top - (i // columns) * height - above - size[1]
        box = (x / total[0], y / total[1], size[0] / total[0], size[1] / total[1])
        panel = figure.add_axes(box)
        panel.set_title(title, fontsize=TITLE, pad=3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[:].set(linewidth=0.5, color="0.4")
        panel.tick_params(length=2, width=0.5, color="0.4", labelsize=TICK)
        axes.append(panel)
    return figure, axes
