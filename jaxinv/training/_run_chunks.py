"""The part of training on the host, which runs the compiled chunks of `_chunk.py` one after another."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._mesh import to_host
from .._network_state import restored
from .._solution import RESULTS
from .._types import Network, ProgressMeter, Stats
from ._checkpoint import Checkpoint, Run
from ._chunk import AbstractTrainingSpec, Split, all_finite, last_good, run_chunk
from ._options import Sizes


def run_chunks(
    spec: AbstractTrainingSpec,
    run: Run,
    sizes: Sizes,
    *,
    began: float,
    file: Checkpoint | None,
    progress: ProgressMeter | None,
    callback: Callable[[], None] | None,
    report: Callable[[int, dict[str, float]], object] | None = None,
    fill: Callable[[int, int], AbstractTrainingSpec] | None = None,
) -> None:
    """Run to the last step, or to the last good one before a loss or a weight that is not finite.

    - `began`: the time of `time.perf_counter`, in seconds, at which this call of the trainer began.
    - `callback`: called after every chunk, to evaluate `run.weights()`.
    - `report`: called after that, with the number of steps and the figures of the chunk.
    - `fill`: the spec with the data of the next steps, given their first and their number; by default the spec has all.
    """
    earlier = run.seconds
    num_steps, _, chunk_size, _ = sizes
    meter: Any = None if progress is None else progress.init()
    try:
        while run.good and run.step < num_steps:
            # Run up to the next multiple, so that a resumed run has the same chunks as an uninterrupted one.
            steps = min(chunk_size - run.step % chunk_size, num_steps - run.step)
            if fill is not None:
                spec = _filled(fill, run, steps, file)
            carry, losses, finite = run_chunk(spec, run.carry, jnp.asarray(steps, jnp.int32), chunk_size)
            done = int(finite)
            run.good = done == steps and bool(all_finite(carry))
            if not run.good:
                carry, done = last_good(spec, run.carry, done, chunk_size)
            run.carry = carry
            run.losses = np.append(run.losses.astype(losses.dtype), np.asarray(losses)[:done], axis=0)
            if callback is not None and done:
                callback()
            run.seconds = earlier + time.perf_counter() - began
            if file is not None:
                file.write(run, last=not run.good or run.step == num_steps)
            if report is not None and done:
                report(run.step, _figures(run, done))
            if progress is not None:
                meter = progress.step(meter, jnp.asarray(run.step / num_steps))
    finally:
        if progress is not None:
            progress.close(meter)


def _filled(
    fill: Callable[[int, int], AbstractTrainingSpec], run: Run, steps: int, file: Checkpoint | None
) -> AbstractTrainingSpec:
    try:
        return fill(run.step, steps)
    except Exception:
        # What is done is kept, although there are no data to go on with. Where the data stand now is not known.
        if file is not None and run.step:
            file.write(run, last=True)
        raise


def _figures(run: Run, done: int) -> dict[str, float]:
    figures = {"loss": float(np.mean(run.losses[-done:])), "seconds": float(run.seconds)}
    if len(run.validation) and run.validation_steps[-1] == run.step:
        figures["validation"] = float(run.validation[-1])
    return figures


def finish(run: Run, model: Split, mesh: Mesh | None) -> tuple[Network, Stats]:
    """The model with the best weights, or the last ones, and what every history says of the run."""
    weights = run.best or run.weights()
    trained = restored(model.merge(weights if mesh is None else to_host(weights)))
    return trained, {"seconds": run.seconds, "result": RESULTS.successful if run.good else RESULTS.nonfinite}


def resume(file: Checkpoint, run: Run, num_steps: int) -> None:
    """Restore a run from its checkpoint.

    **Raises:** `ValueError` if the checkpoint belongs to another run, or is beyond `num_steps`.
    """
    file.restore(run)
    if run.step > num_steps:
        raise ValueError(f"The checkpoint {file.path} has done {run.step} steps, more than `num_steps={num_steps}`.")
