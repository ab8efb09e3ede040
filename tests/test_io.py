import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxinv import io
from jaxinv.models import VAE, Autoencoder


def _mixed():
    return {
        "weights": {"half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "eight": jnp.ones(3, jnp.float8_e4m3fn)},
        "state": [np.linspace(0, 1, 5), np.array([1 + 2j, 3 - 1j]), jnp.array([[True], [False]]), jnp.zeros((0, 4))],
        "complex64": jnp.array([1 + 2j], jnp.complex64),
        "keys": jax.random.split(jax.random.key(3), 2),
        "numbers": (3, 2.5, True, 1 - 2j),
        "function": jnp.tanh,
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }


def _bits(leaf):
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf if callable(leaf) else np.asarray(leaf).tobytes()


def test_round_trip_keeps_bits_dtypes_and_types(tmp_path):
    path = tmp_path / "tree.safetensors"
    tree = _mixed()
    io.save(path, tree, metadata={"made by": "test"})
    like = [leaf * 0 if leaf.dtype != bool else jnp.zeros_like(leaf) for leaf in tree["state"]]
    loaded = io.load(path, {**tree, "state": like})
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for got, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree), strict=True):
        assert type(got) is type(expected)
        assert getattr(got, "dtype", None) == getattr(expected, "dtype", None)
        assert np.shape(got) == np.shape(expected)
        assert _bits(got) == _bits(expected)
    assert io.read_metadata(path) == {"made by": "test"}
    assert os.listdir(tmp_path) == ["tree.safetensors"]


def test_float64_of_jax(tmp_path):
    with jax.enable_x64(True):
        tree = {"a": jnp.array([1 / 3]), "z": jnp.array(1j / 3)}
        io.save(tmp_path / "w", tree)
        loaded = io.load(tmp_path / "w", jax.tree.map(jnp.zeros_like, tree))
        assert loaded["a"].dtype == jnp.float64
        assert loaded["z"].dtype == jnp.complex128
        assert loaded["a"] == tree["a"]
        assert loaded["z"] == tree["z"]
    with pytest.raises(ValueError, match="a is float64 of shape .1,., expected float32 of shape .1,."):
        io.load(tmp_path / "w", {"a": jnp.zeros(1), "z": jnp.zeros((), complex)})


def test_network_round_trip(tmp_path):
    model = VAE((5, 4, 1), 2, widths=(6,), rngs=nnx.Rngs(0))
    io.save(tmp_path / "w", model)
    loaded = io.load(tmp_path / "w", VAE((5, 4, 1), 2, widths=(6,), rngs=nnx.Rngs(1)))
    assert isinstance(loaded, VAE)
    z = jnp.ones((3, 2))
    assert jnp.array_equal(loaded.decode(z), model.decode(z))
    with pytest.raises(
        ValueError, match=r"encoder\.layers\.1\.bias\.value is float32 of shape \(4,\), expected .*\(2,\)"
    ):
        io.load(tmp_path / "w", Autoencoder((5, 4, 1), 2, widths=(6,), rngs=nnx.Rngs(1)))


@pytest.mark.parametrize(
    ("like", "match"),
    [
        ({"a": jnp.zeros(2), "b": jnp.zeros(1)}, "b is missing"),
        ({}, "a is not expected"),
        ({"a": jnp.zeros(3)}, "expected float32 of shape"),
        ({"a": jnp.zeros(2, int)}, "a is float32 of shape .2,., expected int32"),
        ({f"x{i}": jnp.zeros(2) for i in range(9)}, "and 5 more"),
    ],
)
def test_another_tree(tmp_path, like, match):
    io.save(tmp_path / "w", {"a": jnp.zeros(2)})
    with pytest.raises(ValueError, match=match):
        io.load(tmp_path / "w", like)


def test_another_kind_of_key(tmp_path):
    io.save(tmp_path / "w", {"a": jax.random.key(0, impl="rbg")})
    with pytest.raises(ValueError, match="a is key<rbg>"):
        io.load(tmp_path / "w", {"a": jax.random.key(0)})


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:5], lambda b: b"\x00" * len(b), lambda b: b""])
def test_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "damaged.safetensors"
    io.save(path, {"a": jnp.zeros(20)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged.safetensors"):
        io.load(path, {"a": jnp.zeros(20)})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        io.load(tmp_path / "nowhere", {})


def test_unwritable(tmp_path):
    # Permissions do not stop root, so: a folder that is a file, one that is not there, and a path that is a folder.
    (tmp_path / "file").write_text("")
    for path, match in [("file/w", "Cannot write"), ("gone/w", "Make the folder"), ("", "it is a folder")]:
        with pytest.raises(ValueError, match=match):
            io.check_writable(tmp_path / path)
    with pytest.raises(ValueError, match="Cannot write"):
        io.save(tmp_path / "gone" / "w", {})
    io.check_writable(tmp_path / "w")
    assert os.listdir(tmp_path) == ["file"]


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w"
    io.save(path, {"a": jnp.ones(2)})

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*w: No space"):
        io.save(path, {"a": jnp.zeros(2)})
    assert os.listdir(tmp_path) == ["w"]
    assert jnp.array_equal(io.load(path, {"a": jnp.zeros(2)})["a"], jnp.ones(2))


@pytest.mark.parametrize(
    ("tree", "metadata", "match"),
    [
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, None, "same path"),
        ({"a": np.ones(1, ml_dtypes.int4)}, None, "cannot hold"),
        ({}, {"a": 1}, "map strings to strings"),
    ],
)
def test_what_cannot_be_saved(tmp_path, tree, metadata, match):
    with pytest.raises(ValueError, match=match):
        io.save(tmp_path / "w", tree, metadata=metadata)
    assert not os.listdir(tmp_path)
