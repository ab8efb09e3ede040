"""Deep image priors on simulated tomography of random ellipses, beside FBP and TV: quality, and when to stop.

    python benchmarks/dip_ct.py [--size 64] [--images 5] [--steps 4000] [--quick]

The setting of Baguer, Leuschner and Schmidt (2020): 30 parallel angles (`--angles`), data simulated from the image
enlarged to 400 pixels a side by bilinear interpolation, white noise of standard deviation .025 mean|y|. PSNR and SSIM
are means over the images, clipped for every method. The weights of TV and of DIP+TV are each chosen from a grid on
image number `--images`, which is not among those that are judged; the weight in the objective is `weight / std^2`. The
network is fed 32 channels of noise and fitted by `training.muon`, whose rate falls by a cosine to a hundredth, but
where it says "constant"; "Adam" is Adam with a rate of .01 that falls likewise, in as many steps. `end` is the PSNR
after the last step, `peak` the largest on the way, `kept` that of the image that is returned. `bars` says what of the
following holds.

- FBP within 1 dB of 24.2 (at 128 x 128); TV >= FBP + 3 dB; DIP+TV >= max(TV, DIP), DIP at its end
- DIP+TV keeps its peak (end >= peak - .2 dB), where plain DIP, without an average, loses .5 dB or more
- the stopping rules within .3 dB of the peak of the same run without a rule; the average .5 dB above the last image

`--few` leaves the rules, the constant rate and Adam out. `--recipe` is only the recipe of Ulyanov, Vedaldi and
Lempitsky (2018), for which the average and the rule of windowed variance were made: Adam at .01, an input of deviation
.029, jittered by 1/30. There images vary from step to step, and noise is fitted late; with Muon neither. `late` is the
mean PSNR over the last tenth of the steps, of what the network makes of the jittered input, or of the average: the bar
is about those. What is returned without an average, and `end`, is made of the input itself.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from harness import Recorder, timed

import jaxinv
from jaxinv import classical, data, dip, metrics, models, noise, operators, regularisers, training

FINE = 400
TV_GRID = np.geomspace(3e-5, 3e-3, 7)
DIP_TV_GRID = np.array([1e-4, 2e-4, 4e-4])
CHANNELS, SKIPS = 32, 16  # of the noise; past each scale
ANISOTROPIC = regularisers.TV(regularisers.Anisotropic())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--angles", type=int, default=30)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--channels", type=int, default=32, help="of the skip network; 128 in the paper")
    parser.add_argument("--rate", type=float, default=0.03, help="of Muon, at first")
    parser.add_argument("--weight", type=float, help="of TV in DIP+TV, in place of a choice from the grid")
    parser.add_argument("--few", action="store_true", help="only FBP, TV, DIP and DIP+TV")
    parser.add_argument("--recipe", action="store_true", help="only that of 2018, and its average")
    parser.add_argument("--quick", action="store_true", help="one small image, few steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.images, options.steps, options.channels = 32, 1, 150, 8
    name = f"dip_ct_{options.size}" + ("_recipe" if options.recipe else "")
    recorder = Recorder("dip_ct_quick" if options.quick else name)
    setting = {name: getattr(options, name) for name in ("size", "images", "angles", "steps", "channels", "rate")}
    recorder.add(case="setting", **setting)
    problems = Problems(options.size, options.images, options.angles)
    if options.recipe:
        recipe(recorder, problems, options)
        return
    best = baselines(recorder, problems)
    network = make_network((options.size, options.size, 1), options.channels)
    run = partial(solve, problems, network, num_steps=options.steps, optimiser=muon(options.rate, options.steps))
    weight = options.weight
    if weight is None:
        tried = [run(problems.chooser, weight=w, ema=0.99)[1]["end"] for w in DIP_TV_GRID]
        weight = float(DIP_TV_GRID[int(np.argmax(tried))])
    constant = {"optimiser": training.muon(options.rate)}
    adam = {"optimiser": optax.adam(falling(0.01, options.steps))}
    cases = {"DIP": {}, "DIP+TV": {"ema": 0.99, "weight": weight}}
    rules = {
        "windowed variance": dip.WindowedVariance(100, 1000),
        "discrepancy": dip.Discrepancy(1.0),
        "held out": dip.HeldOut(0.05, max(options.steps // 4, 1)),
    }
    if not options.few:
        cases |= {"DIP, constant rate": constant, "DIP, constant rate, average": constant | {"ema": 0.99}}
        cases |= {"DIP+TV, Adam": cases["DIP+TV"] | adam}
        cases |= {f"DIP, {name}": constant | {"ema": 0.99, "stopping": rule} for name, rule in rules.items()}
    found = {}
    for name, given in cases.items():
        outcomes = [run(i, **given) for i in problems.judged]
        found[name] = means(outcomes)
        values = jnp.stack([image for image, _ in outcomes])
        report(recorder, name, values, problems, weight=given.get("weight", 0.0), **found[name])
        recorder.write()
    bars = {
        "fbp": best["FBP"],
        "tv_over_fbp": best["TV"] - best["FBP"],
        "dip_tv_over_best_of_tv_and_dip": found["DIP+TV"]["end"] - max(best["TV"], found["DIP"]["end"]),
        "dip_tv_below_its_peak": found["DIP+TV"]["peak"] - found["DIP+TV"]["end"],
        "dip_below_its_peak": found["DIP"]["peak"] - found["DIP"]["end"],
    }
    if not options.few:
        average = found["DIP, constant rate, average"]
        bars["average_over_last"] = average["end"] - found["DIP, constant rate"]["end"]
        bars |= {f"{name}_below_peak": average["peak"] - found[f"DIP, {name}"]["kept"] for name in rules}
    recorder.add(case="bars", **bars)
    recorder.write()


def recipe(recorder, problems, options):
    """The last image of 2018's recipe, the average, and the rule of windowed variance on it."""
    network = make_network((options.size, options.size, 1), options.channels)
    # Uniform values from 0 to .1 have this deviation; the jitter is as large.
    given = {"num_steps": options.steps, "jitter": 1 / 30, "start": dip.FromNoise(std=0.1 / 12**0.5)}
    average, rule = {"ema": 0.99}, {"stopping": dip.WindowedVariance(100, 1000)}
    found = {}
    for name, more in {"the last image": {}, "the average": average, "windowed variance": average | rule}.items():
        outcomes = [solve(problems, network, i, **given, **more) for i in problems.judged]
        found[name] = means(outcomes)
        # The last image varies from step to step by more than it gains in hundreds.
        late = float(np.mean([figures["line"][-options.steps // 100 :].mean() for _, figures in outcomes]))
        report(recorder, name, jnp.stack([image for image, _ in outcomes]), problems, late=late, **found[name])
        found[name]["late"] = late
        recorder.write()
    gain = found["the average"]["late"] - found["the last image"]["late"]
    below = found["the average"]["peak"] - found["windowed variance"]["kept"]
    recorder.add(case="bars", average_over_last=gain, **{"windowed variance_below_peak": below})
    recorder.write()


def make_network(shape, channels):
    """A network that takes many channels of noise to an image of a shape."""
    noise_shape = (*shape[:2], CHANNELS)
    return models.SkipUNet(shape, input_shape=noise_shape, channels=channels, skip_channels=SKIPS, rngs=nnx.Rngs(0))


def falling(rate, steps):
    return optax.cosine_decay_schedule(rate, steps, 0.01)


def muon(rate, steps):
    """Muon, of a falling rate."""
    return training.muon(falling(rate, steps), adam_learning_rate=falling(rate / 3, steps))


class Problems:
    """Phantoms, and their data from a finer grid, with one noise level for each; the last is to choose weights on."""

    def __init__(self, size, count, angles):
        likelihood, self.x, self.y = simulate(size, count + 1, angles)
        self.operator, self.stds = likelihood.operator, likelihood.noise.std
        self.judged, self.chooser = range(count), count

    def likelihood(self, i):
        return jaxinv.Likelihood(self.operator, noise.Gaussian(self.stds[i]))

    def scaled(self, i, weight):
        return weight / self.stds[i].squeeze() ** 2


def baselines(recorder, problems):
    """The PSNR of FBP, of the better of two windows, and of TV."""
    scores = []
    for window in (classical.Hann(), classical.RamLak()):
        one = lambda y, window=window: classical.fbp(problems.operator, y, window=window).value
        images = jax.vmap(one)(problems.y)
        name = type(window).__name__
        scores.append(report(recorder, "FBP", images, problems, window=name)["psnr"])

    def solve_tv(i, weight):
        weight = problems.scaled(i, weight)
        return classical.tv(problems.likelihood(i), problems.y[i], weight=weight, kind=ANISOTROPIC.kind).value

    tried = [metrics.psnr(solve_tv(problems.chooser, w), problems.x[problems.chooser]) for w in TV_GRID]
    weight = float(TV_GRID[int(np.argmax(tried))])
    together = jax.vmap(partial(solve_tv, weight=weight))
    images, cost = timed(together, jnp.asarray(problems.judged), repeats=1)
    return {"FBP": max(scores), "TV": report(recorder, "TV", images, problems, weight=weight, **cost)["psnr"]}


def simulate(size, count, angles):
    turns = jnp.linspace(0, jnp.pi, angles, endpoint=False)
    bins = int(np.ceil(2**0.5 * size))
    x = data.ellipses(count, size, key=jax.random.key(0))
    fine = jax.image.resize(x, (count, FINE, FINE, 1), "linear")
    fine_operator = operators.ParallelBeam((FINE, FINE, 1), turns, bins, 2 / size, 2 / FINE)
    clean = jax.lax.map(lambda x: fine_operator(x), fine)
    stds = 0.025 * jnp.mean(jnp.abs(clean), axis=(1, 2, 3), keepdims=True)
    y = clean + stds * jax.random.normal(jax.random.key(1), clean.shape)
    operator = operators.ParallelBeam((size, size, 1), turns, bins, 2 / size, 2 / size)
    return jaxinv.Likelihood(operator, noise.Gaussian(stds)), x, y


def solve(problems, network, i, weight=0.0, **options):
    """One run, and its history in short: PSNR at the end, at its peak, of the image that is kept, and steps."""
    given = {"key": jax.random.key(0), "regulariser": ANISOTROPIC, "reference": problems.x[i], "stride": 10} | options
    solution = dip.reconstruct(
        problems.likelihood(i), network, problems.y[i], weight=problems.scaled(i, weight), **given
    )
    line = np.asarray(solution.stats["history"]["psnr"])
    figures = {
        "end": float(line[-1]),
        "kept": float(metrics.psnr(solution.value, problems.x[i])),
        "peak": float(line.max()),
        "peak_step": 10.0 * int(line.argmax()),
        "steps": float(solution.stats["num_steps"]),
    }
    return solution.value, figures | {"line": line}


def means(outcomes):
    """The means over the images of what is a number."""
    return {
        name: float(np.mean([f[name] for _, f in outcomes])) for name in ("end", "kept", "peak", "peak_step", "steps")
    }


def report(recorder, case, images, problems, **rest):
    images, truth = jnp.clip(images, 0, 1)[: len(problems.judged)], problems.x[: len(problems.judged)]
    figures = {
        "psnr": float(jnp.mean(jax.vmap(metrics.psnr)(images, truth))),
        "ssim": float(jnp.mean(jax.vmap(metrics.ssim)(images, truth))),
    }
    recorder.add(case=case, **figures, **rest)
    return figures


if __name__ == "__main__":
    main()
