"""Mode collapse on MNIST: the game as it stands, beside what helps.

    python benchmarks/gan_collapse.py [--steps 4000] [--quick]

Dense generators and critics, 8 latents, Adam at 1e-3 for all. `minimax` is the game of the first paper;
`non-saturating` changes the loss of its generator; `non-saturating, R1` also keeps the critic from being steep (penalty
.3), and averages the weights of the generator (.999), as `gan_mnist.py` does; `Wasserstein` is WGAN-GP, with five steps
of the critic for one of the generator, at 2e-4. Modes are 20 clusters of training images; `reached` is how many of them
have a tenth of their share among 1000 samples, over the training, and `entropy` that of the shares at the end, beside
that of the data. The figure `gan_collapse.png` has the curves, `gan_collapse_samples.png`, which is not kept in the
repository, two rows of samples of each.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
from flax import nnx
from gan_mnist import LATENTS, OPTIMISERS, SHAPE, WASSERSTEIN_OPTIMISERS
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import generative, models, plotting, subspace, training

MODES = 20
ADAM = optax.adam(1e-3, b1=0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="of the generator; a quarter for Wasserstein")
    parser.add_argument("--quick", action="store_true", help="100 steps: does it run?")
    options = parser.parse_args()
    steps = 100 if options.quick else options.steps
    suffix = "_quick" if options.quick else ""
    recorder = Recorder(f"gan_collapse{suffix}", also=("matplotlib",))
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    monitor = generative.ModeCoverage(subspace.kmeans(train[:10000], MODES, key=jax.random.key(5)))
    penalised = {"optimisers": OPTIMISERS, "ema": 0.999}
    cases = {
        "minimax": (generative.minimax_loss(), steps, {"optimisers": ADAM}),
        "non-saturating": (generative.nonsaturating_loss(), steps, {"optimisers": ADAM}),
        "non-saturating, R1": (generative.nonsaturating_loss(0.3), steps, penalised),
        "Wasserstein": (
            generative.wasserstein_loss(),
            steps // 4,
            {"optimisers": WASSERSTEIN_OPTIMISERS, "critic_steps": 5},
        ),
    }
    figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
    axes, samples = figure.add_subplot(), []
    for name, (loss, own_steps, more) in cases.items():
        (generator, _), history = training.fit_adversarial(
            models.Generator(SHAPE, LATENTS, rngs=nnx.Rngs(0)),
            models.Critic(SHAPE, rngs=nnx.Rngs(1)),
            loss,
            train,
            key=jax.random.key(0),
            num_steps=own_steps,
            batch_size=64,
            monitor=monitor,
            chunk_size=max(own_steps // 20, 1),
            **more,
        )
        reached = MODES * history["monitor"]["coverage"]
        recorder.add(
            case=name,
            reached=[int(round(float(value))) for value in reached],
            of=MODES,
            entropy=float(history["monitor"]["entropy"][-1]),
            entropy_of_the_data=float(monitor.reference_entropy),
            steps=own_steps,
            seconds=history["seconds"],
        )
        axes.plot(history["monitor_steps"], reached, marker="o", markersize=2, label=name)
        samples.append(generator(jax.random.normal(jax.random.key(1), (28, LATENTS))))
    axes.set(xlabel="step of the generator", ylabel=f"clusters reached, of {MODES}", ylim=(0, MODES + 0.5))
    axes.legend(fontsize=7)
    plotting.save(figure, RESULTS / f"gan_collapse{suffix}.png")
    heading = "Two rows each:\n" + ", ".join(cases)
    grid = plotting.sample_grid(jnp.concatenate(samples), columns=14, heading=heading, limits=(0, 1))
    plotting.save(grid, RESULTS / f"gan_collapse_samples{suffix}.png")
    recorder.write()


if __name__ == "__main__":
    main()
