"""Long runs, with a file from which they go on."""

import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import numpy as np
from jaxtyping import Array

from .. import io
from .._arrays import check_count
from .._jit import verb
from .._networks import as_network
from .._solution import Solution
from .._types import Checked, IntLike, Key, Network, State
from ..likelihood import Likelihood
from ..training._checkpoint import RunFile
from ..training._data import fingerprint
from ..training._options import check_chunk, check_host, check_progress
from ._reconstruct import reconstruct
from ._run import Run, RunProblem, State as RunState, advance, prepare_run, solution


def resume(
    likelihood: Likelihood,
    network: Network,
    y: State,
    *,
    checkpoint: str | os.PathLike[str],
    key: Key,
    num_steps: IntLike,
    chunk_size: Checked[int | None] = None,
    progress: Checked[diffrax.AbstractProgressMeter[Any] | None] = None,
    report: Callable[[dict[str, float]], None] | None = None,
    **options: Any,
) -> Solution:
    """`reconstruct` in chunks, with a checkpoint: where there is one already, the run goes on from it.

    A run that was killed and called again gives, to the last bit, what it gives undisturbed. It runs on the host.

    **Arguments:** as `reconstruct`, without `differentiate`, and

    - `checkpoint`: a file. It is written after chunks, atomically, so often that writing takes at most 5 % of the time,
        and at the end. It knows the problem, the weights of the network, the key and the options; it knows neither an
        `optimiser` of your own nor what a network is besides its weights.
    - `chunk_size`: steps per compiled call, static. Default: a 50th of `num_steps`, at most 1000.
    - `progress`: a diffrax progress meter, ticked after every chunk.
    - `report`: called on the host after every chunk with the newest entry of the history, a dict of numbers.
    - `options`: the other arguments of `reconstruct`, by keyword.

    **Returns:** the `Solution` of `reconstruct`.

    **Raises:** as `reconstruct`, and `ValueError` for a checkpoint that is of another run, or in a folder that cannot
    be written to. Where the disk is full there is a warning, and the run goes on.

    !!! example
        ```python
        import os, tempfile
        import jax
        from flax import nnx
        import jaxinv
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((16, 16, 1), 2), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jaxinv.data.shepp_logan(16), key=jax.random.key(0))
        network = jaxinv.models.DeepDecoder((16, 16, 1), channels=8, rngs=nnx.Rngs(0))
        file = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        half = jaxinv.dip.resume(likelihood, network, y, checkpoint=file, key=jax.random.key(1), num_steps=40)
        ```
    """
    check_host(key, (likelihood, y), "dip.resume")
    check_progress(progress)
    num_steps = check_count(num_steps, "num_steps")
    chunk_size = check_chunk(chunk_size, num_steps)
    settings = {
        "problem": f"{likelihood!r} {fingerprint((likelihood, y))}",
        "network": fingerprint(as_network(network)),
        "key": fingerprint(key),
        "num_steps": str(num_steps),
        "chunk_size": str(chunk_size),
        **_describe(options),
    }
    file = RunFile(checkpoint, settings, "dip.resume")
    run, problem = _prepare(
        likelihood, network, y, key=key, num_steps=num_steps, pause_every=chunk_size, **(_defaults() | options)
    )
    state = run.init(problem)
    if file.read_progress() is not None:
        state = io.load(file.path, state)
    meter: Any = None if progress is None else progress.init()
    # A problem that cannot be solved has ended before its first step, and its image is still to be made.
    over = int(state.num_done) > 0 and bool(state.ended)
    try:
        while not over:
            state = _advance(run, problem, state, key)
            # This waits for the steps, whose time is not to count as that of writing.
            over = bool(state.ended)
            if over or file.due():
                _write(file, state)
            if progress is not None:
                meter = progress.step(meter, state.num_done / num_steps)
            if report is not None:
                history = problem.monitor.history(state.monitor)
                report({name: float(line[-1]) for name, line in history.items()})
    finally:
        if progress is not None:
            progress.close(meter)
    return _solution(run, problem, state)


def _write(file: RunFile, contents: Any) -> None:
    """The checkpoint, if there is room for it: a full disk is no reason to lose the image."""
    try:
        file.write(contents, {})
    except OSError as error:
        warnings.warn(f"{error}. The run goes on; a checkpoint from before is as it was.", stacklevel=3)


def _defaults() -> dict[str, Any]:
    """The options that `reconstruct` and `resume` share, with their defaults."""
    parameters = inspect.signature(reconstruct).parameters.values()
    excluded = ("differentiate", "progress")
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in excluded}


@verb
def _prepare(likelihood: Likelihood, network: Network, y: State, **options: Any) -> tuple[Run, RunProblem]:
    return prepare_run(likelihood, network, y, **options)


@eqx.filter_jit
def _advance(run: Run, problem: RunProblem, state: RunState, key: Key) -> RunState:
    return advance(run, problem, state, key=key, first=state.num_done)


_solution = eqx.filter_jit(solution)


def _describe(options: dict[str, Any]) -> dict[str, str]:
    """The options as strings that differ where the options do, and hold no address of a function."""
    given = {name: value for name, value in options.items() if name != "optimiser"}
    arrays = {name: fingerprint(value) for name, value in given.items()}
    plain = {name: "" if isinstance(value, Array | np.ndarray) else repr(value) for name, value in given.items()}
    return {name: f"{plain[name]} {arrays[name]}" for name in sorted(given)}
