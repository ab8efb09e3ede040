"""Learned SVD on MNIST tomography beside the linear methods: the setting of Boink, Brune (2019).

    python benchmarks/lsvd_mnist.py [--steps 5000] [--draws 5] [--quick]

Parallel beam, 41 detectors, operator divided by its norm, 2000 test images; PSNR as the mean over images, raw and
clipped to [0, 1], the mean over draws of the noise. The best rank of the TSVD and the best weight of Tikhonov's method
are chosen by that PSNR, which flatters both. The figures of the plain numpy protocol, which has another projector,
stand beside ours as `reference`, raw. Then learned SVDs, linear and not, with the bars that they are to meet.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import classical, lsvd, metrics, models, noise, operators, oracles

SHAPE = (28, 28, 1)
RANKS = (8, 16, 32, 64)
# Plain numpy, one draw: (TSVD, Tikhonov, RRR 8, 16, 32, 64, MMSE) by (angles, std).
REFERENCE = {
    (5, 0.02): (15.06, 15.11, 14.49, 15.72, 17.15, 18.21, 18.44),
    (5, 0.1): (14.08, 13.87, 14.39, 15.45, 16.44, 16.84, 16.86),
    (10, 0.02): (18.44, 18.49, 14.53, 15.94, 17.85, 20.12, 21.96),
    (10, 0.1): (14.78, 14.70, 14.42, 15.61, 16.83, 17.60, 17.78),
    (20, 0.1): (14.96, 14.74, 14.42, 15.62, 16.85, 17.65, 17.88),
}
TIKHONOV = jnp.geomspace(1e-4, 1, 13)
# The noise of the sinograms is about as large as what a_y could win; both only steady the latents.
WEIGHTS = lsvd.Joint(image_weight=0.1, measurement_weight=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the training of each network")
    parser.add_argument("--draws", type=int, default=5, help="of the noise")
    parser.add_argument("--quick", action="store_true", help="200 steps, one draw, two settings: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.draws = 200, 1
    recorder = Recorder("lsvd_mnist_quick" if options.quick else "lsvd_mnist")
    train = jnp.asarray(jaxinv.data.mnist("train")[0], jnp.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][:2000], jnp.float32) / 255
    flat = np.asarray(train).reshape(len(train), -1).astype(np.float64)
    prior = oracles.Gaussian(
        jnp.asarray(flat.mean(0).reshape(SHAPE), jnp.float32), jnp.asarray(np.cov(flat.T), jnp.float32)
    )
    tables = {}
    for setting in ((10, 0.1), (20, 0.1)) if options.quick else REFERENCE:
        tables[setting] = linear_methods(setting, test, prior, options.draws, recorder)
    for setting in ((10, 0.1),) if options.quick else ((10, 0.1), (20, 0.1)):
        learned(setting, train, test, tables[setting], options.steps, options.draws, recorder)
    recorder.write()


def problem(setting: tuple[int, float]) -> jaxinv.Likelihood:
    count, std = setting
    angles = jnp.linspace(0, jnp.pi, count, endpoint=False)
    # By its adjoint: the forward projection of 784 images at once takes minutes to compile for 20 angles.
    adjoint = operators.materialise(operators.ParallelBeam(SHAPE, angles, 41).H)
    operator = operators.materialise((adjoint / jnp.linalg.norm(adjoint.matrix, 2)).H)
    return jaxinv.Likelihood(operator, noise.Gaussian(std))


@jax.jit
def measure(likelihood, images, key):
    return jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(images, jax.random.split(key, len(images)))


@jax.jit
def psnrs(images, truth):
    """Raw and clipped."""
    return jnp.stack([jax.vmap(metrics.psnr)(x, truth).mean() for x in (images, jnp.clip(images, 0, 1))])


@functools.partial(jax.jit, static_argnames="method")
def curve(likelihood, y, truth, parameters, method):
    """PSNRs over ranks or weights."""
    one = lambda p: psnrs(jax.vmap(lambda y: method(likelihood, y, p))(y), truth)
    # Several at a time: what depends on the operator alone, a decomposition, is done once for all of them.
    return jax.lax.map(one, parameters, batch_size=13)


def tsvd(likelihood, y, rank):
    return classical.tsvd(likelihood, y, rank=rank).value


def tikhonov(likelihood, y, weight):
    # Its closed form: the posterior mean for x ~ N(0, I / weight).
    identity = jnp.eye(784) / jnp.sqrt(weight)
    return classical.gaussian(likelihood, oracles.Gaussian.from_factor(jnp.zeros(SHAPE), identity), y).value


def linear_methods(setting, test, prior, draws, recorder):
    """`{method: (raw, clipped)}`, each the mean over the draws."""
    likelihood = problem(setting)
    regression = lsvd.ReducedRankRegression.from_prior(likelihood, prior, max(RANKS))
    mmse = lsvd.ReducedRankRegression.from_prior(likelihood, prior)
    most = min(300, *likelihood.operator.matrix.shape)
    figures = {}
    for draw in range(draws):
        y = measure(likelihood, test, jax.random.key(draw))
        outcome = {}
        for name, method, parameters in (
            ("TSVD", tsvd, jnp.arange(4, most, 4)),
            ("Tikhonov", tikhonov, TIKHONOV / setting[1] ** 2),
        ):
            values = curve(likelihood, y, test, parameters, method)
            outcome[name] = values[jnp.argmax(values[:, 0])]
        for rank in RANKS:
            outcome[f"RRR {rank}"] = psnrs(regression(y, lsvd.Truncation(rank)), test)
        outcome["MMSE"] = psnrs(mmse(y), test)
        for name, pair in outcome.items():
            figures.setdefault(name, []).append(np.asarray(pair))
    means = {}
    for (name, drawn), reference in zip(figures.items(), REFERENCE[setting], strict=True):
        means[name] = np.mean(drawn, axis=0)
        record(recorder, setting, name, drawn, reference=reference)
    return means


def learned(setting, train, test, table, steps, draws, recorder):
    likelihood = problem(setting)
    shape = likelihood.operator.codomain.shape
    make = lambda rank, trunk, **options: lsvd.LSVD(SHAPE, shape, rank, rngs=nnx.Rngs(0), trunk=trunk, **options)
    nonlinear = lambda rank: make(rank, models.Dense((512, 256)), output=jax.nn.sigmoid)
    cases = (
        ("linear L-SVD 16", make(16, lsvd.Linear()), "RRR 16", 0, -0.1),
        ("L-SVD 16", nonlinear(16), "RRR 16", 1, 1.5),
        ("L-SVD 32", nonlinear(32), "MMSE", 1, 0.0),
    )
    for name, model, beside, column, margin in cases:
        rate = optax.cosine_decay_schedule(3e-3 if "linear" in name else 1e-3, steps, 0.01)
        model, history = lsvd.train(
            model,
            train[:-1000],
            likelihood,
            key=jax.random.key(0),
            method=WEIGHTS,
            num_steps=steps,
            batch_size=128,
            learning_rate=rate,
            ema=0.999,
            validation=train[-1000:],
        )
        apply = jax.jit(lambda model, y: jax.vmap(lambda y: lsvd.reconstruct(model, y).value)(y))
        drawn = [
            np.asarray(psnrs(apply(model, measure(likelihood, test, jax.random.key(draw))), test))
            for draw in range(draws)
        ]
        bar = float(table[beside][column]) + margin
        record(
            recorder,
            setting,
            name,
            drawn,
            bar=f"{'clipped' if column else 'raw'} >= {beside} {margin:+.1f} dB = {bar:.2f}",
            met=bool(np.mean(drawn, axis=0)[column] >= bar),
            steps=steps,
            weights=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))),
            training_seconds=round(history["seconds"], 1),
            spectrum=[round(float(s), 3) for s in model.latent_map.values[...]],
        )


def record(recorder, setting, name, drawn, **rest):
    raw, clipped = np.mean(drawn, axis=0)
    recorder.add(
        angles=setting[0],
        std=setting[1],
        method=name,
        psnr=round(float(raw), 2),
        psnr_clipped=round(float(clipped), 2),
        draws=len(drawn),
        spread=round(float(np.std(drawn, axis=0)[0]), 3),
        **rest,
    )


if __name__ == "__main__":
    main()
