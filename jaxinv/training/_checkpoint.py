"""Checkpoints of a training run: what is in one, and whose it is."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from .. import io
from ._chunk import Carry
from ._run_file import RunFile


class Run:
    """What a run has done so far: everything that a checkpoint holds. Lives on the host.

    - `loss_shape`: of the losses of one step.
    - `num_observed`: how many numbers are noted beside each validation loss.
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

    @property
    def step(self) -> int:
        """The number of steps done."""
        return len(self.losses)

    def weights(self) -> dict[str, Array]:
        """The weights that validation looks at: their average where there is one."""
        return {**self.carry.weights, **self.carry.average}

    def record_validation(self, value: float, observed: Sequence[float] = ()) -> None:
        """Note a validation loss, and keep the weights if it is the lowest yet; NaN is never the lowest."""
        seen = self.validation[np.isfinite(self.validation)]
        if np.isfinite(value) and value < seen.min(initial=np.inf):
            self.best = self.weights()
        self.validation = np.append(self.validation, value)
        self.validation_steps = np.append(self.validation_steps, self.step)
        self.observed = np.append(self.observed, np.reshape(observed, (1, -1)), axis=0)


class Checkpoint:
    """The file of a training run."""

    def __init__(self, path: str | os.PathLike, settings: dict[str, str]):
        self.file = RunFile(path, settings, "training.fit")

    @property
    def path(self) -> str:
        """Where it is."""
        return self.file.path

    def write(self, run: Run, *, last: bool = False) -> None:
        """Write the run, unless it was written so recently that writing would take a noticeable share of the time."""
        if not last and not self.file.due():
            return
        progress = {
            "steps": run.step,
            "evaluations": len(run.validation),
            "best": bool(run.best),
            "loss_dtype": str(run.losses.dtype),
        }
        self.file.write(_contents(run), progress)

    def restore(self, run: Run) -> None:
        """Bring `run`, which is at its start, to where the file is, if there is one.

        **Raises:** `ValueError` that says what differs if the file is of another run.
        """
        progress = self.file.read_progress()
        if progress is None:
            return
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
