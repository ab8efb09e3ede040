"""Training of one model on one loss; `_fit_adversarial.py` trains a pair of networks."""

import dataclasses
import os
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from .. import io
from .._arrays import subkeys
from .._checks import checked
from .._mesh import is_across, leave_in_order, replicated
from .._network_state import stateless
from .._networks import rebind_like, unbind_linen
from .._optimisers import check_optimiser
from .._program import program
from .._sources import is_source
from .._types import Checked, IntLike, Key, Network, ProgressMeter, PyTree, Scalar, Stats
from ._batches import chunk_that_fits, open_batches
from ._checkpoint import PROGRAM, Checkpoint, Run
from ._chunk import TrainingSpec, evaluate, split
from ._data import check_data, fingerprint, name_of
from ._options import (
    check_accumulate,
    check_average,
    check_compute_dtype,
    check_host,
    check_progress,
    check_rate,
    check_sizes,
    check_weights,
    describe_rate,
)
from ._run_chunks import finish, resume, run_chunks


@checked()
def fit(
    model: Network,
    loss: Checked[Callable[..., Array]],
    data: PyTree,
    *,
    key: Key,
    optimiser: Checked[optax.GradientTransformation | None] = None,
    learning_rate: Checked[Scalar | optax.Schedule] = 1e-3,
    num_steps: IntLike,
    batch_size: IntLike,
    ema: Checked[Scalar | None] = None,
    validation: PyTree | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Checked[ProgressMeter | None] = None,
    chunk_size: Checked[int | None] = None,
    mesh: Checked[Mesh | None] = None,
    report: Checked[Callable[[int, dict[str, float]], object] | None] = None,
    accumulate: IntLike = 1,
    compute_dtype: Checked[DTypeLike | None] = None,
) -> tuple[Network, Stats]:
    """Minimise a loss over the weights of a model, by stochastic gradients.

    `fit` runs on the host, in chunks of compiled steps. It draws batches without replacement: every epoch is a
    permutation of the examples, cut into batches, without an incomplete last one. All randomness derives from `key`,
    the step and the epoch, so the same call gives the same weights.

    **Arguments:**

    - `model`: a pytree, such as a Flax NNX, a bound linen or an equinox network; `fit` trains its inexact arrays, but
        not those in NNX variables that are no `nnx.Param`, and leaves the object itself unchanged. A layer that changes
        a state of its own in a call, as `BatchNorm` does, is an error. For an ensemble pass a stacked model, with a
        loss that sums over `jax.vmap`.
    - `loss`: `loss(model, batch, *, key) -> scalar`, the mean over the batch. Functions compare by identity: define it
        once, outside the call, so that a second run does not compile again.
    - `data`: an array `(n, ...)`, or a pytree of arrays of the same `n`, of a floating dtype, which are kept on the
        devices; or what is read batch by batch. That is a data source with `__len__` and `__getitem__`, one example an
        item, which gives the same run as the array of its items; or an iterator of batches of `batch_size` examples,
        such as a loader of grain. A checkpoint holds the state of an iterator that has `get_state` and `set_state`; of
        another, a run that goes on skips as many batches as it has done.
    - `key`: a typed key.
    - `optimiser`: any `optax.GradientTransformation`, on a dict of the weights by name; make it once, like the loss.
        One that needs the value of the loss or the loss itself (`optax.lbfgs`, `contrib.reduce_on_plateau`) gets those
        of the batch. The default is Adam.
    - `learning_rate`: the rate of the default optimiser, a number or an optax schedule.
    - `num_steps`, `batch_size`: the number of steps and of examples in a batch, static.
    - `ema`: the decay of the exponential moving average of the weights, such as .999; `fit` then returns the average.
        It warms up: at step `t` the decay is at most `(1 + t) / (10 + t)`.
    - `validation`: data of the same kind. `fit` evaluates their loss after every chunk, always with the same keys (for
        the average, if there is one), and returns the weights with the lowest loss.
    - `checkpoint`: the path of a file. `fit` writes it after chunks, atomically, so often that it takes at most 5 % of
        the time, and at the end. If it exists, the run continues from it, to bit-identical weights. It records
        checksums of the initial weights, data and key, the sizes, and a fingerprint of the traced step, so that a run
        with another network, loss or optimiser is refused. Neither names nor addresses of functions matter, nor do
        `num_steps`, `chunk_size`, `mesh` and `progress`. After an update of JAX, which may trace otherwise, a
        difference is only a warning.
    - `progress`: a diffrax progress meter, ticked after every chunk: `diffrax.TqdmProgressMeter(refresh_steps=1)`.
    - `chunk_size`: the number of steps of one compiled call, static; by default a 50th of `num_steps`, at most 1000.
    - `mesh`: a `jax.sharding.Mesh`, static. It cuts each batch into one piece for each device, so their number must
        divide `batch_size`; weights and data are replicated. Loss and keys stay those of the whole batch, so the run is
        the same to rounding, and a checkpoint continues with another mesh, or none. The devices may be those of all
        processes, after `jax.distributed.initialize`; then all make the same call, with the same data, and process 0
        writes the checkpoint.
    - `report`: called as `report(step, metrics)` after every chunk, for any logger, with the number of steps and a dict
        of numbers: the mean `loss` of the chunk, `seconds` and, if there is one, `validation`.
    - `accumulate`: the number of pieces into which each batch is cut, static. Their gradients are computed one after
        the other and averaged, which takes less memory and gives the same step to rounding, if the loss is a mean over
        the examples. Each piece has a key of its own.
    - `compute_dtype`: the dtype in which loss and gradients are computed, such as `jax.numpy.bfloat16`, static;
        weights, optimiser and average keep theirs. By default that of the weights. Let the loss compute its mean in
        float32.

    **Returns:** the trained model, and the history, a dict: `loss` of every step; `validation` and `validation_steps`;
    `seconds`, compilation included; `resumed_from`, the step of the checkpoint or 0; `result`, a member of `RESULTS`:
    `nonfinite` if a loss or a weight became NaN or infinite; the run then stops with the last good weights.

    **Raises:** `ValueError` for sizes that do not fit the data, data that are empty, of an integer dtype or not finite
    (naming the first such example), an iterator that ends early or gives other shapes (what is done is in the
    checkpoint), a layer with a state, an optimiser that cannot be used, and a checkpoint that belongs to another run or
    cannot be written. If the disk is full later, `fit` warns and goes on.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (256, 8, 8, 1))
        model, history = jaxinv.training.fit(
            jaxinv.models.Autoencoder((8, 8, 1), 4, rngs=nnx.Rngs(0)),
            jaxinv.generative.autoencoder_loss,
            images[:200],
            key=jax.random.key(1),
            num_steps=100,
            batch_size=32,
            ema=0.99,
            validation=images[200:],
        )
        assert history["loss"][-1] < history["loss"][0]
        ```
    """
    began = time.perf_counter()
    given, model = model, stateless(unbind_linen(model))
    is_array = not is_source(data) or hasattr(data, "shape")
    check_host(key, (model, data if is_array else None), "fit")
    batches = None
    order_key, loss_key, validation_key = subkeys(key, 3)
    if is_array:
        data, count = check_data(data, "data")
        sizes = check_sizes(num_steps, batch_size, chunk_size, mesh, count, across=True)
    else:
        sizes = check_sizes(num_steps, batch_size, chunk_size, mesh, batch_size, across=True)
        batches = open_batches(data, sizes.batch_size, order_key)
        sizes = sizes._replace(chunk_size=chunk_that_fits(chunk_size, sizes.num_steps, batches))
        # Of the epochs the host keeps account.
        data, count = jax.tree.map(lambda a: jnp.asarray(a[None]), batches.example), 0
    if is_across(sizes.mesh):
        leave_in_order()
    accumulate = check_accumulate(accumulate, sizes)
    compute_dtype = check_compute_dtype(compute_dtype)
    if report is not None and not callable(report):
        raise ValueError(f"`report` must be a function of the step and a dict; got {type(report).__name__}.")
    average = check_average(ema)
    check_progress(progress)
    if checkpoint is not None:
        io.check_writable(checkpoint)
    optimiser = check_optimiser(optimiser)
    validation_data = None if validation is None else check_data(validation, "validation")
    weights, rest = split(model)
    check_weights(weights, model)
    rate = check_rate(learning_rate, weights)
    spec = TrainingSpec(
        model=rest,
        loss=loss,
        optimiser=rate if optimiser is None else optimiser,
        data=data,
        ema=average,
        order_key=order_key,
        loss_key=loss_key,
        batch_size=sizes.batch_size,
        count=count,
        mesh=sizes.mesh,
        first=None if batches is None else jnp.zeros((), jnp.int32),
        accumulate=accumulate,
        compute_dtype=compute_dtype,
    )
    run = Run(spec.init(weights, ema is not None))
    file = None
    if checkpoint is not None:
        settings = {
            "initial weights": fingerprint(model),
            "loss": fingerprint(loss),
            "learning rate": describe_rate(rate, optimiser),
            "data": fingerprint(data) if batches is None else batches.identity(),
            "validation": fingerprint(validation),
            "key": fingerprint(key),
            "batch_size": str(sizes.batch_size),
            "ema": "None" if ema is None else str(average),
            # Another mesh, or none, runs the same program.
            PROGRAM: program(lambda spec, carry: spec.step(carry), dataclasses.replace(spec, mesh=None), run.carry),
        }
        file = Checkpoint(checkpoint, settings, {"model": type(given).__name__, "loss": name_of(loss)})
        # Of several processes one writes; all read what is there before the first step.
        file.writes = jax.process_index() == 0 or not is_across(sizes.mesh)
        resume(file, run, sizes.num_steps)
        if batches is not None and run.step:
            batches.restore(run.data_state, run.step)
    resumed_from = run.step
    if sizes.mesh is not None:
        spec, run.carry, validation_data = eqx.filter_shard((spec, run.carry, validation_data), replicated(sizes.mesh))

    callback = None
    if validation_data is not None:
        examples, count = validation_data
        validate = lambda: evaluate(spec, run.weights(), examples, count, validation_key)
        callback = lambda: run.record_validation(float(validate()))

    def fill(step: int, steps: int) -> TrainingSpec:
        assert batches is not None
        filled = batches.fill(spec, step, steps, sizes.chunk_size)
        # The checkpoint is written when these steps are done.
        run.data_state = batches.state()
        return filled

    filling = None if batches is None else fill
    run_chunks(
        spec, run, sizes, began=began, file=file, progress=progress, callback=callback, report=report, fill=filling
    )
    trained, history = finish(run, rest, sizes.mesh)
    history |= {
        "loss": run.losses,
        "validation": run.validation,
        "validation_steps": run.validation_steps,
        "resumed_from": resumed_from,
    }
    return rebind_like(trained, given), history
