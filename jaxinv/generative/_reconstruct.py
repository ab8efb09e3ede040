"""Reconstruction in the latent space of a generator."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._checks import check_count
from .._differentiation import Implicit, attach_implicit, check_differentiate
from .._keys import check_key
from .._loop import divergence_threshold, has_converged, iterate
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import Key, Scalar, State
from .._verb import verb
from ..likelihood import Likelihood, domain_dtype, prepare, prepare_parameter
from ._algorithm import AbstractAlgorithm, Alternating, Descent, Problem
from ._hard import Hard
from ._method import AbstractMethod
from ._start import AbstractStart, FromPrior


@verb
def reconstruct(
    likelihood: Likelihood,
    prior: Any,
    y: State,
    *,
    key: Key,
    method: Any = None,
    weight: Scalar = 1.0,
    optimiser: Any = None,
    learning_rate: Scalar = 0.05,
    restarts: Any = 1,
    start: Any = None,
    max_steps: int = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    differentiate: Any = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * energy(z)` with `x` in the range of a generator, or near it, by descent.

    `Hard()`: `x = G(z)`. `Relaxed(deviation, weight)`: `x = G(z) + u` with a penalty on `u`. `Soft(deviation, weight)`:
    `x` free, with a penalty on its distance to `G(z)`.

    All restarts run at once, in one `jax.vmap`, and stop one by one; the one with the smallest objective is returned.
    To solve many problems, map this function: problems and restarts are then one batch.

    **Arguments:**

    - `likelihood`: any differentiable operator, linear or not, and any noise.
    - `prior`: a generative prior, `VAEPrior(model)` for instance.
    - `y`: one measurement.
    - `key`: for the starts.
    - `method`: `Hard()`, the default, `Relaxed(deviation, weight)` or `Soft(deviation, weight)`.
    - `weight`: of the energy, not negative. 1 is the maximum of the posterior density of `z`.
    - `optimiser`: of optax, or `Alternating()`; `None` is Adam with `learning_rate`, and `Alternating()` where the
      deviation is not smooth. (There an optimiser of optax takes subgradients, and what should be 0 is only small.)
      Create an optimiser of optax once and reuse it: each new one compiles again, which `learning_rate` does not.
    - `learning_rate`: a scalar, positive.
    - `restarts`: static.
    - `start`: `FromPrior()` (the default), `FromEncoder()`, or `From(z)`. Deviations start at 0.
    - `max_steps`: static.
    - `rtol`, `atol`: a restart stops when a step changes both variables and objective by less than `atol + rtol *
      size`.
    - `differentiate`: `None`, `Unrolled()`, or, where the deviation is smooth, `Implicit()`: the derivative of the
      local minimiser that was found, with the exact Hessian.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`; `stats`: `num_steps` and `objective` of the best restart, `restart` its number; `aux`: a
    dict with its `latent` and `deviation`, `x - G(z)`, and with `latents`, `images`, `objectives` and `results` of all
    restarts.

    **Raises:** `ValueError` if the generator's images do not fit the operator, a start does not fit the prior, or the
    deviation can be minimised neither by gradients nor by a proximal map.

    **Reference:** Bora, Jalal, Price, Dimakis, Compressed sensing using generative models, 2017; Duff, Campbell,
    Ehrhardt, Regularising inverse problems with generative machine learning models, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        basis = jax.random.normal(jax.random.key(0), (64, 3))
        prior = jaxinv.generative.FunctionPrior(
            lambda z: (basis @ z).reshape(8, 8, 1), lambda z: 0.5 * jnp.sum(z**2), (3,)
        )
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((8, 8, 1), 2), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(prior.decode(jnp.ones(3)), key=jax.random.key(1))
        solution = jaxinv.generative.reconstruct(likelihood, prior, y, key=jax.random.key(2), restarts=4)
        image, latent = solution.value, solution.aux["latent"]
        ```
    """
    check_key(key)
    check_differentiate(differentiate)
    method = Hard() if method is None else method
    start = FromPrior() if start is None else start
    for name, value, kind in (("method", method, AbstractMethod), ("start", start, AbstractStart)):
        if not isinstance(value, kind):
            raise ValueError(
                f"`{name}` must be an instance of a class of `jaxinv.generative`, such as `method=Hard()` or "
                f"`start=FromPrior()`; got {value!r}."
            )
    if not (optimiser is None or isinstance(optimiser, optax.GradientTransformation | Alternating)):
        raise ValueError(
            f"`optimiser` must be an optax transformation, such as `optax.lbfgs()`, or `Alternating()`; got "
            f"{type(optimiser).__name__}. A rate alone is `learning_rate`."
        )
    check_count(restarts, "restarts")
    if isinstance(differentiate, Implicit) and not method.is_smooth:
        raise ValueError(
            f"`Implicit()` needs a smooth objective, and that of {method} is not smooth. Take a smooth deviation, such "
            "as TV(Smoothed(eps)) or Gaussian(prior), or `differentiate=Unrolled()`."
        )
    inputs = (likelihood, prior, y, weight, method)
    likelihood, y, result = prepare(likelihood, y)
    prior = enter_prior(likelihood, prior)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    learning_rate, result = prepare_parameter(
        learning_rate, likelihood.operator, result, positive=True, name="learning_rate"
    )
    method, result = method.enter(likelihood, prior, y, result)
    problem = Problem(likelihood, prior, y, weight, method)
    algorithm = _choose(optimiser, method, learning_rate)

    tolerances = (jnp.asarray(rtol).astype(weight.dtype), jnp.asarray(atol).astype(weight.dtype))
    latents = start.latents(likelihood, prior, y, restarts, key=key).astype(weight.dtype)
    solve = lambda z: _solve(problem, z, algorithm, tolerances, result, max_steps, differentiate, progress)
    variables, objectives, num_steps, results = jax.vmap(solve)(latents)

    best = jnp.argmin(jnp.where(jnp.isfinite(objectives), objectives, jnp.inf))
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[best], tree)
    chosen, objective, code = pick(variables), objectives[best], pick(results)
    if isinstance(differentiate, Implicit):
        chosen = _attach(differentiate, problem, chosen, code, inputs)
        objective = problem(chosen)
    images, latents = jax.vmap(lambda v: method.image(prior, v))(variables), jax.vmap(method.latent)(variables)
    if isinstance(differentiate, Implicit):
        # The chosen one alone has the derivative.
        image, in_range = method.image(prior, chosen), prior.decode(method.latent(chosen))
    else:
        image, in_range = images[best], jax.vmap(prior.decode)(latents)[best]
    failed = ~jnp.all(jnp.isfinite(image)) & ((code == RESULTS.successful) | (code == RESULTS.max_steps_reached))
    code = RESULTS.where(failed, RESULTS.nonfinite, code)
    image = jnp.where(_is_flagged(code) & ~jnp.all(jnp.isfinite(image)), jnp.zeros_like(image), image)
    image = jnp.where(result == RESULTS.successful, image, jnp.zeros_like(image))
    stats = {"num_steps": num_steps[best], "objective": objective, "restart": best}
    aux = {
        "latent": method.latent(chosen),
        "deviation": image - in_range,
        "latents": latents,
        "images": images,
        "objectives": objectives,
        "results": results,
    }
    return Solution(image, code, stats, aux)


