"""The check of noise models: the density and the draws are of one law, normalised, over what is measured."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._types import Checked, Key, PyTree, State, Struct
from ..noise import AbstractGaussianNoise, AbstractNoise
from ._compare import (
    combine,
    difference,
    draw,
    generator,
    inner,
    is_double,
    keys_of,
    name_of,
    require,
    require_array_leaves,
    shapes,
    size,
    tolerance_of,
)


def check_noise(
    noise: Checked[AbstractNoise],
    codomain: Struct,
    *,
    key: Key,
    prediction: State | None = None,
    num_draws: int = 4000,
    deviations: float = 5.0,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a noise model.

    It checks that the gradient of `negative_log_likelihood` agrees with finite differences; that one entry's density
    integrates to 1, over the reals, the complex plane, or counts; that its distribution function is that of the draws
    of `simulate`; that the gradient at draws has the mean 0 and the covariance of the second derivative, as that of a
    log-density has; that entries that are not measured matter nowhere, not even as NaN; that `linearise`, `invalid`
    and `unit` give what a solver needs; that a draw is determined by its key; and that `jax.vmap` equals a loop. For
    Gaussian noise `whiten`, `whiten_adjoint` and `restrict` must agree with the density too.

    **Arguments:**

    - `noise`: a `noise.AbstractNoise`.
    - `codomain`: the `jax.ShapeDtypeStruct` of a measurement. A few entries are enough.
    - `key`: for the predictions and the draws.
    - `prediction`: the noiseless measurement; by default uniform between .2 and 2, where photon noise is defined too,
        or complex normal.
    - `num_draws`: how many draws the laws are compared by.
    - `deviations`: by how many standard errors they may differ. Some tens of numbers are compared, so the default, 5,
        fails for one key in 10 000 where all is right.
    - `tolerance`: the largest error of a gradient, relative to its size. The default is 2e-2 in single precision and
        1e-6 in double, as for `check_operator`.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        codomain = jax.ShapeDtypeStruct((2, 2, 1), jnp.float32)
        jaxinv.testing.check_noise(jaxinv.noise.Gaussian(0.3), codomain, key=jax.random.key(0))
        ```
    """
    name, random = name_of(noise), generator(key)
    require(isinstance(noise, AbstractNoise), f"{name} is not a `noise.AbstractNoise`. Inherit from that class.")
    require_array_leaves(noise)
    mean = jax.tree.map(jnp.asarray, _prediction(codomain, random) if prediction is None else prediction)
    keys = keys_of(key, num_draws)
    draws = _draws(noise, mean, keys)
    _check_draws(noise, mean, draws, keys)
    y = jax.tree.map(lambda leaf: leaf[0], draws)
    measured = jax.tree.map(lambda s: _holes(s.shape, random), codomain)
    _check_gradient(noise, mean, y, measured, random, tolerance)
    _check_law(noise, mean, draws, measured, random, deviations)
    _check_parameters(noise, y, measured)
    if isinstance(noise, AbstractGaussianNoise):
        _check_gaussian(noise, mean, draws, measured, random, deviations)


_simulate = jax.jit(lambda noise, mean, key: noise.simulate(mean, key=key))
_draws = jax.jit(jax.vmap(lambda noise, mean, key: noise.simulate(mean, key=key), in_axes=(None, None, 0)))
_value = lambda noise, mean, y, measured: noise.negative_log_likelihood(mean, y, measured)


def _both(noise: Any, mean: PyTree, y: PyTree, measured: PyTree) -> Any:
    value, gradient = jax.value_and_grad(lambda m: _value(noise, m, y, measured))(mean)
    # jax.grad of a real function gives the conjugate of the gradient.
    return value, jax.tree.map(jnp.conj, gradient)


_value_and_gradient = jax.jit(_both)
_values_and_gradients = jax.jit(jax.vmap(_both, in_axes=(None, None, 0, None)))


@jax.jit
def _slopes(noise: Any, mean: PyTree, draws: PyTree, measured: PyTree, direction: PyTree) -> Any:
    """The slope and the curvature of the negative log-likelihood along a direction, for each draw."""
    along = lambda y: lambda t: _value(noise, jax.tree.map(lambda m, d: m + t * d, mean, direction), y, measured)
    zero = jnp.zeros((), jnp.finfo(jax.tree.leaves(mean)[0].dtype).dtype)
    return jax.vmap(lambda y: (jax.grad(along(y))(zero), jax.grad(jax.grad(along(y)))(zero)))(draws)


def _prediction(codomain: Struct, random: np.random.Generator) -> PyTree:
    def one(s: Any) -> np.ndarray:
        if jnp.issubdtype(s.dtype, jnp.complexfloating):
            return np.asarray(draw(s, random))
        return random.uniform(0.2, 2.0, size=s.shape).astype(s.dtype)

    return jax.tree.map(one, codomain)


