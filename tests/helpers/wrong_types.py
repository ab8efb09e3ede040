"""Calls every verb and makes every module with arguments of wrong types, as users see it: without a type checker.

`python tests/helpers/wrong_types.py verbs|modules` prints a line for each call that neither raises a `ValueError` or
`TypeError` of the package that names the argument, nor is right to accept it.
"""

import importlib
import inspect
import sys
import traceback

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv
from jaxinv import classical, diffusion, dip, generative, models, noise, operators, oracles, regularisers

BAD = {"None": None, "text": "text", "object": object(), "key": jax.random.key(0), "True": True}
SHAPE = (4, 4, 1)
X = jnp.ones(SHAPE)
KEY = jax.random.key(0)
LIKELIHOOD = jaxinv.Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
PRIOR = oracles.Gaussian.from_factor(jnp.zeros(SHAPE), jnp.eye(16)[:, :3])
SCORE = PRIOR.score(diffusion.VP())
BEAM = operators.ParallelBeam(SHAPE, jnp.linspace(0, 3, 5))
SPARSE = {"likelihood": LIKELIHOOD, "y": X, "weight": 1.0}
LATENT = {"likelihood": LIKELIHOOD, "prior": PRIOR.as_latent(), "y": X, "key": KEY}
NETWORK = models.DeepDecoder(SHAPE, layers=1, channels=2, rngs=nnx.Rngs(0))
FIT = {"likelihood": LIKELIHOOD, "network": NETWORK, "y": X, "key": KEY}
VERBS = {
    classical.fbp: {"operator": BEAM, "y": BEAM(X)},
    classical.tikhonov: SPARSE,
    classical.tv: SPARSE,
    classical.ista: SPARSE,
    classical.fista: SPARSE,
    classical.tsvd: {"likelihood": LIKELIHOOD, "y": X, "rank": 2},
    classical.gaussian: {"likelihood": LIKELIHOOD, "prior": PRIOR, "y": X},
    operators.norm: {"operator": BEAM, "key": KEY},
    generative.reconstruct: LATENT,
    generative.sample_posterior: LATENT | {"num_samples": 16},
    generative.project: {"prior": PRIOR.as_latent(), "x": X, "key": KEY},
    generative.sample: {"prior": PRIOR.as_latent(), "n": 2, "key": KEY},
    generative.interpolate: {"prior": PRIOR.as_latent(), "z0": jnp.ones(3), "z1": jnp.ones(3), "num": 3},
    diffusion.sample: {"score": SCORE, "shape": SHAPE, "key": KEY},
    diffusion.posterior_sample: {"likelihood": LIKELIHOOD, "score": SCORE, "y": X, "key": KEY},
    diffusion.log_prob: {"score": SCORE, "x": X},
    diffusion.encode: {"score": SCORE, "x": X},
    diffusion.decode: {"score": SCORE, "z": X},
    diffusion.forward: {"process": diffusion.VP(), "x0": X, "key": KEY, "t": 0.5},
    diffusion.trajectory: {"process": diffusion.VP(), "x0": X, "times": jnp.linspace(0.1, 1, 3), "key": KEY},
    dip.reconstruct: FIT | {"num_steps": 2},
    dip.linearised_posterior: FIT | {"z0": jnp.ones((1, *NETWORK.input_shape))[0], "num_samples": 2},
}
# The other arguments of those modules that cannot be made without any.
MODULES = {
    operators.Mask: {"mask": X},
    operators.Matrix: {"matrix": jnp.ones((2, 16)), "shape": SHAPE},
    operators.Convolution: {"kernel": jnp.ones((3, 3)), "shape": SHAPE},
    operators.Downsample: {"shape": SHAPE, "factor": 2},
    operators.Identity: {"shape": SHAPE},
    operators.Real: {"shape": SHAPE},
    operators.MaskedFourier: {"mask": X},
    operators.MultiCoilFourier: {"mask": X, "coils": jnp.ones((2, *SHAPE), complex)},
    operators.ParallelBeam: {"shape": SHAPE, "angles": jnp.linspace(0, 3, 5)},
    operators.FanBeam: {
        "shape": SHAPE,
        "angles": jnp.linspace(0, 3, 5),
        "num_detectors": 8,
        "detector_spacing": 1.0,
        "source_origin": 20.0,
        "origin_detector": 10.0,
    },
    noise.Gaussian: {"std": 0.1},
    noise.CorrelatedGaussian: {"factor": jnp.eye(16)},
    noise.Poisson: {},
    noise.TransmissionPoisson: {"photons": 10.0},
    oracles.Gaussian: {"mean": jnp.zeros(SHAPE), "covariance": jnp.eye(16)},
    oracles.LowRank: {"basis": jnp.eye(16)[:, :2], "variances": jnp.ones(2)},
    oracles.GaussianMixture: {"weights": jnp.ones(1), "means": jnp.zeros((1, *SHAPE)), "covariances": jnp.ones(1)},
    regularisers.Gaussian: {"prior": PRIOR},
    jaxinv.Likelihood: {"operator": BEAM, "noise": noise.Gaussian(0.1)},
}
ROOMS = ("noise", "operators", "regularisers", "oracles", "classical", "generative", "diffusion", "dip", "subspace")


def modules():
    """Every public module that can be made, with arguments that make it."""
    yield from MODULES.items()
    for room in ROOMS:
        for name in importlib.import_module(f"jaxinv.{room}").__all__:
            kind = getattr(getattr(jaxinv, room), name)
            if inspect.isclass(kind) and kind not in MODULES and hasattr(kind, "__dataclass_fields__"):
                try:
                    kind()
                except (TypeError, ValueError):
                    continue
                yield kind, {}


def right(parameter, bad, value):
    """Whether the value is one that the argument takes, by its default or its annotation."""
    if bad == "None":
        # It stands for the default of what is an instance of a class of the package.
        instance = type(parameter.default).__module__.startswith("jaxinv")
        return parameter.default is None or instance or "None" in str(parameter.annotation)
    if bad == "True":
        return isinstance(parameter.default, bool) or parameter.annotation is bool
    return bad == "key" and parameter.name == "key"


def wrong_calls(call, arguments):
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        for bad, value in BAD.items():
            if right(parameter, bad, value):
                continue
            given = arguments | {name: value}
            try:
                call(**given)
            except (ValueError, TypeError) as error:
                place = traceback.extract_tb(error.__traceback__)[-1].filename
                if "/jaxinv/" in place and f"{name}" in str(error):
                    continue
                said = f"{type(error).__name__} at {place.split('site-packages/')[-1]}: {error}"
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            else:
                said = "accepted"
            yield f"{call.__module__}.{call.__qualname__}({name}={bad}): {said[:150]!r}"


if __name__ == "__main__":
    table = VERBS.items() if sys.argv[1] == "verbs" else modules()
    for call, arguments in table:
        for line in wrong_calls(call, arguments):
            sys.stdout.write(line + "\n")
