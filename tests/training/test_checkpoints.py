"""What a checkpoint knows: the same run in another process goes on, and another run is refused."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dip_problems import SHAPE, Wave
from flax import nnx
from runs import Meter, same

import jaxinv
from jaxinv import (
    Likelihood,
    diffusion,
    dip,
    generative,
    lsvd,
    models,
    noise,
    operators,
    regularisers,
    training,
    unrolled,
)
from jaxinv._program import program
from jaxinv.training import _checkpoint

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(8, 2, 2, 1)).astype(np.float32)


class Network(nnx.Module):
    def __init__(self, activation=jnp.tanh):
        self.weight, self.activation = nnx.Param(jnp.ones((2, 2, 1))), activation

    def __call__(self, x, t):
        return self.activation(self.weight[...][None] * x) + t[:, None, None, None]


def _score_loss(process=None, weighting=None, parametrisation=None):
    return diffusion.score_matching_loss(
        process or diffusion.VP(),
        weighting or diffusion.NoiseWeighting(),
        parametrisation=parametrisation or diffusion.Noise(),
    )


def _power(number, name="loss"):
    def loss(model, batch, *, key):
        return jnp.mean((model(batch, jnp.zeros(len(batch))) - number) ** 2)

    loss.__qualname__ = loss.__name__ = name
    return loss


def _schedule(rate):
    return optax.cosine_decay_schedule(rate, 100)


def _fit(path, model=None, loss=None, **options):
    options = {"key": KEY, "num_steps": 1, "batch_size": 4, "checkpoint": path, **options}
    return training.fit(model or Network(), loss or _score_loss(), X, **options)


# Of each kind: the run that wrote the file, and others, which differ in one thing.
REFUSED = {
    "process": ({}, {"loss": _score_loss(diffusion.SubVP())}),
    "a number of the process": ({}, {"loss": _score_loss(diffusion.VP(beta_max=10.0))}),
    "parametrisation": ({}, {"loss": _score_loss(parametrisation=diffusion.Velocity())}),
    "weighting": ({}, {"loss": _score_loss(weighting=diffusion.VelocityWeighting())}),
    "activation": ({}, {"model": Network(nnx.relu)}),
    "activation with a rule of its own": ({"model": Network(nnx.relu)}, {"model": Network(nnx.silu)}),
    "a number closed over": ({"loss": _power(1.0)}, {"loss": _power(2.0)}),
    "an array closed over": ({"loss": _power(jnp.arange(2.0).reshape(1, 2, 1, 1))}, {"loss": _power(X[:1, :, :1])}),
    "a number of the optimiser": ({"optimiser": optax.adam(1e-3)}, {"optimiser": optax.adam(1e-3, b1=0.8)}),
    "schedule": ({"learning_rate": _schedule(1e-2)}, {"learning_rate": _schedule(2e-2)}),
    "schedule for a number": ({"learning_rate": 1e-2}, {"learning_rate": _schedule(1e-2)}),
}
ACCEPTED = {
    "schedule": [{"learning_rate": _schedule(1e-2)}, {"learning_rate": _schedule(1e-2)}],
    "another name": [{"loss": _power(1.0)}, {"loss": _power(1.0, "other")}],
    "longer, and in other chunks": [
        {"num_steps": 1, "validation": X[:4]},
        {"num_steps": 3, "validation": X[:4], "chunk_size": 2, "progress": Meter([])},
    ],
    "optimiser made anew": [{"optimiser": optax.adam(_schedule(0.1))}, {"optimiser": optax.adam(_schedule(0.1))}],
    "jit": [{"loss": jax.jit(_power(1.0))}, {"loss": jax.jit(_power(1.0))}],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of a run, for all tests that begin with that run."""
    files = {}

    def write(options):
        key = repr(sorted((name, id(value)) for name, value in options.items()))
        if key not in files:
            files[key] = tmp_path_factory.mktemp("runs") / "run"
            _fit(files[key], **options)
        return files[key]

    return write


