"""Many images of one kind."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Scalar
from ._figure import HEADING, POINTS, blank
from ._grid import draw
from ._stacks import check_images, image_limits

if TYPE_CHECKING:
    import matplotlib.figure

_BETWEEN = 1  # pixels of the images


def sample_grid(
    images: Any, *, columns: Any = None, heading: str | None = None, limits: Any = None, size: Scalar | None = None
) -> "matplotlib.figure.Figure":
    """Images side by side, row after row, such as samples: one picture, on one grey scale, without captions.

    **Arguments:**

    - `images`: `(n, h, w, c)`; `c` is 1 (grey) or 3 (colour). Pixels that are not finite are drawn in magenta.
    - `columns`: how many in a row; by default as many as make the grid square.
    - `heading`: a line above.
    - `limits`: the values drawn black and white; by default the smallest and the largest of all.
    - `size`: the longer side of one image, in inches; by default such that the grid is 5 inches wide, at most 1.

    **Returns:** a `matplotlib.figure.Figure`, to be written by `plotting.save`.

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
    # White between the images, and where the last row is not full.
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
