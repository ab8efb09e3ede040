"""What `jaxinv info` prints: what a report of a fault needs."""

import importlib.metadata
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp

from .._version import __version__
from ._cache import compiled_folder

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "lineax", "jaxtyping", "numpy", "safetensors")


def run() -> None:
    """Print one line for each thing."""
    settings: Any = jax.config
    kinds = [device.device_kind for device in jax.devices()]
    devices = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    lines = {
        "jaxinv": __version__,
        "python": f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "devices": f"{devices} ({jax.default_backend()})",
        "precision": f"{jnp.zeros(()).dtype}, 64 bits {'on' if settings.jax_enable_x64 else 'off'}, matrix "
        f"products of networks {settings.jax_default_matmul_precision or 'as the device does'}",
        "programs": str(compiled_folder()),
        "environment": " ".join(f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(("JAX_", "XLA_")))
        or "no JAX_ or XLA_ variables",
    }
    for name, value in lines.items():
        print(f"{name + ':':13}{value}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
