"""How long does each verb take to compile, beside what it cannot do without: its network, or its operator?

    python benchmarks/compile.py [--only PART]

Images of 28 x 28, parallel beams of ten angles, `UNet` and a small `SkipUNet`, few steps: the program of more steps is
the same. Seconds to trace, to lower and to compile, each from cold caches and with the compilation cache off, and the
kilobytes of the lowered text. The ratios are of the three together: over one evaluation of the network of the row
(`over_forward`), over one product with its Jacobian from the left (`over_gradient`, in the image for scores, in the
weights for deep image priors and in the latent for generators), and over `jax.scipy.sparse.linalg.cg` on the normal
equations of the operator (`over_cg`). These are the rows above the verbs, each the median of three. A posterior sampler
holds the operator too, but for `DPS, Mask`, whose operator costs nothing: read the method itself there.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import (
    classical,
    diffusion,
    dip,
    generative,
    lsvd,
    models,
    noise,
    operators,
    oracles,
    regularisers,
    unrolled,
)

SHAPE, SIZE = (28, 28, 1), 784
ANGLES = jnp.linspace(0, jnp.pi, 10, endpoint=False)
STEPS, LATENT = 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part, whose results are not written")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    recorder = Recorder("compile")
    compiled(lambda x: 2 * x, jnp.ones(3))  # what the first program of a process pays for all
    for name, part in PARTS.items():
        if options.only in (None, name):
            part(Bench(recorder))
    if options.only is None:
        recorder.write()


def compiled(function, *arguments):
    """Seconds to trace, to lower and to compile, and the kilobytes of the lowered text."""
    jax.clear_caches()
    marks = [time.perf_counter()]
    traced = jax.jit(function).trace(*arguments)
    marks.append(time.perf_counter())
    lowered = traced.lower()
    marks.append(time.perf_counter())
    lowered.compile()
    marks.append(time.perf_counter())
    trace, lower, compile_ = (after - before for before, after in zip(marks[:-1], marks[1:], strict=True))
    return {
        "trace_seconds": trace,
        "lower_seconds": lower,
        "compile_seconds": compile_,
        "hlo_kilobytes": len(lowered.as_text()) / 1e3,
    }


class Bench:
    """The rows of one part, and the references that their ratios are over."""

    def __init__(self, recorder):
        self.recorder, self.references = recorder, {}

    def reference(self, column, case, function, *arguments):
        """A row that the ratios of the column `over_COLUMN` are over."""
        found = [compiled(function, *arguments) for _ in range(3)]
        line = {name: statistics.median(each[name] for each in found) for name in found[0]}
        self.references[column] = _whole(line)
        self.recorder.add(case=case, **line)

    def add(self, case, function, *arguments):
        line = compiled(function, *arguments)
        ratios = {f"over_{name}": _whole(line) / seconds for name, seconds in self.references.items()}
        self.recorder.add(case=case, **line, **ratios)


def _whole(line):
    return line["trace_seconds"] + line["lower_seconds"] + line["compile_seconds"]


# Everything that is an array comes in as an argument: a constant would be folded, or copied into the program.
def beams(angles):
    return operators.ParallelBeam(SHAPE, angles)


def measured(angles, kind=noise.Gaussian(0.1)):  # noqa: B008
    return jaxinv.Likelihood(beams(angles), kind)


def plain_cg(angles, y):
    """The normal equations, by what JAX itself has."""
    operator = beams(angles)
    product = lambda x: operator.adjoint(operator(x)) + x
    return jax.scipy.sparse.linalg.cg(product, operator.adjoint(y), tol=1e-6, maxiter=500)[0]


def of_operators(bench):
    y = jnp.ones(beams(ANGLES).codomain.shape)
    counts = noise.TransmissionPoisson(1e3)
    smoothed = {"kind": regularisers.Smoothed(0.1), "norm": 10.0}
    bench.reference("forward", "ParallelBeam", lambda a, x: beams(a)(x), ANGLES, jnp.ones(SHAPE))
    bench.reference("adjoint", "ParallelBeam, adjoint", lambda a, y: beams(a).adjoint(y), ANGLES, y)
    bench.reference("cg", "jax.scipy.sparse.linalg.cg", plain_cg, ANGLES, y)
    prior = oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(SIZE))
    for case, solve, *more in [
        ("operators.norm", lambda a, y: operators.norm(beams(a), key=jax.random.key(0))),
        ("fbp", lambda a, y: classical.fbp(beams(a), y)),
        ("tikhonov", lambda a, y: classical.tikhonov(measured(a), y, weight=1.0)),
        ("tikhonov, photons", lambda a, y: classical.tikhonov(measured(a, counts), y, weight=1.0)),
        ("tv", lambda a, y: classical.tv(measured(a), y, weight=1.0)),
        ("tv, known norm", lambda a, y: classical.tv(measured(a), y, weight=1.0, norm=10.0)),
        ("tv, implicit gradient", jax.grad(_square_of_tv, argnums=1), smoothed),
        ("ista", lambda a, y: classical.ista(measured(a), y, weight=1.0)),
        ("fista", lambda a, y: classical.fista(measured(a), y, weight=1.0)),
        ("tsvd", lambda a, y: classical.tsvd(measured(a), y, rank=50)),
        ("gaussian", lambda a, y, prior: classical.gaussian(measured(a), prior, y).value, prior),
    ]:
        bench.add(case, solve, ANGLES, y, *more)


def _square_of_tv(angles, y, options):
    image = classical.tv(measured(angles), y, weight=1.0, differentiate=jaxinv.Implicit(), **options).value
    return jnp.sum(image**2)


def of_scores(bench):
    network = models.UNet(SHAPE, rngs=nnx.Rngs(0))
    process, key, y, x = diffusion.VP(), jax.random.key(0), jnp.ones(beams(ANGLES).codomain.shape), jnp.ones(SHAPE)
    evaluate = lambda network, x: network(x[None], jnp.full(1, 0.5))[0]
    bench.reference("forward", "UNet", evaluate, network, x)
    gradient = lambda network, x: jax.vjp(lambda x: evaluate(network, x), x)[1](x)
    bench.reference("gradient", "UNet, gradient in the image", gradient, network, x)
    score = lambda network: diffusion.score_from(network, process)
    for method in (
        diffusion.DDIM(STEPS),
        diffusion.Ancestral(STEPS),
        diffusion.DPMSolver(STEPS),
        diffusion.Heun(STEPS),
        diffusion.PredictorCorrector(STEPS),
        diffusion.ReverseSDE(STEPS),
        diffusion.ProbabilityFlow(num_steps=STEPS),
    ):
        draw = lambda network, key, method=method: diffusion.sample(score(network), SHAPE, key=key, method=method)
        bench.add(f"sample, {type(method).__name__}", draw, network, key)
    bench.add("log_prob", lambda network, x, key: diffusion.log_prob(score(network), x, key=key), network, x, key)
    for method in (
        diffusion.DPS(STEPS),
        diffusion.PiGDM(STEPS),
        diffusion.TMPD(STEPS),
        diffusion.MomentMatching(STEPS),
        diffusion.TDS(diffusion.MomentMatching(STEPS), particles=4),
        diffusion.Replacement(STEPS),
        diffusion.DDRM(STEPS),
        diffusion.DiffPIR(STEPS),
        diffusion.REDDiff(STEPS),
        diffusion.AnnealedLangevin(STEPS, 2),
        diffusion.DAPS(STEPS, 2),
        diffusion.PnPDM(STEPS, 2),
        diffusion.OTODE(STEPS),
        diffusion.DFlow(STEPS, diffusion.DDIM(3)),
        diffusion.PnPFlow(STEPS),
    ):
        guided = lambda network, angles, y, key, method=method: diffusion.posterior_sample(
            measured(angles), score(network), y, key=key, method=method
        )
        bench.add(f"posterior_sample, {type(method).__name__}", guided, network, ANGLES, y, key)
    # Beside the network there is next to nothing in the program of this one.
    masked = lambda network, mask, y, key: diffusion.posterior_sample(
        jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.1)),
        score(network),
        y,
        key=key,
        method=diffusion.DPS(STEPS),
    )
    bench.add("posterior_sample, DPS, Mask", masked, network, jnp.ones(SHAPE), x, key)


def of_deep_image_priors(bench):
    network = models.SkipUNet(SHAPE, scales=3, channels=16, rngs=nnx.Rngs(0))
    z, key, y = jnp.ones((1, *SHAPE)), jax.random.key(0), jnp.ones(beams(ANGLES).codomain.shape)
    bench.reference("forward", "SkipUNet", lambda network, z: network(z), network, z)
    gradient = lambda network, z: jax.vjp(lambda network: network(z), network)[1](z)
    bench.reference("gradient", "SkipUNet, gradient in the weights", gradient, network, z)
    penalty = {"regulariser": regularisers.TV(), "weight": 0.1}
    for case, options in {
        "plain": {},
        "TV": penalty,
        "ADMM": {"method": dip.ADMM(1.0), **penalty},
        "SelfGuided": {"method": dip.SelfGuided()},
        "WindowedVariance": {"stopping": dip.WindowedVariance(3)},
        "Discrepancy": {"stopping": dip.Discrepancy()},
        "HeldOut": {"stopping": dip.HeldOut()},
    }.items():
        fit = lambda network, angles, y, key, options=options: dip.reconstruct(
            measured(angles), network, y, key=key, num_steps=STEPS, **options
        )
        bench.add(f"dip.reconstruct, {case}", fit, network, ANGLES, y, key)


def of_generators(bench):
    network = models.Generator(SHAPE, LATENT, rngs=nnx.Rngs(0))
    z, key, x, y = jnp.ones(LATENT), jax.random.key(0), jnp.ones(SHAPE), jnp.ones(beams(ANGLES).codomain.shape)
    prior = generative.GANPrior
    bench.reference("forward", "Generator", lambda network, z: network(z[None])[0], network, z)
    gradient = lambda network, z, x: jax.vjp(lambda z: network(z[None])[0], z)[1](x)
    bench.reference("gradient", "Generator, gradient in the latent", gradient, network, z, x)
    for case, method in {
        "Hard": generative.Hard(),
        "Relaxed": generative.Relaxed(weight=1.0),
        "Soft": generative.Soft(weight=1.0),
    }.items():
        solve = lambda network, angles, y, key, method=method: generative.reconstruct(
            measured(angles), prior(network), y, key=key, method=method, max_steps=STEPS
        )
        bench.add(f"generative.reconstruct, {case}", solve, network, ANGLES, y, key)
    project = lambda network, x, key: generative.project(prior(network), x, key=key, max_steps=STEPS)
    bench.add("generative.project", project, network, x, key)
    draw = lambda network, key: generative.sample(prior(network), 3, key=key)
    bench.add("generative.sample", draw, network, key)


def of_other_networks(bench):
    y = jnp.ones(beams(ANGLES).codomain.shape)
    learned = lsvd.LSVD(SHAPE, y.shape, LATENT, rngs=nnx.Rngs(0))
    bench.reference("forward", "LSVD", lambda network, y: network(y[None]), learned, y)
    bench.add("lsvd.reconstruct", lambda network, y: lsvd.reconstruct(network, y), learned, y)
    lista = models.LISTA(beams(ANGLES), 3, norm=10.0)
    other = Bench(bench.recorder)
    other.reference("forward", "LISTA", lambda network, y: network(y[None]), lista, y)
    other.add("unrolled.reconstruct", lambda network, y: unrolled.reconstruct(network, y), lista, y)


PARTS = {
    "operators": of_operators,
    "deep image priors": of_deep_image_priors,
    "generators": of_generators,
    "other networks": of_other_networks,
    "scores": of_scores,
}


if __name__ == "__main__":
    main()
