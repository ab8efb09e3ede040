"""Figures, drawn off screen: no window opens, and nothing global in matplotlib is touched."""

import functools
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._types import Scalar
from .io import write_bytes
from .metrics import psnr, ssim

if TYPE_CHECKING:
    import matplotlib.figure

_HEADING, _TITLE, _CAPTION, _TICK = 10.0, 8.5, 7.0, 6.5  # points
_GAP, _BAR = 0.07, 0.09  # inches
_INVALID = (1.0, 0.0, 1.0)
_POINTS = 72


def compare(
    images: Any,
    *,
    reference: Any = None,
    titles: Any = None,
    heading: str | None = None,
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    data_range: Scalar = 1.0,
    errors: bool = True,
    limits: Any = None,
    error_limit: Scalar | None = None,
    size: Scalar | None = None,
) -> "matplotlib.figure.Figure":
    """A grid of images: a row for each problem, a column for each method.

    All images share one grey scale. With a reference, which becomes the first column, each image carries its metrics,
    and below each row stand the error maps `image - reference`, which share one scale that is symmetric about 0. The
    axes of the figure come row by row, then those of the colour bars.

    **Arguments:**

    - `images`: from the name of a method to its images, `(n, h, w, c)`, or `(h, w, c)` for one problem; `c` is 1 (grey)
        or 3 (colour). All have the same shape. Pixels that are not finite are drawn in magenta.
    - `reference`: the true images, of that shape; one image `(h, w, c)` serves all problems.
    - `titles`: one label for each problem, written to the left of its row.
    - `heading`: a line above everything.
    - `metrics`: from a name to a function of one image and its reference that gives a number. By default PSNR, and SSIM
        for images of at least 7 x 7 pixels. `{}` writes none.
    - `data_range`: of the default metrics, in the unit of the images.
    - `errors`: whether to draw the error maps. Those of colour images show the error of each channel about mid-grey.
    - `limits`: the values drawn black and white; by default the smallest and the largest of the reference, or of all
        images where there is none.
    - `error_limit`: the largest error drawn; by default the 99.5 % quantile of all absolute errors.
    - `size`: the longer side of one image, in inches; by default what suits the number of columns.

    **Returns:** a `matplotlib.figure.Figure`, to be written by `plotting.save`.

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
    stacks, truth = _check_images(images, reference)
    n, h, w, channels = next(iter(stacks.values())).shape
    if titles is not None and (isinstance(titles, str) or len(titles) != n):
        raise ValueError(f"`titles` must be a sequence of one label for each of the {n} problem(s); got {titles!r}.")
    if metrics is None:
        metrics = {"PSNR": functools.partial(psnr, data_range=data_range)}
        if min(h, w) >= 7:
            metrics["SSIM"] = functools.partial(ssim, data_range=data_range)

    columns = [_Column("reference", truth)] if truth is not None else []
    for name, stack in stacks.items():
        if truth is None:
            columns.append(_Column(name, stack))
            continue
        values = [{m: float(f(x, r)) for m, f in metrics.items()} for x, r in zip(stack, truth, strict=True)]
        columns.append(_Column(name, stack, values, stack - truth if errors else None))

    limits = _image_limits(limits, list(stacks.values()) if truth is None else [truth])
    residuals = [column.residuals for column in columns if column.residuals is not None]
    scale = _error_limit(error_limit, residuals)
    scales = [limits, (-scale, scale)] if channels == 1 else []
    grid = _Grid(columns, n, (h, w), size, titles, heading, scales)
    bars = []
    for row in range(n):
        for j, column in enumerate(columns):
            axes = grid.axes(row, j)
            picture = _draw(axes, column.images[row], limits, "gray")
            if row == 0:
                axes.set_title(grid.titles[j], fontsize=_TITLE, pad=3)
            if j == 0 and titles is not None:
                axes.set_ylabel(grid.labels[row], fontsize=_TITLE, labelpad=4)
            if column.values:
                axes.set_xlabel(grid.caption(column.values[row]), fontsize=_CAPTION, labelpad=2)
            if row == 0 and j == len(columns) - 1:
                bars.append((axes, picture, limits))
        for j, column in enumerate(columns):
            if column.residuals is None:
                continue
            axes = grid.axes(row, j, error=True)
            picture = _draw(axes, column.residuals[row], (-scale, scale), "RdBu_r")
            if j == 1:
                label = "error" if channels == 1 else f"error, within ±{scale:.2g}"
                axes.set_ylabel(label, fontsize=_CAPTION, labelpad=3)
            if row == 0 and j == len(columns) - 1:
                bars.append((axes, picture, (-scale, scale)))
    for bar in bars if channels == 1 else []:
        grid.bar(*bar)
    return grid.figure


def save(figure: "matplotlib.figure.Figure", path: str | os.PathLike, *, dpi: Scalar = 200) -> pathlib.Path:
    """Write a figure, whole or not at all: a file of that name is replaced only once the new one is complete.

    **Arguments:**

    - `figure`: what `compare` returns.
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


