"""Every public computation as a call on tiny arguments: the rows of `test_settings.py`.

Those of the other conformance tables (verbs, posterior methods, operators), and what stands in none of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import posteriors
import verbs
from cases import ROWS
from flax import nnx

from jaxinv import (
    Implicit,
    Likelihood,
    Unrolled,
    classical,
    diffusion,
    generative,
    metrics,
    models,
    noise,
    operators,
    oracles,
    regularisers,
    subspace,
    training,
    unrolled,
)

SHAPE = (6, 5, 1)
KEY = jax.random.key(0)


@dataclasses.dataclass(frozen=True)
class Call:
    """`function(arguments(dtype))`, a pytree of arrays in and out.

    - `host`: whether it runs on the host, in compiled chunks, and cannot be traced.
    - `precision`: false where a network, or another library, multiplies matrices, whose precision is their own affair.
    """

    name: str
    arguments: Callable[[Any], Any]
    function: Callable[[Any], Any]
    host: bool = False
    precision: bool = True

    def __repr__(self):
        return self.name


def _both(problem):
    operator, x, y = problem
    return operator(x), operator.adjoint(y), operator.normal(x), operator.measured


def _states(row, lift=lambda dtype: dtype):
    def arguments(dtype):
        operator = row.operator(dtype)
        ones = lambda s: jnp.ones(s.shape, lift(s.dtype))
        return operator, jax.tree.map(ones, operator.domain), jax.tree.map(ones, operator.codomain)

    return arguments


def _images(dtype, number=12):
    return jnp.asarray(np.random.default_rng(0).uniform(size=(number, *SHAPE)), dtype)


def _pair(dtype):
    return tuple(_images(dtype, 2))


def _sets(dtype):
    images = _images(dtype)
    return images[:5], images[5:]


def _gaussians(dtype):
    random = np.random.default_rng(0)
    factors = random.normal(size=(2, 4, 4))
    means, covariances = random.normal(size=(2, 4)), factors @ np.swapaxes(factors, 1, 2)
    return tuple(jnp.asarray(a, dtype) for a in (means[0], covariances[0], means[1], covariances[1]))


def _noisy(kind):
    def arguments(dtype):
        likelihood = Likelihood(operators.Mask(jnp.ones(SHAPE, dtype)), kind(dtype))
        return likelihood, _images(dtype, 1)[0], KEY

    return arguments


def _fit_and_draw(problem):
    likelihood, x, key = problem
    y = likelihood.simulate(x, key=key)
    return jax.value_and_grad(lambda x: likelihood.negative_log_likelihood(x, y))(x)


NOISES = {
    "Gaussian": lambda dtype: noise.Gaussian(jnp.asarray(0.1, dtype)),
    "CorrelatedGaussian": lambda dtype: noise.CorrelatedGaussian(jnp.eye(30, dtype=dtype)),
    "Poisson": lambda dtype: noise.Poisson(jnp.asarray(20.0, dtype)),
    "TransmissionPoisson": lambda dtype: noise.TransmissionPoisson(jnp.asarray(1e3, dtype)),
}

REGULARISERS = {
    "L1": lambda dtype: 0.5 * regularisers.L1(),
    "Tikhonov": lambda dtype: regularisers.Tikhonov(),
    "TV isotropic": lambda dtype: regularisers.TV(),
    "TV smoothed and L1": lambda dtype: (
        regularisers.TV(regularisers.Smoothed(jnp.asarray(0.1, dtype))) + regularisers.L1()
    ),
    "Gaussian": lambda dtype: regularisers.Gaussian(
        oracles.Gaussian(jnp.zeros(SHAPE, dtype), jnp.eye(30, dtype=dtype))
    ),
}


def _penalty(problem):
    regulariser, x = problem
    return jax.value_and_grad(lambda x: regulariser(x))(x)


def _gradient(verb, **options):
    """The gradient of a solve in the data, the noise level and the weight."""

    def loss(problem):
        problem = dict(problem)
        likelihood, y = problem.pop("likelihood"), problem.pop("y")
        return jnp.sum(verb(likelihood, y, **problem, **options).value)

    return jax.grad(loss, allow_int=True)


def _tikhonov_problem(dtype):
    # More measurements than pixels, so that the Hessian is regular.
    return verbs._gaussian(0, dtype, verbs._matrix(0, dtype, 40))


def _restoring(problem):
    problem = dict(problem)
    return generative.reconstruct(*(problem.pop(name) for name in ("likelihood", "prior", "y")), **problem)


def _lines(dtype):
    return {"slope": jnp.zeros((), dtype), "offset": jnp.zeros((), dtype)}


def _line_loss(weights, batch, *, key):
    del key
    return jnp.mean((weights["slope"] * batch["x"] + weights["offset"] - batch["y"]) ** 2)


def _line_data(dtype):
    x = jnp.linspace(-1, 1, 12, dtype=dtype)
    return {"x": x, "y": 2 * x + 1}


def _scoring(dtype):
    network = verbs._network(0, dtype, lambda: models.UNet((8, 8, 1), widths=(8,), rngs=nnx.Rngs(0)))
    return network, jnp.ones((2, 8, 8, 1), dtype)


def _score_loss(problem):
    network, batch = problem
    loss = diffusion.score_matching_loss(diffusion.VP())
    return loss(network, batch, key=KEY)


def _fitted(**options):
    def call(problem):
        weights, data = problem
        return training.fit(weights, _line_loss, data, key=KEY, num_steps=2, batch_size=4, chunk_size=2, **options)

    return call


def _lista(dtype):
    problem = verbs._unrolled(0, dtype)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(6, *SHAPE)), dtype)
    return problem["network"], images, jax.vmap(lambda x: x.ravel()[:12])(images)


def _layers(dtype):
    return [jnp.ones((3, 3), dtype), jnp.ones((3, 3), dtype)], jnp.ones(3, dtype)


def _adjoint(problem):
    parameters, z = problem
    layer = lambda w, z: jnp.tanh(jnp.matmul(w, z, precision="highest"))
    return unrolled.adjoint_states([layer, layer], parameters, z, lambda z: 2 * z).gradients


def _networks(make):
    return lambda dtype: (verbs._network(0, dtype, make), jnp.ones((2, *SHAPE), dtype))


EXTRA = [
    *(Call(f"noise {name}", _noisy(kind), _fit_and_draw) for name, kind in NOISES.items()),
    *(
        Call(f"regulariser {name}", lambda dtype, make=make: (make(dtype), _images(dtype, 1)[0]), _penalty)
        for name, make in REGULARISERS.items()
    ),
    Call("psnr", _pair, lambda p: metrics.psnr(*p)),
    Call("nrmse", _pair, lambda p: metrics.nrmse(*p)),
    Call("ssim", lambda d: tuple(jnp.ones((2, 12, 12, 1), d)), lambda p: metrics.ssim(*p)),
    Call("coverage", lambda d: (_images(d), _images(d, 1)[0]), lambda p: metrics.coverage(*p)),
    Call("calibration_ranks", lambda d: (_images(d), _images(d, 1)[0]), lambda p: metrics.calibration_ranks(*p)),
    Call("sliced_wasserstein", _sets, lambda p: metrics.sliced_wasserstein(*p, key=KEY)),
    Call("mmd", _sets, lambda p: metrics.mmd(*p)),
    Call("mode_weights", _sets, lambda p: metrics.mode_weights(*p)),
    Call("bits_per_dim", lambda d: jnp.asarray(3.0, d), lambda v: metrics.bits_per_dim(v, SHAPE)),
    Call("wasserstein2_gaussian", _gaussians, lambda p: metrics.wasserstein2_gaussian(*p)),
    Call("pca", _images, lambda x: subspace.pca(x, rank=2)),
    Call(
        "pca randomised",
        _images,
        lambda x: subspace.pca(x, rank=2, method=subspace.Randomised(), key=KEY).encode(x[0]),
    ),
    Call("kmeans", _images, lambda x: subspace.kmeans(x, 3, key=KEY, restarts=2, max_steps=5).centres),
    Call("robust_pca", lambda d: _images(d).reshape(12, -1), lambda x: subspace.robust_pca(x, max_steps=5).low_rank),
    Call("choose_rank", lambda d: jnp.asarray([4.0, 2.0, 1.0], d), lambda s: subspace.choose_rank(s, 0.25), host=True),
    Call("tikhonov implicit gradient", _tikhonov_problem, _gradient(classical.tikhonov, differentiate=Implicit())),
    Call(
        "tikhonov unrolled gradient",
        _tikhonov_problem,
        _gradient(classical.tikhonov, differentiate=Unrolled(), max_steps=40),
    ),
    Call(
        "tv implicit gradient",
        lambda d: _tikhonov_problem(d) | {"kind": regularisers.Smoothed(jnp.asarray(0.1, d))},
        _gradient(classical.tv, differentiate=Implicit(), max_steps=100),
    ),
    Call("gaussian implicit", lambda d: verbs._oracle(0, d), lambda p: classical.gaussian(**p).value),
    Call("adjoint_states", _layers, _adjoint),
    Call("score_matching_loss", _scoring, jax.value_and_grad(_score_loss, allow_int=True), precision=False),
    *(
        Call(
            f"network {name}",
            _networks(make),
            lambda p: p[0](p[1]) if not hasattr(p[0], "decode") else p[0].decode(p[0].encode(p[1])),
            precision=False,
        )
        for name, make in {
            "Autoencoder": lambda: models.Autoencoder(SHAPE, 2, widths=(4,), rngs=nnx.Rngs(0)),
            "SkipUNet": lambda: models.SkipUNet(SHAPE, channels=4, rngs=nnx.Rngs(0)),
        }.items()
    ),
    Call("training.fit", lambda d: (_lines(d), _line_data(d)), _fitted(ema=0.9), host=True),
    Call(
        "unrolled.train_lista",
        _lista,
        lambda p: unrolled.train_lista(*p, key=KEY, num_steps=2, batch_size=3),
        host=True,
    ),
]
CALLS = [
    *(
        Call(row.name, lambda dtype, row=row: row.problem(0, dtype), row.solve, precision=row.precision)
        for row in verbs.TABLE
    ),
    *(
        Call(f"posterior {name}", lambda dtype, row=row: posteriors.problem(row, 0, dtype), posteriors.solve(row))
        for name, row in posteriors.METHODS.items()
    ),
    *(Call(f"operator {row.name}", _states(row), _both) for row in ROWS),
    *EXTRA,
]
