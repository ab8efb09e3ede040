"""The bias of every posterior sampler where the posterior is Gaussian: Wasserstein-2 to it, in closed form.

    python benchmarks/posterior_gaussian.py [--samples 20000] [--quick]

A Gaussian prior of 16 pixels in a row, of variance 1 and correlation .9 from one to the next, and its exact score; two
problems: `blur`, 16 measurements with a kernel (1, 2, 1) / 4, and `every fourth`, the values of 4 pixels; noise .2.
Every step of every method but `DPS` is affine there, so its samples are Gaussian, with a mean and a covariance that the
tests compare with law propagation. `w2` is the Wasserstein-2 distance between the Gaussians of the samples' and of the
exact mean and covariance, over the root of the trace of the exact covariance; `floor` that of as many exact draws.
`mean` is the distance of the means in the same unit, `trace` the ratio of the traces of the covariances. Methods at
their defaults, VP; those made for flows by flow matching too.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from harness import Recorder

import jaxinv
from jaxinv import diffusion, metrics, noise, operators, oracles

SIZE, STD = 16, 0.2
METHODS = {
    "MomentMatching": diffusion.MomentMatching(),
    "TMPD": diffusion.TMPD(),
    "PiGDM": diffusion.PiGDM(),
    "DPS": diffusion.DPS(100),
    "Replacement": diffusion.Replacement(100),
    "DDRM": diffusion.DDRM(),
    "DiffPIR": diffusion.DiffPIR(),
    "REDDiff": diffusion.REDDiff(),
    "AnnealedLangevin": diffusion.AnnealedLangevin(),
    "DAPS": diffusion.DAPS(),
    "PnPDM": diffusion.PnPDM(),
    "OTODE": diffusion.OTODE(),
    "DFlow": diffusion.DFlow(),
    "PnPFlow": diffusion.PnPFlow(),
}
# Particles are one cloud: as many as there are samples.
FLOWS = ("OTODE", "DFlow", "PnPFlow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="a thousand samples, three methods: does it run?")
    options = parser.parse_args()
    names = list(METHODS)
    if options.quick:
        options.samples, names = 1000, names[:3]
    recorder = Recorder("posterior_gaussian_quick" if options.quick else "posterior_gaussian")
    distances = np.abs(np.arange(SIZE)[:, None] - np.arange(SIZE))
    prior = oracles.Gaussian(jnp.zeros(SIZE), jnp.asarray(0.9**distances, jnp.float32))
    blur = np.where(distances == 0, 0.5, np.where(distances == 1, 0.25, 0.0))
    problems = {"blur": blur, "every fourth": np.eye(SIZE)[1::4]}
    for problem, matrix in problems.items():
        operator = operators.Matrix(jnp.asarray(matrix, jnp.float32), (SIZE,))
        likelihood = jaxinv.Likelihood(operator, noise.Gaussian(STD))
        y = likelihood.simulate(prior.sample(1, key=jax.random.key(0))[0], key=jax.random.key(1))
        posterior = prior.posterior(likelihood, y)
        exact = moments_of(posterior)
        floor = judge(exact, posterior.sample(options.samples, key=jax.random.key(2)))
        recorder.add(problem=problem, method="exact draws", samples=options.samples, **floor)
        runs = [(name, METHODS[name], diffusion.VP()) for name in names]
        runs += [(f"{name}, flow matching", METHODS[name], diffusion.FlowMatching()) for name in names if name in FLOWS]
        particles = diffusion.TDS(particles=options.samples)
        for name, method, process in [*runs, ("TDS", particles, diffusion.VP())]:
            began = time.perf_counter()
            solution = jax.block_until_ready(draw(prior, likelihood, y, method, process, options.samples))
            seconds = time.perf_counter() - began
            calls = {figure: np.mean(solution.stats[figure]) for figure in ("network_evaluations", "vjps")}
            share = options.samples if name == "TDS" else 1
            recorder.add(
                problem=problem,
                method=name,
                samples=options.samples,
                **judge(exact, solution.value),
                floor=floor["w2"],
                failed=int(np.sum(np.asarray(solution.result != jaxinv.RESULTS.successful))),
                **{figure: round(float(value) / share) for figure, value in calls.items()},
                seconds_with_compilation=round(seconds, 1),
            )
    recorder.write()


@eqx.filter_jit
def draw(prior, likelihood, y, method, process, num_samples):
    return diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=jax.random.key(3), method=method, num_samples=num_samples
    )


def moments_of(posterior):
    covariance = posterior.covariance
    return np.asarray(posterior.mean, np.float64), np.asarray(covariance, np.float64)


def judge(exact, samples):
    """What tells the Gaussian of these samples from the exact one."""
    mean, covariance = exact
    samples = np.asarray(samples, np.float64)
    size = np.sqrt(np.trace(covariance))
    found, spread = samples.mean(0), np.cov(samples.T)
    with jax.enable_x64(True):
        distance = float(metrics.wasserstein2_gaussian(found, spread, mean, covariance))
    figures = {"w2": distance / size, "mean": np.linalg.norm(found - mean) / size}
    figures["trace"] = np.trace(spread) / np.trace(covariance)
    return {name: round(float(value), 3) for name, value in figures.items()}


if __name__ == "__main__":
    main()
