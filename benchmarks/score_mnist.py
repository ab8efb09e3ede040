"""A score network trained on MNIST within ten minutes of two cores: samples, seconds and bits per dimension.

    python benchmarks/score_mnist.py [--processes vp subvp] [--seeds 1] [--steps 4600] [--folder FOLDER] [--quick]

The default U-Net (.21 M weights), images in [-1, 1] dequantised by uniform noise, denoising score matching on what the
mean and the deviation of all pixels do not tell (`Preconditioned`), Adam with warm-up and cosine decay, gradients
clipped to norm 1, the average of the weights. `validation` is the loss of 1000 held-out images. Bits per dimension are
those of test images by the probability-flow ODE from 1e-5, tolerances 1e-5, divergence by random signs, with the
standard error over images. Grids of 64 samples go to `results/`; of the committed ones
a person reads 40 (VP) and 34 (sub-VP) as digits, by ancestral sampling. Of the committed rows the first is of 4600
steps on a quiet machine; the others, of 4800, were made beside other work, and their seconds tell nothing.
`processor_seconds` are those of all cores, of a training that was not interrupted: half of them is its time on two
cores with nothing else to do. With `--folder` weights and checkpoints are kept there, and an interrupted run goes on.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import diffusion, io, metrics, models, plotting, training
from jaxinv.diffusion import Preconditioned

SHAPE = (28, 28, 1)
PROCESSES = {"vp": diffusion.VP(), "subvp": diffusion.SubVP(), "ve": diffusion.VE(), "flow": diffusion.FlowMatching()}
SAMPLERS = {"DPM-Solver++": diffusion.DPMSolver(50), "ancestral": diffusion.Ancestral(250)}
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", choices=PROCESSES, default=["vp", "subvp"])
    parser.add_argument("--seeds", type=int, default=1, help="how many trainings of each process")
    parser.add_argument("--steps", type=int, default=4600, help="of each training")
    parser.add_argument("--images", type=int, default=64, help="test images, for bits per dimension")
    parser.add_argument("--folder", type=Path, help="where weights and checkpoints are kept")
    parser.add_argument("--quick", action="store_true", help="60 steps, 2 test images, 9 samples: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.images = 60, 2
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    name = "score_mnist_quick" if options.quick else "score_mnist"
    recorder = Recorder(name)
    train, validation, test = map(dequantised, grey_values())
    parametrisation = Preconditioned(train.mean(), train.std())
    for label in options.processes:
        process = PROCESSES[label]
        for seed in range(options.seeds):
            before = time.process_time()
            network, history = fit(process, parametrisation, train, validation, seed, label, options)
            processor = time.process_time() - before
            score = diffusion.score_from(network, process, parametrisation)
            bits, seconds = bits_per_dim(score, test[: options.images])
            recorder.add(
                process=label,
                seed=seed,
                steps=options.steps,
                weights=sum(leaf.size for leaf in jax.tree.leaves(network)),
                training_seconds=round(history["seconds"], 1),
                processor_seconds=round(processor, 1),
                validation=float(np.min(history["validation"])),
                bits_per_dim=round(float(bits.mean()), 3),
                standard_error=round(float(bits.std() / np.sqrt(len(bits))), 3),
                unsolved=int(np.isnan(bits).sum()),
                likelihood_seconds=round(seconds, 1),
            )
            for sampler, method in SAMPLERS.items():
                images, row = sample(score, method, 9 if options.quick else 64)
                recorder.add(process=label, seed=seed, sampler=sampler, **row, **_distance(images, test))
                if seed == 0:
                    figure = plotting.sample_grid(images, limits=(-1, 1))
                    file = f"{name}_{label}_{sampler.lower().replace('+', '')}.png"
                    plotting.save(figure, RESULTS / file, dpi=160)
    recorder.write()


def grey_values():
    (train, _), (test, _) = jaxinv.data.mnist("train"), jaxinv.data.mnist("test")
    return train[:-1000], train[-1000:], test


def dequantised(images):
    """Images in [-1, 1] whose density is that of the grey values, uniform within each."""
    images = np.asarray(images, np.float32)
    return (images + np.random.default_rng(0).random(images.shape, np.float32)) / 128 - 1


def fit(process, parametrisation, train, validation, seed, label, options):
    loss = diffusion.score_matching_loss(process, parametrisation=parametrisation)
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(500, options.steps // 10), options.steps, 2e-5)
    network, history = training.fit(
        models.UNet(SHAPE, rngs=nnx.Rngs(seed)),
        loss,
        train,
        key=jax.random.key(seed),
        optimiser=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        num_steps=options.steps,
        batch_size=BATCH,
        ema=0.999,
        validation=validation,
        checkpoint=None if options.folder is None else options.folder / f"{label}_{seed}.checkpoint",
        chunk_size=max(options.steps // 20, 1),
    )
    if options.folder is not None:
        io.save(options.folder / f"{label}_{seed}.safetensors", network)
    return network, history


def bits_per_dim(score, images):
    @jax.jit
    def some(score, images, keys):
        one = lambda x, key: diffusion.log_prob(score, x, key=key)
        return metrics.bits_per_dim(-jax.vmap(one)(images, keys), SHAPE, data_range=2)

    keys = jax.random.split(jax.random.key(0), len(images))
    began = time.perf_counter()
    # Few at once: a batch takes as many steps as the worst of it.
    parts = [some(score, images[i : i + 16], keys[i : i + 16]) for i in range(0, len(images), 16)]
    return np.concatenate([np.asarray(part) for part in parts]), time.perf_counter() - began


def sample(score, method, count):
    draw = jax.jit(functools.partial(_draw, method, count))
    compiled = draw.lower(score).compile()
    began = time.perf_counter()
    solution = jax.block_until_ready(compiled(score))
    row = {"sampling_seconds": round(time.perf_counter() - began, 1), "samples": count}
    return solution.check().value, row | {"evaluations": int(solution.stats["network_evaluations"][0])}


def _draw(method, count, score):
    return diffusion.sample(score, SHAPE, key=jax.random.key(1), num_samples=count, method=method)


def _distance(images, test):
    # Beside what two sets of test images of these sizes are apart.
    others, key = test[-2000:], jax.random.key(2)
    distance = lambda x: float(metrics.sliced_wasserstein(x, others, key=key))
    return {"sliced_wasserstein": distance(images), "of_test_images": distance(test[: len(images)])}


if __name__ == "__main__":
    main()
