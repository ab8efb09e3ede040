"""The prior that the user names: its name on the command line, and what its file says of it. This file does not import
JAX."""

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from .._formats import peek, slices_of
from ._spec import Shape

# The priors that need no file, and what follows the name of those that do.
NAMES = ("tv", "tikhonov", "fbp", "dip")
FOLDER = "gaussian"
# The kinds that `jaxinv train` writes.
TRAINED = ("autoencoder", "vae", "gan", "flow", "score")
# The priors of which there are error bars.
WITH_SAMPLES = ("gaussian", "score")
# The entry of a file's metadata that describes a trained network; `_networks.py` writes it.
_METADATA = "jaxinv.network"
_LARGEST_HEADER = 2**26


class Chosen(NamedTuple):
    """A prior by its kind: one of `NAMES`, `"gaussian"`, or the kind of the trained network in `path`."""

    kind: str
    path: Path | None


def choose(text: str) -> Chosen:
    """The prior that a text names.

    **Raises:** `ValueError` that says what is allowed.
    """
    name, colon, rest = text.partition(":")
    if text in NAMES:
        return Chosen(text, None)
    if name == FOLDER and colon:
        path = Path(rest).expanduser()
        if not rest or not path.exists():
            raise ValueError(f"--prior {text}: there is no folder or file {rest}.")
        return Chosen(FOLDER, path)
    path = Path(text).expanduser()
    if path.is_file():
        kind = describe(path)["kind"]
        if kind not in TRAINED:
            raise ValueError(
                f"--prior {text}: it holds a prior of the kind {kind!r}, and this version knows {', '.join(TRAINED)}."
            )
        return Chosen(kind, path)
    raise ValueError(
        f"--prior {text} is none of {', '.join(NAMES)}, gaussian:FOLDER, nor a file that `jaxinv train` wrote."
    )


def check(chosen: Chosen, domain: Shape, operator: str, samples: int) -> None:
    """Whether a prior fits the image, the operator and the samples that are asked for.

    **Raises:** `ValueError` that says what does not fit.
    """
    if samples and chosen.kind not in WITH_SAMPLES:
        raise ValueError(
            f"--samples {samples}: the prior {chosen.kind} has no samples; those of gaussian:FOLDER and of a trained "
            "score do."
        )
    if chosen.kind == "fbp" and operator not in ("parallel", "fan"):
        raise ValueError(f"--prior fbp is for scans; the operator is {operator}.")
    if chosen.path is None:
        return
    shape = _shape_of(chosen)
    if shape != domain:
        raise ValueError(f"{chosen.path} holds a prior of images of shape {shape}; this image has {domain}.")


def describe(path: Path) -> dict[str, Any]:
    """What `jaxinv train` wrote of a network into the header of its file.

    **Raises:** `ValueError` if it did not write the file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LARGEST_HEADER, path.stat().st_size):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        described = json.loads(header["__metadata__"][_METADATA])
        if not isinstance(described, dict) or not isinstance(described.get("kind"), str):
            raise ValueError("it describes no network")
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no file that `jaxinv train` wrote ({type(error).__name__}: {error}).") from error
    return described


def _shape_of(chosen: Chosen) -> Shape:
    assert chosen.path is not None
    if chosen.kind != FOLDER:
        shape = describe(chosen.path).get("image_shape")
        return tuple(shape) if isinstance(shape, list) else ()
    if chosen.path.is_dir():
        shape = peek(slices_of(chosen.path)[0]).values.shape
        return (*shape, 1) if len(shape) == 2 else shape
    shape = peek(chosen.path).values.shape[1:]
    return (*shape, 1) if len(shape) == 2 else shape
