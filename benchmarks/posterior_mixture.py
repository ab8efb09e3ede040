"""How far are posterior samplers from the posterior? The mixture protocol of NUMBERS, section 5.

    python benchmarks/posterior_mixture.py [--columns 8,1 8,2 ...] [--problems 20] [--methods NAME ...] [--append]

Mixtures of 25 modes in d dimensions, 1, 2 or 4 measurements, VP with beta from .1 to 40, exact scores, 1000 samples,
20 problems (8 at d = 800), made as in the reference protocol, so that a problem is the same one as there. `sw` is the
sliced Wasserstein distance to 1000 exact draws, `tv` the total variation of the mode weights, both as means over
problems, with the 95 % bootstrap interval of the former; `sw_floor`, `tv_floor` of two sets of exact draws. `trace` is
the trace of the covariance within modes over that of exact draws. `paired` is the mean difference of `sw` to the
reference run, where it has the method, with its 95 % interval: `met` if that holds 0 or lies below. `evaluations` and
`vjps` are of the network, per sample; `seconds` of all problems of a column, without compilation (`compile`).
`effective` is the least share of effective particles, `evidence` the mean error of the log-evidence.
"""

import argparse
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffusion_gate import PROCESS, problem, within
from harness import Recorder

from jaxinv import diffusion, metrics

SAMPLES = 1000
COLUMNS = [(d, m) for d in (8, 80, 800) for m in (1, 2, 4)]
METHODS = {
    "default": None,
    "TDS, moment matching": diffusion.TDS(particles=SAMPLES),
    "TDS, TMPD": diffusion.TDS(diffusion.TMPD(), particles=SAMPLES),
    "moment matching": diffusion.MomentMatching(),
    "TMPD": diffusion.TMPD(rtol=1e-5),
    "PiGDM": diffusion.PiGDM(),
    "DPS": diffusion.DPS(100),
    "DAPS, one evaluation": diffusion.DAPS(100, 1, schedule=diffusion.UniformTime()),
    "PnPDM, from 32 sqrt(d)": None,
    "DAPS": diffusion.DAPS(),
    "PnPDM": diffusion.PnPDM(),
    "AnnealedLangevin": diffusion.AnnealedLangevin(),
    "Replacement": diffusion.Replacement(100),
    "DDRM": diffusion.DDRM(),
    "DiffPIR": diffusion.DiffPIR(),
    "REDDiff": diffusion.REDDiff(),
    "DFlow": diffusion.DFlow(),
    "OTODE": diffusion.OTODE(),
    "PnPFlow": diffusion.PnPFlow(),
}
# Their names in the reference run, on a hundred uniform steps in t.
REFERENCE = {"TDS, TMPD": "tds", "TMPD": "tmpd", "PiGDM": "pigdm", "DPS": "dps1", "exact score": "exactscore"}
REFERENCE |= {"DAPS, one evaluation": "daps", "PnPDM, from 32 sqrt(d)": "pnpdm"}
FILE = Path(__file__).parents[2] / "shared" / "data" / "mixture_reference.json"


@eqx.filter_jit
def draw(prior, likelihood, y, method, key):
    score = prior.score(PROCESS)
    if method == "exact score":
        score = prior.posterior(likelihood, y).score(PROCESS)
        method = diffusion.Ancestral(100)
        return diffusion.sample(score, prior.shape, key=key, method=method, num_samples=SAMPLES)
    return diffusion.posterior_sample(likelihood, score, y, key=key, method=method, num_samples=SAMPLES)


@jax.jit
def distance(a, b, key):
    return metrics.sliced_wasserstein(a, b, key=key)


def shares(samples, means):
    squares = np.stack([np.sum((np.asarray(samples) - m) ** 2, axis=1) for m in np.asarray(means)])
    return np.bincount(squares.argmin(0), minlength=len(means)) / len(samples)


def judge(samples, exact, posterior, key):
    """Sliced Wasserstein distance, total variation of the mode weights, and trace within modes."""
    weights = np.asarray(posterior.weights)
    variation = 0.5 * np.abs(shares(samples, posterior.means) - weights).sum()
    return float(distance(samples, exact, key)), variation, within(samples, posterior.means)


def floor_of(posterior, key):
    exact = [posterior.sample(SAMPLES, key=jax.random.fold_in(key, i)) for i in range(20)]
    pairs = [judge(a, b, posterior, key) for a, b in zip(exact[::2], exact[1::2], strict=True)]
    return exact[0], np.mean(pairs, axis=0)


