"""Are posteriors of latents calibrated, by NUTS and by their variational approximation? A VAE and a flow, 8 x 8 digits.

    python benchmarks/latent_posteriors.py [--problems 60] [--quick]

Images drawn from each prior, blurred and halved, noise .1; posteriors by `generative.sample_posterior` (two chains of
NUTS, one in ten of their draws) and by `generative.variational_posterior` with Gaussian and uniform families. `scores`
are the largest standard scores of bias and of spread of the ranks (of the mean, the energy, the misfit and two random
directions; positive: the samples are too narrow), `coverage` that of the central 90 % (`ideal` for that many samples),
`passed` the verdict of `metrics.Calibration`. Against NUTS: `mean_gap`, the root mean square distance of posterior
means over that of NUTS's deviations, and `std_ratio`, the ratio of mean deviations of pixels. `seconds` and `gradients`
are for one problem. `range` is the share of real digits, measured so, that pass `generative.check_range`.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import Likelihood, data, generative, metrics, models, noise, operators, training

SHAPE = (8, 8, 1)
KEY = jax.random.key(0)
SAMPLES, THIN, CHAINS = 39, 10, 2
LIKELIHOOD = Likelihood(
    operators.Downsample(SHAPE, 2) @ operators.Convolution(jnp.ones((3, 3)) / 9, SHAPE), noise.Gaussian(0.1)
)


def priors(train, quick):
    steps = 200 if quick else 3000
    options = {"key": KEY, "num_steps": steps, "batch_size": 128, "ema": 0.99}
    options["optimiser"] = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    vae, _ = training.fit(
        models.VAE(SHAPE, 6, widths=(128, 64), rngs=nnx.Rngs(0)), generative.vae_loss(beta=1.0), train, **options
    )
    flow, _ = training.fit(
        models.Flow(SHAPE, trunk=models.Dense((64,)), num_couplings=6, rngs=nnx.Rngs(0)),
        generative.flow_loss,
        train,
        **options,
    )
    return {"VAE-6": generative.VAEPrior(vae), "flow": generative.FlowPrior(flow)}


def nuts(likelihood, prior, y, *, key, warmup):
    draws = SAMPLES * THIN + (-SAMPLES * THIN) % CHAINS
    solution = generative.sample_posterior(
        likelihood, prior, y, key=key, num_samples=draws, num_warmup=warmup, num_chains=CHAINS, max_doublings=6
    )
    return (
        solution.value[::THIN][:SAMPLES],
        solution.result,
        solution.stats["num_steps"] * (1 + warmup * CHAINS / draws),
    )


def variational(family):
    def solve(likelihood, prior, y, *, key, warmup):
        steps, restarts = 2 * warmup, 4
        solution = generative.variational_posterior(
            likelihood, prior, y, key=key, num_samples=SAMPLES, family=family, num_steps=steps, restarts=restarts
        )
        return solution.value, solution.result, jnp.asarray(8 * steps * restarts, float)

    return solve


@eqx.filter_jit
def solved(method, prior, truths, ys, warmup):
    keys = jax.random.split(jax.random.fold_in(KEY, 7), len(ys))
    directions = jax.random.normal(KEY, (2, *SHAPE))

    def one(x, y, key):
        value, result, gradients = method(LIKELIHOOD, prior, y, key=key, warmup=warmup)
        good = result == jaxinv.RESULTS.successful
        quantities = {
            "mean": jnp.mean,
            "energy": lambda x: jnp.sum(x**2),
            "misfit": lambda x: LIKELIHOOD.negative_log_likelihood(x, y),
            "direction 1": lambda x: jnp.sum(x * directions[0]),
            "direction 2": lambda x: jnp.sum(x * directions[1]),
        }
        ranks = {name: jnp.where(good, metrics.calibration_ranks(value, x, q), -1) for name, q in quantities.items()}
        covered = jnp.where(good, metrics.coverage(value, x), jnp.nan)
        return ranks, covered, value, gradients

    return jax.vmap(one)(truths, ys, keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="few steps and problems: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.problems = 4
    warmup = 30 if options.quick else 300
    recorder = Recorder("latent_posteriors_quick" if options.quick else "latent_posteriors")
    digits = data.digits(8)[0]
    grey = np.round(16 * digits).astype(int)[np.random.default_rng(0).permutation(len(digits))]
    images = np.asarray(data.dequantise(grey, key=KEY, levels=17))
    train, test = images[100:], jnp.asarray(images[: options.problems])
    methods = {
        "NUTS": nuts,
        "variational, Gaussian": variational(generative.MeanFieldGaussian()),
        "variational, uniform": variational(generative.MeanFieldUniform()),
    }
    for name, prior in priors(train, options.quick).items():
        truths = generative.sample(prior, options.problems, key=jax.random.fold_in(KEY, 1))
        simulate = jax.jit(jax.vmap(lambda x, key: LIKELIHOOD.simulate(x, key=key)))
        keys = jax.random.split(jax.random.fold_in(KEY, 2), options.problems)
        ys, reference = simulate(truths, keys), None
        for label, method in methods.items():
            compiled = solved.lower(method, prior, truths, ys, warmup).compile()
            began = time.perf_counter()
            ranks, covered, value, gradients = jax.block_until_ready(compiled(method, prior, truths, ys, warmup))
            seconds = time.perf_counter() - began
            found = metrics.Calibration(ranks, covered, SAMPLES)
            print(found)
            reference = value if reference is None else reference
            gap = jnp.mean((value.mean(1) - reference.mean(1)) ** 2) / jnp.mean(reference.var(1))
            largest = lambda scores: float(max(scores.values(), key=abs))
            recorder.add(
                prior=name,
                method=label,
                bias=largest(found.bias_scores),
                spread=largest(found.spread_scores),
                coverage=float(found.mean_coverage[0]),
                coverage_error=float(found.mean_coverage[1]),
                ideal=found.expected_coverage,
                passed=bool(found.passed),
                failed=int(found.num_failed),
                mean_gap=float(jnp.sqrt(gap)),
                std_ratio=float(jnp.mean(value.std(1)) / jnp.mean(reference.std(1))),
                gradients=round(float(jnp.mean(gradients))),
                seconds=round(seconds / options.problems, 3),
            )
        real = simulate(test, keys)
        inside = jax.jit(jax.vmap(lambda y, prior=prior: generative.check_range(LIKELIHOOD, prior, y, key=KEY).passed))
        recorder.add(prior=name, method="check_range", range=float(jnp.mean(inside(real))))
    recorder.write()


if __name__ == "__main__":
    main()
