"""Long runs, with a file from which they go on."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import io
from .._arrays import check_count
from .._jit import verb
from .._networks import as_network, unbind_linen
from .._program import program
from .._solution import Solution
from .._types import Checked, IntLike, Key, Network, ProgressMeter, State
from ..likelihood import Likelihood
from ..training._checkpoint import PROGRAM, RunFile
from ..training._data import fingerprint, name_of
from ..training._options import check_chunk, check_host, check_progress
from ._recipe import Recipe, filled
from ._reconstruct import reconstruct
from ._run import Run, RunProblem, State as RunState, advance, prepare_run, solution


def resume(
    likelihood: Likelihood,
    network: Network,
    y: State,
    *,
    checkpoint: str | os.PathLike[str],
    key: Key,
    recipe: Checked[Recipe | None] = None,
    num_steps: IntLike | None = None,
    chunk_size: Checked[int | None] = None,
    progress: Checked[ProgressMeter | None] = None,
    report: Callable[[dict[str, float]], None] | None = None,
    **options: Any,
) -> Solution:
    """`reconstruct` in chunks, with a checkpoint: where there is one already, the run goes on from it.

    A run that was killed and called again gives, to the last bit, what it gives undisturbed. It runs on the host.

    **Arguments:** as `reconstruct`, without `differentiate`, and

    - `checkpoint`: a file. It is written after chunks, atomically, so often that writing takes at most 5 % of the time,
        and at the end. It knows the problem, the network, the key and the options: by checksums of their arrays and a
        fingerprint of the traced step, as in `training.fit`. The size of the chunks may change.
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
    io.check_writable(checkpoint)
    options = filled(recipe, _defaults() | options | {"num_steps": num_steps})
    num_steps = check_count(options.pop("num_steps"), "num_steps")
    chunk_size = check_chunk(chunk_size, num_steps)
    # As the verb takes them: a number is the same run as an array.
    given = jax.tree.map(_as_array, unbind_linen((likelihood, network, y, options)))
    settings = {
        "problem": fingerprint((given[0], given[2])),
        "network": fingerprint(as_network(network)),
        "key": fingerprint(key),
        "num_steps": str(num_steps),
        **{name: _describe(value) for name, value in sorted(given[3].items())},
        # Chunks do not affect the result.
        PROGRAM: program(_first_step, *given, key, num_steps),
    }
    names = {name: name_of(value) for name, value in sorted(options.items())}
    names |= {"operator": name_of(likelihood.operator), "noise": name_of(likelihood.noise), "network": name_of(network)}
    file = RunFile(checkpoint, settings, names, "dip.resume")
    run, problem = _prepare(likelihood, network, y, key=key, num_steps=num_steps, pause_every=chunk_size, **options)
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
                file.write(state, {})
            if progress is not None:
                meter = progress.step(meter, state.num_done / num_steps)
            if report is not None:
                history = problem.monitor.history(state.monitor)
                report({name: float(line[-1]) for name, line in history.items()})
    finally:
        if progress is not None:
            progress.close(meter)
    return _solution(run, problem, state)


def _defaults() -> dict[str, Any]:
    """The options that `reconstruct` and `resume` share, with their defaults."""
    parameters = inspect.signature(reconstruct).parameters.values()
    excluded = ("differentiate", "progress", "recipe", "num_steps")
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in excluded}


@verb
def _prepare(likelihood: Likelihood, network: Network, y: State, **options: Any) -> tuple[Run, RunProblem]:
    return prepare_run(likelihood, network, y, **options)


@eqx.filter_jit
def _advance(run: Run, problem: RunProblem, state: RunState, key: Key) -> RunState:
    return advance(run, problem, state, key=key, first=state.num_done)


_solution = verb(solution)


def _first_step(likelihood: Likelihood, network: Network, y: State, options: Any, key: Key, num_steps: int) -> Any:
    """What decides a run: the preparation and a step of it, from which a checkpoint makes its fingerprint."""
    run, problem = prepare_run(likelihood, network, y, key=key, num_steps=num_steps, pause_every=1, **options)
    state = run.init(problem)
    return problem.fit.z0, run.step(problem, state, jnp.int32(0), key=key)


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, float | np.ndarray | np.generic) else leaf


def _describe(value: Any) -> str:
    """An option for the settings: itself if it is plain, else its arrays; the program has the rest."""
    plain = value is None or isinstance(value, bool | int | str | tuple)
    return str(value) if plain else fingerprint(value)
