import functools
import itertools
import os

import diffrax
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from runs import Meter, same

from jaxinv._solution import RESULTS
from jaxinv.generative._autoencoder import autoencoder_loss
from jaxinv.generative._vae import vae_loss
from jaxinv.models import VAE, Autoencoder
from jaxinv.training import fit, muon

SHAPE = (5, 4, 1)
DATA = np.random.default_rng(0).uniform(size=(50, *SHAPE)).astype(np.float32)
KEY = jax.random.key(7)


class Line(eqx.Module):
    """`slope * x + offset`, with a leaf that is not trained."""

    slope: jax.Array
    offset: jax.Array
    count: int = 3

    def __call__(self, x):
        return self.slope * x + self.offset


def line_loss(model, batch, *, key):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def _line(**changes):
    return Line(**{"slope": jnp.zeros(()), "offset": jnp.zeros(()), **changes})


def _line_data(count=12):
    x = np.linspace(-1, 1, count, dtype=np.float32)
    return {"x": x, "y": 2 * x + 1}


@functools.partial(jax.jit, static_argnames=("kind", "seed"))
def _network(kind=Autoencoder, seed=0):
    return kind(SHAPE, 2, widths=(6,), rngs=nnx.Rngs(seed))


def _fit(model=None, loss=autoencoder_loss, data=DATA, **options):
    options = {"key": KEY, "num_steps": 30, "batch_size": 8, "chunk_size": 10, **options}
    return fit(_network() if model is None else model, loss, data, **options)


def test_equals_a_plain_loop():
    """The compiled chunks do what a Python loop over optax steps does: batches, keys, Adam, average."""
    model, history = _fit(_network(VAE), vae_loss(), ema=0.9)
    optimiser = optax.adam(1e-3)
    weights = average = _network(VAE)
    state = optimiser.init(weights)
    order_key, loss_key = (jax.random.fold_in(KEY, i) for i in range(2))
    losses = []
    shuffled = jax.jit(lambda epoch: jax.random.permutation(jax.random.fold_in(order_key, epoch), 50))

    @jax.jit
    def step(weights, average, state, batch, t, decay):
        value = lambda w: vae_loss()(w, batch, key=jax.random.fold_in(loss_key, t))
        loss, gradient = jax.value_and_grad(value)(weights)
        updates, state = optimiser.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        return weights, jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights), state, loss

    for t in range(30):
        epoch, position = divmod(t, 50 // 8)
        batch = DATA[shuffled(epoch)[8 * position : 8 * position + 8]]
        weights, average, state, loss = step(weights, average, state, batch, t, min(0.9, (2 + t) / (11 + t)))
        losses.append(loss)
    # float32 over 30 steps; Adam divides by small gradients, which magnifies rounding.
    np.testing.assert_allclose(history["loss"], np.array(losses), rtol=1e-4)
    for got, expected in zip(jax.tree.leaves(model), jax.tree.leaves(average), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert isinstance(model, VAE)
    assert history["result"] == RESULTS.successful
    assert history["resumed_from"] == 0
    assert history["seconds"] > 0


def test_solves_a_regression_and_leaves_its_input_alone():
    model = _line()
    trained, history = fit(model, line_loss, _line_data(), key=KEY, learning_rate=0.1, num_steps=300, batch_size=4)
    assert len(history["loss"]) == 300
    # Adam with rate .1 on a problem without noise settles far below this.
    np.testing.assert_allclose([trained.slope, trained.offset], [2, 1], atol=1e-2)
    assert isinstance(trained, Line)
    assert trained.count == 3
    assert model.slope == 0


@pytest.mark.slow
def test_learns_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    images = (datasets.load_digits().images[..., None] / 16).astype(np.float32)
    model = Autoencoder((8, 8, 1), 8, widths=(64, 32), rngs=nnx.Rngs(0))
    options = {"num_steps": 600, "batch_size": 64, "learning_rate": 3e-3, "validation": images[1500:]}
    _, history = fit(model, autoencoder_loss, images[:1500], key=KEY, **options)
    # What eight components of a PCA leave: a non-linear autoencoder of that size must get below it.
    centred = images[:1500].reshape(1500, -1) - images[:1500].reshape(1500, -1).mean(0)
    left = np.sum(np.linalg.svd(centred, compute_uv=False)[8:] ** 2) / 1500
    assert history["validation"].min() < left


@pytest.mark.parametrize("count", [7, 8, 50])
def test_an_epoch_is_a_permutation(count):
    # Each example has a weight of its own, and the loss has that gradient: plain descent counts the visits.
    data = np.eye(count, dtype=np.float32)
    loss = lambda model, batch, *, key: -jnp.sum(batch @ model)
    per_epoch = count // 4
    visits, _ = fit(
        jnp.zeros(count), loss, data, key=KEY, optimiser=optax.sgd(1.0), num_steps=3 * per_epoch, batch_size=4
    )
    assert float(jnp.sum(visits)) == 3 * per_epoch * 4
    assert float(jnp.max(visits)) <= 3
    if count % 4 == 0:
        assert bool(jnp.all(visits == 3))


def test_one_trace():
    traces = []

    def loss(model, batch, *, key):
        traces.append(None)
        return autoencoder_loss(model, batch, key=key)

    _fit(loss=loss, num_steps=25)
    assert len(traces) == 1
    # Other weights, data, keys, rates and numbers of steps, and a shorter last chunk.
    _fit(_network(seed=1), loss, DATA + 1, num_steps=34, key=jax.random.key(1), learning_rate=2e-3, ema=None)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.9, "validation": DATA[:11]}, {"optimiser": optax.sgd(0.1, momentum=0.9)}]
)
@pytest.mark.parametrize("chunks", [1, 2])
def test_resume_is_bit_identical(tmp_path, options, chunks):
    path = tmp_path / "run"
    whole, history = _fit(_network(VAE), vae_loss(), num_steps=27, **options)
    meter = Meter([], chunks)
    with pytest.raises(KeyboardInterrupt):
        _fit(_network(VAE), vae_loss(), num_steps=27, checkpoint=path, progress=meter, **options)
    assert meter.ticks[-1] == "closed"
    resumed, continued = _fit(_network(VAE), vae_loss(), num_steps=27, checkpoint=path, **options)
    assert continued["resumed_from"] in (10, 20)
    assert same(resumed, whole)
    for name in ("loss", "validation", "validation_steps"):
        assert np.array_equal(continued[name], history[name])
    assert os.listdir(tmp_path) == ["run"]
    # A finished run is read, not repeated.
    again, reread = _fit(_network(VAE), vae_loss(), num_steps=27, checkpoint=path, **options)
    assert reread["resumed_from"] == 27
    assert same(again, whole)


