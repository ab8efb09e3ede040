"""Long runs, with a file from which they go on."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

from .. import io
from .._checks import check_count
from .._solution import Solution
from .._types import Key, State
from .._verb import verb
from ..likelihood import Likelihood
from ..models._network import as_network
from ..training._data import fingerprint
from ..training._options import check_chunk, check_host, check_progress
from ..training._run_file import RunFile
from ._enter import enter
from ._run import Run, State as RunState, advance, begin, finish


def resume(
    likelihood: Likelihood,
    network: Any,
    y: State,
    *,
    checkpoint: str | os.PathLike,
    key: Key,
    num_steps: Any,
    chunk_size: Any = None,
    progress: Any = None,
    report: Callable[[dict[str, float]], None] | None = None,
    **options: Any,
) -> Solution:
    """`reconstruct` in chunks, with a checkpoint: where there is one already, the run goes on from it.

    A run that was killed and called again gives, to the last bit, what it gives undisturbed. Runs on the host.

    **Arguments:** as `reconstruct`, without `differentiate`, and

    - `checkpoint`: a file. Written after chunks, atomically, so often that it takes at most 5 % of the time, and at the
        end. It knows the problem, the weights of the network, the key and the options; an `optimiser` of your own
        and what a network is besides its weights it cannot see.
    - `chunk_size`: steps per compiled call, static. Default: a 50th of `num_steps`, at most 1000.
    - `progress`: a diffrax progress meter, ticked after every chunk.
    - `report`: called on the host after every chunk with the newest entry of the history, a dict of numbers.

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
    run = _begin(likelihood, network, y, key=key, num_steps=num_steps, **options)
    state = begin(run)
    if file.read_progress() is not None:
        state = io.load(file.path, state)
    meter: Any = None if progress is None else progress.init()
    # A problem that cannot be solved has ended before its first step, and has still to be looked at.
    over = int(state.num_done) > 0 and bool(state.ended)
    try:
        while not over:
            state = _advance(run, state, chunk_size)
            # Waits for the steps, which are not to count as writing.
            over = bool(state.ended)
            if over or file.due():
                _write(file, state)
            if progress is not None:
                meter = progress.step(meter, state.num_done / num_steps)
            if report is not None:
                report({name: float(line[-1]) for name, line in run.watcher.summarise(state.watch).items()})
    finally:
        if progress is not None:
            progress.close(meter)
    return _finish(run, state)


def _write(file: RunFile, contents: Any) -> None:
    """The checkpoint, if there is room for it: a full disk is no reason to lose the image."""
    try:
        file.write(contents, {})
    except OSError as error:
        warnings.warn(f"{error}. The run goes on; a checkpoint from before is as it was.", stacklevel=3)


@verb
def _begin(likelihood: Likelihood, network: Any, y: State, **options: Any) -> Run:
    return enter(likelihood, network, y, **options)


@eqx.filter_jit
def _advance(run: Run, state: RunState, chunk_size: int) -> RunState:
    return advance(run, state, state.num_done, max_steps=chunk_size)


_finish = eqx.filter_jit(finish)


def _describe(options: dict[str, Any]) -> dict[str, str]:
    """What tells one set of options from another, without the address of a function."""
    given = {name: value for name, value in options.items() if name != "optimiser"}
    arrays = {name: fingerprint(value) for name, value in given.items()}
    plain = {name: "" if isinstance(value, Array | np.ndarray) else repr(value) for name, value in given.items()}
    return {name: f"{plain[name]} {arrays[name]}" for name in sorted(given)}