def column(d, m, problems, names):
    """The figures of one column, `{method: {figure: one value for each problem}}`."""
    figures = {name: {} for name in names}
    for number in range(problems):
        prior, likelihood, y = problem(d, m, 1000 * d + 10 * m + 100_000 * number)
        posterior, key = prior.posterior(likelihood, y), jax.random.key(number)
        exact, floor = floor_of(posterior, key)
        evidence = float(prior.evidence(likelihood, y))
        for name in names:
            method = "exact score" if name == "exact score" else METHODS[name]
            if name.startswith("PnPDM, from"):
                method = diffusion.PnPDM(first=32 * d**0.5)
            began = time.perf_counter()
            if number == 0:
                jax.block_until_ready(draw(prior, likelihood, y, method, key))
            compiled = time.perf_counter()
            solution = jax.block_until_ready(draw(prior, likelihood, y, method, jax.random.fold_in(key, 99)))
            ended = time.perf_counter()
            row = dict(zip(("sw", "tv", "trace"), judge(solution.value, exact, posterior, key), strict=True))
            row |= {"sw_floor": floor[0], "tv_floor": floor[1], "trace_floor": floor[2]}
            row |= {"compile": compiled - began, "seconds": ended - compiled}
            row["evaluations"] = float(jnp.mean(solution.stats["network_evaluations"]))
            row["vjps"] = float(jnp.mean(solution.stats["vjps"])) if "vjps" in solution.stats else 0.0
            if "effective_particles" in solution.stats:
                particles = row["evaluations"] / float(solution.stats["num_steps"])
                row["effective"] = float(solution.stats["effective_particles"]) / particles
                row["evidence"] = float(solution.stats["log_evidence"]) - evidence
                row["evaluations"], row["vjps"] = row["evaluations"] / particles, row["vjps"] / particles
            for figure, value in row.items():
                figures[name].setdefault(figure, []).append(value)
    return figures


def interval(values):
    """The 95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = np.mean(rng.choice(values, size=(2000, len(values))), axis=1)
    return [round(float(v), 3) for v in np.quantile(means, [0.025, 0.975])]


def record(recorder, d, m, name, figures):
    mean = {figure: float(np.mean(values)) for figure, values in figures.items()}
    row = {"d": d, "measurements": m, "method": name, "problems": len(figures["sw"])}
    row |= {figure: round(mean[figure], 3) for figure in ("sw", "sw_floor", "tv", "tv_floor")}
    row |= {"sw_interval": interval(figures["sw"]), "trace": round(mean["trace"] / mean["trace_floor"], 3)}
    theirs = json.loads(FILE.read_text())[f"{d},{m}"].get(REFERENCE.get(name, "")) if FILE.exists() else None
    if theirs is not None:
        theirs = theirs["sw"][: len(figures["sw"])]
        difference = np.array(figures["sw"]) - np.array(theirs)
        low, high = interval(difference)
        row |= {"reference": round(float(np.mean(theirs)), 3), "paired": [low, high], "met": low <= 0}
    if name == "default":
        twice = row["sw_interval"][1] <= 2.5 * mean["sw_floor"] and mean["sw"] <= 2 * mean["sw_floor"]
        row["met"] = bool(twice and mean["tv"] <= 0.06)
    if "effective" in mean:
        row |= {"effective": round(min(figures["effective"]), 3), "evidence": round(mean["evidence"], 3)}
        row["evidence_error"] = round(float(np.std(figures["evidence"])), 3)
    row |= {figure: round(mean[figure]) for figure in ("evaluations", "vjps")}
    recorder.add(**row, seconds=round(sum(figures["seconds"]), 1), compile=round(figures["compile"][0], 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", nargs="+", default=[f"{d},{m}" for d, m in COLUMNS])
    parser.add_argument("--problems", type=int, default=20, help="of a column; at most 8 at d = 800")
    parser.add_argument("--methods", nargs="+", choices=["exact score", *METHODS], default=["exact score", *METHODS])
    parser.add_argument("--append", action="store_true", help="to the columns of the last run, which was interrupted")
    parser.add_argument("--quick", action="store_true", help="one problem, d = 8: does it run?")
    options = parser.parse_args()
    columns = ["8,1"] if options.quick else options.columns
    recorder = Recorder("posterior_mixture_quick" if options.quick else "posterior_mixture")
    if options.append:
        recorder.lines += recorder.path.read_text().splitlines()[1:]
    for d, m in (map(int, text.split(",")) for text in columns):
        problems = 1 if options.quick else min(options.problems, 8 if d == 800 else 20)
        for name, figures in column(d, m, problems, options.methods).items():
            record(recorder, d, m, name, figures)
            # A column can take long: what has been found is kept.
            recorder.write()
        # Linux gives a process 65 530 memory maps, of which every compiled program takes hundreds.
        jax.clear_caches()


if __name__ == "__main__":
    main()
