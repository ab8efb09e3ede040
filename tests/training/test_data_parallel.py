"""Training with the batch spread over devices is the same run, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_batches
from flax import nnx
from jax.sharding import AxisType
from processes import say, together
from runs import Meter

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
    """A run over the devices of all processes, from an array and from an iterator, which goes on from a checkpoint."""
    mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    for data in (test_batches.DATA, test_batches.batches):
        make = data if callable(data) else lambda data=data: data
        name = getattr(data, "__name__", "array")
        options = {"mesh": mesh, "checkpoint": f"{folder}/{name}", "ema": 0.9}
        test_batches.train(make(), num_steps=7, **options)
        model, history = test_batches.train(make(), **options)
        assert history["resumed_from"] == 7
        alone, expected = test_batches.train(make(), ema=0.9)
        np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
        np.testing.assert_allclose(model.weight, alone.weight, rtol=1e-4, atol=1e-6)
    say("right")


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    assert together(__file__, f"across({str(tmp_path)!r})", 2) == [("right", 0)] * 2
