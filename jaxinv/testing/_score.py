"""The check of scores: the four quantities that a score predicts agree, at every time."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import diffusion
from .._score import AbstractProcess, AbstractScore
from .._types import Checked, Key, PyTree
from ._compare import (
    difference,
    draw,
    generator,
    is_double,
    name_of,
    require,
    require_array_leaves,
    require_mapped_equals_loop,
    size,
    tolerance_of,
)


def check_score(
    score: Checked[diffusion.AbstractScore],
    shape: Checked[Sequence[int]],
    *,
    key: Key,
    times: Sequence[float] = (0.05, 0.5, 0.95),
    tolerance: float | None = None,
    mapped_tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a score.

    It checks that `predict(t, x)` gives a denoised image and a noise of the shape and dtype of `x`, which make up `x`
    with the scale and the deviation of the process; that `denoiser` and `noise` are these two, the score itself is
    `-noise / std`, and `velocity` is made of both; that derivatives are finite, which methods of posterior sampling
    take; that `jax.jit` takes the score for a function; and that `jax.vmap` over times and images equals a loop.

    **Arguments:**

    - `score`: a `diffusion.AbstractScore`.
    - `shape`: the shape of an image, a tuple of integers.
    - `key`: for the random images.
    - `times`: the times of the check between `t_min` and `t_max` of the process, as fractions of that interval.
    - `tolerance`: how far the quantities may be from each other, relative to the sizes of the terms that they are made
        of. The default is 1e-4 in single precision and 1e-10 in double: a few roundings, of terms that cancel near the
        ends of the interval.
    - `mapped_tolerance`: how far a batch may be from a loop; the default is 1e-5 in single precision and 1e-12 in
        double. Networks of many layers deserve more.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        score = jaxinv.diffusion.Score(lambda t, x: -x, jaxinv.diffusion.VP())
        jaxinv.testing.check_score(score, (4, 3, 1), key=jax.random.key(0))
        ```
    """
    name, random = name_of(score), generator(key)
    require(isinstance(score, AbstractScore), f"{name} is not a `diffusion.AbstractScore`. Inherit from that class.")
    process = score.process
    require(
        isinstance(process, AbstractProcess),
        f"{name}.process is a {name_of(process)}; it must be a `diffusion.AbstractProcess`, which a score carries.",
    )
    require_array_leaves(score)
    dtype = jnp.result_type(float)
    struct = jax.ShapeDtypeStruct(tuple(shape), dtype)
    low, high = (float(t) for t in (process.t_min, process.t_max))
    arguments = []
    for part in times:
        t = np.asarray(low + part * (high - low), dtype)
        scale, std = (float(v) for v in process.marginal(t))
        # The argument has the size of a state at that time, for images of unit size.
        arguments.append((t, np.asarray(draw(struct, random) * np.sqrt(scale**2 + std**2), dtype)))
    double = is_double(struct)
    allowed = (1e-10 if double else 1e-4) if tolerance is None else tolerance
    for t, x in arguments:
        _check_one(score, t, x, draw(struct, random), allowed)
    t, x = arguments[len(arguments) // 2]
    require(
        difference(jax.jit(score)(t, x), _everything(score, t, x)["score"]) <= allowed,
        f"`jax.jit(score)` differs from the score for {name}.",
    )
    alone = lambda t, x: _predictions(score, t, x)
    mapped = lambda t, x: _mapped_predictions(score, t, x)
    rounding = tolerance_of(struct, mapped_tolerance)
    require_mapped_equals_loop(mapped, alone, arguments, rounding, f"{name}.predict")


@jax.jit
def _everything(score: Any, t: Any, x: Any) -> PyTree:
    return {
        "predictions": score.predict(t, x),
        "score": score(t, x),
        "image": score.denoiser(t, x),
        "noise": score.noise(t, x),
        "velocity": score.velocity(t, x),
        "score and image": score.score_and_image(t, x),
        "velocity and image": score.velocity_and_image(t, x),
        "marginal": score.process.marginal(t),
        "rates": score.process.rates(t),
    }


_predictions = jax.jit(lambda score, t, x: score.predict(t, x))
_mapped_predictions = jax.jit(jax.vmap(lambda score, t, x: score.predict(t, x), in_axes=(None, 0, 0)))
_pulled_back = jax.jit(lambda score, t, x, weights: jax.vjp(lambda u: score.predict(t, u), x)[1]((weights, weights))[0])


def _check_one(score: Any, t: Any, x: Any, weights: Any, allowed: float) -> None:
    name = f"{name_of(score)} at t={float(t):.3g}"
    predictions = jax.eval_shape(_predictions, score, t, x)
    require(
        isinstance(predictions, tuple) and len(predictions) == 2,
        f"{name_of(score)}.predict returns a {type(predictions).__name__}; it must return the denoised image and the "
        "noise, a tuple of two.",
    )
    for which, prediction in zip(("image", "noise"), predictions, strict=True):
        require(
            prediction.shape == x.shape and prediction.dtype == x.dtype,
            f"The {which} that {name_of(score)}.predict returns has shape {prediction.shape} and dtype "
            f"{prediction.dtype}; the state has {x.shape} and {x.dtype}, and both must agree.",
        )
    found = _everything(score, t, x)
    image, noise = (np.asarray(v, float) for v in found["predictions"])
    require(np.isfinite(image).all() and np.isfinite(noise).all(), f"{name} predicts values that are not finite.")
    (scale, std), (scale_rate, std_rate) = ((float(a), float(b)) for a, b in (found["marginal"], found["rates"]))
    _require_near(
        x, scale * image + std * noise, size(x), allowed, f"{name}: image and noise do not make up the state, {_PARTS}"
    )
    terms = size(image) + size(noise)
    _require_near(found["image"], image, terms, allowed, f"{name}: `denoiser` is not the image of `predict`")
    _require_near(found["noise"], noise, terms, allowed, f"{name}: `noise` is not the noise of `predict`")
    gradient, velocity = -noise / std, scale_rate * image + std_rate * noise
    # A score that is known as a gradient derives both from it, and then a difference of large terms is rounded.
    terms = size(gradient) + size(x) / std
    _require_near(found["score"], gradient, terms, allowed, f"{name}: the score is not `-noise / std`")
    rates = abs(scale_rate) * size(image) + abs(std_rate) * size(noise)
    rates += abs(scale_rate) / max(scale, 1e-30) * size(x)
    _require_near(
        found["velocity"],
        velocity,
        rates,
        allowed,
        f"{name}: `velocity` is not `d scale/dt image + d std/dt noise`",
    )
    pairs = (("score", found["score and image"], terms), ("velocity", found["velocity and image"], rates))
    for which, (first, second), sizes in pairs:
        story = f"{name}: `{which}_and_image` differs from the {which} and the image by themselves"
        _require_near(first, found[which], sizes, allowed, story)
        _require_near(second, image, size(image) + size(noise), allowed, story)
    require(
        np.isfinite(_pulled_back(score, t, x, weights)).all(),
        f"{name} has a derivative that is not finite; methods such as `DPS` take it.",
    )


_PARTS = "`x = scale * image + std * noise`"


def _require_near(got: Any, expected: Any, terms: float, allowed: float, story: str) -> None:
    gap = size(np.asarray(got, float) - np.asarray(expected, float)) / max(terms, 1e-30)
    require(gap <= allowed, f"{story}: it is off by {gap:.1e} of the terms; at most {allowed:.0e} is allowed.")
