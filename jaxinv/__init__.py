"""Imaging inverse problems in JAX, with priors learned without paired data."""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from . import (
        calibration as calibration,
        classical as classical,
        data as data,
        diffusion as diffusion,
        dip as dip,
        generative as generative,
        io as io,
        likelihood as likelihood,
        lsvd as lsvd,
        metrics as metrics,
        models as models,
        mri as mri,
        noise as noise,
        operators as operators,
        oracles as oracles,
        plotting as plotting,
        pnp as pnp,
        regularisers as regularisers,
        requirements as requirements,
        scale as scale,
        subspace as subspace,
        testing as testing,
        training as training,
        unrolled as unrolled,
        zoo as zoo,
    )
    from ._differentiation import Implicit as Implicit, Unrolled as Unrolled
    from ._solution import RESULTS as RESULTS, Solution as Solution
    from .likelihood import Likelihood as Likelihood

__all__ = [
    "RESULTS",
    "Implicit",
    "Likelihood",
    "Solution",
    "Unrolled",
    "__version__",
    "calibration",
    "classical",
    "data",
    "diffusion",
    "dip",
    "generative",
    "io",
    "likelihood",
    "lsvd",
    "metrics",
    "models",
    "mri",
    "noise",
    "operators",
    "oracles",
    "plotting",
    "pnp",
    "regularisers",
    "requirements",
    "scale",
    "subspace",
    "testing",
    "training",
    "unrolled",
    "zoo",
]

# Where the names live that are not sub-packages.
_HOMES = {
    "Implicit": "_differentiation",
    "Likelihood": "likelihood",
    "RESULTS": "_solution",
    "Solution": "_solution",
    "Unrolled": "_differentiation",
}


def __getattr__(name: str) -> Any:
    # Everything is imported when it is first used: `jaxinv --help` imports this package too, and must not wait for jax.
    if name in _HOMES:
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
