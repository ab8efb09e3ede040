"""Is the default posterior sampler right, or does it say that it is not? Mixtures between few and many measurements.

    python benchmarks/posterior_grid.py [--cells 32,20,middle,2 ...] [--problems 2] [--methods default ...] [--append]

A cell is the number of dimensions, of measurements, the noise and the number of modes. Modes have the covariance I; 25
of them are those of `posterior_mixture`, one is at distance 4 of the origin in a random direction, two are opposite
each other there. The matrix is that of `posterior_mixture`; the noise is .05, .5 or 3 times its norm. VP with beta from
.1 to 40, exact scores, 1000 samples. `sw` is the sliced Wasserstein distance to 1000 exact draws over `sw_floor`, that
of two sets of exact draws; `tv` and `tv_floor` the total variation of the mode weights by nearest means. `right`: at
most twice the floor, and at most .06 more than the floor of the variation; `code`: what the solution says. `evidence`
is the error of the log-evidence, `evidence_error` what the method says of it, `effective` the least share of effective
particles, `discrepancy` the mean squared residual in units of the noise. One row for each problem.
"""

import argparse
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffusion_gate import PROCESS, within
from harness import Recorder

from jaxinv import Likelihood, diffusion, metrics, noise, operators, oracles

SAMPLES, MODES = 1000, 25
NOISE = {"low": 0.05, "middle": 0.5, "high": 3.0}
METHODS = {"default": None, "moment matching": diffusion.MomentMatching()}
SIZES = [(80, 20), (80, 32), (80, 40), (32, 32), (32, 20), (32, 16), (32, 4), (8, 1), (8, 4), (32, 1), (80, 1), (80, 4)]
SIZES += [(80, 16)]
CELLS = [f"{d},{m},{level},{modes}" for d, m in SIZES for level in NOISE for modes in (1, 2, MODES)]


def problem(d, measurements, level, modes, seed):
    rng = np.random.default_rng(seed)
    means, weights = np.zeros((MODES, d)), np.zeros(MODES)
    if modes == MODES:
        means = np.array([np.tile([8.0 * i, 8.0 * j], d // 2) for i in range(-2, 3) for j in range(-2, 3)])
    else:
        direction = rng.normal(size=d)
        means[:2] = 4 * np.array([direction, -direction]) / np.linalg.norm(direction)
    weights[:modes] = rng.uniform(0.3, 1, size=modes)
    weights /= weights.sum()
    u = np.linalg.svd(rng.normal(size=(measurements, measurements)))[0]
    v = np.linalg.qr(rng.normal(size=(d, measurements)))[0]
    s = np.sort(rng.uniform(size=measurements))[::-1]
    matrix, std = u @ (s[:, None] * v.T), NOISE[level] * s.max()
    y = matrix @ (means[rng.choice(MODES, p=weights)] + rng.normal(size=d)) + std * rng.normal(size=measurements)
    weights, means, matrix, std, y = (jnp.asarray(a, jnp.float32) for a in (weights, means, matrix, std, y))
    # A mode of weight 0 is none: all cells of one size share a program.
    prior = oracles.GaussianMixture(weights, means, 1.0)
    return prior, Likelihood(operators.Matrix(matrix, (d,)), noise.Gaussian(std)), y


@eqx.filter_jit
def draw(prior, likelihood, y, method, key):
    score = prior.score(PROCESS)
    return diffusion.posterior_sample(likelihood, score, y, key=key, method=method, num_samples=SAMPLES)


@jax.jit
def distance(a, b, key):
    return metrics.sliced_wasserstein(a, b, key=key)


def judge(samples, exact, posterior, modes, key):
    means = np.asarray(posterior.means)[:modes]
    square = np.stack([np.sum((np.asarray(samples) - m) ** 2, axis=1) for m in means])
    found = np.bincount(square.argmin(0), minlength=modes) / len(samples)
    variation = 0.5 * np.abs(found - np.asarray(posterior.weights)[:modes]).sum()
    return np.array([float(distance(samples, exact, key)), variation, within(samples, means)])


def rows(d, m, level, modes, number, names):
    seed = 1000 * d + 10 * m + 100_000 * number + 7_000_000 + 100 * list(NOISE).index(level) + modes
    prior, likelihood, y = problem(d, m, level, modes, seed)
    posterior, key = prior.posterior(likelihood, y), jax.random.key(number)
    exact = [posterior.sample(SAMPLES, key=jax.random.fold_in(key, i)) for i in range(6)]
    pairs = zip(exact[::2], exact[1::2], strict=True)
    floor = np.mean([judge(a, b, posterior, modes, key) for a, b in pairs], axis=0)
    for name in names:
        began = time.perf_counter()
        solution = jax.block_until_ready(draw(prior, likelihood, y, METHODS[name], jax.random.fold_in(key, 99)))
        seconds = time.perf_counter() - began
        found = judge(solution.value, exact[0], posterior, modes, key)
        row = {"d": d, "measurements": m, "noise": level, "modes": modes, "problem": number, "method": name}
        row |= {"sw": round(found[0] / floor[0], 2), "sw_floor": round(floor[0], 3)}
        row |= {"tv": round(found[1], 3), "tv_floor": round(floor[1], 3), "trace": round(found[2] / floor[2], 3)}
        row["right"] = bool(found[0] <= 2 * floor[0] and found[1] <= 0.06 + floor[1])
        row["code"] = code_of(solution)
        stats = solution.stats
        row["discrepancy"] = round(float(stats["discrepancy"]), 2)
        if "log_evidence" in stats:
            particles = float(stats["network_evaluations"]) / float(stats["num_steps"])
            row["effective"] = round(float(stats["effective_particles"]) / particles, 3)
            row["evidence"] = round(float(stats["log_evidence"]) - float(prior.evidence(likelihood, y)), 4)
            row["evidence_error"] = round(float(stats["log_evidence_error"]), 4)
            row["tempered"] = int(stats["tempered"])
        yield row | {"seconds": round(seconds, 1)}


def code_of(solution):
    try:
        solution.check()
    except RuntimeError as error:
        return str(error).split(":")[0]
    return "successful"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--problems", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--append", action="store_true", help="to the cells of the last run, which was interrupted")
    parser.add_argument("--quick", action="store_true", help="one problem of one cell: does it run?")
    options = parser.parse_args()
    cells, problems = (["8,1,middle,2"], 1) if options.quick else (options.cells, options.problems)
    recorder = Recorder("posterior_grid_quick" if options.quick else "posterior_grid")
    if options.append:
        recorder.lines += recorder.path.read_text().splitlines()[1:]
    for cell in cells:
        d, m, level, modes = cell.split(",")
        for number in range(problems):
            for row in rows(int(d), int(m), level, int(modes), number, options.methods):
                recorder.add(**row)
                # A cell can take long: what has been found is kept.
                recorder.write()


if __name__ == "__main__":
    main()
