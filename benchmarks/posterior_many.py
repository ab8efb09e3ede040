"""Posterior samplers where many measurements leave one mode: the mixture of 25 modes, d = 200, 100 measurements.

    python benchmarks/posterior_many.py [--problems 8] [--methods NAME ...] [--quick]

Problems are made as those of `posterior_mixture`. All figures are ratios, means over problems, of 1000 samples each, of
256 for the particle methods, to as many exact draws: `mean_error` is the distance of the mean of the samples to the
exact mean, over that of exact draws; `trace_measured` and `trace_null` those of the covariance in the space that the
measurements see and in its orthogonal complement; `mmd` the maximum mean discrepancy to 4000 exact draws (the root of
its biased estimate, of width sqrt(2 d)), over that of a run with the exact conditional score (`ShARK`, 100 steps).
`met`: mean_error at most 1.1, both traces within 5 %, mmd at most 2. `effective` is the least share of effective
particles; the particle methods have two problems only.
"""

import argparse
import time

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffusion_gate import PROCESS, problem
from harness import Recorder

from jaxinv import diffusion, metrics

D, MEASUREMENTS, SAMPLES, PARTICLES = 200, 100, 1000, 256
PARTICLE_PROBLEMS = 2  # minutes each: a product for each measurement and particle
METHODS = {
    "exact score": None,
    "default: moment matching": diffusion.MomentMatching(),
    "moment matching, 100 steps": diffusion.MomentMatching(100),
    "moment matching, 50 of log SNR": diffusion.MomentMatching(50, schedule=diffusion.UniformLogSNR()),
    "moment matching, solved to 1e-5": diffusion.MomentMatching(solver_steps=100, rtol=1e-5),
    "moment matching, 200 steps": diffusion.MomentMatching(200),
    "TMPD": diffusion.TMPD(rtol=1e-5, solver_steps=100),
    "PiGDM": diffusion.PiGDM(solver_steps=100),
    "DPS": diffusion.DPS(100),
    "TDS, TMPD": diffusion.TDS(diffusion.TMPD(), particles=PARTICLES),
    "TDS, moment matching": diffusion.TDS(particles=PARTICLES),
}
EXACT = diffusion.ReverseSDE(100, solver=diffrax.ShARK(), schedule=diffusion.UniformLogSNR())


@eqx.filter_jit
def draw(prior, likelihood, y, method, count, key):
    options = {"key": key, "num_samples": count}
    if method is None:
        score = prior.posterior(likelihood, y).score(PROCESS)
        return diffusion.sample(score, prior.shape, method=EXACT, **options)
    return diffusion.posterior_sample(likelihood, prior.score(PROCESS), y, method=method, **options)


@jax.jit
def discrepancy(a, b):
    # The unbiased square, of which a ratio makes no sense where it is about 0, and what makes it positive.
    width = jnp.sqrt(2.0 * D)
    own = lambda x: jnp.exp(-0.5 * (jnp.sum((x[:, None] - x[None]) ** 2, axis=2)) / width**2)
    bias = [(1 - (jnp.sum(own(x)) - len(x)) / (len(x) * (len(x) - 1))) / len(x) for x in (a[:1000], b[:1000])]
    bias = bias[0] * 1000 / len(a) if len(a) > 1000 else bias[0]
    return jnp.sqrt(metrics.mmd(a, b, bandwidth=width) + bias)


def moments(samples, mean, basis):
    samples = np.asarray(samples, np.float64)
    traces = np.var(samples @ basis, axis=0, ddof=1)
    error = np.linalg.norm(samples.mean(0) - mean)
    return np.array([error, traces[:MEASUREMENTS].sum(), traces[MEASUREMENTS:].sum()])


def judge(number, names):
    """`{method: figures}` of one problem."""
    prior, likelihood, y = problem(D, MEASUREMENTS, 5_000_000 + number)
    posterior, key = prior.posterior(likelihood, y), jax.random.key(number)
    basis = np.linalg.svd(np.asarray(likelihood.operator.matrix, np.float64))[2].T
    exact = np.asarray(posterior.sample(30_000, key=key))
    mean = np.einsum("k,kd->d", np.asarray(posterior.weights, np.float64), np.asarray(posterior.means, np.float64))
    rows = {}
    for name in names:
        count = PARTICLES if name.startswith("TDS") else SAMPLES
        # Of 20 sets of exact draws: errors of means in the mean, traces of all.
        ideal = np.mean([moments(exact[i * count : (i + 1) * count], mean, basis) for i in range(20)], axis=0)
        began = time.perf_counter()
        solution = jax.block_until_ready(draw(prior, likelihood, y, METHODS[name], count, jax.random.fold_in(key, 1)))
        seconds = time.perf_counter() - began
        error, measured, null = moments(solution.value, mean, basis) / ideal
        row = {"mean_error": error, "trace_measured": measured, "trace_null": null, "seconds": seconds}
        row["mmd"] = float(discrepancy(solution.value, jnp.asarray(exact[-4000:])))
        row["evaluations"] = float(jnp.mean(solution.stats["network_evaluations"]))
        row["vjps"] = float(jnp.mean(solution.stats["vjps"])) if "vjps" in solution.stats else 0.0
        if "effective_particles" in solution.stats:
            row["effective"] = float(solution.stats["effective_particles"]) / PARTICLES
            row["evaluations"], row["vjps"] = row["evaluations"] / PARTICLES, row["vjps"] / PARTICLES
        rows[name] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="with the exact score")
    parser.add_argument("--quick", action="store_true", help="one problem, two methods: does it run?")
    options = parser.parse_args()
    recorder = Recorder("posterior_many_quick" if options.quick else "posterior_many")
    names = list(METHODS)[:2] if options.quick else options.methods
    affordable = lambda name, number: number < PARTICLE_PROBLEMS or not name.startswith("TDS")
    count = 1 if options.quick else options.problems
    problems = [judge(number, [name for name in names if affordable(name, number)]) for number in range(count)]
    for name in names:
        judged = [rows for rows in problems if name in rows]
        mean = {figure: float(np.mean([rows[name][figure] for rows in judged])) for figure in judged[0][name]}
        mean["mmd"] /= np.mean([rows["exact score"]["mmd"] for rows in judged])
        close = all(abs(mean[trace] - 1) <= 0.05 for trace in ("trace_measured", "trace_null"))
        row = {figure: round(value, 3) for figure, value in mean.items()} | {"problems": len(judged)}
        row["seconds"] = round(float(np.median([rows[name]["seconds"] for rows in judged])), 2)
        recorder.add(method=name, **row, met=bool(mean["mean_error"] <= 1.1 and close and mean["mmd"] <= 2))
    recorder.write()


if __name__ == "__main__":
    main()