class _Column(NamedTuple):
    title: str
    images: np.ndarray
    values: list[dict[str, float]] | None = None
    residuals: np.ndarray | None = None


class _Grid:
    """Where everything goes, in inches from the upper left corner.

    Placed by hand: matplotlib's own layout engines take seconds for a hundred axes.
    """

    def __init__(
        self,
        columns: list[_Column],
        n: int,
        shape: tuple[int, int],
        size: Any,
        titles: Sequence[str] | None,
        heading: str | None,
        scales: list[tuple[float, float]],
    ):
        matplotlib = _matplotlib()
        h, w = shape
        if size is None:
            # A page wide, and a page high where the captions leave the choice.
            rows = n * (2 if any(column.residuals is not None for column in columns) else 1)
            size = min(max(min(7.5 / len(columns), 10 / rows), 1.15), 2.2)
        self.width, self.height = size * min(1.0, w / h), size * min(1.0, h / w)
        # Captions need room even where the images are narrow.
        self.pitch = max(self.width, 1.15) + _GAP
        self.titles = _wrap([column.title for column in columns], self.pitch - _GAP, _TITLE)
        self.labels = _wrap(titles or [], self.height, _TITLE)
        captions = [self.caption(values) for column in columns for values in column.values or [] if values]
        lines = _lines(captions) if captions else 0
        errors = any(column.residuals is not None for column in columns)
        self.below = (lines * _CAPTION * 1.25 + 4) / _POINTS if lines else _GAP
        self.row = self.height + self.below + (self.height + 1.5 * _GAP if errors else 0) + _GAP * bool(lines)
        self.left = 0.06 + (_lines(self.labels) * _TITLE * 1.25 + 4) / _POINTS if titles is not None else 0.06
        ticks = [len(label) for limits in scales for _, label in _ticks(limits)]
        # Beside the bars, their numbers: digits are wider than letters.
        self.right = 0.09 + _BAR + max(ticks) * 0.64 * _TICK / _POINTS if ticks else 0.05
        total = self.left + len(columns) * self.pitch + self.right
        above = _wrap([heading], total - 2 * self.right, _HEADING)[0] if heading else ""
        self.top = 0.05 + ((_lines([above]) * _HEADING * 1.2 + 4) / _POINTS if above else 0)
        self.top += (_lines(self.titles) * _TITLE * 1.25 + 3) / _POINTS
        self.size = (total, self.top + n * self.row + 0.03)
        self.figure = matplotlib.figure.Figure(figsize=self.size, facecolor="white")
        matplotlib.backends.backend_agg.FigureCanvasAgg(self.figure)
        if above:
            middle = (self.left + (len(columns) * self.pitch - _GAP) / 2) / self.size[0]
            height = 1 - 0.05 / self.size[1]
            self.figure.text(middle, height, above, ha="center", va="top", fontsize=_HEADING, linespacing=1.1)

    def axes(self, row: int, column: int, error: bool = False):
        x = self.left + column * self.pitch + (self.pitch - _GAP - self.width) / 2
        y = self.top + row * self.row + (self.height + self.below if error else 0)
        return self._place(x, y, self.width, self.height)

    def bar(self, axes, picture, limits) -> None:
        """A colour bar to the right of the last column, as tall as `axes`."""
        box = axes.get_position()
        x, y = self.size[0] - self.right + 0.03, (1 - box.y1) * self.size[1]
        bar = self.figure.colorbar(picture, cax=self._place(x, y, _BAR, self.height))
        values, labels = zip(*_ticks(limits), strict=True)
        bar.set_ticks(values, labels=labels)
        bar.ax.tick_params(length=1.5, width=0.4, pad=1.5, labelsize=_TICK)
        bar.outline.set_linewidth(0.4)

    def caption(self, values: Mapping[str, float]) -> str:
        """As many values on a line as fit."""
        lines = [""]
        for part in (f"{name} {_number(value)}" for name, value in values.items()):
            longer = f"{lines[-1]}  {part}" if lines[-1] else part
            if lines[-1] and len(longer) > _characters(self.pitch, _CAPTION):
                lines.append(part)
            else:
                lines[-1] = longer
        return "\n".join(lines)

    def _place(self, x: float, y: float, width: float, height: float):
        total_x, total_y = self.size
        return self.figure.add_axes((x / total_x, 1 - (y + height) / total_y, width / total_x, height / total_y))


