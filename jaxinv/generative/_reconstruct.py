"""Reconstruction in the latent space of a generator."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .._differentiation import Implicit, attach_implicit, check_differentiate
from .._keys import check_key
from .._loop import ceiling, iterate, settled
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import Key, Scalar, State
from .._verb import verb
from ..likelihood import Likelihood, domain_dtype, prepare, prepare_parameter
from ._method import AbstractMethod, Hard
from ._start import AbstractStart, FromPrior


@verb
def reconstruct(
    likelihood: Likelihood,
    prior: AbstractGenerativePrior,
    y: State,
    *,
    key: Key,
    method: AbstractMethod | None = None,
    weight: Scalar = 1.0,
    optimiser: optax.GradientTransformation | None = None,
    learning_rate: Scalar = 0.05,
    restarts: int = 1,
    start: AbstractStart | None = None,
    max_steps: int = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    differentiate: Any = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * energy(z)` with `x = G(z)`, by gradient steps on `z` from several starts.

    All restarts run at once, in one `jax.vmap`, and stop one by one; the one with the smallest objective is returned.
    To solve many problems, map this function: problems and restarts are then one batch.

    **Arguments:**

    - `likelihood`: any differentiable operator, linear or not, and any noise.
    - `prior`: a generative prior, `VAEPrior(model)` for instance.
    - `y`: one measurement.
    - `key`: for the starts.
    - `method`: `Hard()`, the default.
    - `weight`: of the energy, not negative. 1 is the maximum of the posterior density of `z`.
    - `optimiser`: of optax; `None` is Adam with `learning_rate`. Create it once and reuse it: each new one compiles
      again, which `learning_rate` does not.
    - `learning_rate`: a scalar, positive.
    - `restarts`: static.
    - `start`: `FromPrior()` (the default), `FromEncoder()`, or `From(z)`.
    - `max_steps`: static.
    - `rtol`, `atol`: a restart stops when a step changes both latent and objective by less than `atol + rtol * size`.
    - `differentiate`: `None`, `Unrolled()`, or `Implicit()`: the derivative of the local minimiser that was found, with
      the exact Hessian in `z`.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`; `stats`: `num_steps` and `objective` of the best restart, `restart` its number; `aux`: a
    dict with its `latent`, and with `latents`, `objectives` and `results` of all restarts.

    **Raises:** `ValueError` if the generator's images do not fit the operator, or a start does not fit the prior.

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
    if not (optimiser is None or isinstance(optimiser, optax.GradientTransformation)):
        raise ValueError(
            f"`optimiser` must be an optax transformation, such as `optax.lbfgs()`; got {type(optimiser).__name__}. A "
            "rate alone is `learning_rate`."
        )
    if isinstance(restarts, bool) or not isinstance(restarts, int) or restarts < 1:
        raise ValueError(f"`restarts` must be a static integer of at least 1; got {restarts!r}.")
    inputs = (likelihood, prior, y, weight)
    likelihood, y, result = prepare(likelihood, y)
    real = domain_dtype(likelihood.operator)
    prior = jax.tree.map(lambda leaf: leaf.astype(real) if _is_real(leaf) else leaf, prior)
    _check_fit(likelihood, prior, real)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    learning_rate, result = prepare_parameter(
        learning_rate, likelihood.operator, result, positive=True, name="learning_rate"
    )
    optimiser = optax.adam(learning_rate) if optimiser is None else optimiser

    problem = _Problem(likelihood, prior, y, weight, method)
    tolerances = (jnp.asarray(rtol).astype(real), jnp.asarray(atol).astype(real))
    latents = start.latents(likelihood, prior, y, restarts, key=key).astype(real)
    solve = lambda z: _solve(problem, z, optimiser, tolerances, result, max_steps, differentiate, progress)
    variables, objectives, num_steps, results = jax.vmap(solve)(latents)

    best = jnp.argmin(jnp.where(jnp.isfinite(objectives), objectives, jnp.inf))
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[best], tree)
    chosen, objective, code = pick(variables), objectives[best], pick(results)
    if isinstance(differentiate, Implicit):
        chosen = _attach(differentiate, problem, chosen, code, inputs)
        objective = problem(chosen)
    image = method.image(prior, chosen)
    failed = ~jnp.all(jnp.isfinite(image)) & ((code == RESULTS.successful) | (code == RESULTS.max_steps_reached))
    code = RESULTS.where(failed, RESULTS.nonfinite, code)
    image = jnp.where(_is_flagged(code) & ~jnp.all(jnp.isfinite(image)), jnp.zeros_like(image), image)
    image = jnp.where(result == RESULTS.successful, image, jnp.zeros_like(image))
    stats = {"num_steps": num_steps[best], "objective": objective, "restart": best}
    all_latents = jax.vmap(method.latent)(variables)
    aux = {"latent": method.latent(chosen), "latents": all_latents, "objectives": objectives, "results": results}
    return Solution(image, code, stats, aux)


class _Problem(eqx.Module):
    """The objective as a function of the variables."""

    likelihood: Likelihood
    prior: AbstractGenerativePrior
    y: State
    weight: Array
    method: AbstractMethod

    def __call__(self, variables: PyTree[Array]) -> Array:
        return self.method.objective(self.likelihood, self.prior, self.y, self.weight, variables)


def _solve(problem, z, optimiser, tolerances, result, max_steps, differentiate, progress):
    implicit = isinstance(differentiate, Implicit)
    frozen = jax.lax.stop_gradient(problem) if implicit else problem
    variables = problem.method.variables(problem.prior, z)
    variables = jax.lax.stop_gradient(variables) if implicit else variables
    # Optimisers that search along a line want the value and the function too.
    optimiser = optax.with_extra_args_support(optimiser)

    def step(index, state, args):
        del index
        problem, (rtol, atol), most = args
        variables, memory, objective = state
        value, gradient = jax.value_and_grad(lambda v: problem(v))(variables)
        updates, memory = optimiser.update(
            gradient, memory, variables, value=value, grad=gradient, value_fn=lambda v: problem(v)
        )
        moved = optax.apply_updates(variables, updates)
        diverged = value > most
        finished = settled(moved, variables, value, objective, rtol, atol) | diverged
        return (moved, memory, value), finished, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)

    first = jnp.asarray(jnp.finfo(tolerances[0].dtype).max)
    state = (variables, optimiser.init(variables), first)
    (variables, _, _), num_steps, code = iterate(
        step,
        state,
        (frozen, tolerances, ceiling(frozen(variables))),
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


def _check_fit(likelihood: Likelihood, prior: AbstractGenerativePrior, real: Any) -> None:
    if not isinstance(prior, AbstractGenerativePrior):
        raise ValueError(
            f"`prior` must be a generative prior, such as `VAEPrior(model)` or `FunctionPrior(decode, energy, shape)`; "
            f"got {type(prior).__name__}."
        )
    image = jax.eval_shape(lambda z: prior.decode(z), jax.ShapeDtypeStruct(tuple(prior.latent_shape), real))
    domain = likelihood.operator.domain
    if tuple(image.shape) != tuple(domain.shape):
        raise ValueError(
            f"The generator makes images of shape {tuple(image.shape)}; the operator takes images of shape "
            f"{tuple(domain.shape)}."
        )
