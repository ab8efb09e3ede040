"""What sampling costs beyond the calls of the network.

    python benchmarks/diffusion_speed.py [--quick]

A score U-Net of random weights, a batch of samples by `num_samples`. `over_bare` is the time over that of a compiled
loop of as many calls of the bare network on the same batch, nothing between them; the bar is 1.05 with 64 x 64 images.
`over_scan`: the reverse SDE through diffrax over a hand-written `lax.scan` of Euler-Maruyama steps; the bar is 1.1.
Medians of several runs, and of their ratios, taken in turns; on a shared machine these scatter by 5 %, those of the
hand-written scan too.
"""

import argparse
import functools
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from harness import Recorder

from jaxinv import diffusion, models

PROCESS = diffusion.VP()
KEY = jax.random.key(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small case, one run: does it run?")
    quick = parser.parse_args().quick
    recorder = Recorder("diffusion_speed_quick" if quick else "diffusion_speed")
    cases = ((28, 4, 4),) if quick else ((28, 16, 20), (64, 1, 20), (64, 8, 10))
    for size, count, steps in cases:
        case(recorder, (size, size, 1), count, steps, 1 if quick else 11)
    recorder.write()


def case(recorder, shape, count, steps, repeats):
    network = models.UNet(shape, rngs=nnx.Rngs(0))
    # A network that starts as zero would sample noise that grows without bound.
    leaves, structure = jax.tree.flatten(network)
    noisy = [leaf + 0.02 * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape) for i, leaf in enumerate(leaves)]
    score = diffusion.score_from(jax.tree.unflatten(structure, noisy), PROCESS)
    methods = (
        diffusion.ReverseSDE(steps),
        diffusion.PredictorCorrector(steps // 2),
        diffusion.Ancestral(steps),
        diffusion.DDIM(steps),
        diffusion.Heun(steps // 2),
        diffusion.DPMSolver(steps),
        diffusion.ProbabilityFlow(num_steps=max(steps // 6, 1)),
    )
    programs = {type(method).__name__: functools.partial(draw, method, shape, count) for method in methods}
    programs["hand-written scan"] = functools.partial(scan, steps=steps, shape=(count, *shape))
    compiled, figures = {}, {}
    for name, program in programs.items():
        began = time.perf_counter()
        compiled[name] = eqx.filter_jit(program).lower(score).compile()
        figures[name] = {"compile_seconds": time.perf_counter() - began, "evaluations": steps}
        outcome = compiled[name](score)
        if isinstance(outcome, dict):
            figures[name]["evaluations"] = int(outcome["network_evaluations"][0])
    for number in sorted({figure["evaluations"] for figure in figures.values()}):
        program = functools.partial(bare, number=number, shape=(count, *shape))
        compiled[number] = eqx.filter_jit(program).lower(score).compile()
        jax.block_until_ready(compiled[number](score))
    seconds = {name: [] for name in compiled}
    for _ in range(repeats):
        for name, program in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(program(score))
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, figure in figures.items():
        beside = {"over_scan": ratio(seconds, name, "hand-written scan")} if name == "ReverseSDE" else {}
        over = ratio(seconds, name, figure["evaluations"])
        recorder.add(
            image=str(shape), samples=count, method=name, seconds=medians[name], over_bare=over, **figure, **beside
        )


def ratio(seconds, name, other):
    # Of two runs of the same turn: the machine is as fast for one as for the other.
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def draw(method, shape, count, score):
    solution = diffusion.sample(score, shape, key=KEY, method=method, num_samples=count, denoise=False)
    return {"value": solution.value, **solution.stats}


def bare(score, *, number, shape):
    times = jnp.linspace(1, 1e-3, number)
    call = lambda x, t: (score.network(x, jnp.full(shape[0], t)), None)
    return jax.lax.scan(call, jax.random.normal(KEY, shape), times)[0]


def scan(score, *, steps, shape):
    """Euler-Maruyama for the reverse SDE, by hand."""
    gap = (PROCESS.t_max - PROCESS.t_min) / steps

    def step(x, index):
        t = PROCESS.t_max - index * gap
        rate, (_, std) = PROCESS.diffusion(t), PROCESS.marginal(t)
        gradient = -score.network(x, jnp.full(shape[0], t)) / std
        noise = jax.random.normal(jax.random.fold_in(KEY, index), shape)
        return x - gap * (PROCESS.drift(t, x) - rate**2 * gradient) + jnp.sqrt(gap) * rate * noise, None

    return jax.lax.scan(step, jax.random.normal(KEY, shape), jnp.arange(steps))[0]


if __name__ == "__main__":
    main()
