"""Training of a generator against a critic; `_fit.py` trains one model."""

import dataclasses
import inspect
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from .. import io
from .._arrays import subkeys
from .._checks import checked
from .._mesh import replicated
from .._network_state import stateless
from .._networks import latent_shape_of, rebind_like, unbind_linen, weights_dtype
from .._optimisers import check_optimiser
from .._program import program
from .._types import Checked, IntLike, Key, Network, ProgressMeter, PyTree, Scalar, Stats
from ._adversarial import CRITIC, GENERATOR, AdversarialSpec, evaluate_monitor, part
from ._checkpoint import PROGRAM, Checkpoint, Run
from ._chunk import split
from ._data import check_data, fingerprint, name_of
from ._options import (
    check_average,
    check_count,
    check_host,
    check_progress,
    check_rate,
    check_sizes,
    check_weights,
    describe_rate,
)
from ._run_chunks import finish, resume, run_chunks


@checked()
def fit_adversarial(
    generator: Network,
    critic: Network,
    loss: Checked[Callable[..., tuple[Array, Array]]],
    data: PyTree,
    *,
    key: Key,
    optimisers: Checked[tuple[optax.GradientTransformation | None, optax.GradientTransformation | None] | None] = None,
    learning_rate: Checked[Scalar | optax.Schedule] = 5e-4,
    critic_steps: IntLike = 1,
    num_steps: IntLike,
    batch_size: IntLike,
    latent_shape: Checked[Sequence[int] | None] = None,
    ema: Checked[Scalar | None] = None,
    monitor: Checked[Callable[..., dict[str, Scalar]] | None] = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Checked[ProgressMeter | None] = None,
    chunk_size: Checked[int | None] = None,
    mesh: Checked[Mesh | None] = None,
) -> tuple[tuple[Network, Network], Stats]:
    """Train a generator against a critic, in turns, by stochastic gradients.

    A step is `critic_steps` steps of the critic, each on another batch, and one of the generator; each draws new
    latents from a standard normal. Chunks, epochs and random numbers are as in `fit`.

    **Arguments:**

    - `generator`: `generator(z) -> x`, batched: `models.Generator`, or any Flax or equinox network with that call; the
        object itself stays unchanged.
    - `critic`: `critic(x) -> (n,)` logits, `models.Critic` or another such network; the object itself stays unchanged.
    - `loss`: `generative.minimax_loss`, `nonsaturating_loss` or `wasserstein_loss`, one that they make, or your own:
        `loss(generator, critic, images, latents, *, key) -> (loss of the generator, loss of the critic)`. Functions
        compare by identity: define it once.
    - `data`: the images, `(n, ...)`, of a floating dtype.
    - `key`: a typed key.
    - `optimisers`: the generator's and the critic's, optax transformations on dicts of weights by name, or one for
        both; make them once. The default, also for a `None` in a pair, is Adam without momentum, `b1=0, b2=.99`.
    - `learning_rate`: the rate of the default optimisers, a number or an optax schedule, or a pair, the generator's
        first.
    - `critic_steps`, `num_steps`, `batch_size`: the number of critic steps in a step, of steps, and of examples in a
        batch, static. A step uses `critic_steps * batch_size` examples.
    - `latent_shape`: the shape of one latent, required if the generator has no `latent_size`.
    - `ema`: the decay of the exponential moving average of the generator's weights, such as .999, which damps the
        oscillation of the game; the call then returns the averaged generator, with the last critic. It warms up as in
        `fit`.
    - `monitor`: `monitor(generator, *, key) -> dict of scalars`, such as `generative.ModeCoverage(clusters)`, called
        after every chunk, always with the same key (on the average, if there is one). If it has an entry `loss`, the
        call returns the networks with the lowest.
    - `checkpoint`: the path of a file, as in `fit`: the run continues from it, to bit-identical weights.
    - `progress`: a diffrax progress meter, ticked after every chunk: `diffrax.TqdmProgressMeter(refresh_steps=1)`.
    - `chunk_size`: the number of steps of one compiled call, static; by default a 50th of `num_steps`, at most 1000.
    - `mesh`: a `jax.sharding.Mesh`, static, whose devices share each batch, as in `fit`.

    **Returns:** the pair of the trained generator and critic, and the history, a dict: `generator_loss` and
    `critic_loss` of every step (the latter the mean over its `critic_steps`); `monitor`, a dict of arrays, and
    `monitor_steps`; `seconds`, compilation included; `resumed_from`; `result`, a member of `RESULTS`: `nonfinite` if a
    loss or a weight became NaN or infinite; the run then stops with the last good weights of both.

    **Raises:** `ValueError` for sizes that do not fit the data, a generator whose images are not of the data's shape,
    data that are empty, of an integer dtype or not finite (naming the first such example), and for a checkpoint that
    belongs to another run or cannot be written.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014; Yazici et al., The Unusual Effectiveness of Averaging in
        GAN Training, 2019

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (256, 8, 8, 1))
        (generator, critic), history = jaxinv.training.fit_adversarial(
            jaxinv.models.Generator((8, 8, 1), 4, widths=(32,), rngs=nnx.Rngs(0)),
            jaxinv.models.Critic((8, 8, 1), widths=(32,), rngs=nnx.Rngs(1)),
            jaxinv.generative.nonsaturating_loss(penalty=1.0),
            images,
            key=jax.random.key(1),
            num_steps=50,
            batch_size=32,
            ema=0.99,
        )
        x = generator(jax.random.normal(jax.random.key(2), (5, 4)))  # (5, 8, 8, 1)
        ```
    """
    began = time.perf_counter()
    given, (generator, critic) = (generator, critic), stateless(unbind_linen((generator, critic)))
    check_host(key, (generator, critic, data), "fit_adversarial")
    if not isinstance(data, jax.Array | np.ndarray):
        raise ValueError(f"`data` must be one array (n, ...) of n images; got {type(data).__name__}.")
    images, count = check_data(data, "data")
    sizes = check_sizes(num_steps, batch_size, chunk_size, mesh, count)
    critic_steps, average = check_count(critic_steps, "critic_steps"), check_average(ema)
    check_progress(progress)
    if checkpoint is not None:
        io.check_writable(checkpoint)
    loss = _made(loss)
    latent_shape = latent_shape_of(generator, latent_shape, "fit_adversarial(..., latent_shape=(k,))")
    weights, rest = split({GENERATOR: generator, CRITIC: critic})
    check_weights(part(weights, GENERATOR), generator, GENERATOR)
    check_weights(part(weights, CRITIC), critic, CRITIC)
    dtype = weights_dtype(generator)
    _check_images(generator, (sizes.batch_size, *latent_shape), dtype, images)
    rates = _check_rates(learning_rate, weights)
    order_key, loss_key, monitor_key = subkeys(key, 3)
    spec = AdversarialSpec(
        model=rest,
        loss=loss,
        optimisers=_check_optimisers(optimisers, rates),
        data=images,
        ema=average,
        order_key=order_key,
        loss_key=loss_key,
        latent_shape=latent_shape,
        latent_dtype=dtype,
        critic_steps=critic_steps,
        batch_size=sizes.batch_size,
        count=count,
        mesh=sizes.mesh,
    )
    names: list[str] = []
    if monitor is not None:
        names = sorted(eqx.filter_eval_shape(evaluate_monitor, rest, weights, monitor, monitor_key))
    run = Run(spec.init(weights, ema is not None), spec.loss_shape, len(names))
    file = None
    if checkpoint is not None:
        settings = {
            "initial weights": fingerprint((generator, critic)),
            "loss": fingerprint(loss),
            "learning rate": ", ".join(map(describe_rate, rates, spec.optimisers)),
            "data": fingerprint(images),
            "monitor": "None" if monitor is None else f"of {', '.join(names)} with numbers {fingerprint(monitor)}",
            "key": fingerprint(key),
            "batch_size": str(sizes.batch_size),
            "critic_steps": str(critic_steps),
            "latent_shape": str(latent_shape),
            "ema": "None" if ema is None else str(average),
            PROGRAM: program(lambda spec, carry: spec.step(carry), dataclasses.replace(spec, mesh=None), run.carry),
        }
        described = {"generator": given[0], "critic": given[1], "loss": loss, "monitor": monitor}
        if monitor is not None:
            settings["program of the monitor"] = program(evaluate_monitor, rest, weights, monitor, monitor_key)
        file = Checkpoint(checkpoint, settings, {name: name_of(value) for name, value in described.items()})
        resume(file, run, sizes.num_steps)
    resumed_from = run.step
    if sizes.mesh is not None:
        spec, run.carry = eqx.filter_shard((spec, run.carry), replicated(sizes.mesh))

    def validate():
        values = evaluate_monitor(rest, run.weights(), monitor, monitor_key)
        run.record_validation(float(values.get("loss", np.nan)), [float(values[name]) for name in names])

    callback = None if monitor is None else validate
    run_chunks(spec, run, sizes, began=began, file=file, progress=progress, callback=callback)
    trained, history = finish(run, rest, sizes.mesh)
    history |= {
        "generator_loss": run.losses[:, 0],
        "critic_loss": run.losses[:, 1],
        "monitor": {name: run.observed[:, i] for i, name in enumerate(names)},
        "monitor_steps": run.validation_steps,
        "resumed_from": resumed_from,
    }
    return (rebind_like(trained[GENERATOR], given[0]), rebind_like(trained[CRITIC], given[1])), history


