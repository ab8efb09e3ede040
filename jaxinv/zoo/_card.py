"""The cards of the weights, which are in their files."""

import dataclasses
from pathlib import Path
from typing import Any

from .. import io

FOLDER = Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True)
class Card:
    """What a file of weights is, and how it was made.

    - `name`: the argument of `zoo.load`.
    - `description`: what it is a prior of, in which unit.
    - `data`, `licence`: the images that it was trained on; their licence, and that of the weights.
    - `weights`: the number of weights, which are stored in half precision.
    - `steps`, `processor_seconds`: the length of the training.
    - `figures`: what was measured of the weights as stored, on images that they were not trained on.
    - `script`, `commit`, `versions`: the script that made the file, its commit, and the versions of the packages.
    """

    name: str
    description: str
    data: str
    licence: str
    weights: int
    steps: int
    processor_seconds: int
    figures: dict[str, float]
    script: str
    commit: str
    versions: dict[str, str]


def names() -> tuple[str, ...]:
    """The names of all weights in the package.

    **Returns:** a tuple of strings, the arguments of `load` and `card`.

    !!! example
        ```python
        import jaxinv
        assert "mnist-vae" in jaxinv.zoo.names()
        ```
    """
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def card(name: str) -> Card:
    """The card of one of the weights: its data, licence, training and figures.

    **Arguments:**

    - `name`: one of `names()`.

    **Returns:** a `Card`.

    **Raises:** `ValueError` for another name.

    !!! example
        ```python
        import jaxinv
        assert jaxinv.zoo.card("mnist-vae").weights < 500_000
        ```
    """
    path = file_of(name)
    entries: dict[str, Any] = io.read_json(io.read_metadata(path)["card"], path)
    return Card(**entries)


def file_of(name: str) -> Path:
    """The file of the weights `name`."""
    if name not in names():
        raise ValueError(f"There are no weights {name!r} in the package; there are {', '.join(names())}.")
    return FOLDER / f"{name}.safetensors"
