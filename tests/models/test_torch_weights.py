"""The networks of PyTorch's world: the outputs that they have there, and what is refused.

`torch_references.npz` has outputs and gradients of deepinv's and diffusers' networks, made by
`benchmarks/torch_networks.py --references` with weights that are drawn from their names, as here.
"""

import functools
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxinv import diffusion, models

REFERENCES = Path(__file__).with_name("torch_references.npz")
DDPM = {
    "block_out_channels": (8, 8, 16),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
CASES = {
    "drunet-small": (models.DRUNet, {"widths": (4, 4, 8, 8), "num_blocks": 1}, {}, (12, 9, 1)),
    "adm-ffhq": (
        models.ADMUNet,
        {"widths": (32, 64), "attention_levels": (1,), "head_width": 32, "learned_variance": True},
        {"head_width": 32},
        (16, 16, 3),
    ),
    "diffusers-ddpm": (models.DiffusersUNet, DDPM, DDPM, (16, 24, 3)),
}


def draw(name, shape):
    size = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
    return (size * np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)).astype(np.float32)


def weights_of(make):
    """Weights in PyTorch's layout, drawn from their names."""
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(make))
    return {key: draw(key, array.shape) for key, array in models.to_torch(zeros).items()}


@functools.cache
def drawn(name):
    kind, options, _, shape = CASES[name]
    return weights_of(lambda: kind((None, None, shape[-1]), rngs=nnx.Rngs(0), **options))


@functools.cache
def small():
    return weights_of(lambda: models.DRUNet((None, None, 1), widths=(4, 6), num_blocks=2, rngs=nnx.Rngs(0)))


_call = jax.jit(lambda network, x, sigma: network(x, sigma))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_torch(name):
    kind, _, options, shape = CASES[name]
    weights = drawn(name)
    network = models.from_torch(weights, **options)
    assert type(network) is kind
    assert all(np.array_equal(weights[key], array) for key, array in models.to_torch(network).items())
    levels = np.asarray([0.1, 0.3], np.float32) if kind is models.DRUNet else np.asarray([18, 851]) / 1000
    x = np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32)

    def both(network, x, t):
        call = network.outputs if kind is models.ADMUNet else network
        y, vjp = jax.vjp(lambda x: call(x, t), x)
        return y, vjp(jnp.linspace(-1, 1, y.size, dtype=y.dtype).reshape(y.shape))[0]

    with jax.enable_x64(True), np.load(REFERENCES) as references:
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network)
        t = jnp.asarray(levels, jnp.float64)
        y, gradient = jax.jit(both)(wide, jnp.asarray(x, jnp.float64), t)
        for ours, key in ((y, "y_float64"), (gradient, "gradient_float64")):
            theirs = references[f"{name}/{key}"]
            np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(theirs).max())


def test_drunet_is_homogeneous_at_any_size():
    network = models.from_torch(small())
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 1)).astype(np.float32)
    sigma = np.asarray([0.1, 0.4], np.float32)
    once, twice = _call(network, x, sigma), _call(network, 2 * x, 2 * sigma)
    assert once.shape == x.shape
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-6)


def test_to_and_from_a_file(tmp_path):
    weights = small()
    path = tmp_path / "denoiser.safetensors"
    save_file(weights, path)
    network = models.from_torch(path)
    assert network.widths == (4, 6)
    assert network.num_blocks == 2
    for name, array in models.to_torch(network).items():
        np.testing.assert_array_equal(array, weights[name])


def spoilt(name, weights):
    weights = dict(weights)
    if name == "missing":
        del weights["m_tail.weight"]
    elif name == "left over":
        weights["m_tail.bias"] = np.zeros(1)
    elif name == "blocks without end":
        weights["m_down1.99999999.weight"] = np.zeros((6, 4, 2, 2))
    elif name == "a scalar":
        weights["m_head.weight"] = np.zeros(())
    elif name == "integers":
        weights["m_up1.0.weight"] = weights["m_up1.0.weight"].astype(int)
    elif name == "another shape":
        weights["m_up1.0.weight"] = np.zeros((5, 4, 2, 2))
    else:
        weights = {"encoder.weight": np.zeros((2, 2))}
    return weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "m_tail.weight"),
        ("left over", r"m_tail\.bias is not expected"),
        ("another shape", r"m_up1\.0\.weight has the shape \(5, 4, 2, 2\), expected \(6, 4, 2, 2\)"),
        ("blocks without end", "too few for a network with num_blocks=99999999"),
        ("a scalar", "their shapes or numbers do not fit"),
        ("integers", r"m_up1\.0\.weight holds int64, expected floating numbers"),
        ("another network", r"no network that is known here.*encoder\.weight"),
    ],
)
def test_weights_that_do_not_fit(name, message):
    with pytest.raises(ValueError, match=message):
        models.from_torch(spoilt(name, small()))