def _draw(axes, image: np.ndarray, limits: tuple[float, float], cmap: str):
    matplotlib = _matplotlib()
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


def _check_images(images: Any, reference: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    if not isinstance(images, Mapping) or not images:
        raise ValueError(
            "`images` must be a dictionary from the names of the methods to their images, with at least one entry; got "
            f"{type(images).__name__}{' without entries' if isinstance(images, Mapping) else ''}."
        )
    stacks = {str(name): _stack(value, f"images[{name!r}]") for name, value in images.items()}
    first, expected = next((name, stack.shape) for name, stack in stacks.items())
    for name, stack in stacks.items():
        if stack.shape != expected:
            raise ValueError(
                f"All images must have the same shape; images[{name!r}] has {stack.shape} and images[{first!r}] "
                f"{expected} (number of problems, height, width, channels)."
            )
    if reference is None:
        return stacks, None
    truth = _stack(reference, "reference")
    if truth.shape[1:] != expected[1:] or len(truth) not in (1, expected[0]):
        raise ValueError(
            f"`reference` must have the shape of the images, {expected}, or be one image of shape {expected[1:]}; got "
            f"{np.shape(reference)}."
        )
    return stacks, np.broadcast_to(truth, expected)


def _stack(value: Any, name: str) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim not in (3, 4) or value.shape[-1] not in (1, 3) or value.size == 0:
        advice = " Add the channel axis: `x[..., None]`." if value.ndim == 2 else ""
        raise ValueError(
            f"`{name}` must be of shape (n, height, width, channels) or (height, width, channels), channels 1 or 3; "
            f"got {value.shape}.{advice}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        advice = (
            "`jnp.abs(x)` of it" if value.dtype.kind == "c" else "`x.astype(float)`, divided by 255 if it has 8 bits"
        )
        raise ValueError(f"`{name}` must hold real floating-point numbers; got {value.dtype}. Pass {advice}.")
    # Half precision is beyond matplotlib, and bfloat16 beyond most of numpy.
    value = value.astype(np.promote_types(value.dtype, np.float32) if value.dtype.kind == "f" else np.float32)
    return value if value.ndim == 4 else value[None]


def _image_limits(limits: Any, stacks: list[np.ndarray]) -> tuple[float, float]:
    if limits is None:
        finite = np.concatenate([stack[np.isfinite(stack)] for stack in stacks])
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        return (low, high) if high > low else (low, low + 1.0)
    low, high = (float(limit) for limit in limits)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`limits` must be two finite numbers, the smaller first; got {limits!r}.")
    return low, high


def _error_limit(error_limit: Any, residuals: list[np.ndarray]) -> float:
    if error_limit is None:
        finite = np.concatenate([np.abs(r[np.isfinite(r)]) for r in residuals]) if residuals else np.zeros(0)
        largest = float(np.quantile(finite, 0.995)) if finite.size else 0.0
        # A few wrong pixels, fewer than the quantile looks at, are still shown.
        return largest or (float(finite.max()) if finite.size else 0.0) or 1.0
    if not (np.isfinite(error_limit) and error_limit > 0):
        raise ValueError(f"`error_limit` must be positive and finite; got {error_limit!r}.")
    return float(error_limit)


def _characters(inches: float, points: float) -> int:
    # 0.56 em is the mean width of a character of matplotlib's own font, DejaVu Sans.
    return max(int(inches * _POINTS / (0.56 * points)), 4)


def _wrap(texts: Sequence[str], inches: float, points: float) -> list[str]:
    return ["\n".join(textwrap.wrap(str(text), _characters(inches, points))) for text in texts]


def _lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)


def _number(value: float) -> str:
    # Three digits, but no more than three decimals unless all of them are 0.
    return f"{value:.3f}" if 0.01 <= abs(value) < 0.1 else f"{value:#.3g}".rstrip(".")


def _ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Both ends of a colour bar and its middle, with as many digits as the larger end needs for three."""
    low, high = limits
    exponent = math.floor(math.log10(max(abs(low), abs(high))))
    values = [low, (low + high) / 2, high]
    if not -3 <= exponent <= 4:
        return [(value, f"{value:.1e}" if value else "0") for value in values]
    labels = [f"{value:.{max(0, 2 - exponent)}f}" for value in values]
    labels = [label.rstrip("0").rstrip(".") if "." in label else label for label in labels]
    return [(value, "0" if label == "-0" else label) for value, label in zip(values, labels, strict=True)]


def _matplotlib():
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which comes with the extra `demo`: python -m pip install 'jaxinv[demo]'."
        ) from error
    return matplotlib
