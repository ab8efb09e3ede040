"""Figures, drawn off screen: no window opens, and the global state of matplotlib does not change."""

from ._adjoint_states import adjoint_states as adjoint_states
from ._calibration import calibration as calibration
from ._compare import compare as compare
from ._figure import save as save, show as show
from ._grid import sample_grid as sample_grid
from ._mode_coverage import mode_coverage as mode_coverage
from ._posterior_check import posterior_check as posterior_check
from ._trajectories import trajectories as trajectories

__all__ = [
    "adjoint_states",
    "calibration",
    "compare",
    "mode_coverage",
    "posterior_check",
    "sample_grid",
    "save",
    "show",
    "trajectories",
]
