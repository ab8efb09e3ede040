"""Do the networks of PyTorch give the same outputs here, and how fast? Beside deepinv's and diffusers' own.

    python benchmarks/torch_networks.py --peers DIR [--references]

The weights are random, drawn from the names on both sides. Measured are the relative error of the output and of a
product with the Jacobian from the left, the largest of all pixels over the largest value, in float32 and in float64;
then the seconds of a forward pass and of such a product, for one image of 64 x 64 and 128 x 128, and their ratios to
PyTorch's, medians of one run. `--references` also writes the small file of outputs that the test suite reads.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder, peer_seconds

from jaxinv import models

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from _torch_cases import CASES, TIMED, draw

_KEPT = ("drunet-small", "adm-ffhq", "diffusers-ddpm")
_REPEATS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the folder of the peers' environments")
    parser.add_argument(
        "--only", choices=("equality", "speed"), help="one of the two parts, each of which has its file"
    )
    parser.add_argument("--references", action="store_true", help="write tests/models/torch_references.npz")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    python = options.peers / "torch" / "bin" / "python"
    if options.only != "speed":
        kept = equality(python)
        if options.references:
            np.savez_compressed(Path(__file__).parents[1] / "tests" / "models" / "torch_references.npz", **kept)
    if options.only != "equality":
        speed(python)


def equality(python):
    recorder, kept = Recorder("torch_networks"), {}
    for name, case in CASES.items():
        found = reference(name, case, python)
        recorder.add(case=name, architecture=case["kind"], **errors(case, found))
        if name in _KEPT:
            kept |= {f"{name}/{key}": value for key, value in found.items() if key.endswith("64")}
    recorder.write()
    return kept


def speed(python):
    recorder = Recorder("torch_networks_speed")
    for name, case in TIMED.items():
        for size in (64, 128):
            recorder.add(case=name, architecture=case["kind"], size=size, **seconds(case, size, python))
    recorder.write()


def inputs(shape, batch=2):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(batch, *shape)).astype(np.float32)


def levels(case, batch=2):
    """Noise levels of a denoiser, or steps of a diffusion model."""
    return np.array([0.1, 0.3] if case["kind"] == "DRUNet" else [17.0, 850.0], np.float32)[:batch]


def reference(name, case, python):
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.npz"
        x, t = inputs(case["shape"]), levels(case)
        peer = peer_seconds("torch_networks", python, {"case": json.dumps(case), "x": x, "t": t, "output": str(output)})
        if "skipped" in peer:
            sys.exit(f"{name}: {peer['skipped']}")
        with np.load(output) as found:
            return dict(found)


def network(case):
    """The network with the weights of the case."""
    kind, sizes, shape = case["kind"], case["sizes"], case.get("shape", (None, None, case.get("channels")))
    if kind == "DRUNet":
        options = {"widths": sizes["nc"], "num_blocks": sizes["nb"]}
    elif kind == "DiffusersUNet":
        options = sizes
    else:
        multiples = sizes["channel_mult"]
        attention = {256 // int(r) for r in sizes["attention_resolutions"].split(",")}
        options = {
            "widths": tuple(sizes["model_channels"] * m for m in multiples),
            "num_blocks": sizes.get("num_res_blocks", 1),
            "attention_levels": tuple(i for i in range(len(multiples)) if 2**i in attention),
            "num_classes": sizes.get("num_classes"),
            "learned_variance": shape[-1] == 3,
            "scales": sizes.get("use_scale_shift_norm", True),
            "residual_resampling": sizes.get("resblock_updown", True),
            **case.get("options", {}),
        }
    build = lambda: getattr(models, kind)((None, None, shape[-1]), rngs=nnx.Rngs(0), **options)
    drawn = {name: draw(name, array.shape) for name, array in models.to_torch(build()).items()}
    more = options if kind == "DiffusersUNet" else case.get("options", {})
    return models.from_torch(drawn, **more)


def evaluate(case, model, x, t):
    labels = () if not case.get("labels") else (jnp.asarray(case["labels"]),)
    t = t if case["kind"] == "DRUNet" else (t + 1) / 1000
    return (model.outputs if case["kind"] == "ADMUNet" else model)(x, t, *labels)


def errors(case, found):
    model, figures = network(case), {}
    for name in ("float32", "float64"):
        wide = jax.tree.map(lambda leaf, name=name: leaf.astype(name), model)
        x, t = jnp.asarray(inputs(case["shape"]), name), jnp.asarray(levels(case), name)

        def both(model, x, t):
            y, vjp = jax.vjp(lambda x: evaluate(case, model, x, t), x)
            return y, vjp(jnp.linspace(-1, 1, y.size, dtype=y.dtype).reshape(y.shape))[0]

        ours, peer = jax.jit(both)(wide, x, t), (found[f"y_{name}"], found[f"gradient_{name}"])
        for what, mine, theirs in zip(("y", "gradient"), ours, peer, strict=True):
            figures[f"{what}_{name}"] = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
    return figures


def seconds(case, size, python):
    shape = (size, size, case["channels"])
    x, t = inputs(shape, 1), levels(case, 1)
    peer = peer_seconds("torch_networks", python, {"case": json.dumps(case), "x": x, "t": t, "repeats": _REPEATS})
    model = network(case)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model)
    x, t = jnp.asarray(x), jnp.asarray(t)
    forward = jax.jit(lambda model, x, t: evaluate(case, model, x, t))

    @jax.jit
    def gradient(model, x, t):
        y, vjp = jax.vjp(lambda x: evaluate(case, model, x, t), x)
        return vjp(jnp.ones_like(y))[0]

    figures = {}
    for name, function in (("forward", forward), ("gradient", gradient)):
        jax.block_until_ready(function(narrow, x, t))
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            jax.block_until_ready(function(narrow, x, t))
            times.append(time.perf_counter() - began)
        figures[f"{name}_seconds"] = statistics.median(times)
        if name in peer.get("seconds", {}):
            figures[f"{name}_over_torch"] = figures[f"{name}_seconds"] / peer["seconds"][name]
    return figures


if __name__ == "__main__":
    main()
