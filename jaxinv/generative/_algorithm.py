"""The algorithms of a latent reconstruction: any optimiser of optax, or alternating proximal gradient steps."""

import abc
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from .._arrays import as_leaf
from .._loop import divergence_threshold, has_converged
from .._method import AbstractMethod
from .._optimisers import init_optimiser, step_optimiser
from .._prior import AbstractGenerativePrior, check_prior
from .._proximal_map import AbstractProximalMap
from .._solution import RESULTS
from .._types import Key, PyTree, Scalar, State as Measurement
from ..likelihood import Likelihood, domain_dtype, prepare, prepare_parameter
from ..requirements import Requirement
from ._method import AbstractLatentMethod


class Problem(eqx.Module):
    """One latent reconstruction, in the dtype of the solve; called with the variables, it gives the objective.

    - `likelihood`, `prior`, `y`: as prepared.
    - `weight`: the weight of the energy of the prior.
    - `method`: the objective, as prepared.
    - `learning_rate`: the rate of the default optimiser.
    - `rtol`, `atol`: the tolerances of `has_converged`.
    """

    likelihood: Likelihood
    prior: AbstractGenerativePrior
    y: Measurement
    weight: Array
    method: AbstractLatentMethod
    learning_rate: Array
    rtol: Array
    atol: Array

    def __call__(self, variables: PyTree[Array]) -> Array:
        smooth, penalty = self._parts(variables)
        return smooth + penalty

    def smooth_part(self, variables: PyTree[Array]) -> Array:
        """The objective without the penalty that has a proximal map."""
        return self._parts(variables)[0]

    def _parts(self, variables: PyTree[Array]) -> tuple[Array, Array | float]:
        return self.method.objective(self.likelihood, self.prior, self.y, self.weight, variables)


class State(NamedTuple):
    """The state of an algorithm.

    - `variables`: those of the method.
    - `memory`: the algorithm's own: the state of the optimiser, or step sizes and a dual variable.
    - `objective`: the last value of the objective.
    - `threshold`: an objective beyond this has diverged.
    """

    variables: PyTree[Array]
    memory: PyTree[Array]
    objective: Array
    threshold: Array


