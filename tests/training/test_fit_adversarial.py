"""Adversarial training, on games of a handful of weights."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType
from runs import Meter, same

from jaxinv import generative, models
from jaxinv._solution import RESULTS
from jaxinv.training import fit, fit_adversarial

KEY = jax.random.key(7)
DATA = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) + np.array([2, -1], np.float32)
LOSS = generative.nonsaturating_loss(penalty=1.0)


class Shift(eqx.Module):
    """A generator of Gaussian points about a mean, or with the scale 0, which is not trained, of that point."""

    mean: jax.Array
    scale: jax.Array = eqx.field(default=1, converter=jnp.asarray)
    latent_size: int = eqx.field(static=True, default=2)

    def __call__(self, z):
        return self.scale * z + self.mean[None]


class Linear(eqx.Module):
    slope: jax.Array

    def __call__(self, x):
        return jnp.einsum("nk,k->n", x, self.slope)


def looker(generator, *, key):
    """Monitors the mean, and depends on its key, which is always the same."""
    return {"x": generator.mean[0], "draw": jax.random.uniform(key)}


def _networks(dtype=jnp.float32):
    return Shift(jnp.zeros(2, dtype)), Linear(jnp.zeros(2, dtype))


def _fit(loss=LOSS, networks=None, data=DATA, **options):
    options = {"key": KEY, "num_steps": 20, "batch_size": 8, "chunk_size": 6, "learning_rate": 0.05, **options}
    return fit_adversarial(*(_networks() if networks is None else networks), loss, data, **options)


def test_equals_a_plain_loop():
    """The order of turns, batches, keys, optimisers and average: what a Python loop over optax steps does."""
    with jax.enable_x64(True):
        data, loss, optimisers = DATA.astype(float), generative.wasserstein_loss(2.0), (optax.adam(0.1), optax.sgd(0.1))
        networks = _networks(jnp.float64)
        options = {"optimisers": optimisers, "critic_steps": 3, "ema": 0.9}
        (generator, critic), history = _fit(loss, networks, data, **options)
        ours, theirs = networks[0].mean, networks[1].slope
        average, states, count = ours, [optimisers[0].init(ours), optimisers[1].init(theirs)], 0
        order_key, loss_key = (jax.random.fold_in(KEY, i) for i in range(2))
        losses = []

        def losses_of(ours, theirs, batch, key):
            z = jax.random.normal(jax.random.fold_in(key, 0), (8, 2))
            return loss(Shift(ours), Linear(theirs), batch, z, key=jax.random.fold_in(key, 1))

        critic_step = jax.jit(jax.value_and_grad(lambda c, g, *rest: losses_of(g, c, *rest)[1]))
        follow = jax.jit(jax.value_and_grad(lambda g, c, *rest: losses_of(g, c, *rest)[0]))
        for t in range(20):
            key, costs = jax.random.fold_in(loss_key, t), []
            for turn in range(3):
                epoch, position = divmod(count, 50 // 8)
                order = jax.random.permutation(jax.random.fold_in(order_key, epoch), np.arange(50, dtype=np.int32))
                batch, count = data[np.asarray(order[8 * position : 8 * position + 8])], count + 1
                cost, gradient = critic_step(theirs, ours, batch, jax.random.fold_in(key, turn))
                updates, states[1] = optimisers[1].update(gradient, states[1], theirs)
                theirs = optax.apply_updates(theirs, updates)
                costs.append(cost)
            cost, gradient = follow(ours, theirs, batch, jax.random.fold_in(key, 3))
            updates, states[0] = optimisers[0].update(gradient, states[0], ours)
            ours = optax.apply_updates(ours, updates)
            decay = min(0.9, (2 + t) / (11 + t))
            average = decay * average + (1 - decay) * ours
            losses.append((cost, np.mean(costs)))
        np.testing.assert_allclose(history["generator_loss"], [pair[0] for pair in losses], rtol=1e-9)
        np.testing.assert_allclose(history["critic_loss"], [pair[1] for pair in losses], rtol=1e-9)
        # The decay of the average is a float32.
        np.testing.assert_allclose(generator.mean, average, rtol=1e-6)
        np.testing.assert_allclose(critic.slope, theirs, rtol=1e-9)
        assert generator.mean.dtype == history["critic_loss"].dtype == np.float64
        assert history["result"] == RESULTS.successful
        assert networks[0].mean[0] == 0


def test_learns_a_mean():
    """The Dirac-GAN: with R1 the game converges, without it the two chase each other for ever. And Gaussian points."""
    options = {"num_steps": 800, "batch_size": 50, "chunk_size": 20, "optimisers": optax.sgd(0.1), "monitor": looker}

    def late(penalty, scale, mean, data):
        networks = Shift(jnp.asarray(mean), jnp.asarray(scale)), Linear(jnp.zeros(2))
        (generator, _), history = _fit(generative.nonsaturating_loss(penalty=penalty), networks, data, **options)
        assert history["monitor"]["x"][-1] == generator.mean[0]
        return history["monitor"]["x"][20:]

    nought, away = np.zeros((50, 2), np.float32), np.float32([2, -1])
    # Linear convergence, with a rate far from 1.
    np.testing.assert_allclose(late(1.0, 0, away, nought), 0, atol=1e-3)
    assert np.abs(late(0.0, 0, away, nought)).max() > 0.2
    # Fifty latents in a batch: their mean has a standard error of .14, and the mean over the last chunks less.
    np.testing.assert_allclose(late(1.0, 1, np.zeros(2, np.float32), DATA).mean(), DATA[:, 0].mean(), atol=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"critic_steps": 2, "ema": 0.9, "monitor": looker},
        pytest.param({"optimisers": (optax.sgd(0.1, momentum=0.9), None)}, marks=pytest.mark.slow),
        pytest.param({"monitor": generative.ModeCoverage}, marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_identical(tmp_path, options):
    if options.get("monitor") is generative.ModeCoverage:
        clusters = generative._mode_coverage.KMeans(jnp.asarray(DATA[:3]), jnp.arange(50) % 3, jnp.zeros(()))
        options = {**options, "monitor": generative.ModeCoverage(clusters, num_samples=10)}
    path = tmp_path / "run"
    whole, history = _fit(**options)
    meter = Meter([], 2)
    with pytest.raises(KeyboardInterrupt):
        _fit(checkpoint=path, progress=meter, **options)
    assert meter.ticks == [pytest.approx(0.3), pytest.approx(0.6), "closed"]
    resumed, continued = _fit(checkpoint=path, **options)
    # Whether the second chunk was worth a file depends on how long the first took to write.
    assert continued["resumed_from"] in (6, 12)
    assert same(resumed, whole)
    for name in ("generator_loss", "critic_loss", "monitor_steps"):
        assert np.array_equal(continued[name], history[name])
    assert continued["monitor"].keys() == history["monitor"].keys()
    for name, values in history["monitor"].items():
        assert len(values) == len(history["monitor_steps"]) == 4
        assert np.array_equal(continued["monitor"][name], values)
    assert os.listdir(tmp_path) == ["run"]
    again, reread = _fit(checkpoint=path, **options)
    assert reread["resumed_from"] == 20
    assert same(again, whole)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": generative.nonsaturating_loss(penalty=2.0)}, "its loss"),
        ({"critic_steps": 2}, "its critic_steps is 1, not 2"),
        ({"learning_rate": (0.05, 0.1)}, "its learning rate is 0.05, 0.05"),
        ({"networks": (Shift(jnp.ones(2)), _networks()[1])}, "initial weights"),
        ({"monitor": looker}, "its monitor is None, not looker"),
        ({"key": jax.random.key(0)}, "its key"),
        ({"num_steps": 1}, "2 steps, more than `num_steps=1`"),
    ],
)
def test_checkpoint_of_another_run(tmp_path_factory, options, match):
    path = tmp_path_factory.getbasetemp() / "adversarial"
    if not path.exists():
        _fit(num_steps=2, checkpoint=path)
    with pytest.raises(ValueError, match=match):
        _fit(**{"num_steps": 2, "checkpoint": path, **options})


def test_checkpoint_of_fit(tmp_path):
    path = tmp_path / "run"
    fit(_networks()[0], lambda m, batch, *, key: jnp.sum(m.mean**2), DATA, key=KEY, num_steps=1, batch_size=8,
        checkpoint=path)  # fmt: skip
    with pytest.raises(ValueError, match="another run: its generator is None"):
        _fit(checkpoint=path)


@pytest.mark.parametrize(("where", "bad_step"), [("generator", 7), ("critic", 0), ("gradient", 7)])
def test_nonfinite_loss_stops_with_the_last_good_weights(where, bad_step):
    # Both weights count the steps; at `bad_step` one of the losses, or only a gradient, is not finite.
    def loss(generator, critic, images, latents, *, key):
        here = jax.lax.stop_gradient(generator.mean[0]) >= bad_step - 0.5
        bad = jnp.where(here, jnp.inf, 0.0)
        ours, theirs = -jnp.sum(generator.mean), -jnp.sum(critic.slope)
        if where == "gradient":
            # The square root of zero is finite, its derivative is not.
            return ours, theirs + jax.lax.cond(here, lambda s: jnp.sqrt(0 * s[0]), lambda s: 0 * s[0], critic.slope)
        return (ours + bad, theirs) if where == "generator" else (ours, theirs + bad)

    (generator, critic), history = _fit(loss, optimisers=optax.sgd(1.0))
    assert history["result"] == RESULTS.nonfinite
    assert float(generator.mean[0]) == float(critic.slope[0]) == bad_step
    assert len(history["generator_loss"]) == len(history["critic_loss"]) == bad_step
    assert np.isfinite(history["critic_loss"]).all()


def test_one_trace_and_the_functions_that_make_losses():
    traces = []

    def loss(generator, critic, images, latents, *, key):
        traces.append(images.shape)
        return LOSS(generator, critic, images, latents, key=key)

    _fit(loss, critic_steps=3)
    # Once for the critic, once for the generator.
    assert len(traces) == 2
    _fit(loss, (Shift(jnp.ones(2)), Linear(jnp.ones(2))), DATA + 1, critic_steps=3, key=jax.random.key(1),
         learning_rate=(0.1, 0.2), num_steps=13)  # fmt: skip
    assert len(traces) == 2
    made, bare = (_fit(loss, num_steps=3)[0] for loss in (generative.minimax_loss(), generative.minimax_loss))
    assert same(made, bare)


def test_monitor_keeps_the_lowest():
    # The mean walks past 1, where the monitor's loss is least.
    loss = lambda generator, critic, images, latents, *, key: (-jnp.sum(generator.mean), jnp.sum(critic.slope))
    monitor = lambda generator, *, key: {"loss": jnp.sum((generator.mean - 1) ** 2), "other": 3}
    (generator, critic), history = _fit(loss, optimisers=optax.sgd(0.1), monitor=monitor, chunk_size=2)
    best = int(np.argmin(history["monitor"]["loss"]))
    assert list(history["monitor_steps"]) == list(range(2, 22, 2))
    assert history["monitor_steps"][best] == 10
    np.testing.assert_allclose(generator.mean, 1, rtol=1e-5)
    np.testing.assert_allclose(critic.slope, -1, rtol=1e-5)
    np.testing.assert_array_equal(history["monitor"]["other"], 3)


@pytest.mark.slow
def test_networks_of_the_package():
    """The penalty's second derivatives pass through the convolutions, inside the loop."""
    trunk, data = models.Convolutional((2, 3)), np.random.default_rng(1).uniform(size=(20, 6, 5, 1)).astype(np.float32)
    networks = (
        models.Generator((6, 5, 1), 2, trunk=trunk, rngs=nnx.Rngs(0)),
        models.Critic((6, 5, 1), trunk=trunk, rngs=nnx.Rngs(1)),
    )
    (generator, critic), history = _fit(LOSS, networks, data, num_steps=4, critic_steps=2)
    assert history["result"] == RESULTS.successful
    for trained, before in zip((generator, critic), networks, strict=True):
        assert type(trained) is type(before)
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), trained, before)
        assert all(jax.tree.leaves(moved))


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device; XLA_FLAGS can simulate two")
def test_on_two_devices_it_is_the_same_run():
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    with jax.enable_x64(True):
        options = {"networks": _networks(jnp.float64), "data": DATA.astype(float), "critic_steps": 2, "ema": 0.9}
        alone, history = _fit(monitor=looker, **options)
        spread, other = _fit(monitor=looker, mesh=mesh, **options)
        # Other orders of summation.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), spread, alone)
        np.testing.assert_allclose(other["critic_loss"], history["critic_loss"], rtol=1e-10)
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(spread))