def _holes(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Weights of 0 and 1, among them some of each where there is more than one entry."""
    weights = (random.uniform(size=shape) < 0.7).astype(np.float32)
    weights.flat[0] = 1
    if weights.size > 1:
        weights.flat[1] = 0
    return weights


def _check_draws(noise: Any, mean: PyTree, draws: PyTree, keys: Any) -> None:
    name = name_of(noise)
    alone = _simulate(noise, mean, keys[0])
    require(
        shapes(alone) == shapes(mean) and [v.dtype for v in jax.tree.leaves(alone)] == _dtypes(mean),
        f"{name}.simulate returns shapes {shapes(alone)} and dtypes {_dtypes(alone)} for a prediction of shapes "
        f"{shapes(mean)} and dtypes {_dtypes(mean)}; a measurement must be like its prediction.",
    )
    require(
        difference(alone, _simulate(noise, mean, keys[0])) == 0,
        f"{name}.simulate gives another draw for the same key. All randomness must come from `key`.",
    )
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], draws) for i in (0, 1))
    require(
        difference(first, second) > 0, f"{name}.simulate gives the same draw for two keys; it does not use its `key`."
    )
    for i in range(3):
        gap = difference(jax.tree.map(lambda leaf, i=i: leaf[i], draws), _simulate(noise, mean, keys[i]))
        _require_mapped(gap, tolerance_of(mean, None), f"{name}.simulate")


def _check_gradient(
    noise: Any, mean: PyTree, y: PyTree, measured: PyTree, random: np.random.Generator, tolerance: float | None
) -> None:
    name, double = name_of(noise), is_double(mean)
    allowed = (1e-6 if double else 2e-2) if tolerance is None else tolerance
    step = 1e-5 if double else 5e-3
    value, gradient = _value_and_gradient(noise, mean, y, measured)
    require(
        np.shape(value) == () and np.isrealobj(value) and np.isfinite(value),
        f"{name}.negative_log_likelihood is {value}; it must be a finite real scalar.",
    )
    # The direction is the gradient with random factors, so that no slope is lost among larger numbers.
    direction = jax.tree.map(lambda g: np.asarray(g) * random.uniform(0.5, 1.5, np.shape(g)).astype(_real(g)), gradient)
    scale = size(direction)
    require(scale > 0, f"The gradient of {name}.negative_log_likelihood in the prediction is zero.")
    direction = jax.tree.map(lambda d: (d / scale).astype(d.dtype), direction)
    ahead, behind = (
        float(_value_and_gradient(noise, combine(1, mean, sign * step, direction), y, measured)[0]) for sign in (1, -1)
    )
    slope, expected = inner(gradient, direction).real, (ahead - behind) / (2 * step)
    # In single precision the value is rounded to 1e-7 of itself.
    rounding = abs(ahead) * float(jnp.finfo(_real(jax.tree.leaves(mean)[0])).eps) / step
    require(
        abs(slope - expected) <= allowed * abs(slope) + rounding,
        f"The gradient of {name}.negative_log_likelihood is {slope:.6g} along a direction, and a central difference "
        f"with step {step:.0e} is {expected:.6g}; they may differ by {allowed:.0e} of that.",
    )
    # An entry that is not measured must not change a value or a gradient.
    spoiled = jax.tree.map(lambda v, m: np.where(m > 0, v, np.nan).astype(v.dtype), y, measured)
    other_value, other_gradient = _value_and_gradient(noise, mean, spoiled, measured)
    require(
        np.allclose(value, other_value, rtol=1e-6, atol=0) and difference(other_gradient, gradient) <= 1e-5,
        f"{name}.negative_log_likelihood depends on entries that are not measured: with NaN there it goes from {value} "
        f"to {other_value}. Select the INPUTS with `jnp.where(measured > 0, ...)`, or 0 * NaN reaches the gradient.",
    )
    hidden = jax.tree.map(lambda g, m: np.where(m > 0, 0, np.asarray(g)), gradient, measured)
    require(size(hidden) == 0, f"{name}.negative_log_likelihood has a gradient in entries that are not measured.")


def _check_law(
    noise: Any, mean: PyTree, draws: PyTree, measured: PyTree, random: np.random.Generator, deviations: float
) -> None:
    name = name_of(noise)
    part, entry = _some_entry(mean, random)
    leaves, treedef = jax.tree.flatten(draws)
    drawn = np.asarray(leaves[part]).reshape(len(leaves[part]), -1)[:, entry]
    counts = not np.iscomplexobj(drawn) and bool((drawn == np.round(drawn)).all())
    points, weight = _grid(drawn, counts)
    # This is the density of one entry: the others are not measured.
    alone = jax.tree.leaves(jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], np.float32), draws))
    alone[part].flat[entry] = 1
    values = [np.zeros((len(points), *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
    values[part].reshape(len(points), -1)[:, entry] = points
    unflatten = treedef.unflatten
    nll, gradients = _values_and_gradients(noise, mean, unflatten(values), unflatten(alone))
    for i in (len(points) // 3, len(points) // 2):
        one = _value_and_gradient(noise, mean, unflatten([value[i] for value in values]), unflatten(alone))
        gap = difference((nll[i], jax.tree.map(lambda leaf, i=i: leaf[i], gradients)), one)
        _require_mapped(gap, tolerance_of(mean, None), f"{name}.negative_log_likelihood, or its gradient,")
    density = np.exp(-np.asarray(nll, float)) * weight
    total = density.sum()
    require(
        abs(total - 1) <= 1e-2,
        f"exp(-negative_log_likelihood) of {name} for one entry {'sums' if counts else 'integrates'} to {total:.4g}; "
        "it must be 1. All constants belong into it, for the entries that are measured.",
    )
    # Kolmogorov: the square root of the number of draws times the distance is rarely above 2.3.
    allowed = 0.46 * deviations / np.sqrt(len(drawn))
    projections = {"real part": np.real, "imaginary part": np.imag} if np.iscomplexobj(drawn) else {"value": np.real}
    for which, project in projections.items():
        gap = _distance(project(points), density / total, project(drawn), counts)
        require(
            gap <= allowed,
            f"The draws of {name}.simulate do not follow its density: for one entry ({which}) the distribution "
            f"functions differ by {gap:.3f}; at most {allowed:.3f} is allowed for {len(drawn)} draws.",
        )
    direction = draw(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), mean), random)
    slopes, curvatures = (np.asarray(v, float) for v in _slopes(noise, mean, draws, measured, direction))
    for what, numbers in (
        ("the mean gradient at draws is not zero", slopes),
        ("the covariance of gradients at draws is not the mean second derivative", slopes**2 - curvatures),
    ):
        error = numbers.std() / np.sqrt(len(numbers))
        require(
            abs(numbers.mean()) <= deviations * error + 1e-6 * np.mean(np.abs(curvatures)),
            f"{name}: along a random direction {what}, by {abs(numbers.mean()) / max(error, 1e-300):.1f} standard "
            f"errors; at most {deviations:g} are allowed. `simulate` and `negative_log_likelihood` are different laws.",
        )


def _require_mapped(gap: float, tolerance: float, what: str) -> None:
    require(
        gap <= tolerance,
        f"{what} under `jax.vmap` differs from a loop by {gap:.1e} of its size; at most {tolerance:.0e} is allowed. "
        "Look for what is summed, normed or decided over the batch.",
    )


def _distance(points: np.ndarray, mass: np.ndarray, drawn: np.ndarray, counts: bool) -> float:
    """The largest difference of the distribution function of a mass on points, and that of draws."""
    places, index = np.unique(points, return_inverse=True)
    mass = np.bincount(index, mass)
    ordered, cumulated = np.sort(drawn), np.cumsum(mass)
    found = np.searchsorted(ordered, ordered, side="right") / len(ordered)
    if counts:
        expected = cumulated[np.searchsorted(places, ordered)]
    else:
        # Each point represents the cell around it.
        expected = np.interp(ordered, places, cumulated - mass / 2)
    return float(np.max(np.abs(found - expected)))


def _some_entry(mean: PyTree, random: np.random.Generator) -> tuple[int, int]:
    leaves = jax.tree.leaves(mean)
    part = int(random.integers(len(leaves)))
    return part, int(random.integers(np.size(leaves[part])))


def _grid(drawn: np.ndarray, counts: bool) -> tuple[np.ndarray, float]:
    """Points that cover what was drawn and as much again on either side, and the mass that each represents."""
    if counts:
        return np.arange(0, 2 * drawn.max() + 20).astype(drawn.dtype), 1.0

    def axis(values: np.ndarray, number: int) -> np.ndarray:
        margin = np.ptp(values)
        return np.linspace(values.min() - margin, values.max() + margin, number)

    if np.iscomplexobj(drawn):
        first, second = axis(np.real(drawn), 201), axis(np.imag(drawn), 201)
        points = (first[:, None] + 1j * second[None, :]).ravel().astype(drawn.dtype)
        return points, float((first[1] - first[0]) * (second[1] - second[0]))
    points = axis(drawn, 4001)
    return points.astype(drawn.dtype), float(points[1] - points[0])


def _check_parameters(noise: Any, y: PyTree, measured: PyTree) -> None:
    name = name_of(noise)
    data, std = jax.jit(lambda n, v: n.linearise(v))(noise, y)
    require(
        shapes(data) == shapes(y) and shapes(std) == shapes(y),
        f"{name}.linearise returns data of shapes {shapes(data)} and a std of shapes {shapes(std)}; both must have "
        f"those of the measurement, {shapes(y)}.",
    )
    require(
        all(np.isfinite(d).all() for d in jax.tree.leaves(data))
        and all(np.isfinite(s).all() and (np.asarray(s) > 0).all() for s in jax.tree.leaves(std)),
        f"{name}.linearise returns data that are not finite, or a std that is not positive, for a draw of `simulate`. "
        "Clip what has no logarithm or root, as counts at .5.",
    )
    invalid = jax.jit(lambda n, m: n.invalid(m))
    verdicts = [("", noise, False), (".unit()", noise.unit(), False)]
    if any(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(noise)):
        spoil = lambda leaf: jnp.full_like(leaf, jnp.nan) if eqx.is_inexact_array(leaf) else leaf
        verdicts.append((" with parameters that are NaN", jax.tree.map(spoil, noise), True))
    for story, model, expected in verdicts:
        verdict = invalid(model, measured)
        require(
            np.shape(verdict) == () and bool(verdict) == expected,
            f"`invalid` of {name}{story} is {np.asarray(verdict)}; it must be the boolean scalar {expected}.",
        )
    require(
        jax.tree.structure(noise.unit()) == jax.tree.structure(noise) and shapes(noise.unit()) == shapes(noise),
        f"{name}.unit() has other leaves than the noise itself; it must be the same noise with harmless parameters.",
    )


def _check_gaussian(
    noise: Any, mean: PyTree, draws: PyTree, measured: PyTree, random: np.random.Generator, deviations: float
) -> None:
    name, tolerance = name_of(noise), tolerance_of(mean, None)
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), mean)
    r, s = draw(structs, random), draw(structs, random)
    white, coloured = jax.jit(lambda n, a, b: (n.whiten(a), n.whiten_adjoint(b)))(noise, r, s)
    gap = abs(inner(white, s) - inner(r, coloured))
    require(
        gap <= tolerance * size(white) * size(s),
        f"{name}.whiten_adjoint is not the adjoint of `whiten`: the dot test is off by {gap:.1e}.",
    )
    white = jax.jit(jax.vmap(lambda n, y, m: n.whiten(jax.tree.map(jnp.subtract, y, m)), in_axes=(None, 0, None)))(
        noise, draws, mean
    )
    flat = np.concatenate([_real_parts(leaf) for leaf in jax.tree.leaves(white)], axis=1)
    count, covariance = len(flat), np.cov(flat.T).reshape(flat.shape[1], -1)
    errors = np.sqrt((1 + np.eye(flat.shape[1])) / count)
    worst = np.max(np.abs(covariance - np.eye(flat.shape[1])) / errors)
    require(
        worst <= deviations,
        f"{name}.whiten(y - A x) of draws does not have the identity for its covariance: one entry is off by "
        f"{worst:.1f} standard errors; at most {deviations:g} are allowed.",
    )

    @jax.jit
    def halves(noise: Any, a: PyTree, b: PyTree, measured: PyTree) -> Any:
        keep = lambda v: jax.tree.map(lambda leaf, m: jnp.where(m > 0, leaf, jnp.zeros((), leaf.dtype)), v, measured)
        restricted = noise.restrict(measured, structs)
        half = lambda v: sum(0.5 * jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(restricted.whiten(keep(v))))
        zero = jax.tree.map(jnp.zeros_like, a)
        return half(a) - half(b), _value(noise, zero, a, measured) - _value(noise, zero, b, measured), half(a) + half(b)

    ours, theirs, scale = (float(v) for v in halves(noise, r, s, measured))
    require(
        abs(ours - theirs) <= 100 * tolerance * scale,
        f"`restrict` and `whiten` of {name} are not those of its density: 1/2 ||W r||^2 over the measured entries "
        f"differs between two residuals by {ours:.6g}, the negative log-likelihood by {theirs:.6g}.",
    )


def _real_parts(draws: Any) -> np.ndarray:
    flat: Any = np.asarray(draws).reshape(len(draws), -1)
    return np.concatenate([flat.real, flat.imag], axis=1) if np.iscomplexobj(flat) else flat


def _dtypes(tree: Any) -> list:
    return [jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)]


def _real(leaf: Any) -> Any:
    return jnp.finfo(np.asarray(leaf).dtype).dtype
