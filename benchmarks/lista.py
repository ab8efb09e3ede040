"""LISTA beside ISTA and FISTA: sparse images, noiseless, as in Chen, Liu, Wang, Yin (2018).

    python benchmarks/lista.py [--steps 5000] [--quick]

A is 250 x 500, Gaussian, with columns of length 1; an entry is N(0, 1) with probability .1, else 0. `nmse` is
10 log10 (sum ||x - x*||^2 / sum ||x*||^2) in dB over 1000 test images. ISTA and FISTA have, for each number of
iterations, the best weight of 13 by that very figure, which flatters them. LISTA has 16 layers and one fixed start.
"untied from tied" goes on from what "tied" came to. `soft` are tied weights and thresholds alone, slopes and momenta
staying as they start. The committed run is of 3000 steps. `seconds` are those of all test images in one call.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Recorder, timed

import jaxinv
from jaxinv import classical, models, noise, operators, unrolled

ROWS, COLUMNS, LAYERS = 250, 500, 16
BAR = -27.9  # what FISTA takes 160 iterations for, by plain numpy
WEIGHTS = jnp.geomspace(1e-3, 1, 13)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the training of each network")
    parser.add_argument("--quick", action="store_true", help="20 steps, 50 images, few iterations: does it run?")
    options = parser.parse_args()
    quick = options.quick
    recorder = Recorder("lista_quick" if quick else "lista")
    matrix = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
    operator = operators.Matrix((matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32), (COLUMNS,))
    test = sparse(50 if quick else 1000, 1)
    baselines(operator, test, (16,) if quick else (16, 40, 160, 640), recorder)
    # So many that hardly any is seen twice: from 20 000, the tied network begins to learn them by heart.
    train = sparse(1000 if quick else 300_000, 2)
    learned(operator, train, test, 20 if quick else options.steps, recorder)
    recorder.write()


def sparse(count, seed):
    rng, shape = np.random.default_rng(seed), (count, COLUMNS)
    return jnp.asarray(rng.standard_normal(shape, np.float32) * (rng.random(shape, np.float32) < 0.1))


def decibels(images, truth):
    """Of the squared error over all images, relative to the images; along the last two axes."""
    return 10 * jnp.log10(jnp.sum((images - truth) ** 2, axis=(-2, -1)) / jnp.sum(truth**2))


def baselines(operator, test, counts, recorder):
    norm = float(np.linalg.norm(np.asarray(operator.matrix), 2))
    y = test @ operator.matrix.T
    for name, method in (("ISTA", classical.ista), ("FISTA", classical.fista)):
        for count in counts:

            def solve(operator, y, weight, method=method, count=count):
                likelihood = jaxinv.Likelihood(operator, noise.Gaussian(1.0))
                one = lambda y: method(likelihood, y, weight=weight, norm=norm, rtol=0.0, max_steps=count).value
                return jax.vmap(one)(y)

            curve = jax.jit(lambda *a, solve=solve: jax.lax.map(lambda w: decibels(solve(*a, w), test), WEIGHTS))
            values = np.asarray(curve(operator, y))
            best = int(np.argmin(values))
            _, figures = timed(solve, operator, y, WEIGHTS[best], repeats=3)
            recorder.add(
                method=name,
                iterations=count,
                nmse=round(float(values[best]), 2),
                weight=float(WEIGHTS[best]),
                seconds=figures["seconds"],
            )


def learned(operator, train, test, steps, recorder):
    likelihood = jaxinv.Likelihood(operator, noise.Gaussian(0.0))
    y = test @ operator.matrix.T
    apply = lambda network, y: network.iterates(y)
    runs = {
        "LISTA, tied": (lambda _: models.LISTA(operator, LAYERS, tied=True), None),
        "LISTA, untied": (lambda _: models.LISTA(operator, LAYERS), None),
        "LISTA, untied from tied": (lambda found: found["LISTA, tied"].untied(), adam(6e-4, steps)),
        "LISTA, tied, soft": (lambda _: models.LISTA(operator, LAYERS, tied=True), only_thresholds(steps)),
    }
    found = {}
    for name, (begin, optimiser) in runs.items():
        start = begin(found)
        found[name], history = unrolled.train_lista(
            start,
            train,
            likelihood,
            key=jax.random.key(0),
            num_steps=steps,
            batch_size=64,
            optimiser=optimiser,
        )
        iterates, figures = timed(apply, found[name], y, repeats=3)
        nmse = np.asarray(decibels(iterates, test))
        recorder.add(
            method=name,
            iterations=LAYERS,
            nmse=round(float(nmse[-1]), 2),
            nmse_at_start=round(float(decibels(jax.jit(apply)(start, y), test)[-1]), 2),
            nmse_after_layers_4_8_12=[round(float(value), 2) for value in nmse[3:15:4]],
            bar=BAR,
            met=bool(nmse[-1] <= BAR),
            parameters=parameters(found[name], soft="soft" in name),
            steps=steps,
            seconds=figures["seconds"],
            training_seconds=round(history["seconds"], 1),
        )


def parameters(network, soft):
    """How many numbers were trained."""
    trained = [network.weights, network.thresholds, *([] if soft else [network.slopes, network.momenta])]
    return sum(parameter[...].size for parameter in trained)


def adam(rate, steps):
    return optax.adam(optax.cosine_decay_schedule(rate, steps, 0.01))


def only_thresholds(steps):
    """Adam as in `train_lista`, on weights and thresholds."""
    kind = lambda weights: {name: "fixed" if name.startswith(("slopes", "momenta")) else "free" for name in weights}
    return optax.multi_transform({"free": adam(6e-3, steps), "fixed": optax.set_to_zero()}, kind)


if __name__ == "__main__":
    main()