def test_a_longer_run_continues(tmp_path):
    path = tmp_path / "run"
    _fit(num_steps=13, checkpoint=path)
    longer, history = _fit(num_steps=30, checkpoint=path)
    assert history["resumed_from"] == 13
    assert same(longer, _fit(num_steps=30)[0])
    with pytest.raises(ValueError, match="30 steps, more than `num_steps=29`"):
        _fit(num_steps=29, checkpoint=path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": _network(VAE), "loss": vae_loss()}, "its model is Autoencoder, not VAE"),
        ({"model": _network(seed=1)}, "initial weights"),
        ({"model": Autoencoder(SHAPE, 3, widths=(6,), rngs=nnx.Rngs(0))}, "initial weights"),
        (
            {"loss": lambda model, batch, *, key: 2 * autoencoder_loss(model, batch, key=key)},
            "its loss is autoencoder_loss, not .*lambda",
        ),
        ({"data": DATA[:40]}, "its data"),
        ({"data": DATA[::-1]}, "its data"),
        ({"validation": DATA}, "validation"),
        ({"key": jax.random.key(0)}, "key"),
        ({"learning_rate": 2e-3}, "learning rate is 0.001"),
        ({"optimiser": optax.sgd(1e-3)}, "learning rate"),
        ({"batch_size": 9}, "batch_size is 8, not 9"),
        ({"ema": 0.9}, "ema is None, not 0.9"),
    ],
)
def test_checkpoint_of_another_run(tmp_path, options, match):
    path = tmp_path / "run"
    _fit(num_steps=1, checkpoint=path)
    with pytest.raises(ValueError, match=match):
        _fit(**{"num_steps": 1, "checkpoint": path, **options})


def test_checkpoint_of_another_optimiser(tmp_path):
    path = tmp_path / "run"
    _fit(num_steps=1, checkpoint=path, optimiser=optax.sgd(1e-3, momentum=0.9))
    for other in (optax.adamw(1e-3), optax.sgd(1e-3, momentum=0.8)):
        with pytest.raises(ValueError, match=r"its program \(of one step: .*optimiser"):
            _fit(num_steps=1, checkpoint=path, optimiser=other)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="run is not a whole"):
        _fit(num_steps=1, checkpoint=path, optimiser=optax.adamw(1e-3))


def test_unwritable_checkpoint_is_refused_before_the_work(tmp_path):
    def loss(model, batch, *, key):
        raise AssertionError("the work has begun")

    with pytest.raises(ValueError, match="Make the folder"):
        _fit(loss=loss, checkpoint=tmp_path / "gone" / "run")


