"""The figure that compares the images of several methods; the layout is that of `_grid.py`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from .._checks import checked
from .._types import ArrayLike, Checked, Scalar
from ..metrics import psnr, ssim
from ._figure import CAPTION, TITLE
from ._grid import Column, Grid, draw
from ._stacks import check_images, choose_error_limit, image_limits

if TYPE_CHECKING:
    import matplotlib.figure


@checked()
def compare(
    images: Checked[ArrayLike | Mapping[str, ArrayLike]],
    *,
    reference: Checked[ArrayLike | None] = None,
    titles: Checked[Sequence[str] | None] = None,
    heading: str | None = None,
    metrics: Mapping[str, Callable[[ArrayLike, ArrayLike], Scalar]] | None = None,
    data_range: Scalar = 1.0,
    errors: bool = True,
    limits: Checked[tuple[Scalar, Scalar] | None] = None,
    error_limit: Scalar | None = None,
    size: Scalar | None = None,
) -> "matplotlib.figure.Figure":
    """Draw a grid of images, with a row for each problem and a column for each method.

    All images share one grey scale. With a reference, which becomes the first column, each image has its metrics as a
    caption, and the error maps `image - reference` are below each row, on one scale that is symmetric about 0. The
    axes of the figure are ordered row by row, followed by those of the colour bars.

    **Arguments:**

    - `images`: a dict from the name of a method to its images, `(n, h, w, c)`, or `(h, w, c)` for one problem; `c` is 1
        (grey) or 3 (colour). All have the same shape. Pixels that are not finite are drawn in magenta.
    - `reference`: the true images, of that shape, or one image `(h, w, c)` for all problems.
    - `titles`: a label for each problem, to the left of its row.
    - `heading`: a line at the top of the figure.
    - `metrics`: a dict from a name to a function of one image and its reference that returns a number. The default is
        PSNR, and SSIM for images of at least 7 x 7 pixels; pass `{}` for no captions.
    - `data_range`: the range of the default metrics, in the unit of the images.
    - `errors`: whether to draw the error maps. Those of colour images show the error of each channel about mid-grey.
    - `limits`: the values drawn black and white; by default the smallest and the largest of the reference, or of all
        images without one.
    - `error_limit`: the largest error of the scale; by default the 99.5 % quantile of all absolute errors.
    - `size`: the longer side of one image, in inches; by default it depends on the number of columns.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` that names the entry whose shape or dtype does not fit; `ImportError` without matplotlib.

    !!! example
        ```python
        import jax
        from jaxinv import plotting
        truth = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
        noise = jax.random.normal(jax.random.key(1), truth.shape)
        figure = plotting.compare({"little": truth + 0.02 * noise, "much": truth + 0.2 * noise}, reference=truth)
        assert len(figure.axes) == 2 * (3 + 2) + 2
        ```
    """
    stacks, truth = check_images(images, reference)
    n, h, w, channels = next(iter(stacks.values())).shape
    if titles is not None and (isinstance(titles, str) or len(titles) != n):
        raise ValueError(f"`titles` must be a sequence of one label for each of the {n} problem(s); got {titles!r}.")
    if metrics is None:
        metrics = {"PSNR": functools.partial(psnr, data_range=data_range)}
        if min(h, w) >= 7:
            metrics["SSIM"] = functools.partial(ssim, data_range=data_range)

    columns = [Column("reference", truth)] if truth is not None else []
    for name, stack in stacks.items():
        if truth is None:
            columns.append(Column(name, stack))
            continue
        values = [{m: float(f(x, r)) for m, f in metrics.items()} for x, r in zip(stack, truth, strict=True)]
        columns.append(Column(name, stack, values, stack - truth if errors else None))

    limits = image_limits(limits, list(stacks.values()) if truth is None else [truth])
    residuals = [column.residuals for column in columns if column.residuals is not None]
    scale = choose_error_limit(error_limit, residuals)
    scales = [limits, (-scale, scale)] if channels == 1 else []
    grid = Grid(columns, n, (h, w), size, titles, heading, scales)
    bars = []
    for row in range(n):
        for j, column in enumerate(columns):
            axes = grid.axes(row, j)
            picture = draw(axes, column.images[row], limits, "gray")
            if row == 0:
                axes.set_title(grid.titles[j], fontsize=TITLE, pad=3)
            if j == 0 and titles is not None:
                axes.set_ylabel(grid.labels[row], fontsize=TITLE, labelpad=4)
            if column.values:
                axes.set_xlabel(grid.caption(column.values[row]), fontsize=CAPTION, labelpad=2)
            if row == 0 and j == len(columns) - 1:
                bars.append((axes, picture, limits))
        for j, column in enumerate(columns):
            if column.residuals is None:
                continue
            axes = grid.axes(row, j, error=True)
            picture = draw(axes, column.residuals[row], (-scale, scale), "RdBu_r")
            if j == 1:
                label = "error" if channels == 1 else f"error, within ±{scale:.2g}"
                axes.set_ylabel(label, fontsize=CAPTION, labelpad=3)
            if row == 0 and j == len(columns) - 1:
                bars.append((axes, picture, (-scale, scale)))
    for bar in bars if channels == 1 else []:
        grid.bar(*bar)
    return grid.figure
