"""How `jaxinv reconstruct` reconstructs with each prior; another prior is another function in `SOLVERS`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import classical, diffusion, dip, generative, noise, operators, oracles, regularisers
from .._solution import RESULTS
from .._types import Key
from ..likelihood import Likelihood
from ..regularisers import image_gradient
from . import _networks, _score
from ._dip import recipe_for
from ._files import discard, scratch_file
from ._images import pictures_in
from ._operator import Own
from ._progress import Bar
from ._user_file import Scale, brightest, scale_of

# The search for a weight starts where the prior balances the noise, and takes this many steps up and down, each by this
# factor.
_FACTOR, _MOST_TRIALS, _HALVINGS = 4.0, 8, 3


class Settings(NamedTuple):
    """The options of a reconstruction.

    - `path`: the folder or the file of the prior.
    - `weight`: of the regulariser; `None` to choose it by the noise.
    - `samples`: the number of samples of the posterior.
    - `restarts`, `steps`: for priors with latent variables, and for the deep image prior.
    - `white`: the value of the image that is 1 for a trained prior.
    - `output`: the file of the image, beside which a long run keeps its progress.
    """

    path: Path | None
    weight: float | None
    samples: int
    restarts: int
    steps: int | None
    white: float
    output: Path


class Found(NamedTuple):
    """A reconstruction: the image, the deviation of each pixel if the prior has one, samples, and what to print."""

    image: Array
    deviation: Array | None = None
    samples: Array | None = None
    note: str = ""


Solver = Callable[[Likelihood, Own, Settings, Key], Found]


def _tv(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    del key

    @eqx.filter_jit
    def solve(likelihood, y, weight, rtol):
        return classical.tv(likelihood, y, weight=weight, rtol=rtol)

    # A difference of one deviation of the noise costs as much in the data as in the variation.
    return _weighted(solve, likelihood, own, settings, lambda gain, std: gain / std)


def _tikhonov(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    del key
    struct = jax.ShapeDtypeStruct(likelihood.operator.domain.shape, jnp.float32)
    rough = regularisers.Tikhonov(operators.FunctionOperator(image_gradient, struct))

    @eqx.filter_jit
    def solve(likelihood, y, weight, rtol):
        return classical.tikhonov(likelihood, y, weight=weight, regulariser=rough, rtol=rtol)

    return _weighted(solve, likelihood, own, settings, lambda gain, std: (gain / std) ** 2)


def _weighted(solve: Any, likelihood: Likelihood, own: Own, settings: Settings, first: Any) -> Found:
    """The image for the weight of the user, or for the largest weight whose residual the noise explains (Morozov)."""
    std = own.std
    y = own.y
    trial = lambda weight, rtol: solve(likelihood, y, jnp.float32(weight), jnp.float32(rtol))
    if settings.weight is not None:
        return Found(trial(settings.weight, 1e-5).check().value)
    count = float(jnp.sum(jnp.broadcast_to(likelihood.operator.measured, y.shape)) * (2 if jnp.iscomplexobj(y) else 1))

    @eqx.filter_jit
    def misfit(operator, y, image):
        return jnp.sum(jnp.abs(operator(image) - y) ** 2)

    explained = lambda weight: float(misfit(likelihood.operator, y, trial(weight, 1e-4).value)) <= count * std**2
    low, high = _bracket(explained, first(_gain(likelihood.operator), std))
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if explained(middle) else (low, middle)
    solution = trial(low, 1e-5).check()
    return Found(solution.value, note=f"The weight {low:.3g} leaves as much of the measurement as the noise explains.")


def _bracket(explained: Callable[[float], bool], start: float) -> tuple[float, float]:
    """A weight whose residual the noise explains, and one whose residual it does not, a factor apart."""
    low = start
    if explained(low):
        for _ in range(_MOST_TRIALS):
            if not explained(low * _FACTOR):
                break
            low *= _FACTOR
        return low, low * _FACTOR
    for _ in range(_MOST_TRIALS):
        low /= _FACTOR
        if explained(low):
            break
    return low, low * _FACTOR


@eqx.filter_jit
def _gain_of(operator: Any, z: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.abs(operator(z)) ** 2) / z.size)


def _gain(operator: Any) -> float:
    """By how much the operator magnifies white noise: the root of the mean of the squared columns, estimated."""
    signs = jax.random.rademacher(jax.random.key(0), operator.domain.shape, jnp.float32)
    return max(float(_gain_of(operator, signs)), 1e-12)


def _fbp(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    del settings, key
    return Found(classical.fbp(likelihood.operator, own.y, window=classical.Hann()).check().value)


def _gaussian(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    assert settings.path is not None
    images = pictures_in(settings.path)
    scaled = _in_unit(likelihood, settings.white)

    @eqx.filter_jit
    def solve(likelihood, prior, y, key):
        solution = classical.gaussian(likelihood, prior, y)
        posterior = solution.aux
        drawn = posterior.sample(settings.samples, key=key) if settings.samples else None
        return solution.value, solution.result, jnp.sqrt(posterior.variance), drawn

    image, result, deviation, drawn = solve(scaled, oracles.Gaussian.from_samples(images), own.y, key)
    if result != RESULTS.successful:
        raise ValueError(f"the reconstruction failed: {RESULTS[result]}")
    white = settings.white
    return Found(white * image, white * deviation, None if drawn is None else white * drawn, f"{len(images)} images.")


def _latent(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    assert settings.path is not None
    _, _, prior = _networks.load(settings.path)

    @eqx.filter_jit
    def solve(likelihood, prior, y, key):
        return generative.reconstruct(likelihood, prior, y, key=key, restarts=settings.restarts)

    solution = solve(_in_unit(likelihood, settings.white), prior, own.y, key)
    if solution.result not in (RESULTS.successful, RESULTS.max_steps_reached):
        raise ValueError(f"the reconstruction failed: {RESULTS[solution.result]}")
    return Found(settings.white * solution.value)


def _sampled(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    assert settings.path is not None
    score = _score.load(settings.path)
    count = settings.samples or 8

    @eqx.filter_jit
    def draw(likelihood, learned, y, key):
        return diffusion.posterior_sample(likelihood, learned, y, key=key, num_samples=count)

    solution = draw(_in_unit(likelihood, settings.white), score.prior(), own.y, key)
    samples = settings.white * solution.check().value
    return Found(samples.mean(0), samples.std(0), samples, f"{count} samples of the posterior.")


def _dip(likelihood: Likelihood, own: Own, settings: Settings, key: Key) -> Found:
    """The networks make images in (0, 1), so the measurement is that of such an image: `y - black A(1)`, scaled."""
    scale = _scale(own)
    operator, y = own.operator, own.y
    constant = operator(jnp.full(operator.domain.shape, scale.black, jnp.float32))
    noisy = Likelihood(operator, noise.Gaussian(own.std / scale.unit))
    recipe = recipe_for(operator, y / scale.unit, own.std / scale.unit, scale.peak, steps=settings.steps)
    network = recipe.network(operator.domain.shape, rngs=_networks.rngs_of(jax.random.fold_in(key, 0)))
    checkpoint = scratch_file(settings.output)
    solution = dip.resume(
        noisy,
        network,
        (y - constant) / scale.unit,
        checkpoint=checkpoint,
        key=jax.random.fold_in(key, 1),
        recipe=recipe,
        stride=max(recipe.num_steps // 200, 1),
        progress=Bar("Fitting the network"),
    )
    discard(checkpoint)
    if solution.result not in (RESULTS.successful, RESULTS.max_steps_reached):
        raise ValueError(f"the run failed: {RESULTS[solution.result]}")
    note = f"{int(solution.stats['num_steps'])} steps; the image after step {int(solution.stats['step'])} is kept."
    return Found(jnp.asarray(scale.write(np.asarray(solution.value))), note=note)


def _scale(own: Own) -> Scale:
    if own.operator.is_tomograph:
        return Scale(0.0, 1.5 * float(brightest(own.operator, own.y)))
    if own.first is None and jnp.iscomplexobj(own.y):
        return scale_of(np.asarray(own.operator.adjoint(own.y)))
    known = np.broadcast_to(np.asarray(own.operator.measured) > 0, own.y.shape)
    return scale_of(np.asarray(own.y)[known])


def _in_unit(likelihood: Likelihood, white: float) -> Likelihood:
    """The likelihood of images in which `white` is 1."""
    operator: Any = likelihood.operator
    return likelihood if white == 1 else Likelihood(white * operator, likelihood.noise)


SOLVERS: dict[str, Solver] = {
    "tv": _tv,
    "tikhonov": _tikhonov,
    "fbp": _fbp,
    "gaussian": _gaussian,
    "autoencoder": _latent,
    "vae": _latent,
    "gan": _latent,
    "flow": _latent,
    "score": _sampled,
    "dip": _dip,
}
