"""Training with the batch spread over devices is the same run, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_batches
from flax import nnx
from jax.sharding import AxisType
from processes import say, together
from runs import Meter, same

from jaxinv.generative import vae_loss
from jaxinv.models import VAE
from jaxinv.training import fit

SHAPE = (5, 4, 1)
DATA = np.random.default_rng(0).uniform(size=(50, *SHAPE))
# Random inside: it draws from the key for the whole batch.
LOSS = vae_loss()

two = pytest.mark.skipif(jax.device_count() < 2, reason="there is one device; XLA_FLAGS can simulate two")


def _mesh(names=("devices",), types=AxisType.Auto):
    shape = (2,) + (1,) * (len(names) - 1)
    return jax.make_mesh(shape, names, axis_types=(types,) * len(names), devices=jax.devices()[:2])


def _fit(loss=LOSS, **options):
    model = VAE(SHAPE, 2, widths=(6,), rngs=nnx.Rngs(0))
    model = jax.tree.map(lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, model)
    options = {"key": jax.random.key(7), "num_steps": 25, "batch_size": 8, "chunk_size": 10, **options}
    return fit(model, loss, DATA, **options)


def _assert_close(got, expected, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.slow
@two
def test_equals_one_device(tmp_path):
    options = {"ema": 0.9, "validation": DATA[:11]}
    traces, pieces = [], []

    def loss(model, batch, *, key):
        traces.append(None)
        note = lambda sharding, shape=batch.shape: pieces.append(sharding.shard_shape(shape)[0])
        jax.debug.inspect_array_sharding(batch, callback=note)
        return LOSS(model, batch, key=key)

    with jax.enable_x64(True):
        alone, history = _fit(**options)
        path = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            _fit(loss, mesh=_mesh(), checkpoint=path, progress=Meter([], 1), **options)
        # One for the fingerprint, one in a step; in the validation, one in a whole batch and one in the last.
        assert len(traces) == 4
        resumed, continued = _fit(loss, mesh=_mesh(), checkpoint=path, **options)
        whole, spread = _fit(loss, mesh=_mesh(), **options)
        # And one for the fingerprint of the run that goes on.
        assert len(traces) == 5
        # Half of a batch on each device; the validation's last three examples on both.
        assert sorted(pieces) == [3, 4, 4]
        assert continued["resumed_from"] == 10
        # Other orders of summation, and Adam over 25 steps.
        _assert_close(whole, alone, 1e-10)
        for name in ("loss", "validation"):
            np.testing.assert_allclose(spread[name], history[name], rtol=1e-10)
            np.testing.assert_array_equal(continued[name], spread[name])
        _assert_close(resumed, whole, 0)
        # What is returned is not bound to the mesh.
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(whole))


@two
@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_mesh(tmp_path):
    path = tmp_path / "run"
    with jax.enable_x64(True):
        alone, _ = _fit()
        with pytest.raises(KeyboardInterrupt):
            _fit(mesh=_mesh(("data", "more"), AxisType.Explicit), checkpoint=path, progress=Meter([], 1))
        resumed, history = _fit(checkpoint=path)
        assert history["resumed_from"] == 10
        _assert_close(resumed, alone, 1e-10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mesh": 2}, "`mesh` must be a `jax.sharding.Mesh`.*got int"),
        pytest.param({"mesh": "two", "batch_size": 7}, "2 devices of `mesh` do not divide.*such as 8", marks=two),
    ],
)
def test_wrong_input(options, match):
    if options["mesh"] == "two":
        options = {**options, "mesh": _mesh()}
    with pytest.raises(ValueError, match=match):
        _fit(**options)


def across(folder):
    """Runs over the devices of all processes go on to the bit, from an array and from an iterator with a state."""
    mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    said = []
    low = {"compute_dtype": jnp.bfloat16, "accumulate": 2, "report": lambda step, metrics: said.append(step)}
    for make, options, tolerance in [(lambda: test_batches.DATA, {"ema": 0.9}, 1e-4), (test_batches.Loader, low, 0.02)]:
        whole, history = test_batches.train(make(), mesh=mesh, **options)
        kept = {"mesh": mesh, "checkpoint": f"{folder}/{tolerance}", **options}
        test_batches.train(make(), num_steps=7, **kept)
        data = make()
        model, continued = test_batches.train(data, **kept)
        assert continued["resumed_from"] == 7
        assert same((model, continued["loss"]), (whole, history["loss"]))
        # The processes draw from the key for the whole batch, as one process does.
        alone, expected = test_batches.train(make(), **options)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=tolerance)
        np.testing.assert_allclose(model.weight, alone.weight, rtol=tolerance, atol=tolerance / 10)
    assert data.position == 12
    assert model.weight.dtype == jnp.float32
    assert said == [5, 10, 12, 5, 7, 10, 12, 5, 10, 12]
    say("right")


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    assert together(__file__, f"across({str(tmp_path)!r})", 2) == [("right", 0)] * 2
