"""The figure of the states of a layered network and their adjoints, from `unrolled.adjoint_states`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from .._checks import checked
from .._types import Checked, PyTree, Scalar, State
from ._figure import CAPTION, TITLE, panels
from ._grid import Column, Grid, draw
from ._stacks import image_limits

if TYPE_CHECKING:
    import matplotlib.figure

_SIGNED = "RdBu_r"


@checked()
def adjoint_states(
    states: Checked[Sequence[State]],
    adjoints: Checked[Sequence[State]],
    *,
    gradients: Checked[Sequence[PyTree] | None] = None,
    heading: str | None = None,
    size: Scalar | None = None,
) -> "matplotlib.figure.Figure":
    """Draw the states that run forwards through a network, and below them the adjoint states that run backwards.

    Images have a column for each state; adjoints are in red and blue, each on a separate scale with its norm below it.
    Vectors have a row for each state in two panels, and a third panel shows the norms.

    **Arguments:**

    - `states`, `adjoints`: the results of `unrolled.adjoint_states`, sequences of `K + 1` images `(h, w, c)`, `c` 1 or
        3, all of one shape, or of vectors `(d,)`. Select one item of a batch, and one part of states that are pytrees.
    - `gradients`: the gradients in the parameters of each layer, a sequence of `K` pytrees, whose norms are drawn too.
    - `heading`: a line at the top of the figure.
    - `size`: the longer side of one image, in inches.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for states of other shapes or numbers; `ImportError` without matplotlib.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import plotting, unrolled
        layer = lambda weights, z: jnp.tanh(weights @ z)
        weights = list(jax.random.normal(jax.random.key(0), (6, 20, 20)) / 20**0.5)
        run = unrolled.adjoint_states([layer] * 6, weights, jnp.linspace(-1, 1, 20), lambda z: z - 0.5)
        figure = plotting.adjoint_states(run.states, run.adjoints, gradients=run.gradients)
        ```
    """
    x, p = _check(states, "states"), _check(adjoints, "adjoints")
    if x.shape != p.shape:
        raise ValueError(
            f"There must be as many `states` as `adjoints`, of the same shapes; got {len(x)} of shape "
            f"{x.shape[1:]} and {len(p)} of shape {p.shape[1:]}."
        )
    sizes = None if gradients is None else [_norm(gradient) for gradient in gradients]
    if sizes is not None and len(sizes) != len(x) - 1:
        raise ValueError(f"Between {len(x)} states are {len(x) - 1} layers; got {len(sizes)} `gradients`.")
    if x.ndim == 4:
        return _images(x, p, sizes, heading, size)
    return _vectors(x, p, sizes, heading)


def _images(states: np.ndarray, adjoints: np.ndarray, sizes: Any, heading: str | None, size: Any) -> Any:
    limits = image_limits(None, [states])
    columns = []
    for k, pair in enumerate(zip(states, adjoints, strict=True)):
        captions = [{"|z|": _norm(pair[0])}, {"|p|": _norm(pair[1])}]
        if sizes is not None and k < len(sizes):
            captions[1]["|g|"] = sizes[k]
        columns.append(Column(f"k = {k}", np.stack(pair), captions))
    grid = Grid(columns, 2, states.shape[1:3], size, ["state", "adjoint"], heading, [])
    for j, column in enumerate(columns):
        for row, image in enumerate(column.images):
            axes = grid.axes(row, j)
            if row and image.shape[-1] == 3:
                # Red and blue indicate signs, so a colour image is drawn by the mean of its channels.
                image = image.mean(axis=-1, keepdims=True)
            draw(axes, image, _symmetric(image) if row else limits, _SIGNED if row else "gray")
            axes.set_xlabel(grid.caption((column.values or [])[row]), fontsize=CAPTION, labelpad=2)
            if row == 0:
                axes.set_title(grid.titles[j], fontsize=TITLE, pad=3)
            if j == 0:
                axes.set_ylabel(grid.labels[row], fontsize=TITLE, labelpad=4)
    return grid.figure


def _vectors(states: np.ndarray, adjoints: np.ndarray, sizes: Any, heading: str | None) -> Any:
    figure, axes = panels(["states", "adjoint states", "norms"], (2.4, 1.8), heading)
    layers = np.arange(len(states))
    for panel, values in zip(axes[:2], (states, adjoints), strict=True):
        low, high = _symmetric(values)
        panel.imshow(values, cmap=_SIGNED, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        panel.set_xlabel("entry", fontsize=CAPTION, labelpad=2)
        panel.yaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("k", fontsize=CAPTION, labelpad=2)
    axes[2].plot(layers, [_norm(p) for p in adjoints], marker="o", markersize=2, linewidth=1, label="adjoint $p_k$")
    if sizes is not None:
        axes[2].plot(layers[:-1], sizes, marker="o", markersize=2, linewidth=1, label="gradient $g_k$")
    lines = [line.get_ydata() for line in axes[2].get_lines()]
    # A logarithmic scale needs positive values; all adjoints are zero if the data are fitted exactly.
    if any(np.any(np.asarray(values) > 0) for values in lines):
        axes[2].set_yscale("log")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    axes[2].set_xlabel("k", fontsize=CAPTION, labelpad=2)
    axes[2].legend(fontsize=CAPTION, frameon=False)
    return figure


def _check(values: Any, name: str) -> np.ndarray:
    shapes = {np.shape(value) for value in values} if isinstance(values, tuple | list | np.ndarray | jax.Array) else ()
    shape = next(iter(shapes)) if len(shapes) == 1 else ()
    known = len(shape) == 1 or (len(shape) == 3 and shape[-1] in (1, 3))
    if not known or len(values) < 2 or any(np.iscomplexobj(value) for value in values):
        raise ValueError(
            f"`{name}` must be a sequence of at least two real vectors (d,) or images (h, w, c), c 1 or 3, all of one "
            f"shape; got {sorted(shapes) if shapes else type(values).__name__}. Select one of a batch: `[z[0] for z in "
            f"run.{name}]`; give ravelled images their shape: `[z.reshape(h, w, c) for z in run.{name}]`."
        )
    return np.stack([np.asarray(value, np.float64) for value in values])


def _norm(tree: Any) -> float:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array_like(leaf)]
    return float(np.sqrt(sum(np.sum(np.abs(leaf.astype(np.complex128)) ** 2) for leaf in leaves)))


def _symmetric(values: np.ndarray) -> tuple[float, float]:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return -largest, largest
