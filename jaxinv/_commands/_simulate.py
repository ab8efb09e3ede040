"""The command `jaxinv simulate`, which measures a picture of the user."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import io, noise
from .._formats import as_image
from ..likelihood import Likelihood
from ._operator import make, tomograph
from ._spec import SCANS, Choice, Fitted, Spec, degrees

# The default number of angles.
_ANGLES = 180


def run(*, spec: Spec, choice: Choice, fitted: Fitted, level: float, seed: int, output: Path) -> None:
    """Measure a picture, and write the measurement and the description of the operator."""
    image = as_image(io.read(choice.file, dataset=choice.dataset, select=fitted.select), choice.file)
    described: dict[str, Any] = {"kind": spec.kind, **spec.values}
    if spec.kind in SCANS:
        turned = degrees(spec, _ANGLES)
        operator = tomograph(spec, image.shape, np.deg2rad(turned), image.shape[1])
        described["angles"] = [float(angle) for angle in turned]
        described["size"] = image.shape[0]
    else:
        operator = make(spec, image.shape)
    if spec.kind == "matrix":
        described["shape"] = list(image.shape)
    likelihood = Likelihood(operator, noise.Gaussian(level))
    y = np.asarray(likelihood.simulate(jnp.asarray(image), key=jax.random.key(seed)))
    io.write(output, _measurement(spec, y, described))
    toml = output.with_suffix(".toml")
    io.write_bytes(toml, _toml(described, toml.parent).encode())
    print(f"Measured {choice.file}: an array of shape {y.shape}, noise of standard deviation {level:g}. {fitted.note}")
    noisy = f" --noise {level:g}" if level > 0 else ""
    print(f"Wrote {output} and {toml}. Use them: jaxinv reconstruct {output} --operator {toml}{noisy}")


def _measurement(spec: Spec, y: np.ndarray, described: dict[str, Any]) -> io.Measurement:
    if spec.kind in SCANS:
        return io.Measurement(y[..., 0], ("angle", "detector"), angles=np.deg2rad(described["angles"]))
    if spec.kind == "matrix":
        return io.Measurement(y.reshape(-1), ("column",))
    return io.Measurement(y, ("row", "column", "channel"))


def _toml(described: dict[str, Any], folder: Path) -> str:
    """A table of TOML; a string of JSON is one of TOML too."""
    lines = []
    for name, value in described.items():
        if isinstance(value, Path):
            value = os.path.relpath(value, folder)
        lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