class AbstractAlgorithm(AbstractMethod[Problem, State]):
    """Steps that lower the objective of a latent method; a subclass has `init` and `step`."""

    def prepare(
        self,
        likelihood: Likelihood,
        prior: Any,
        y: Measurement,
        *,
        method: AbstractLatentMethod,
        weight: Scalar,
        learning_rate: Scalar,
        rtol: Scalar,
        atol: Scalar,
    ) -> tuple[Problem, RESULTS]:
        likelihood, y, result = prepare(likelihood, y)
        prior = prepare_prior(likelihood, prior)
        operator = likelihood.operator
        weight, result = prepare_parameter(weight, operator, result)
        learning_rate, result = prepare_parameter(learning_rate, operator, result, positive=True, name="learning_rate")
        method, result = method.prepare(likelihood, prior, y, result)
        rtol, atol = jnp.asarray(rtol).astype(weight.dtype), jnp.asarray(atol).astype(weight.dtype)
        return Problem(likelihood, prior, y, weight, method, learning_rate, rtol, atol), result

    @abc.abstractmethod
    def init(  # pyright: ignore[reportIncompatibleMethodOverride]  # each restart has a start of its own
        self, problem: Problem, z: Array, *, key: Key | None = None
    ) -> State:
        """The first state of a restart that begins with the latent `z`."""

    def finish(self, problem: Problem, state: State, *, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        """The image, and a dict of the `objective`, the `latent`, and the latent's own image, `decoded`."""
        del key
        method, prior, variables = problem.method, problem.prior, state.variables
        latent = method.latent(variables)
        stats = {"objective": problem(variables), "latent": latent, "decoded": prior.decode(latent)}
        return method.image(prior, variables), stats


class Descent(AbstractAlgorithm):
    """Descent by an optimiser of optax, on all variables at once; `None` is Adam with the problem's learning rate."""

    optimiser: optax.GradientTransformation | None = eqx.field(static=True)

    def init(self, problem: Problem, z: Array, *, key: Key | None = None) -> State:
        del key
        variables = problem.method.init(problem.prior, z)
        return _first_state(problem, variables, init_optimiser(self._optimiser(problem), variables))

    def step(
        self, problem: Problem, state: State, index: Array, *, key: Key | None = None
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        del key
        function = lambda v: problem(v)
        value, gradient = jax.value_and_grad(function)(state.variables)
        variables, memory, moved = step_optimiser(
            self._optimiser(problem), function, value, gradient, state.memory, state.variables
        )
        # An optimiser that collects gradients over several steps stands still without having converged.
        stationary = ~jnp.any(jnp.stack([jnp.any(slope != 0) for slope in jax.tree.leaves(gradient)]))
        return _next_state(problem, state, index, variables, memory, value, moved | stationary)

    def _optimiser(self, problem: Problem) -> optax.GradientTransformation:
        # Built inside the trace, so that another learning rate does not compile again.
        return optax.adam(problem.learning_rate) if self.optimiser is None else self.optimiser


class Alternating(AbstractAlgorithm):
    """Alternating proximal gradient steps with backtracking, for `reconstruct(..., optimiser=Alternating())`.

    A step of `reconstruct` tries one gradient step on the latent, then one on the deviation (or the image), followed by
    the proximal map of a penalty that has one. A trial that does not lower the objective by as much as its quadratic
    model says is undone, and its step size halved; after a successful trial the step size grows a little. So every
    trial is a step, and under `jax.vmap` no problem waits for the line search of another.

    - `step_size`: the first step size, positive; one that is too large is halved at once.
    - `growth`: the factor by which a step size grows after success, at least 1.

    **Raises:** `ValueError` for numbers out of their range.

    **Reference:** Bolte, Sabach, Teboulle, Proximal alternating linearized minimization for nonconvex and nonsmooth
    problems, 2014; Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models,
    2023.
    """

    step_size: Scalar = eqx.field(default=1.0, converter=as_leaf)
    growth: Scalar = eqx.field(default=1.2, converter=as_leaf)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "Alternating(step_size, growth): a positive step size and a growth of at least 1",
                {"step_size": self.step_size, "growth": self.growth},
                lambda size, growth: (size > 0) & (size < math.inf) & (growth >= 1) & (growth < math.inf),
            ),
        )

    def init(self, problem: Problem, z: Array, *, key: Key | None = None) -> State:
        del key
        variables = problem.method.init(problem.prior, z)
        blocks, proximal = jax.tree.leaves(variables), problem.method.proximal_map()
        dual = None if proximal is None else proximal.init(blocks[-1])
        return _first_state(problem, variables, ([jnp.asarray(self.step_size, b.dtype) for b in blocks], dual))

    def step(
        self, problem: Problem, state: State, index: Array, *, key: Key | None = None
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        del key
        blocks, structure = jax.tree.flatten(state.variables)
        sizes, dual = list(state.memory[0]), state.memory[1]
        proximal = problem.method.proximal_map()
        complete = jnp.ones((), bool)
        for i in range(len(blocks)):
            last = i == len(blocks) - 1
            smooth = functools.partial(_smooth_part, problem, structure, tuple(blocks), i)
            accepted, blocks[i], dual, sizes[i] = self._try(
                smooth, proximal if last else None, blocks[i], dual, sizes[i]
            )
            complete = complete & accepted
        variables = structure.unflatten(blocks)
        return _next_state(problem, state, index, variables, (sizes, dual), problem(variables), complete)

    def _try(
        self,
        smooth: Callable[[Array], Array],
        proximal: AbstractProximalMap | None,
        block: Array,
        dual: PyTree[Array],
        size: Array,
    ) -> tuple[Array, Array, PyTree[Array], Array]:
        value, gradient = jax.value_and_grad(smooth)(block)
        trial, new_dual = block - size * gradient, dual
        if proximal is not None:
            trial, new_dual = proximal(trial, size, dual)
        change = trial - block
        new_value, new_gradient = jax.value_and_grad(smooth)(jax.lax.stop_gradient(trial))
        squared = jnp.sum(change**2) / size
        below = new_value <= value + jnp.sum(gradient * change) + squared / 2
        # Near the minimum the decrease is lost in rounding, but the curvature along the step is not.
        resolved = jnp.abs(new_value - value) > 100 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        flat = jnp.sum((new_gradient - gradient) * change) <= squared
        accepted = jax.lax.stop_gradient(jnp.where(resolved, below, flat & jnp.isfinite(new_value)))
        # Bounded: where the gradient is exactly 0 every step size succeeds.
        growth, most = (jnp.asarray(v, size.dtype) for v in (self.growth, 1e10 * self.step_size))
        new_size = jnp.minimum(jnp.where(accepted, growth * size, 0.5 * size), most)
        keep = lambda new, old: jnp.where(accepted, new, old)
        return accepted, keep(trial, block), jax.tree.map(keep, new_dual, dual), new_size


def _smooth_part(problem: Problem, structure: Any, blocks: tuple[Array, ...], i: int, block: Array) -> Array:
    return problem.smooth_part(structure.unflatten([*blocks[:i], block, *blocks[i + 1 :]]))


def _first_state(problem: Problem, variables: PyTree[Array], memory: PyTree[Array]) -> State:
    largest = jnp.asarray(jnp.finfo(problem.rtol.dtype).max)
    return State(variables, memory, largest, largest)


def _next_state(
    problem: Problem,
    state: State,
    index: Array,
    variables: PyTree[Array],
    memory: PyTree[Array],
    objective: Array,
    complete: Array,
) -> tuple[State, Bool[Array, ""], RESULTS]:
    """The state after a step, whether the problem has finished, and its code; only a `complete` step can converge."""
    threshold = jnp.where(index == 0, divergence_threshold(objective), state.threshold)
    diverged = objective > threshold
    converged = complete & has_converged(
        variables, state.variables, objective, state.objective, problem.rtol, problem.atol
    )
    code = RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)
    return State(variables, memory, objective, threshold), converged | diverged, code


def prepare_prior(likelihood: Likelihood, prior: Any) -> AbstractGenerativePrior:
    """The prior in the dtype of the solve.

    **Raises:** `ValueError` if it is no generative prior, or its images do not fit the operator.
    """
    prior = check_prior(prior)
    real = domain_dtype(likelihood.operator)
    prior = jax.tree.map(
        lambda leaf: leaf.astype(real) if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        prior,
    )
    image = jax.eval_shape(lambda z: prior.decode(z), jax.ShapeDtypeStruct(tuple(prior.latent_shape), real))
    domain = likelihood.operator.domain
    if tuple(image.shape) != tuple(domain.shape):
        raise ValueError(
            f"The generator makes images of shape {tuple(image.shape)}; the operator takes images of shape "
            f"{tuple(domain.shape)}."
        )
    return prior
