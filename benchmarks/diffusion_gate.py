"""Do the integrators sample what the exact score says? Mixtures of Gaussians, against exact draws.

    python benchmarks/diffusion_gate.py [--problems 8] [--quick] [--only NAME]

The mixture of 25 modes, VP with beta from .1 to 40, exact scores, 1000 samples against 1000 exact draws, the mean over
problems. `above_floor` is the sliced Wasserstein distance beyond that of two sets of exact draws (the mean of 10
pairs); the bar is .15. `trace` is the trace of the covariance within modes, each sample minus the mean of its nearest
mode, over that of exact draws; the bar is 5 %. `steps` and `evaluations` are what it takes; `conditional` is the score
of the posterior given two measurements, of problems made as in the reference protocol.
"""

import argparse
import json

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from harness import Recorder

from jaxinv import Likelihood, diffusion, metrics, noise, operators, oracles

PROCESS = diffusion.VP(beta_max=40.0)
SAMPLES = 1000
METHODS = {
    "reverse SDE, Euler": [diffusion.ReverseSDE(n) for n in (100, 300, 1000)],
    "reverse SDE, Euler, log SNR": [diffusion.ReverseSDE(n, schedule=diffusion.UniformLogSNR()) for n in (100, 300)],
    "reverse SDE, ShARK, log SNR": [
        diffusion.ReverseSDE(n, solver=diffrax.ShARK(), schedule=diffusion.UniformLogSNR()) for n in (25, 50, 100)
    ],
    "probability flow, adaptive": [diffusion.ProbabilityFlow()],
    "probability flow, log SNR": [
        diffusion.ProbabilityFlow(num_steps=n, schedule=diffusion.UniformLogSNR()) for n in (10, 20)
    ],
    "ancestral": [diffusion.Ancestral(n) for n in (100, 1000)],
    "DDIM": [diffusion.DDIM(n) for n in (100, 1000)],
    "Heun": [diffusion.Heun(n) for n in (50, 100)],
    "DPM-Solver++": [diffusion.DPMSolver(n) for n in (25, 50, 100)],
    "predictor-corrector": [diffusion.PredictorCorrector(1000)],
}


def problem(d: int, measurements: int, seed: int):
    """The prior, likelihood and measurement of the reference protocol."""
    rng = np.random.default_rng(seed)
    means = np.array([np.tile([8.0 * i, 8.0 * j], d // 2) for i in range(-2, 3) for j in range(-2, 3)])
    weights = rng.normal(size=25) ** 2
    weights /= weights.sum()
    u = np.linalg.svd(rng.normal(size=(measurements, measurements)))[0]
    v = np.linalg.qr(rng.normal(size=(d, measurements)))[0]
    s = np.sort(rng.uniform(size=measurements))[::-1]
    matrix = u @ (s[:, None] * v.T)
    std = rng.uniform() * s.max()
    x = means[rng.choice(25, p=weights)] + rng.normal(size=d)
    y = matrix @ x + std * rng.normal(size=measurements)
    prior = oracles.GaussianMixture(*(jnp.asarray(v, jnp.float32) for v in (weights, means)), 1.0)
    likelihood = Likelihood(operators.Matrix(jnp.asarray(matrix, jnp.float32), (d,)), noise.Gaussian(std))
    return prior, likelihood, jnp.asarray(y, jnp.float32)


@eqx.filter_jit
def draw(oracle, d, method, key):
    solution = diffusion.sample(oracle.score(PROCESS), (d,), key=key, method=method, num_samples=SAMPLES)
    return solution.value, jnp.mean(solution.stats["num_steps"]), jnp.mean(solution.stats["network_evaluations"])


def within(samples, means):
    """The trace of the covariance around the nearest mode."""
    square = lambda m: np.sum((np.asarray(samples) - m) ** 2, axis=1)
    return np.min([square(m) for m in np.asarray(means)], axis=0).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one problem, d = 8: does it run?")
    parser.add_argument(
        "--only", choices=METHODS, help="measure this method, and keep the committed rows of the others"
    )
    options = parser.parse_args()
    chosen = {options.only: METHODS[options.only]} if options.only else METHODS
    recorder = Recorder("diffusion_gate_quick" if options.quick else "diffusion_gate")
    distance = jax.jit(lambda a, b, key: metrics.sliced_wasserstein(a, b, key=key))
    for d in (8,) if options.quick else (8, 80, 256):
        for conditional in (False, True):
            figures = {}
            for number in range(1 if options.quick else options.problems):
                prior, likelihood, y = problem(d, 2, 1000 * d + 20 + 100_000 * number)
                oracle = prior.posterior(likelihood, y) if conditional else prior
                key = jax.random.key(number)
                exact = [oracle.sample(SAMPLES, key=jax.random.fold_in(key, i)) for i in range(20)]
                floor = np.mean([float(distance(a, b, key)) for a, b in zip(exact[::2], exact[1::2], strict=True)])
                trace = np.mean([within(samples, oracle.means) for samples in exact])
                for name, methods in chosen.items():
                    for method in methods[:1] if options.quick else methods:
                        samples, steps, evaluations = draw(oracle, d, method, jax.random.fold_in(key, 99))
                        above = np.mean([float(distance(samples, other, key)) for other in exact[:5]]) - floor
                        figures.setdefault((name, round(float(steps)), round(float(evaluations))), []).append(
                            (above, within(samples, oracle.means) / trace)
                        )
            record(recorder, d, conditional, figures)
    if options.only:
        keep_others(recorder, options.only)
    recorder.write()


def keep_others(recorder, name):
    """Put the new rows of one method in the places of its old ones, with their commit."""
    first, *new = recorder.lines
    commit = json.loads(first)["commit"]
    new = iter(json.dumps(json.loads(line) | {"commit": commit}) for line in new)
    old = recorder.path.read_text().splitlines()
    recorder.lines = [next(new) if json.loads(line).get("method") == name else line for line in old]


def record(recorder, d, conditional, figures):
    # Adaptive steps differ from problem to problem: their mean.
    merged = {}
    for (name, steps, evaluations), values in figures.items():
        key = name if "adaptive" in name else (name, steps)
        merged.setdefault(key, []).extend((name, steps, evaluations, *value) for value in values)
    for rows in merged.values():
        above, ratio = (float(np.mean([row[i] for row in rows])) for i in (3, 4))
        recorder.add(
            d=d,
            score="conditional" if conditional else "unconditional",
            method=rows[0][0],
            steps=round(np.mean([row[1] for row in rows])),
            evaluations=round(np.mean([row[2] for row in rows])),
            above_floor=round(above, 3),
            trace=round(ratio, 3),
            met=bool(above <= 0.15 and abs(ratio - 1) <= 0.05),
            problems=len(rows),
        )


if __name__ == "__main__":
    main()