def _made(loss: Any) -> Any:
    """The loss itself, or the loss that a factory of losses makes without arguments."""
    if not callable(loss):
        raise ValueError(f"`loss` must be a function, such as `generative.nonsaturating_loss`; got {loss!r}.")
    if not inspect.isfunction(loss):
        return loss
    try:
        inspect.signature(loss).bind()
    except TypeError:
        return loss
    return loss()


def _check_images(generator: Any, shape: tuple[int, ...], dtype: Any, data: Array) -> None:
    images = eqx.filter_eval_shape(lambda g, z: g(z), generator, jax.ShapeDtypeStruct(shape, dtype))
    expected = (shape[0], *data.shape[1:])
    if getattr(images, "shape", None) != expected:
        raise ValueError(
            f"From latents of shape {shape} the generator must make images of the shape of the data, {expected}; it "
            f"makes {getattr(images, 'shape', images)}."
        )


def _check_rates(rate: Any, weights: dict[str, Array]) -> tuple[Any, Any]:
    rates = tuple(rate) if isinstance(rate, tuple | list) else (rate, rate)
    if len(rates) != 2:
        raise ValueError(f"`learning_rate` is one, or the generator's and the critic's; got {len(rates)}.")
    return check_rate(rates[0], part(weights, GENERATOR)), check_rate(rates[1], part(weights, CRITIC))


def _check_optimisers(optimisers: Any, rates: tuple[Any, Any]) -> tuple[Any, Any]:
    if optimisers is None:
        return rates
    if isinstance(optimisers, optax.GradientTransformation) or hasattr(optimisers, "gradient_transformation"):
        optimisers = (optimisers, optimisers)
    if not isinstance(optimisers, tuple | list) or len(optimisers) != 2:
        raise ValueError(
            f"`optimisers` must be two optax transformations, `(generator's, critic's)`; got {optimisers!r}."
        )
    optimisers = [check_optimiser(optimiser, "optimisers") for optimiser in optimisers]
    first, second = (rate if own is None else own for own, rate in zip(optimisers, rates, strict=True))
    return first, second
