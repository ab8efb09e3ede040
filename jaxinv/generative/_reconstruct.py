"""Reconstruction in the latent space of a generator."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._arrays import check_count, check_key
from .._checks import check_instance
from .._differentiation import Implicit, Unrolled, attach_implicit, check_differentiate
from .._jit import verb
from .._loop import run
from .._optimisers import check_optimiser
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import Checked, IntLike, Key, ProgressMeter, PyTree, Scalar, State as Measurement
from ..likelihood import Likelihood
from ._algorithm import AbstractAlgorithm, Alternating, Descent, Problem, State
from ._method import AbstractLatentMethod, Hard
from ._start import AbstractStart, FromPrior


@verb(traced=("weight", "learning_rate"), tolerances=("rtol", "atol"))
def reconstruct(
    likelihood: Likelihood,
    prior: Checked[AbstractGenerativePrior],
    y: Measurement,
    *,
    key: Key,
    method: Checked[AbstractLatentMethod] = Hard(),  # noqa: B008
    weight: Scalar = 1.0,
    optimiser: Checked[optax.GradientTransformation | Alternating | None] = None,
    learning_rate: Scalar = 0.05,
    restarts: IntLike = 1,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    max_steps: IntLike = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | Implicit | None] = None,
    progress: ProgressMeter | None = None,
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
    - `key`: a typed key, for the starts.
    - `method`: `Hard()`; or `Relaxed(deviation, weight)` or `Soft(deviation, weight)` where the generator cannot make
      the image exactly.
    - `weight`: the weight of the energy, not negative. 1 gives the maximum of the posterior density of `z`.
    - `optimiser`: one of optax, or `Alternating()`; `None` is Adam with `learning_rate`, and `Alternating()` where the
      deviation is not smooth. (There an optimiser of optax takes subgradients, and what should be 0 is only small.)
      Create an optimiser of optax once and reuse it: each new one compiles again, which `learning_rate` does not.
    - `learning_rate`: a positive scalar.
    - `restarts`: static. More of them find a better minimum where the objective has several.
    - `start`: `FromPrior()`, `FromEncoder()`, or `From(z)`. Deviations start at 0.
    - `max_steps`: static.
    - `rtol`, `atol`: a restart stops when a step changes both variables and objective by less than `atol + rtol *
      size`.
    - `differentiate`: `None`, `Unrolled()`, or, where the deviation is smooth, `Implicit()`: the derivative of the
      local minimiser that was found, with the exact Hessian.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`. Its `stats` are the `num_steps` and the `objective` of the best restart, and `restart`,
    its number. Its `aux` is a dict with the `latent` and the `deviation`, `x - G(z)`, of that restart, and with the
    `latents`, `images`, `objectives` and `results` of all restarts.

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
    method = check_instance(method, AbstractLatentMethod, "method", Hard())
    start = check_instance(start, AbstractStart, "start", FromPrior())
    check_count(restarts, "restarts")
    implicit = isinstance(differentiate, Implicit)
    if implicit and not method.is_smooth:
        raise ValueError(
            f"`Implicit()` needs a smooth objective, and that of {method} is not smooth. Take a smooth deviation, such "
            "as TV(Smoothed(eps)) or Gaussian(prior), or `differentiate=Unrolled()`."
        )
    algorithm = _choose(optimiser, method)
    problem, result = algorithm.prepare(
        likelihood, prior, y, method=method, weight=weight, learning_rate=learning_rate, rtol=rtol, atol=atol
    )
    latents = start.latents(problem.likelihood, problem.prior, problem.y, restarts, key=key)

    def solve(z: Array) -> tuple[State, Array, RESULTS]:
        frozen, z = jax.lax.stop_gradient((problem, z)) if implicit else (problem, z)
        return run(
            algorithm,
            frozen,
            algorithm.init(frozen, z),
            result=result,
            max_steps=max_steps,
            differentiate=differentiate,
            progress=progress,
        )

    states, num_steps, results = jax.vmap(solve)(latents.astype(problem.weight.dtype))
    images, outcomes = jax.vmap(lambda state: algorithm.finish(problem, state))(states)

    objectives = outcomes["objective"]
    best = jnp.argmin(jnp.where(jnp.isfinite(objectives), objectives, jnp.inf))
    state, image, chosen, code = jax.tree.map(lambda leaf: leaf[best], (states, images, outcomes, results))
    if isinstance(differentiate, Implicit):
        # The restart that is returned gets a derivative, and no other.
        inputs = (likelihood, prior, y, weight, method)
        state = state._replace(variables=_attach(differentiate, problem, state.variables, code, inputs))
        image, chosen = algorithm.finish(problem, state)
    failed = ~jnp.all(jnp.isfinite(image)) & ~_is_flagged(code)
    code = RESULTS.where(failed, RESULTS.nonfinite, code)
    image = jnp.where(_is_flagged(code) & ~jnp.all(jnp.isfinite(image)), jnp.zeros_like(image), image)
    image = jnp.where(result == RESULTS.successful, image, jnp.zeros_like(image))
    stats = {"num_steps": num_steps[best], "objective": chosen["objective"], "restart": best}
    aux = {
        "latent": chosen["latent"],
        "deviation": image - chosen["decoded"],
        "latents": outcomes["latent"],
        "images": images,
        "objectives": objectives,
        "results": results,
    }
    return Solution(image, code, stats, aux)


def _choose(optimiser: Any, method: AbstractLatentMethod) -> AbstractAlgorithm:
    """The algorithm that the options name."""
    if not isinstance(optimiser, Alternating):
        optimiser = check_optimiser(optimiser, alternative=", or `Alternating()`")
    if isinstance(optimiser, optax.GradientTransformation) or (optimiser is None and method.is_smooth):
        return Descent(optimiser)
    if not method.is_smooth and method.proximal_map() is None:
        raise ValueError(
            f"The deviation of {method} is neither smooth nor has it a proximal map, as L1(), TV(), Tikhonov() and "
            "Gaussian(prior) have; sums have none. Take one of these, a smooth one, or an `optimiser` of optax, "
            "which takes subgradients."
        )
    return Alternating() if optimiser is None else optimiser


def _attach(
    implicit: Implicit, problem: Problem, variables: PyTree[Array], code: RESULTS, inputs: PyTree
) -> PyTree[Array]:
    """The variables with the derivative that the implicit function theorem gives them."""
    frozen = jax.lax.stop_gradient(problem)
    flat, unravel = ravel_pytree(variables)
    gradient = jax.grad(lambda v: problem(unravel(v)))
    at = jax.lax.stop_gradient(flat)
    # The exact Hessian, not Gauss-Newton's: at a minimum it is positive semi-definite, and Gauss-Newton's gives a wrong
    # derivative wherever the residual is not zero.
    curvature = lambda v: jax.jvp(jax.grad(lambda u: frozen(unravel(u))), (at,), (v,))[1]
    return unravel(attach_implicit(implicit, flat, gradient, curvature, ~_is_flagged(code), inputs))


def _is_flagged(code: RESULTS) -> Array:
    return (code != RESULTS.successful) & (code != RESULTS.max_steps_reached)
