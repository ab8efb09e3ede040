"""Which posterior method samples what a learned score says? All methods against long chains, on 8 x 8 digits.

    python benchmarks/gold_standard.py [--images 1] [--draws 300] [--quick]

The prior is a diffusion model that a small network has learned from dequantised digits. Its posterior has a density in
the latents of its probability-flow ODE: four chains of NUTS there (`diffusion.ProbabilityFlowPrior`,
`generative.sample_posterior`) are the gold standard, with r-hat and effective sample size. Four tasks: deblurring, four
angles, inpainting of half of the pixels, and six random measurements; `--images` test images of each. Each method draws
200 samples. Against the gold standard, the mean over images: `energy`, the energy distance, and `sliced`, the sliced
Wasserstein distance, `floor` and `sliced_floor` those of the chains among each other, `coverage`, the share of the gold
draws in the central 90 % of the method's samples, pixel by pixel (ideal .891), and `spread`, the trace of its
covariance over that of the gold standard. `trusted` is the share of problems in which `check_posterior`, which knows
nothing of the chains, passes. A network evaluation is one of a batch of one; vector-Jacobian products are beside it.
"""

import argparse
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import Likelihood, data, diffusion, generative, metrics, noise, operators, plotting, training

SHAPE, PIXELS = (8, 8, 1), 64
PROCESS = diffusion.VP()
KEY = jax.random.key(0)
SAMPLES = 200
# At which the posterior is checked: at less the small network is no score.
NOISE = 0.05
METHODS = {
    "MomentMatching": diffusion.MomentMatching(),
    "TMPD": diffusion.TMPD(),
    "PiGDM": diffusion.PiGDM(100),
    "DPS": diffusion.DPS(),
    "DAPS": diffusion.DAPS(),
    "PnPDM": diffusion.PnPDM(),
    "DiffPIR": diffusion.DiffPIR(),
    "DDRM": diffusion.DDRM(),
    "REDDiff": diffusion.REDDiff(),
    "AnnealedLangevin": diffusion.AnnealedLangevin(),
    "TDS(PiGDM)": diffusion.TDS(diffusion.PiGDM(100), particles=256),
}
# A product for each measurement in each step: for few measurements only.
FEW_ONLY = {"TDS(PiGDM)"}


class Dense(nnx.Module):
    """A dense network of image and time: small, because the chains evaluate it some ten million times."""

    def __init__(self, width, *, rngs):
        self.first = nnx.Linear(PIXELS + 16, width, rngs=rngs)
        self.middle = nnx.List([nnx.Linear(width + 16, width, rngs=rngs) for _ in range(2)])
        self.last = nnx.Linear(width, PIXELS, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, x, t):
        waves = jnp.exp(jnp.linspace(0.0, jnp.log(100.0), 8))[None] * t[:, None]
        at = jnp.concatenate([jnp.sin(waves), jnp.cos(waves)], axis=1).astype(x.dtype)
        h = nnx.silu(self.first(jnp.concatenate([x.reshape(len(x), -1), at], axis=1)))
        for layer in self.middle:
            h = h + nnx.silu(layer(jnp.concatenate([h, at], axis=1)))
        return self.last(h).reshape(x.shape)


def tasks():
    """`{name: (matrix, noise level)}`, of norm 1."""
    rng = np.random.default_rng(0)
    blur = operators.Convolution(jnp.ones((3, 3)) / 9, SHAPE)
    angles = operators.ParallelBeam(SHAPE, jnp.arange(4) * jnp.pi / 4)
    kept = np.sort(rng.permutation(PIXELS)[: PIXELS // 2])
    dense = lambda operator: np.asarray(operators.materialise(operator).matrix).reshape(-1, PIXELS)
    matrices = {
        "deblurring": (dense(blur), 0.1),
        "four angles": (dense(angles), 0.1),
        "inpainting": (np.eye(PIXELS)[kept], 0.1),
        "six measurements": (np.linalg.qr(rng.normal(size=(PIXELS, 6)))[0].T, 0.05),
    }
    return {name: (matrix / np.linalg.norm(matrix, 2), std) for name, (matrix, std) in matrices.items()}


def learn(train, steps, width):
    """The score of digits in [-1, 1]."""
    parametrisation = diffusion.Preconditioned(train.mean(), train.std())
    network, history = training.fit(
        Dense(width, rngs=nnx.Rngs(0)),
        diffusion.score_matching_loss(PROCESS, parametrisation=parametrisation),
        train,
        key=KEY,
        optimiser=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, steps, 1e-5)),
        num_steps=steps,
        batch_size=128,
        ema=0.99,
    )
    return diffusion.score_from(network, PROCESS, parametrisation), float(np.mean(history["loss"][-200:]))


