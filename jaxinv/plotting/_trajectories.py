"""The figure of paths of a process over time, whose states are numbers, points of the plane, or images."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import checked
from .._types import ArrayLike, Checked, Scalar
from ._figure import CAPTION, TITLE, number, panels
from ._grid import Column, Grid, draw
from ._stacks import image_limits

if TYPE_CHECKING:
    import matplotlib.figure

_POINTS = 200  # Points of the background of a density, along each axis.


@checked()
def trajectories(
    paths: Checked[Mapping[str, tuple[ArrayLike, ArrayLike]]],
    *,
    density: Callable[[np.ndarray, np.ndarray], ArrayLike] | None = None,
    heading: str | None = None,
    limits: Checked[tuple[Scalar, Scalar] | None] = None,
    size: Scalar | None = None,
) -> "matplotlib.figure.Figure":
    """Draw paths of a noising process and of its reverse, over time.

    Numbers are drawn as curves over time, points of the plane as curves whose last state is a dot, and images as a row
    for each path. `diffusion.trajectory`, mapped over images and keys, returns forward paths; the `aux` of
    `diffusion.sample(..., num_samples=n, num_saved=k)` holds reverse ones.

    **Arguments:**

    - `paths`: a dict from a title to a pair `(times, states)`: times `(k,)` or `(n, k)`, states `(n, k, 1)`,
        `(n, k, 2)` or `(n, k, h, w, c)` with `c` 1 or 3, in either direction of time. Numbers and points have a panel
        for each title; images, which must have the same number of states under all titles, are in one grid, with the
        title at the first row.
    - `density`: a function, for numbers only, from times `(m,)` and positions `(m,)` to the density that is drawn in
        grey behind the paths.
    - `heading`: a line at the top of the figure.
    - `limits`: the values drawn black and white, or the range of the axes for numbers and points; by default the range
        of all states.
    - `size`: the longer side of one image, in inches.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for states and times of other shapes; `ImportError` without matplotlib.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, plotting
        process, times = diffusion.VP(), jnp.linspace(0.01, 1, 50)
        path = lambda key: diffusion.trajectory(process, jnp.ones(1), times, key=key)
        figure = plotting.trajectories({"forward": (times, jax.vmap(path)(jax.random.split(jax.random.key(0), 8)))})
        ```
    """
    drawn = _check(paths)
    shape = next(iter(drawn.values()))[1].shape[2:]
    if density is not None and shape != (1,):
        raise ValueError("`density` is drawn behind paths of numbers only, whose states are of shape (n, k, 1).")
    if len(shape) == 3:
        return _images(drawn, heading, limits, size)
    return _curves(drawn, density, heading, image_limits(limits, [states for _, states in drawn.values()]))


def _check(paths: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not isinstance(paths, Mapping) or not paths:
        raise ValueError(
            "`paths` must be a dictionary from titles to pairs (times, states), with at least one entry; got "
            f"{type(paths).__name__}."
        )
    checked = {}
    for title, pair in paths.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"`paths[{title!r}]` must be a pair (times, states); got {type(pair).__name__}.")
        times, states = (np.asarray(part, np.float64) for part in pair)
        known = states.ndim == 3 and states.shape[2] in (1, 2) or states.ndim == 5 and states.shape[4] in (1, 3)
        if not known or states.size == 0:
            raise ValueError(
                f"The states of `paths[{title!r}]` must be numbers (n, k, 1), points (n, k, 2) or images "
                f"(n, k, h, w, c): n paths at k times; got {states.shape}. One path is `states[None]`."
            )
        if times.shape not in (states.shape[1:2], states.shape[:2]):
            raise ValueError(
                f"The times of `paths[{title!r}]` must be of shape {states.shape[1:2]} or {states.shape[:2]}, as the "
                f"states; got {times.shape}."
            )
        checked[str(title)] = np.broadcast_to(times, states.shape[:2]), states
    first, expected = next((title, states.shape[2:]) for title, (_, states) in checked.items())
    for title, (_, states) in checked.items():
        if states.shape[2:] != expected:
            raise ValueError(
                f"All states must be of one kind; those of {title!r} are {states.shape[2:]} and those of {first!r} "
                f"{expected}."
            )
    return checked


def _curves(paths: dict, density: Any, heading: str | None, limits: tuple[float, float]) -> Any:
    flat = next(iter(paths.values()))[1].shape[2] == 2
    figure, axes = panels(list(paths), (2.2, 2.2) if flat else (3.0, 2.0), heading)
    margin = 0.03 * (limits[1] - limits[0])
    low, high = limits[0] - margin, limits[1] + margin
    for panel, (times, states) in zip(axes, paths.values(), strict=True):
        for i, path in enumerate(states):
            colour = f"C{i % 10}"
            if flat:
                panel.plot(path[:, 0], path[:, 1], color=colour, linewidth=0.5, alpha=0.6)
                panel.plot(*path[-1], "o", color=colour, markersize=2.5)
            else:
                panel.plot(times[i], path[:, 0], color=colour, linewidth=0.7)
        if flat:
            panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            continue
        start, stop = float(times.min()), float(times.max())
        if density is not None:
            ts, xs = np.meshgrid(np.linspace(start, stop, _POINTS), np.linspace(low, high, _POINTS))
            values = np.asarray(density(ts.ravel(), xs.ravel())).reshape(ts.shape)
            # Draw the root, scaled in each column, since otherwise all but the peaks near the data would be white.
            values = np.sqrt(values / np.maximum(values.max(axis=0, keepdims=True), np.finfo(float).tiny))
            extent = (start, stop, low, high)
            panel.imshow(values, cmap="Greys", vmax=2, extent=extent, origin="lower", aspect="auto", zorder=0)
        # The time axis runs from left to right in the direction of the path.
        ends = (start, stop) if times[0, 0] <= times[0, -1] else (stop, start)
        panel.set(xlim=ends if start < stop else None, ylim=(low, high))
        panel.set_xlabel("time", fontsize=CAPTION, labelpad=2)
    return figure


def _images(paths: dict, heading: str | None, limits: Any, size: Any) -> Any:
    counts = {states.shape[1] for _, states in paths.values()}
    if len(counts) > 1:
        raise ValueError(f"Images must have as many states in all `paths`; got {sorted(counts)}.")
    titles = [title if i == 0 else "" for title, (_, states) in paths.items() for i in range(len(states))]
    times = np.concatenate([times for times, _ in paths.values()])
    stack = np.concatenate([states for _, states in paths.values()])
    same = bool(np.all(times == times[:1]))
    columns = [
        Column(f"t = {number(times[0, j])}", stack[:, j])
        if same
        else Column("", stack[:, j], [{"t": float(t)} for t in times[:, j]])
        for j in range(stack.shape[1])
    ]
    limits = image_limits(limits, [stack])
    grid = Grid(columns, len(stack), stack.shape[2:4], size, titles, heading, [])
    for row in range(len(stack)):
        for j, column in enumerate(columns):
            axes = grid.axes(row, j)
            draw(axes, column.images[row], limits, "gray")
            if row == 0:
                axes.set_title(grid.titles[j], fontsize=TITLE, pad=3)
            if j == 0:
                axes.set_ylabel(grid.labels[row], fontsize=TITLE, labelpad=4)
            if column.values:
                axes.set_xlabel(grid.caption(column.values[row]), fontsize=CAPTION, labelpad=2)
    return grid.figure
