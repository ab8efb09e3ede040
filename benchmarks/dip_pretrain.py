"""Deep image priors pretrained on synthetic ellipses (educated DIP), beside drawn weights, in tomography of few angles.

    python benchmarks/dip_pretrain.py [--size 64] [--angles 20] [--pretrain 4000] [--quick]

The problems are those of `dip_ct`, with 20 angles, and DIP+TV starts from the FBP. A network is pretrained on pairs
(FBP, image) of the same geometry, which are generated on the fly, and fine-tuned, all its weights or the decoder's, by
Muon at a low constant rate; from drawn weights it is fitted by Muon as in `dip_ct`, at a constant rate and a falling
one, and by Adam. `steps_to_goal` is the first step at which the mean PSNR of the average over steps reaches `goal`,
that of TV less .1 dB; null: not within `steps`. `bars`: how many times fewer steps than from drawn weights (5 are asked
for), at least, and how much better the end (not less than -.1 dB).
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from dip_ct import SKIPS, Problems, baselines, falling, means, muon, solve
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import dip, models, noise, training

TUNING = 1e-3  # the rate of a pretrained network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--angles", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--pretrain", type=int, default=4000, help="steps of pretraining")
    parser.add_argument("--channels", type=int, default=32, help="of the skip network")
    parser.add_argument("--weight", type=float, default=2e-4, help="of TV in DIP+TV, as `dip_ct` chose it")
    parser.add_argument("--quick", action="store_true", help="one small image, few steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.images, options.steps, options.channels, options.pretrain = 32, 1, 100, 8, 50
    recorder = Recorder("dip_pretrain_quick" if options.quick else "dip_pretrain")
    names = ("size", "images", "angles", "steps", "pretrain", "channels", "weight")
    recorder.add(case="setting", **{name: getattr(options, name) for name in names})
    problems = Problems(options.size, options.images, options.angles)
    goal = baselines(recorder, problems)["TV"] - 0.1
    shape = (options.size, options.size, 1)
    network = models.SkipUNet(shape, channels=options.channels, skip_channels=SKIPS, rngs=nnx.Rngs(0))
    typical = jaxinv.Likelihood(problems.operator, noise.Gaussian(jnp.mean(problems.stds)))
    taught, history = dip.pretrain(
        typical,
        network,
        key=jax.random.key(3),
        num_steps=options.pretrain,
        batch_size=8,
        optimiser=muon(0.02, options.pretrain),
    )
    recorder.add(case="pretraining", loss=float(history["loss"][-20:].mean()), seconds=history["seconds"])
    low = {"optimiser": training.muon(TUNING, adam_learning_rate=TUNING)}
    cases = {
        "drawn weights": (network, {"optimiser": training.muon()}),
        "drawn weights, rate falling": (network, {"optimiser": muon(0.03, options.steps)}),
        "drawn weights, Adam": (network, {"optimiser": optax.adam(falling(0.01, options.steps))}),
        "educated": (taught, low),
        "educated, decoder only": (taught, low | {"frozen": ("down",)}),
    }
    found = {}
    for name, (own, given) in cases.items():
        run = partial(solve, problems, own, weight=options.weight, num_steps=options.steps, start=dip.FromFBP())
        outcomes = [run(i, ema=0.99, **given) for i in problems.judged]
        line = np.mean([figures["line"] for _, figures in outcomes], axis=0)
        reached = bool((line >= goal).any())
        steps = 10.0 * int(np.argmax(line >= goal)) if reached else float(options.steps)
        found[name] = steps, float(line[-1])
        recorder.add(case=name, steps_to_goal=steps if reached else None, goal=float(goal), **means(outcomes))
        recorder.write()
    slow, fast = (min(found[name] for name in found if name.startswith(kind)) for kind in ("drawn", "educated"))
    end = max(end for name, (_, end) in found.items() if name.startswith("drawn"))
    recorder.add(case="bars", times_fewer=slow[0] / max(fast[0], 10.0), better_end=fast[1] - end)
    recorder.write()


if __name__ == "__main__":
    main()