def test_validation_keeps_the_best():
    # Descent on the training data moves away from the validation data after passing it.
    loss = lambda model, batch, *, key: jnp.mean((model - batch) ** 2)
    options = {"key": KEY, "optimiser": optax.sgd(0.05), "num_steps": 40, "batch_size": 2, "chunk_size": 4}
    data, validation = np.full((4,), 2.0, np.float32), np.array([0.9, 1.0, 1.1], np.float32)
    best, history = fit(jnp.zeros(()), loss, data, validation=validation, **options)
    assert list(history["validation_steps"]) == list(range(4, 44, 4))
    first = int(np.argmin(history["validation"]))
    assert 0 < first < 9
    # Three validation examples in batches of two: the odd one counts once.
    np.testing.assert_allclose(history["validation"][first], np.mean((best - validation) ** 2), rtol=1e-5)
    np.testing.assert_allclose(best, 2 * (1 - 0.9 ** history["validation_steps"][first]), rtol=1e-5)


@pytest.mark.parametrize("bad_step", [0, 1, 13, 19])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nonfinite_loss_stops_with_the_last_good_weights(bad_step, where):
    # The weight counts the steps; at `bad_step` the loss, or only its gradient, is not finite.
    def loss(model, batch, *, key):
        here = jax.lax.stop_gradient(model) >= bad_step - 0.5
        if where == "loss":
            return -model + jnp.where(here, jnp.inf, 0.0)
        # The square root of zero is finite, its derivative is not.
        return -model + jax.lax.cond(here, lambda m: jnp.sqrt(0.0 * m), lambda m: 0.0 * m, model)

    options = {"key": KEY, "optimiser": optax.sgd(1.0), "num_steps": 30, "batch_size": 2, "chunk_size": 10}
    model, history = fit(jnp.zeros(()), loss, DATA, **options)
    assert history["result"] == RESULTS.nonfinite
    assert float(model) == bad_step
    assert len(history["loss"]) == bad_step
    assert np.isfinite(history["loss"]).all()


def test_progress():
    meter = Meter([])
    _fit(num_steps=25, progress=meter)
    np.testing.assert_allclose(meter.ticks[:-1], [0.4, 0.8, 1.0])
    assert meter.ticks[-1] == "closed"


def test_tqdm(capfd):
    pytest.importorskip("tqdm")
    _fit(num_steps=20, progress=diffrax.TqdmProgressMeter(refresh_steps=1))
    jax.effects_barrier()
    assert "100.00%" in capfd.readouterr().err


def test_float64_stays():
    with jax.enable_x64(True):
        data = {name: values.astype(np.float64) for name, values in _line_data().items()}
        model = _line(slope=jnp.zeros((), jnp.float64), offset=jnp.zeros((), jnp.float32))
        model, history = fit(model, line_loss, data, key=KEY, num_steps=5, batch_size=4, ema=0.5)
        assert (model.slope.dtype, model.offset.dtype) == (jnp.float64, jnp.float32)
        assert history["loss"].dtype == np.float64


@pytest.mark.slow
def test_an_ensemble_is_a_loop():
    """A stacked model with a loss that sums over `vmap`: what the docstring says trains several models at once."""
    stacked = jax.vmap(lambda key: _network.__wrapped__(seed=key))(jax.random.split(KEY, 2))
    summed = lambda model, batch, *, key: jnp.sum(jax.vmap(lambda m: autoencoder_loss(m, batch, key=key))(model))
    together, _ = _fit(stacked, summed)
    for i in range(2):
        one = lambda leaf, i=i: leaf[i]
        alone, _ = _fit(jax.tree.map(one, stacked))
        for got, expected in zip(jax.tree.leaves(jax.tree.map(one, together)), jax.tree.leaves(alone), strict=True):
            # float32 over 30 Adam steps, see the plain loop above.
            np.testing.assert_allclose(got, expected, atol=1e-4)


def _with_bad(index):
    data = DATA.copy()
    data[index, 1, 2] = np.nan
    return data


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 51}, "more than the 50 examples"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"num_steps": 0}, "`num_steps`"),
        ({"num_steps": 2.0}, "`num_steps`"),
        ({"chunk_size": 0}, "`chunk_size`"),
        ({"data": DATA[:0]}, "empty"),
        ({"data": (DATA * 255).astype(np.uint8)}, "got uint8. Convert it"),
        ({"data": _with_bad(17)}, "example 17 holds NaN"),
        ({"validation": _with_bad(3)}, "`validation` must be finite; example 3"),
        ({"data": {"x": DATA, "y": DATA[:4]}}, "the same number"),
        ({"data": np.float32(3.0)}, "`data` must be an array"),
        ({"data": []}, "`data` must be an array"),
        ({"ema": 1.0}, "`ema`"),
        ({"ema": -0.1}, "`ema`"),
        ({"learning_rate": 0.0}, "`learning_rate`"),
        ({"learning_rate": np.nan}, "`learning_rate`"),
        ({"optimiser": "adam"}, "`optimiser`"),
        ({"progress": "tqdm"}, "`progress`"),
        ({"key": jax.random.PRNGKey(0)}, "typed key"),
        ({"model": {"count": jnp.arange(3)}}, "no weights to train"),
        ({"model": jnp.tanh}, "Is it a pytree"),
        ({"loss": lambda model, batch, *, key: batch}, "must return a real scalar"),
        ({"loss": lambda model, batch, *, key: jnp.sum(batch) + 1j}, "must return a real scalar"),
    ],
)
def test_wrong_input(options, match):
    with pytest.raises(ValueError, match=match):
        _fit(**options)


