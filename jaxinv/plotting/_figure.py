"""Helpers that all figures share, for their size and text, and the functions that write and display a figure."""

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
    # 0.56 em is the mean width of a character of matplotlib's default font, DejaVu Sans.
    return max(int(inches * POINTS / (0.56 * points)), 4)


def wrap(texts: Sequence[str], inches: float, points: float) -> list[str]:
    return ["\n".join(textwrap.wrap(str(text), characters(inches, points))) for text in texts]


def count_lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)


def number(value: float) -> str:
    # Three significant digits, but no more than three decimals unless all of them are 0.
    return f"{value:.3f}" if 0.01 <= abs(value) < 0.1 else f"{value:#.3g}".rstrip(".")


def ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Both ends of a colour bar and its middle, with the decimals that give the larger end three digits."""
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


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike[str], *, dpi: Scalar = 200) -> pathlib.Path:
    """Write a figure atomically: the new file replaces an old one only once it is complete.

    **Arguments:**

    - `figure`: a figure of the functions of this module.
    - `path`: the path of the file; its suffix selects the format (png, pdf, svg ...), png by default.
    - `dpi`: the resolution in pixels per inch, for pixel formats; raise it for print.

    **Returns:** the path.

    **Raises:** `ValueError` if the folder does not exist or the format is unknown; `OSError` if writing fails.

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
_PIXELS = 110  # Pixels of the page for an inch of the figure.


def show(figure: "matplotlib.figure.Figure", path: str | os.PathLike[str] | None = None) -> None:
    """Display a figure in a notebook; outside of one, such as in a notebook run as a script, write it to `path`.

    **Arguments:**

    - `figure`: a figure of the functions of this module.
    - `path`: the path of the file, as for `plotting.save`; required only outside of notebooks.

    **Raises:** `ValueError` as for `plotting.save`, and if there is neither a notebook nor a path.

    !!! example
        ```python
        import pathlib, tempfile
        import jax.numpy as jnp
        from jaxinv import plotting
        with tempfile.TemporaryDirectory() as folder:
            plotting.show(plotting.compare({"ones": jnp.ones((28, 28, 1))}), pathlib.Path(folder) / "ones.png")
        ```
    """
    # A notebook has imported IPython already; it is no dependency of ours.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is not None:
        # A notebook would display a figure that pyplot does not know by its name only, so convert it to a PNG.
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

HEADING, TITLE, CAPTION, TICK = 10.0, 8.5, 7.0, 6.5  # Font sizes in points.
POINTS = 72  # Points per inch.
_MARGINS = 0.5, 0.12, 0.42, 0.12  # The margins in inches: left, right, below, above.


def load_matplotlib() -> Any:
    """The package matplotlib, an optional dependency, with the backend that draws into memory."""
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
    """An empty white figure, of `size` in inches, that pyplot does not manage."""
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=size, facecolor="white")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def panels(
    titles: list[str], size: tuple[float, float], heading: str | None
) -> tuple["matplotlib.figure.Figure", list[Any]]:
    """A figure with one pair of axes for each title, each of `size` in inches, at most four in a row."""
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
