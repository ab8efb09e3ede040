"""Grids of images: the layout of `compare`, and the figure of samples."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._checks import checked
from .._types import ArrayLike, Checked, Scalar
from ._figure import (
    CAPTION,
    HEADING,
    POINTS,
    TICK,
    TITLE,
    blank,
    characters,
    count_lines,
    load_matplotlib,
    number,
    ticks,
    wrap,
)
from ._stacks import check_images, image_limits

_GAP, _BAR = 0.07, 0.09  # The gap between images and the width of a bar, in inches.
_INVALID = (1.0, 0.0, 1.0)


class Column(NamedTuple):
    title: str
    images: np.ndarray
    values: list[dict[str, float]] | None = None
    residuals: np.ndarray | None = None


class Grid:
    """The positions of images, captions and bars, in inches from the upper left corner.

    It computes them itself, since matplotlib's layout engines take seconds for a hundred axes.
    """

    def __init__(
        self,
        columns: list[Column],
        n: int,
        shape: tuple[int, int],
        size: Any,
        titles: Sequence[str] | None,
        heading: str | None,
        scales: list[tuple[float, float]],
    ):
        h, w = shape
        if size is None:
            # The grid is one page wide, and at most one page high if the captions allow it.
            rows = n * (2 if any(column.residuals is not None for column in columns) else 1)
            size = min(max(min(7.5 / len(columns), 10 / rows), 1.15), 2.2)
        self.width, self.height = size * min(1.0, w / h), size * min(1.0, h / w)
        # Captions need a minimal width even if the images are narrow.
        self.pitch = max(self.width, 1.15) + _GAP
        self.titles = wrap([column.title for column in columns], self.pitch - _GAP, TITLE)
        self.labels = wrap(titles or [], self.height, TITLE)
        captions = [self.caption(values) for column in columns for values in column.values or [] if values]
        lines = count_lines(captions) if captions else 0
        errors = any(column.residuals is not None for column in columns)
        self.below = (lines * CAPTION * 1.25 + 4) / POINTS if lines else _GAP
        self.row = self.height + self.below + (self.height + 1.5 * _GAP if errors else 0) + _GAP * bool(lines)
        self.left = 0.06 + (count_lines(self.labels) * TITLE * 1.25 + 4) / POINTS if titles is not None else 0.06
        widths = [len(label) for limits in scales for _, label in ticks(limits)]
        # The numbers beside the bars need more room than letters, since digits are wider.
        self.right = 0.09 + _BAR + max(widths) * 0.64 * TICK / POINTS if widths else 0.05
        total = self.left + len(columns) * self.pitch + self.right
        above = wrap([heading], total - 2 * self.right, HEADING)[0] if heading else ""
        self.top = 0.05 + ((count_lines([above]) * HEADING * 1.2 + 4) / POINTS if above else 0)
        self.top += (count_lines(self.titles) * TITLE * 1.25 + 3) / POINTS
        self.size = (total, self.top + n * self.row + 0.03)
        self.figure = blank(self.size)
        if above:
            middle = (self.left + (len(columns) * self.pitch - _GAP) / 2) / self.size[0]
            height = 1 - 0.05 / self.size[1]
            self.figure.text(middle, height, above, ha="center", va="top", fontsize=HEADING, linespacing=1.1)

    def axes(self, row: int, column: int, error: bool = False):
        x = self.left + column * self.pitch + (self.pitch - _GAP - self.width) / 2
        y = self.top + row * self.row + (self.height + self.below if error else 0)
        return self._place(x, y, self.width, self.height)

    def bar(self, axes, picture, limits) -> None:
        """A colour bar to the right of the last column, as tall as `axes`."""
        box = axes.get_position()
        x, y = self.size[0] - self.right + 0.03, (1 - box.y1) * self.size[1]
        bar = self.figure.colorbar(picture, cax=self._place(x, y, _BAR, self.height))
        values, labels = zip(*ticks(limits), strict=True)
        bar.set_ticks(values, labels=labels)
        bar.ax.tick_params(length=1.5, width=0.4, pad=1.5, labelsize=TICK)
        bar.outline.set_linewidth(0.4)

    def caption(self, values: Mapping[str, float]) -> str:
        """The text of a caption, with lines filled up to the width."""
        lines = [""]
        for part in (f"{name} {number(value)}" for name, value in values.items()):
            longer = f"{lines[-1]}  {part}" if lines[-1] else part
            if lines[-1] and len(longer) > characters(self.pitch, CAPTION):
                lines.append(part)
            else:
                lines[-1] = longer
        return "\n".join(lines)

    def _place(self, x: float, y: float, width: float, height: float):
        total_x, total_y = self.size
        return self.figure.add_axes((x / total_x, 1 - (y + height) / total_y, width / total_x, height / total_y))


def draw(axes, image: np.ndarray, limits: tuple[float, float], cmap: str):
    matplotlib = load_matplotlib()
    low, high = limits
    if image.shape[-1] == 3:
        finite = np.isfinite(image).all(axis=-1, keepdims=True)
        scaled = np.clip((np.where(finite, image, low) - low) / (high - low), 0, 1)
        picture = axes.imshow(np.where(finite, scaled, _INVALID), aspect="auto")
    else:
        colours = matplotlib.colormaps[cmap].with_extremes(bad=_INVALID)
        masked = np.ma.masked_invalid(image[..., 0])
        picture = axes.imshow(masked, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.4, color="0.6")
    return picture


if TYPE_CHECKING:
    import matplotlib.figure

_BETWEEN = 1  # The gap between images, in pixels of the images.


@checked()
def sample_grid(
    images: Checked[ArrayLike],
    *,
    columns: Checked[int | None] = None,
    heading: str | None = None,
    limits: Checked[tuple[Scalar, Scalar] | None] = None,
    size: Scalar | None = None,
) -> "matplotlib.figure.Figure":
    """Draw images, such as samples, side by side and row after row, on one grey scale and without captions.

    **Arguments:**

    - `images`: the images, `(n, h, w, c)`; `c` is 1 (grey) or 3 (colour). Pixels that are not finite are drawn in
        magenta.
    - `columns`: the number of images in a row; by default the one that makes the grid square.
    - `heading`: a line at the top of the figure.
    - `limits`: the values drawn black and white; by default the smallest and the largest of all images.
    - `size`: the longer side of one image, in inches; by default the grid is 5 inches wide, but an image at most 1.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for arrays of another shape, and for options out of their range; `ImportError` without
    matplotlib.

    !!! example
        ```python
        import jax
        from jaxinv import plotting
        figure = plotting.sample_grid(jax.random.uniform(jax.random.key(0), (64, 28, 28, 1)))
        ```
    """
    stack = check_images({"samples": images}, None)[0]["samples"]
    n, h, w, c = stack.shape
    if columns is None:
        columns = math.ceil(math.sqrt(n))
    if isinstance(columns, bool) or not isinstance(columns, int | np.integer) or columns < 1:
        raise ValueError(f"`columns` must be an integer of at least 1; got {columns!r}.")
    if size is not None and not 0 < size < math.inf:
        raise ValueError(f"`size` must be positive and finite, in inches; got {size!r}.")
    limits = image_limits(limits, [stack])
    columns, rows = min(int(columns), n), -(-n // min(int(columns), n))
    size = min(5 / columns, 1.0) if size is None else float(size)
    step_h, step_w = h + _BETWEEN, w + _BETWEEN
    # The gaps between the images, and the empty places of the last row, are white.
    page = np.full((rows * step_h - _BETWEEN, columns * step_w - _BETWEEN, c), limits[1], stack.dtype)
    for i, image in enumerate(stack):
        top, left = i // columns * step_h, i % columns * step_w
        page[top : top + h, left : left + w] = image
    inch = size / max(h, w)
    above = 1.8 * HEADING / POINTS if heading else 0.0
    width, height = page.shape[1] * inch, page.shape[0] * inch
    figure = blank((width, height + above))
    draw(figure.add_axes((0, 0, 1, height / (height + above))), page, limits, "gray")
    if heading:
        figure.text(0.5, 1 - 0.45 * above / (height + above), heading, ha="center", va="center", fontsize=HEADING)
    return figure