def test_inside_a_transformation():
    with pytest.raises(ValueError, match="runs on the host"):
        jax.vmap(lambda key: _fit(key=key)[0])(jax.random.split(KEY, 2))


def test_same_call_same_weights_and_other_key_other_weights():
    runs = [_fit(key=key)[0] for key in (KEY, KEY, jax.random.key(8))]
    assert [same(a, b) for a, b in itertools.combinations(runs, 2)] == [True, False, False]


def test_schedule():
    rates = optax.piecewise_constant_schedule(0.1, {5: 0.0})
    short, _ = fit(_line(), line_loss, _line_data(), key=KEY, learning_rate=rates, num_steps=5, batch_size=4)
    longer, _ = fit(_line(), line_loss, _line_data(), key=KEY, learning_rate=rates, num_steps=9, batch_size=4)
    assert short.slope != 0
    assert same(short, longer)


def test_variables_that_are_no_parameters_are_not_trained():
    class Scaled(nnx.Module):
        def __init__(self):
            self.weight, self.constant = nnx.Param(jnp.ones(3)), nnx.Variable({"a": jnp.ones(3), "b": jnp.full(2, 5.0)})

        def __call__(self, x):
            return self.weight[...] * self.constant.get_value()["a"] * x

    loss = lambda model, batch, *, key: jnp.mean((model(jnp.ones(3)) - 2.0) ** 2) + 0 * jnp.sum(batch)
    # Decay would move whatever is among the weights, with a gradient or without.
    optimiser = optax.adamw(0.1, weight_decay=0.1)
    model, _ = fit(Scaled(), loss, np.ones((4, 1)), key=KEY, optimiser=optimiser, num_steps=30, batch_size=2, ema=0.9)
    assert float(jnp.abs(model.weight[...] - 1).min()) > 0.2
    np.testing.assert_array_equal(model.constant.get_value()["a"], 1.0)
    np.testing.assert_array_equal(model.constant.get_value()["b"], 5.0)


def test_a_bound_linen_model_is_trained():
    network = nn.Dense(1, use_bias=False)
    bound = network.bind(network.init(KEY, jnp.ones((1, 2))))
    loss = lambda model, batch, *, key: jnp.mean((model(batch) - 3.0) ** 2)
    trained, history = fit(bound, loss, np.ones((4, 2)), key=KEY, learning_rate=0.1, num_steps=100, batch_size=4)
    assert isinstance(trained, nn.Dense)
    assert history["loss"][-1] < 1e-2 < history["loss"][0]
    np.testing.assert_allclose(trained(jnp.ones((1, 2))), 3.0, atol=0.2)
    with pytest.raises(ValueError, match=r"bind them"):
        fit(network, loss, np.ones((4, 2)), key=KEY, num_steps=1, batch_size=4)


def test_muon_takes_a_kernel_for_a_matrix():
    rng = np.random.default_rng(0)
    # 18 x 4 and 3 x 8: the steps are multiples of matrices with orthonormal columns, or rows.
    weights = {"kernel": jnp.ones((3, 3, 2, 4)), "dense": jnp.ones((3, 8)), "bias": jnp.ones(5)}
    gradient = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), weights)
    optimiser = muon(0.1, adam_learning_rate=0.02)
    updates, _ = optimiser.update(gradient, optimiser.init(weights), weights)
    for name, (rows, columns) in {"kernel": (18, 4), "dense": (3, 8)}.items():
        u, s, vt = np.linalg.svd(np.asarray(gradient[name]).reshape(rows, columns), full_matrices=False)
        step = -np.asarray(updates[name]).reshape(rows, columns) / (0.1 * 0.2 * np.sqrt(max(rows, columns)))
        # Five Newton-Schulz steps leave singular values between .6 and 1.3.
        along = np.diag(u.T @ step @ vt.T)
        assert np.all((along > 0.6) & (along < 1.3)), name
        np.testing.assert_allclose(u * along @ vt, step, atol=1e-2)
    adam = optax.nadam(0.02)
    expected, _ = adam.update(gradient, adam.init(weights))
    np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-6)