def test_files_that_are_refused(tmp_path):
    pickled = tmp_path / "network.pt"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"(?s)can execute code.*safetensors\.torch\.save_file"):
        models.from_torch(pickled)
    with pytest.raises(ValueError, match="There is no file"):
        models.from_torch(tmp_path / "no.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="no safetensors file, or a damaged one"):
        models.from_torch(damaged)
    with pytest.raises(ValueError, match="state_dict"):
        models.from_torch(3)


def folder(tmp_path, scheduler, **changes):
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    config = {"_class_name": "UNet2DModel", "in_channels": 3, "sample_size": 16, **DDPM, **changes}
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    save_file(drawn("diffusers-ddpm"), tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return tmp_path


@pytest.mark.slow
def test_a_folder_of_diffusers_is_a_score(tmp_path):
    scheduler = {"_class_name": "DDPMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}
    score = diffusion.from_diffusers(folder(tmp_path, scheduler))
    x = jax.random.normal(jax.random.key(0), (16, 24, 3))
    image, noise = score.predict(0.5, x)
    scale, std = score.process.marginal(0.5)
    np.testing.assert_allclose(scale * image + std * noise, x, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "changes", "message"),
    [
        ({"beta_schedule": "linear"}, {"down_block_types": ["SkipDownBlock2D"] * 3}, "no block 'SkipDownBlock2D'"),
        ({"num_train_timesteps": 10**12}, {}, "`num_train_timesteps` must be an integer from 2"),
        ({"num_train_timesteps": "a"}, {}, "`num_train_timesteps` must be an integer from 2"),
        ({"beta_start": None}, {}, "describes no schedule"),
        ({"prediction_type": ["epsilon"]}, {}, "is not known"),
        ([1, 2], {}, "must hold a JSON object"),
        ({"beta_schedule": "wave"}, {}, "`beta_schedule` 'wave' is not known"),
        ({"prediction_type": "flow"}, {}, "`prediction_type` 'flow' is not known"),
        ({"_class_name": "VQDiffusionScheduler"}, {}, "VQDiffusionScheduler is not known"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, {}, "epsilon, v_prediction"),
        ({}, {"time_embedding_type": "fourier"}, "no `time_embedding_type` 'fourier'"),
        ({}, {"layers_per_block": 10**9}, "too few for a network with layers_per_block"),
        ({}, {"_class_name": "UNet2DConditionModel"}, "describes a UNet2DConditionModel"),
    ],
)
def test_folders_that_are_refused(tmp_path, scheduler, changes, message):
    with pytest.raises(ValueError, match=message):
        diffusion.from_diffusers(folder(tmp_path, scheduler, **changes))


def test_images_that_a_network_cannot_take():
    options = {"widths": (32, 32), "attention_levels": (), "head_width": None}
    network = jax.eval_shape(lambda: models.ADMUNet((None, None, 1), rngs=nnx.Rngs(0), **options))
    with pytest.raises(ValueError, match="multiples of 2; got 7 x 8"):
        network(jnp.ones((1, 7, 8, 1)), jnp.ones(1))
    with pytest.raises(ValueError, match=r"\(n, any, any, 1\); got \(1, 8, 8, 3\)"):
        network(jnp.ones((1, 8, 8, 3)), jnp.ones(1))
    with pytest.raises(ValueError, match="`labels`"):
        network(jnp.ones((1, 8, 8, 1)), jnp.ones(1), jnp.zeros(1, int))


def test_the_memory_of_a_checkpointed_network_gives_the_same():
    x, sigma = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32), np.full(1, 0.1, np.float32)

    @jax.jit
    def both(network):
        value, pull = jax.vjp(lambda x: network(x, sigma), x)
        return value, pull(2 * value)[0]

    value, gradient = both(models.from_torch(small()))
    again, same = both(models.from_torch(small(), checkpoint=True))
    np.testing.assert_allclose(again, value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(same, gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())
    half = _call(models.from_torch(small(), dtype=jnp.bfloat16), x, sigma)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, value, atol=0.1 * np.abs(value).max())