@eqx.filter_jit
def chains(prior, matrices, stds, ys, keys, draws, warmup):
    """The gold standard of all problems at once, each with a matrix padded by rows of zeros."""

    def one(matrix, std, y, key):
        likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std))
        return generative.sample_posterior(
            likelihood, prior, y, key=key, num_samples=4 * draws, num_warmup=warmup, num_chains=4, max_doublings=5
        )

    return jax.vmap(one)(matrices, stds, ys, keys)


@eqx.filter_jit
def sampled(score, matrices, stds, ys, method):
    """The samples of all problems."""

    def one(matrix, std, y, key):
        likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std))
        return diffusion.posterior_sample(likelihood, score, y, key=key, method=method, num_samples=SAMPLES)

    return jax.vmap(one)(matrices, stds, ys, jax.random.split(KEY, len(ys)))


@eqx.filter_jit
def trusted(score, matrices, stds, ys, samples):
    """Whether `check_posterior` passes, of all problems."""

    def one(matrix, std, y, x):
        likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std))
        return diffusion.check_posterior(likelihood, score, x, y, key=KEY, noise=NOISE, num_draws=300).passed

    return jax.vmap(one)(matrices, stds, ys, samples)


@jax.jit
def scores(samples, gold):
    """The distances of samples and of gold draws, the coverage of these, and the ratio of their spread."""
    inside = jax.vmap(lambda x: metrics.coverage(samples, x))(gold)
    trace = lambda x: jnp.sum(jnp.var(x, axis=0))
    sliced = metrics.sliced_wasserstein(samples, gold, key=KEY)
    return metrics.energy_distance(samples, gold), sliced, jnp.mean(inside), trace(samples) / trace(gold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--draws", type=int, default=300, help="of each chain")
    parser.add_argument("--quick", action="store_true", help="few steps and draws: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.images, options.draws = 1, 20
    recorder = Recorder("gold_standard_quick" if options.quick else "gold_standard")
    digits = data.digits(8)[0]
    grey = np.round(16 * digits).astype(int)[np.random.default_rng(0).permutation(len(digits))]
    images = np.asarray(2 * data.dequantise(grey, key=KEY, levels=17) - 1)
    train, test = images[200:], jnp.asarray(images[:200])
    score, loss = learn(train, 300 if options.quick else 6000, 32 if options.quick else 128)
    check = diffusion.check_prior(score, test, key=KEY)
    print(check)
    recorder.add(task="prior", loss=loss, check=bool(check.passed), spread=np.asarray(check.spread).round(3).tolist())

    problems, rows = {}, max(len(matrix) for matrix, _ in tasks().values())
    for name, (matrix, std) in tasks().items():
        keys = jax.random.split(jax.random.fold_in(KEY, len(problems)), options.images)
        likelihood = Likelihood(operators.Matrix(jnp.asarray(matrix, jnp.float32), SHAPE), noise.Gaussian(std))
        ys = jax.vmap(lambda x, key, likelihood=likelihood: likelihood.simulate(x, key=key))(test[: len(keys)], keys)
        problems[name] = (jnp.asarray(matrix, jnp.float32), std, ys)
    padded = lambda array, axis: np.pad(array, [(0, rows - s if i == axis else 0) for i, s in enumerate(array.shape)])
    matrices = jnp.concatenate([jnp.stack([padded(m, 0)] * options.images) for m, _, _ in problems.values()])
    stds = jnp.repeat(jnp.array([std for _, std, _ in problems.values()]), options.images)
    ys = jnp.concatenate([padded(ys, 1) for *_, ys in problems.values()])
    solver = diffusion.ProbabilityFlow(num_steps=12, solver=diffrax.Heun(), schedule=diffusion.UniformLogSNR())
    prior = diffusion.ProbabilityFlowPrior(score, SHAPE, solver)
    began = time.perf_counter()
    gold = chains(prior, matrices, stds, ys, jax.random.split(KEY, len(ys)), options.draws, options.draws // 2)
    seconds = time.perf_counter() - began
    # Thinned: the chains in turns, one in four of their draws.
    thin = np.asarray(gold.value).reshape(len(problems), options.images, options.draws, 4, *SHAPE)[:, :, ::4]

    names = list(problems)
    golden = [[thin[i, j].reshape(-1, *SHAPE) for j in range(options.images)] for i in range(len(names))]
    for i, name in enumerate(names):
        mine = slice(i * options.images, (i + 1) * options.images)
        # The first two chains against the others.
        parts = [draws.reshape(-1, 2, 2, *SHAPE) for draws in golden[i]]
        halves = [scores(*(part[:, k].reshape(-1, *SHAPE) for k in (0, 1))) for part in parts]
        floor = np.mean(halves, axis=0)
        recorder.add(
            task=name,
            method="NUTS",
            r_hat=float(np.max(gold.stats["r_hat"][mine])),
            ess=float(np.min(gold.stats["ess"][mine])),
            divergences=int(np.sum(gold.stats["num_divergences"][mine])),
            gradients=int(np.sum(gold.stats["num_steps"][mine]) / options.images),
            seconds=round(seconds / len(names), 1),
            floor=float(floor[0]),
            sliced_floor=float(floor[1]),
        )
    for label, method in METHODS.items():
        # Products for each measurement in each step: for the last task only, whose rows of zeros are left out.
        first = len(names) - 1 if label in FEW_ONLY else 0
        chosen = slice(first * options.images, None)
        height = len(problems[names[first]][0]) if label in FEW_ONLY else rows
        arguments = matrices[chosen, :height], stds[chosen], ys[chosen, :height]
        began = time.perf_counter()
        solution = jax.block_until_ready(sampled(score, *arguments, method))
        seconds = time.perf_counter() - began
        padded_arguments = matrices[chosen], stds[chosen], ys[chosen]
        passed = trusted(score, *padded_arguments, solution.value).reshape(-1, options.images)
        value = np.asarray(solution.value).reshape(-1, options.images, SAMPLES, *SHAPE)
        failed = np.asarray(jaxinv.RESULTS.successful != solution.result).reshape(-1, options.images)
        if label == "MomentMatching":
            picture(recorder.path.stem, names, test, golden, value)
        for i, name in enumerate(names[first:]):
            found = np.mean([scores(x, d) for x, d in zip(value[i], golden[first + i], strict=True)], axis=0)
            recorder.add(
                task=name,
                method=label,
                energy=float(found[0]),
                sliced=float(found[1]),
                coverage=float(found[2]),
                spread=float(found[3]),
                trusted=float(np.mean(passed[i])),
                failed=int(np.sum(failed[i])),
                evaluations=int(np.max(solution.stats["network_evaluations"])),
                vjps=int(np.max(solution.stats["vjps"])),
                seconds=round(seconds / len(failed), 1),
            )
    recorder.write()


def picture(stem, names, test, golden, value):
    """Means and deviations of the gold standard and of a method, a row for each task."""
    columns = {
        "truth": np.repeat(np.asarray(test[:1]), len(names), axis=0),
        "chains: mean": np.stack([draws[0].mean(0) for draws in golden]),
        "samples: mean": value[:, 0].mean(1),
        "chains: deviation": np.stack([2 * draws[0].std(0) - 1 for draws in golden]),
        "samples: deviation": 2 * value[:, 0].std(1) - 1,
    }
    figure = plotting.compare(columns, heading=f"Rows: {', '.join(names)}; MomentMatching", limits=(-1, 1))
    plotting.save(figure, RESULTS / f"{stem}.png")


if __name__ == "__main__":
    main()