def check_prior(prior: Any) -> AbstractGenerativePrior:
    """`prior`, which must be one."""
    if not isinstance(prior, AbstractGenerativePrior):
        raise ValueError(
            f"`prior` must be a generative prior, such as `VAEPrior(model)` or `FunctionPrior(decode, energy, shape)`; "
            f"got {type(prior).__name__}."
        )
    return prior


def enter_prior(likelihood: Likelihood, prior: Any) -> AbstractGenerativePrior:
    """The prior in the dtype of the solve.

    **Raises:** `ValueError` if it is none, or its images do not fit the operator.
    """
    prior = check_prior(prior)
    real = domain_dtype(likelihood.operator)
    prior = jax.tree.map(lambda leaf: leaf.astype(real) if _is_real(leaf) else leaf, prior)
    image = jax.eval_shape(lambda z: prior.decode(z), jax.ShapeDtypeStruct(tuple(prior.latent_shape), real))
    domain = likelihood.operator.domain
    if tuple(image.shape) != tuple(domain.shape):
        raise ValueError(
            f"The generator makes images of shape {tuple(image.shape)}; the operator takes images of shape "
            f"{tuple(domain.shape)}."
        )
    return prior


def _choose(optimiser: Any, method: AbstractMethod, learning_rate: Array) -> AbstractAlgorithm:
    proximal = method.is_smooth or method.proximal_map() is not None
    if isinstance(optimiser, Alternating) or (optimiser is None and not method.is_smooth):
        if not proximal:
            raise ValueError(
                f"The deviation of {method} is neither smooth nor has it a proximal map, as L1(), TV(), Tikhonov() and "
                "Gaussian(prior) have; sums have none. Take one of these, a smooth one, or an `optimiser` of optax, "
                "which takes subgradients."
            )
        return Alternating() if optimiser is None else optimiser
    return Descent(optax.adam(learning_rate) if optimiser is None else optimiser)


def _solve(problem, z, algorithm, tolerances, result, max_steps, differentiate, progress):
    implicit = isinstance(differentiate, Implicit)
    frozen = jax.lax.stop_gradient(problem) if implicit else problem
    variables = problem.method.variables(problem.prior, z)
    variables = jax.lax.stop_gradient(variables) if implicit else variables

    def step(index, state, args):
        problem, (rtol, atol) = args
        variables, memory, objective, most = state
        moved, memory, value, whole = algorithm.step(problem, variables, memory)
        most = jnp.where(index == 0, divergence_threshold(value), most)
        diverged = value > most
        finished = (whole & has_converged(moved, variables, value, objective, rtol, atol)) | diverged
        return (moved, memory, value, most), finished, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)

    first = jnp.asarray(jnp.finfo(tolerances[0].dtype).max)
    state = (variables, algorithm.start(frozen, variables), first, first)
    (variables, *_), num_steps, code = iterate(
        step,
        state,
        (frozen, tolerances),
        result=result,
        max_steps=max_steps,
        differentiate=differentiate,
        progress=progress,
    )
    return variables, problem(variables), num_steps, code


def _attach(implicit, problem, variables, code, inputs):
    frozen = jax.lax.stop_gradient(problem)
    flat, unravel = ravel_pytree(variables)
    gradient = jax.grad(lambda v: problem(unravel(v)))
    at = jax.lax.stop_gradient(flat)
    # The exact Hessian, not Gauss-Newton's: at a minimum it is positive semi-definite, and Gauss-Newton's gives a wrong
    # derivative wherever the residual is not zero.
    curvature = lambda v: jax.jvp(jax.grad(lambda u: frozen(unravel(u))), (at,), (v,))[1]
    return unravel(attach_implicit(implicit, flat, gradient, curvature, ~_is_flagged(code), inputs))


def _is_flagged(code: Any) -> Array:
    return (code != RESULTS.successful) & (code != RESULTS.max_steps_reached)


def _is_real(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