def _bad_data():
    data = DATA.copy()
    data[17, 1] = np.nan
    return data


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 51}, "more than the 50 examples"),
        ({"critic_steps": 0}, "`critic_steps`"),
        ({"num_steps": 0}, "`num_steps`"),
        ({"data": _bad_data()}, "example 17 holds NaN"),
        ({"data": DATA[:0]}, "empty"),
        ({"data": {"x": DATA}}, "`data` must be one array"),
        ({"data": np.ones((50, 3), np.float32)}, r"the data, \(8, 3\); it makes \(8, 2\)"),
        ({"networks": (lambda z: z, _networks()[1])}, "latent_size"),
        ({"networks": (lambda z: z, _networks()[1]), "latent_shape": (2,)}, "generator function has no weights"),
        ({"networks": (_networks()[0], lambda x: x[:, 0])}, "critic function has no weights"),
        ({"loss": "minimax"}, "`loss` must be a function"),
        ({"loss": lambda generator, critic, images, latents, *, key: jnp.sum(images)}, "two real scalars"),
        ({"loss": lambda generator, critic, images, latents, *, key: (images, critic.slope)}, "Take the mean"),
        ({"optimisers": "adam"}, "two optax transformations"),
        ({"optimisers": (optax.sgd(0.1), "adam")}, "`optimisers` must be an optax transformation"),
        ({"learning_rate": -1.0}, "`learning_rate`"),
        ({"learning_rate": (0.1, 0.1, 0.1)}, "`learning_rate` is one, or"),
        ({"monitor": lambda generator, *, key: generator.mean}, "dict of real scalars"),
        ({"monitor": lambda generator, *, key: {"mean": generator.mean}}, "dict of real scalars"),
        ({"ema": 1.0}, "`ema`"),
        ({"progress": "tqdm"}, "`progress`"),
        ({"mesh": 2}, "`mesh`"),
        ({"key": jax.random.PRNGKey(0)}, "typed key"),
    ],
)
def test_wrong_input(options, match):
    with pytest.raises(ValueError, match=match):
        _fit(**options)


def test_inside_a_transformation():
    with pytest.raises(ValueError, match="`fit_adversarial` runs on the host"):
        jax.vmap(lambda key: _fit(key=key)[0])(jax.random.split(KEY, 2))
