"""The state of a training run, and the file from which it continues."""

import json
import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from .. import io
from .._program import versions
from .._types import PyTree
from ._chunk import Carry

# The name of the setting that is the fingerprint of a program.
PROGRAM = "program"

# Writing takes at most this share of the time of a run.
_SHARE = 0.05
# A loss has one of these dtypes.
_LOSS_DTYPES = ("float16", "bfloat16", "float32", "float64")


class RunFile:
    """The file of a long run of any kind, with the settings that identify the run.

    - `path`: the path of the file.
    - `settings`: the settings; a file with others belongs to another run. That of the name `PROGRAM` is a fingerprint
      of `program`, which other versions of the libraries may trace in another way.
    - `names`: names of functions and classes. They explain a difference of settings, and alone make none.
    - `maker`: the name of the function that writes such files, for error messages.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, str], names: dict[str, str], maker: str):
        io.check_writable(path)
        self.path, self.settings, self.names, self.maker = os.fspath(path), settings, names, maker
        self.cost, self.written = 0.0, -np.inf

    def due(self) -> bool:
        """Whether the last write was so long ago that another one takes at most `_SHARE` of the time."""
        return time.perf_counter() - self.written >= self.cost / _SHARE

    def write(self, contents: PyTree, progress: dict[str, Any]) -> None:
        """Write the contents of a run, with `progress`, the data that reading them requires.

        If that fails (the disk is full, the folder is gone), this warns, and the run can go on: its result is worth
        more than its checkpoint. The previous checkpoint stays as it is.
        """
        began = time.perf_counter()
        about = {"settings": self.settings, "names": self.names, "versions": versions(), "progress": progress}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        try:
            io.save(self.path, contents, metadata=metadata)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"There is no new checkpoint of `{self.maker}`: {error} The run goes on, and an earlier checkpoint "
                "stays as it is.",
                stacklevel=2,
            )
        finally:
            self.written = time.perf_counter()
            self.cost = self.written - began

    def read_progress(self) -> dict[str, Any] | None:
        """The `progress` in the file, or `None` without a file.

        **Raises:** `ValueError` that names the differing settings if the file belongs to another run.
        """
        if not os.path.exists(self.path):
            return None
        metadata = io.read_metadata(self.path)
        if "settings" not in metadata or "progress" not in metadata:
            raise ValueError(f"{self.path} is not a checkpoint of `{self.maker}`. Delete it, or give another path.")
        stored = lambda name: io.read_json(metadata.get(name, "{}"), self.path)
        self._compare(stored("settings"), stored("names"), stored("versions"))
        return stored("progress")

    def _compare(self, settings: dict[str, str], names: dict[str, str], stored_versions: dict[str, str]) -> None:
        differing = [n for n in dict.fromkeys([*self.settings, *settings]) if settings.get(n) != self.settings.get(n)]
        if not differing:
            return
        now = versions()
        updated = [f"{n} {old} (now {now.get(n)})" for n, old in stored_versions.items() if now.get(n) != old]
        if updated and all(name.startswith(PROGRAM) for name in differing):
            warnings.warn(
                f"The checkpoint {self.path} was written with {', '.join(updated)}, by which functions are traced in "
                "another way. So it cannot be verified that network, loss and optimiser are those of that run; all "
                "else is the same, and the run goes on from it.",
                stacklevel=2,
            )
            return
        renamed = [n for n in self.names if names.get(n) != self.names[n]]
        first = (renamed or differing)[0]
        old, new = (names.get(first), self.names[first]) if renamed else (settings.get(first), self.settings.get(first))
        what = " (of one step: network, loss and optimiser, with all their numbers)" if first == PROGRAM else ""
        raise ValueError(
            f"The checkpoint {self.path} is of another run: its {first}{what} is {old}, not {new}. Delete it, or give "
            "another path."
        )


class Run:
    """The state of a run on the host, all of which a checkpoint holds.

    - `loss_shape`: the shape of the losses of one step.
    - `num_observed`: the number of further scalars recorded with each validation loss.
    """

    def __init__(self, carry: Carry, loss_shape: tuple[int, ...] = (), num_observed: int = 0):
        self.carry = carry
        self.best: dict[str, Array] = {}
        self.losses = np.zeros((0, *loss_shape))
        self.validation = np.zeros(0)
        self.validation_steps = np.zeros(0, np.int64)
        self.observed = np.zeros((0, num_observed))
        self.seconds = 0.0
        self.good = True
        self.data_state: Any = None  # Where an iterator of the data stands, after the steps that are done.

    @property
    def step(self) -> int:
        """The number of completed steps."""
        return len(self.losses)

    def weights(self) -> dict[str, Array]:
        """The weights that validation uses: their average if there is one."""
        return {**self.carry.weights, **self.carry.average}

    def record_validation(self, value: float, observed: Sequence[float] = ()) -> None:
        """Record a validation loss, and keep the weights if it is the lowest so far; NaN is never the lowest."""
        finite = self.validation[np.isfinite(self.validation)]
        if np.isfinite(value) and value < finite.min(initial=np.inf):
            self.best = self.weights()
        self.validation = np.append(self.validation, value)
        self.validation_steps = np.append(self.validation_steps, self.step)
        self.observed = np.append(self.observed, np.reshape(observed, (1, -1)), axis=0)


class Checkpoint:
    """The file of a training run."""

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, str], names: dict[str, str]):
        self.file = RunFile(path, settings, names, "training.fit")
        self.writes = True  # Whether it is this process that writes.

    @property
    def path(self) -> str:
        """The path of the file."""
        return self.file.path

    def write(self, run: Run, *, last: bool = False) -> None:
        """Write the run if a write is due, or if this is the last one."""
        if not self.writes or not (last or self.file.due()):
            return
        progress = {
            "steps": run.step,
            "evaluations": len(run.validation),
            "best": bool(run.best),
            "loss_dtype": str(run.losses.dtype),
            "data": run.data_state,
        }
        self.file.write(_contents(run), progress)

    def restore(self, run: Run) -> None:
        """Restore the state of `run`, which has not started, from the file, if there is one.

        **Raises:** `ValueError` that names the differing settings if the file belongs to another run.
        """
        progress = self.file.read_progress()
        if progress is None:
            return
        self._check(progress)
        run.losses = np.zeros((progress["steps"], *run.losses.shape[1:]), progress["loss_dtype"])
        run.validation = np.zeros(progress["evaluations"])
        run.validation_steps = np.zeros(progress["evaluations"], np.int64)
        run.observed = np.zeros((progress["evaluations"], run.observed.shape[1]))
        run.best = run.weights() if progress["best"] else {}
        try:
            contents = io.load(self.path, _contents(run))
        except ValueError as error:
            raise ValueError(f"The checkpoint does not fit this model and optimiser. {error}") from error
        run.carry, run.best = contents["carry"], contents["best"]
        history = contents["history"]
        run.losses, run.validation = history["losses"], history["validation"]
        run.validation_steps, run.seconds = history["validation_steps"], history["seconds"]
        run.observed = history.get("observed", run.observed)
        run.data_state = progress.get("data")

    def _check(self, progress: dict[str, Any]) -> None:
        """Raise, before memory is taken, for a progress that no run has, or more steps than the file has bytes."""
        counts = [progress.get(name) for name in ("steps", "evaluations")]
        size = os.path.getsize(self.path)
        whole = all(type(count) is int and 0 <= count <= size for count in counts)
        if not whole or progress.get("loss_dtype") not in _LOSS_DTYPES or not isinstance(progress.get("best"), bool):
            raise ValueError(f"The checkpoint {self.path} is corrupt: its progress is {str(progress)[:80]}. Delete it.")


def _contents(run: Run) -> dict[str, Any]:
    history = {
        "losses": run.losses,
        "validation": run.validation,
        "validation_steps": run.validation_steps,
        "seconds": run.seconds,
    }
    if run.observed.size:
        history["observed"] = run.observed
    return {"carry": run.carry, "best": run.best, "history": history}
