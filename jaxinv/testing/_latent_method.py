"""The check of latent methods: what `generative.reconstruct` minimises, and what holds for every solver."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import generative
from .._solution import RESULTS, Solution
from .._types import Checked, Key
from ..likelihood import Likelihood
from ..noise import Gaussian
from ..operators import Identity
from ._compare import (
    combine,
    difference,
    draw,
    generator,
    inner,
    is_double,
    name_of,
    require,
    require_array_leaves,
    size,
)
from ._solver import check_solver

_SHAPE, _LATENT = (6, 1, 1), (2,)


def check_latent_method(
    method: Checked[generative.AbstractLatentMethod],
    *,
    key: Key,
    max_steps: int = 50,
    optimiser: Checked[optax.GradientTransformation | generative.Alternating | None] = None,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a latent method, a `method` of `generative.reconstruct`.

    On images of six pixels with a latent of two numbers, it checks that `prepare` accepts a problem; that the latent is
    found among the variables that `init` makes of it, and that the variables make an image; that the smooth part of the
    objective is a finite scalar whose gradient agrees with finite differences, and the penalty 0 where there is no
    proximal map; that `scaled` keeps the method's structure; that `generative.reconstruct` lowers the objective; and
    all of `check_solver`.

    **Arguments:**

    - `method`: a `generative.AbstractLatentMethod`.
    - `key`: for the problems.
    - `max_steps`: how many steps are taken.
    - `optimiser`: that of `generative.reconstruct`.
    - `tolerance`: how far a batch may be from a loop; the default is that of `check_solver`. A method with step sizes
        that are accepted or taken back is checked in double precision.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        jaxinv.testing.check_latent_method(jaxinv.generative.Hard(), key=jax.random.key(0))
        ```
    """
    name, random = name_of(method), generator(key)
    require(
        isinstance(method, generative.AbstractLatentMethod),
        f"{name} is not a `generative.AbstractLatentMethod`. Inherit from that class.",
    )
    require(isinstance(method.is_smooth, bool), f"{name}.is_smooth must be a bool that is known without data.")
    problems = [_problem(random, key, i) for i in range(3)]
    _check_members(method, problems[0], random)

    def solve(problem: Any) -> Solution:
        return generative.reconstruct(
            problem["likelihood"],
            problem["prior"],
            problem["y"],
            key=problem["key"],
            method=method,
            optimiser=optimiser,
            max_steps=max_steps,
            rtol=1e-4,
        )

    short, whole = (
        jax.jit(
            lambda p, n=n: generative.reconstruct(
                p["likelihood"], p["prior"], p["y"], key=p["key"], method=method, optimiser=optimiser, max_steps=n
            ).stats["objective"]
        )(problems[0])
        for n in (1, max_steps)
    )
    require(
        float(whole) < float(short),
        f"`generative.reconstruct` does not lower the objective of {name}: it is {float(short):.6g} after one step and "
        f"{float(whole):.6g} after {max_steps}.",
    )
    check_solver(solve, problems, tolerance=tolerance)


def _decode(weights: Any, z: Any) -> Any:
    return jnp.tanh(jnp.matmul(weights, z, precision=jax.lax.Precision.HIGHEST)).reshape(_SHAPE)


def _energy(z: Any) -> Any:
    return 0.5 * jnp.sum(z**2)


def _problem(random: np.random.Generator, key: Key, i: int) -> dict[str, Any]:
    dtype = jnp.result_type(float)
    weights = jnp.asarray(random.normal(size=(6, 2)), dtype)
    prior = generative.FunctionPrior(jax.tree_util.Partial(_decode, weights), _energy, _LATENT)
    likelihood = Likelihood(Identity(_SHAPE), Gaussian(jnp.asarray(0.2 + 0.1 * i, dtype)))
    image = np.asarray(prior.decode(jnp.asarray(random.normal(size=2), dtype)))
    y = jnp.asarray(image + 0.2 * random.normal(size=_SHAPE), dtype)
    return {"likelihood": likelihood, "prior": prior, "y": y, "key": jax.random.fold_in(key, i)}


def _check_members(method: Any, problem: dict[str, Any], random: np.random.Generator) -> None:
    name = name_of(method)
    likelihood, prior, y = (problem[which] for which in ("likelihood", "prior", "y"))
    dtype = jnp.result_type(float)
    prepared, code = method.prepare(likelihood, prior, y, RESULTS.successful)
    require(
        isinstance(prepared, generative.AbstractLatentMethod) and bool(code == RESULTS.successful),
        f"{name}.prepare must return a method and its code; for a problem that can be solved it returned a "
        f'{name_of(prepared)} and "{RESULTS[code]}"',
    )
    require_array_leaves(prepared)
    scaled = prepared.scaled(jnp.asarray(2.0, dtype))
    require(
        jax.tree.structure(scaled) == jax.tree.structure(prepared),
        f"{name}.scaled returns something of another structure; it must return the method with its penalties scaled.",
    )
    z, weight = jnp.asarray(random.normal(size=_LATENT), dtype), jnp.asarray(0.7, dtype)
    variables = prepared.init(prior, z)
    require(
        difference(prepared.latent(variables), z) == 0,
        f"{name}.latent(init(prior, z)) is not `z`, the first latent.",
    )
    image = prepared.image(prior, variables)
    require(
        image.shape == prior.image_shape,
        f"{name}.image has shape {image.shape}; the images of the prior have {prior.image_shape}.",
    )

    @jax.jit
    def objective(variables: Any) -> Any:
        smooth = lambda v: prepared.objective(likelihood, prior, y, weight, v)[0]
        return jax.value_and_grad(smooth)(variables), prepared.objective(likelihood, prior, y, weight, variables)[1]

    # The gradient is not compared at the start, where a deviation from the generator may be zero and its penalty may
    # have a kink.
    variables = combine(1, variables, 0.1, draw(variables, random))
    (value, gradient), penalty = objective(variables)
    require(
        np.shape(value) == () and np.isfinite(value) and np.shape(penalty) == () and np.isfinite(penalty),
        f"{name}.objective must return two finite scalars, the smooth part and the penalty; it returned {value!r} and "
        f"{penalty!r}.",
    )
    require(
        prepared.proximal_map() is not None or float(penalty) == 0,
        f"{name}.objective has a penalty of {float(penalty):.6g}, and no proximal map that stands for it. Without one "
        "the whole objective belongs into the first of the two.",
    )
    double = is_double(z)
    step, allowed = (1e-5, 1e-6) if double else (5e-3, 2e-2)
    direction = draw(variables, random)
    ahead, behind = (float(objective(combine(1, variables, s * step, direction))[0][0]) for s in (1, -1))
    slope, expected = inner(gradient, direction).real, (ahead - behind) / (2 * step)
    rounding = 4 * abs(float(value)) * float(jnp.finfo(dtype).eps) / step
    require(
        abs(slope - expected) <= allowed * size(gradient) * size(direction) + rounding,
        f"The gradient of {name}.objective is {slope:.6g} along a direction, and a central difference with step "
        f"{step:.0e} is {expected:.6g}.",
    )
