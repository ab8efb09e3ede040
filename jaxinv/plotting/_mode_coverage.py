"""The figure of mode coverage during the training of a generator, from the history of `training.fit_adversarial`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import checked
from .._types import ArrayLike, Checked, Scalar
from ._figure import CAPTION, panels

if TYPE_CHECKING:
    import matplotlib.figure

_COLOURS = {"coverage": "C0", "entropy": "C1"}


@checked()
def mode_coverage(
    history: Checked[Mapping[str, ArrayLike]], *, reference_entropy: Scalar | None = None, heading: str | None = None
) -> "matplotlib.figure.Figure":
    """Draw the coverage of the data by a generator during its training.

    The two curves over the steps are the fraction of the clusters that its samples reach, and the entropy of their
    shares. Both are at most 1; where they fall, the generator loses modes.

    **Arguments:**

    - `history`: the history of `training.fit_adversarial(..., monitor=generative.ModeCoverage(clusters))`.
    - `reference_entropy`: the entropy of the data themselves, `monitor.reference_entropy`, drawn as a dashed line: the
        entropy of a perfect generator.
    - `heading`: a line at the top of the figure.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for the history of a training without that monitor; `ImportError` without matplotlib.

    !!! example
        ```python
        import numpy as np
        from jaxinv import plotting
        steps = np.arange(20, 1020, 20)
        reached = 1 - np.exp(-steps / 200)
        history = {"monitor": {"coverage": reached, "entropy": 0.9 * reached}, "monitor_steps": steps}
        figure = plotting.mode_coverage(history, reference_entropy=0.98)
        ```
    """
    monitor = history.get("monitor") if isinstance(history, Mapping) else None
    if not isinstance(monitor, Mapping) or not _COLOURS.keys() <= monitor.keys() or len(history["monitor_steps"]) == 0:
        raise ValueError(
            "`history` must be that of `training.fit_adversarial(..., monitor=generative.ModeCoverage(clusters))`, "
            f"with `coverage` and `entropy` under `monitor`; got {_describe(history)}."
        )
    steps = np.asarray(history["monitor_steps"])
    figure, (axes,) = panels([""], (3.6, 2.1), heading)
    for name, colour in _COLOURS.items():
        # Draw markers too, since a run that stopped after its first chunk has one point.
        axes.plot(steps, np.asarray(monitor[name]), color=colour, linewidth=1.2, label=name, marker="o", markersize=2)
    if reference_entropy is not None:
        label = "entropy of the data"
        axes.axhline(float(reference_entropy), color=_COLOURS["entropy"], linewidth=0.8, linestyle="--", label=label)
    axes.set(ylim=(0, 1.04), xlim=(0, 1.02 * steps[-1]))
    axes.set_xlabel("steps", fontsize=CAPTION, labelpad=2)
    axes.legend(fontsize=CAPTION, frameon=False, loc="best")
    return figure


def _describe(history: Any) -> str:
    if not isinstance(history, Mapping):
        return type(history).__name__
    monitor = history.get("monitor")
    return f"one with {sorted(map(str, monitor)) if monitor else 'nothing'} there"
