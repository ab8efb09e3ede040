"""Training of one model on one loss."""

import os
import time
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from .._keys import check_key
from .._solution import RESULTS
from .._types import Key
from ..operators._base import is_concrete
from ._checkpoint import Checkpoint, Run
from ._chunk import Setting, all_finite, evaluate, last_good, run_chunk, split, start
from ._data import check_data, fingerprint
from ._mesh import check_mesh, everywhere, gathered


def fit(
    model: Any,
    loss: Any,
    data: PyTree,
    *,
    key: Key,
    optimiser: Any = None,
    learning_rate: Any = 1e-3,
    num_steps: Any,
    batch_size: Any,
    ema: Any = None,
    validation: PyTree | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: Any = None,
    chunk_size: Any = None,
    mesh: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Minimise a loss over the weights of a model, by stochastic gradients.

    Runs on the host, in chunks of compiled steps. Batches are drawn without replacement: every epoch is a permutation
    of the examples, cut into batches, of which an incomplete last one is left out. Everything random derives from
    `key`, the step and the epoch, so the same call gives the same weights.

    **Arguments:**

    - `model`: a pytree, such as a Flax NNX or an equinox network; its inexact arrays are trained. Not changed. An
        ensemble is a stacked model with a loss that sums over `jax.vmap`.
    - `loss`: `loss(model, batch, *, key) -> scalar`, the mean over the batch. Functions compare by identity: define it
        once, not in the call, and a second run does not compile again.
    - `data`: an array `(n, ...)`, or a pytree of arrays of the same `n`, of a floating dtype.
    - `key`: a typed key.
    - `optimiser`: any `optax.GradientTransformation`, on a dict of the weights by name; make it once, as the loss.
        Default: Adam.
    - `learning_rate`: of that default, a number or an optax schedule.
    - `num_steps`, `batch_size`: static.
    - `ema`: decay of the exponential moving average of the weights, such as .999; the average is what is returned. It
        warms up: at step `t` the decay is at most `(1 + t) / (10 + t)`.
    - `validation`: data of the same kind. Its loss is taken after every chunk, always with the same keys (of the
        average, if there is one), and the weights of the lowest are returned.
    - `checkpoint`: a file. Written after chunks, atomically, so often that it takes at most 5 % of the time, and at the
        end. If it exists, the run goes on from there, to bit-identical weights. It knows the model and its initial
        weights, the shape of the optimiser's state, data, key, sizes and the name of the loss; numbers inside an
        `optimiser` of your own it cannot see.
    - `progress`: a diffrax progress meter, ticked after every chunk: `diffrax.TqdmProgressMeter(refresh_steps=1)`.
    - `chunk_size`: steps per compiled call. Default: a 50th of `num_steps`, at most 1000.
    - `mesh`: a `jax.sharding.Mesh`. Each batch is cut into one piece for each of its devices, so their number divides
        `batch_size`; weights and data are on every device. The loss and its keys stay those of the whole batch, so it
        is the same run to rounding, and a checkpoint goes on with another mesh, or none.

    **Returns:** the trained model, and the history, a dict: `loss` of every step; `validation` and `validation_steps`;
    `seconds`, compilation included; `resumed_from`, the step of the checkpoint or 0; `result`, a member of `RESULTS`:
    `nonfinite` if a loss or a weight became NaN or infinite, upon which the run stops with the last good weights.

    **Raises:** `ValueError` for sizes that do not fit the data, data that is empty, of an integer dtype or not finite
    (naming the first such example), and for a checkpoint that is of another run or cannot be written.

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
    check_key(key)
    if not is_concrete(key, *jax.tree.leaves((model, data))):
        raise ValueError(
            "`fit` runs on the host and cannot be called inside `jax.jit`, `jax.vmap` or `jax.grad`. To train several "
            "models at once, stack them and let the loss sum over `jax.vmap`."
        )
    num_steps, batch_size = _check_count(num_steps, "num_steps"), _check_count(batch_size, "batch_size")
    data, count = check_data(data, "data")
    if batch_size > count:
        raise ValueError(f"`batch_size` is {batch_size}, more than the {count} examples of `data`.")
    mesh = check_mesh(mesh)
    if mesh is not None and batch_size % mesh.size:
        raise ValueError(
            f"`batch_size` is {batch_size}, which the {mesh.size} devices of `mesh` do not divide; take a multiple of "
            f"{mesh.size}, such as {-(-batch_size // mesh.size) * mesh.size}."
        )
    chunk_size = _check_count(min(-(-num_steps // 50), 1000) if chunk_size is None else chunk_size, "chunk_size")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"`ema` must be in [0, 1), such as .999; got {ema!r}.")
    if progress is not None and not isinstance(progress, diffrax.AbstractProgressMeter):
        raise ValueError(f"`progress` must be a diffrax progress meter; got {type(progress).__name__}.")
    if optimiser is not None and not isinstance(optimiser, optax.GradientTransformation):
        raise ValueError(
            f"`optimiser` must be an optax transformation, such as `optax.adamw(1e-3)`; got {type(optimiser).__name__}."
        )
    judged = None if validation is None else check_data(validation, "validation")
    weights, rest = split(model)
    if not weights:
        raise ValueError(
            f"The model {type(model).__name__} has no weights to train: no leaf of it is a floating array."
            + (" Is it a pytree?" if len(jax.tree.leaves(model)) == 1 else "")
        )
    rate = _check_rate(learning_rate, weights)
    order_key, loss_key, validation_key = (jax.random.fold_in(key, i) for i in range(3))
    setting = Setting(
        model=rest,
        loss=loss,
        optimiser=rate if optimiser is None else optimiser,
        data=data,
        ema=jnp.asarray(0.0 if ema is None else ema, jnp.float32),
        order_key=order_key,
        loss_key=loss_key,
        batch_size=batch_size,
        count=count,
        mesh=mesh,
    )
    run = Run(start(setting, weights, ema is not None))
    file = None
    if checkpoint is not None:
        settings = {
            "model": type(model).__name__,
            "initial weights": fingerprint(model),
            "loss": getattr(loss, "__qualname__", type(loss).__name__) + f" ({fingerprint(loss)})",
            "learning rate": "that of `optimiser`" if optimiser is not None else str(rate),
            "data": fingerprint(data),
            "validation": fingerprint(validation),
            "key": fingerprint(key),
            "batch_size": str(batch_size),
            "ema": str(ema),
            # Without validation the chunks leave no trace.
            "chunk_size": "any" if validation is None else str(chunk_size),
        }
        file = Checkpoint(checkpoint, settings)
        file.restore(run)
        if run.step > num_steps:
            raise ValueError(
                f"The checkpoint {checkpoint} has done {run.step} steps, more than `num_steps={num_steps}`."
            )
    resumed_from, earlier = run.step, run.seconds
    if mesh is not None:
        setting, run.carry, judged = eqx.filter_shard((setting, run.carry, judged), everywhere(mesh))

    meter = None if progress is None else progress.init()
    try:
        while run.good and run.step < num_steps:
            # Up to the next multiple: a resumed run has the same chunks as a whole one.
            steps = min(chunk_size - run.step % chunk_size, num_steps - run.step)
            carry, losses, finite = run_chunk(setting, run.carry, jnp.asarray(steps, jnp.int32), chunk_size)
            done = int(finite)
            run.good = done == steps and bool(all_finite(carry))
            if not run.good:
                carry, done = last_good(setting, run.carry, done, chunk_size)
            run.carry = carry
            run.losses = np.append(run.losses.astype(losses.dtype), np.asarray(losses)[:done])
            if judged is not None and done:
                run.judge(float(evaluate(setting, run.weights(), *judged, validation_key)))
            run.seconds = earlier + time.perf_counter() - began
            if file is not None:
                file.write(run, last=not run.good or run.step == num_steps)
            if progress is not None:
                meter = progress.step(meter, jnp.asarray(run.step / num_steps))
    finally:
        if progress is not None:
            progress.close(meter)
    history = {
        "loss": run.losses,
        "validation": run.validation,
        "validation_steps": run.validation_steps,
        "seconds": run.seconds,
        "resumed_from": resumed_from,
        "result": RESULTS.successful if run.good else RESULTS.nonfinite,
    }
    weights = run.best or run.weights()
    return rest.merge(weights if mesh is None else gathered(weights)), history


def _check_count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1; got {value!r}.")
    return int(value)


def _check_rate(rate: Any, weights: dict[str, jax.Array]) -> Any:
    if callable(rate):
        return rate
    dtype = jnp.finfo(jnp.result_type(*weights.values())).dtype
    rate = jnp.asarray(rate, dtype)
    if rate.shape != () or not 0 < float(rate) < np.inf:
        raise ValueError(f"`learning_rate` must be a positive number or an optax schedule; got {rate}.")
    return rate