@pytest.mark.parametrize("name", REFUSED)
def test_another_run_is_refused(written, name):
    first, other = REFUSED[name]
    path = written(first)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is of another run: its (program|loss|learning rate)"):
        _fit(path, **other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_same_run_goes_on(tmp_path, name):
    first, again = ACCEPTED[name]
    _fit(tmp_path / "run", **first)
    assert _fit(tmp_path / "run", **again)[1]["resumed_from"] == 1


def test_another_version_of_jax_is_named(written, monkeypatch):
    path = written({})
    monkeypatch.setattr(_checkpoint, "versions", lambda: {"jax": "99.0"})
    with pytest.warns(UserWarning, match=r"written with .*now 99.0.*cannot be verified"):
        _fit(path, Network(nnx.relu))
    with pytest.raises(ValueError, match="its key is"):
        _fit(path, key=jax.random.key(1))


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run"
    _fit(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match="run is damaged"):
        _fit(path)


class Shift(nnx.Module):
    """A generator, a critic, and an operator's prior for a training of two steps."""

    latent_size = 4

    def __init__(self):
        self.weight = nnx.Param(jnp.ones((2, 2, 1)))

    def __call__(self, x):
        return x.reshape(-1, 2, 2, 1) * self.weight[...][None]


class Judge(Shift):
    def __call__(self, x):
        return jnp.sum(super().__call__(x), axis=(1, 2, 3))


def _fit_adversarial(path, **options):
    loss = generative.nonsaturating_loss(penalty=1.0)
    return training.fit_adversarial(Shift(), Judge(), loss, X, checkpoint=path, **options)


def _train_lsvd(path, method=None, **options):
    model = lsvd.LSVD((2, 2, 1), (3,), 2, rngs=nnx.Rngs(0))
    return lsvd.train(model, X, X.reshape(8, 4)[:, :3], method=method or lsvd.Joint(), checkpoint=path, **options)


def _train_lista(path, **options):
    model = models.LISTA(operators.Matrix(np.eye(4, dtype=np.float32)[:3], (4,)), num_layers=2)
    return unrolled.train_lista(model, X.reshape(8, 4), X.reshape(8, 4)[:, :3], checkpoint=path, **options)


def _pretrain(path, **options):
    images = lambda n, *, key: jax.random.uniform(key, (n, 2, 2, 1))
    likelihood = Likelihood(operators.Mask(jnp.ones((2, 2, 1))), noise.Gaussian(0.1))
    return dip.pretrain(likelihood, Shift(), images=images, checkpoint=path, **options)


# Every training that writes a checkpoint.
TRAININGS = {
    "fit": lambda path, key, **options: _fit(path, **options),
    "fit_adversarial": _fit_adversarial,
    "lsvd.train, jointly": _train_lsvd,
    "lsvd.train, separately": lambda path, **options: _train_lsvd(path, lsvd.Separate(map_steps=2), **options),
    "train_lista": _train_lista,
    "pretrain": _pretrain,
}


@pytest.mark.parametrize(
    "train",
    [pytest.param(f, id=name, marks=[] if name == "fit" else pytest.mark.slow) for name, f in TRAININGS.items()],
)
def test_a_full_disk_loses_no_weights(train, tmp_path, monkeypatch):
    options = {"key": KEY, "num_steps": 4, "batch_size": 4, "chunk_size": 2}
    whole, _ = train(None, **options)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left .*goes on"):
        found, _ = train(tmp_path / "run", **options)
    assert same(found, whole)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_goes_loses_no_weights(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()

    class Removing(Meter):
        def step(self, state, progress):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            return state

    with pytest.warns(UserWarning, match="Make the folder"):
        _, history = _fit(folder / "run", num_steps=2, chunk_size=1, progress=_once(Removing([])))
    assert len(history["loss"]) == 2


def _once(meter):
    done = []
    step = meter.step

    class Once(Meter):
        def step(self, state, progress):
            if not done:
                done.append(step(state, progress))
            return state

    return Once([])


def test_callbacks_and_names_in_a_fingerprint():
    x = jnp.ones(3)

    def callback(number):
        return lambda x: jax.pure_callback(lambda v: number * v, x, x)

    def named(name, number):
        def function(x):
            return jnp.sin(number * x)

        function.__name__ = name
        return jax.jit(function)

    assert program(callback(2.0), x) == program(callback(2.0), x) != program(callback(3.0), x)
    assert program(named("a", 2.0), x) == program(named("b", 2.0), x) != program(named("a", 3.0), x)
    # Nor does what a callback collects.
    seen = []

    def collecting(x):
        jax.debug.callback(seen.append, x)
        return jax.pure_callback(lambda v: (seen.append(0), v)[1], x, x)

    before = program(collecting, x)
    seen.append(1)
    assert program(collecting, x) == before
    # The values of the arguments do not matter, all else does.
    assert program(jnp.add, x, x) == program(jnp.add, x, 2 * x)
    assert len({program(jnp.add, x, x), program(jnp.multiply, x, x), program(jnp.add, x, x[:1])}) == 3


def _resume(path, number=2.0, **options):
    operator = operators.FunctionOperator(jax.jit(lambda x: number * x), jax.ShapeDtypeStruct(SHAPE, jnp.float32))
    likelihood = Likelihood(operator, noise.Gaussian(1.0))
    options = {"key": KEY, "num_steps": 4, "chunk_size": 2, "checkpoint": path, **options}
    network = options.pop("network", Wave(jnp.ones(SHAPE)))
    return dip.resume(likelihood, network, jnp.full(SHAPE, 0.5), **options)


class Cosine(Wave):
    def __call__(self, z0):
        return self.theta[None] * jnp.cos(z0)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    path = tmp_path_factory.mktemp("dip") / "run"
    return path, _resume(path)


@pytest.mark.parametrize(
    "options", [{}, {"chunk_size": 3}, {"learning_rate": np.float64(0.01), "jitter": jnp.zeros(())}], ids=repr
)
def test_a_jitted_operator_goes_on(resumed, options):
    path, solution = resumed
    report = []
    again = _resume(path, report=report.append, **options)
    assert not report
    np.testing.assert_array_equal(again.value, solution.value)


@pytest.mark.parametrize(
    "options",
    [
        {"number": 3.0},
        {"network": Cosine(jnp.ones(SHAPE))},
        {"start": dip.FromAdjoint()},
        {"optimiser": optax.adam(1e-2)},
        {"regulariser": regularisers.TV(), "weight": 0.0},
        {"jitter": 0.1},
        {"learning_rate": 0.02},
        {"stopping": dip.WindowedVariance(2, 3)},
        {"num_steps": 5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_another_fit_is_refused(resumed, options):
    with pytest.raises(ValueError, match="is of another run"):
        _resume(resumed[0], **options)


SCRIPT = """
import sys
sys.path[:0] = [{helpers!r}, {tests!r}]
import jax, jax.numpy as jnp, optax
import test_checkpoints as t
steps = int(sys.argv[1])
_, history = t._fit({path!r} + "fit", t.Network(jax.nn.gelu), learning_rate=t._schedule(0.1), num_steps=steps)
meter = t.Meter([], 1 if steps == 1 else 9)
try:
    t._resume({path!r} + "dip", progress=meter, method=t.dip.SelfGuided())
except KeyboardInterrupt:
    pass
print(history["resumed_from"], meter.ticks)
"""


@pytest.mark.slow
def test_runs_go_on_in_another_process(tmp_path):
    folder = os.path.dirname(__file__)
    helpers = os.path.join(os.path.dirname(folder), "helpers")
    script = SCRIPT.format(helpers=helpers, tests=folder, path=str(tmp_path) + os.sep)
    found = []
    for steps in (1, 3):
        environment = os.environ | {"PYTHONHASHSEED": str(steps), "PYTHONPATH": os.path.dirname(jaxinv.__path__[0])}
        command = [sys.executable, "-c", script, str(steps)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(done.stdout.strip().splitlines()[-1])
    assert found == ["0 [0.5, 'closed']", "1 [1.0, 'closed']"]
