"""How a latent reconstruction descends: any optimiser of optax, or alternating proximal gradient steps."""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ._method import AbstractMethod
from ._proximal_map import AbstractProximalMap


class Problem(eqx.Module):
    """The objective as a function of the variables."""

    likelihood: Likelihood
    prior: AbstractGenerativePrior
    y: State
    weight: Array
    method: AbstractMethod

    def __call__(self, variables: PyTree[Array]) -> Array:
        smooth, penalty = self._parts(variables)
        return smooth + penalty

    def smooth_part(self, variables: PyTree[Array]) -> Array:
        return self._parts(variables)[0]

    def _parts(self, variables: PyTree[Array]) -> tuple[Array, Array | float]:
        return self.method.objective(self.likelihood, self.prior, self.y, self.weight, variables)


class AbstractAlgorithm(eqx.Module):
    """Steps that lessen an objective."""

    @abc.abstractmethod
    def start(self, problem: Problem, variables: PyTree[Array]) -> PyTree[Array]:
        """The memory of the algorithm at first."""

    @abc.abstractmethod
    def step(
        self, problem: Problem, variables: PyTree[Array], memory: PyTree[Array]
    ) -> tuple[PyTree[Array], PyTree[Array], Array, Array]:
        """The new variables and memory, a value of the objective, and whether the step was taken in full."""


class Descent(AbstractAlgorithm):
    """An optimiser of optax, on all variables at once."""

    optimiser: Any = eqx.field(static=True)

    def start(self, problem: Problem, variables: PyTree[Array]) -> PyTree[Array]:
        del problem
        return self.optimiser.init(variables)

    def step(
        self, problem: Problem, variables: PyTree[Array], memory: PyTree[Array]
    ) -> tuple[PyTree[Array], PyTree[Array], Array, Array]:
        value, gradient = jax.value_and_grad(lambda v: problem(v))(variables)
        # Optimisers that search along a line want the value and the function too.
        updates, memory = optax.with_extra_args_support(self.optimiser).update(
            gradient, memory, variables, value=value, grad=gradient, value_fn=lambda v: problem(v)
        )
        moved: Any = optax.apply_updates(variables, updates)
        return moved, memory, value, jnp.ones((), bool)


class Alternating(AbstractAlgorithm):
    """Alternating proximal gradient steps with backtracking, for `reconstruct(..., optimiser=Alternating())`.

    A step of `reconstruct` tries one gradient step on the latent, then one on the deviation (or the image), followed by
    the proximal map of a penalty that has one. A trial that does not lessen the objective by what its model says is
    taken back, and its step size halved; after one that does the step size grows a little. So a try is a step, and
    under `jax.vmap` no problem waits for the line search of another.

    - `step_size`: the first, positive; where it is too large it is halved at once.
    - `growth`: of a step size after success, at least 1.

    **Raises:** `ValueError` for numbers out of their range.

    **Reference:** Bolte, Sabach, Teboulle, Proximal alternating linearized minimization for nonconvex and nonsmooth
    problems, 2014; Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models,
    2023.
    """

    step_size: float = eqx.field(default=1.0, static=True)
    growth: float = eqx.field(default=1.2, static=True)

    def __check_init__(self):
        if not 0 < self.step_size < float("inf") or not 1 <= self.growth < float("inf"):
            raise ValueError(
                f"Alternating(step_size, growth): a positive step size and a growth of at least 1; got "
                f"{self.step_size!r} and {self.growth!r}."
            )

    def start(self, problem: Problem, variables: PyTree[Array]) -> PyTree[Array]:
        blocks = jax.tree.leaves(variables)
        proximal = problem.method.proximal_map()
        memory = None if proximal is None else proximal.memory(blocks[-1])
        return [jnp.asarray(self.step_size, block.dtype) for block in blocks], memory

    def step(
        self, problem: Problem, variables: PyTree[Array], memory: PyTree[Array]
    ) -> tuple[PyTree[Array], PyTree[Array], Array, Array]:
        blocks, structure = jax.tree.flatten(variables)
        sizes, dual = list(memory[0]), memory[1]
        proximal = problem.method.proximal_map()
        whole = jnp.ones((), bool)
        for i in range(len(blocks)):
            last = i == len(blocks) - 1
            smooth = functools.partial(_smooth_part, problem, structure, tuple(blocks), i)
            taken, blocks[i], dual, sizes[i] = self._try(smooth, proximal if last else None, blocks[i], dual, sizes[i])
            whole = whole & taken
        moved = structure.unflatten(blocks)
        return moved, (sizes, dual), problem(moved), whole

    def _try(
        self, smooth: Any, proximal: AbstractProximalMap | None, block: Array, dual: PyTree[Array], size: Array
    ) -> tuple[Array, Array, PyTree[Array], Array]:
        value, gradient = jax.value_and_grad(smooth)(block)
        trial, new_dual = block - size * gradient, dual
        if proximal is not None:
            trial, new_dual = proximal(trial, size, dual)
        change = trial - block
        reached, ahead = jax.value_and_grad(smooth)(jax.lax.stop_gradient(trial))
        squared = jnp.sum(change**2) / size
        below = reached <= value + jnp.sum(gradient * change) + squared / 2
        # Near the minimum the decrease is lost in rounding, but the curvature along the step is not.
        resolved = jnp.abs(reached - value) > 100 * jnp.finfo(value.dtype).eps * jnp.abs(value)
        flat = jnp.sum((ahead - gradient) * change) <= squared
        taken = jax.lax.stop_gradient(jnp.where(resolved, below, flat & jnp.isfinite(reached)))
        # Bounded: where the gradient is exactly 0 every step size succeeds.
        new_size = jnp.minimum(jnp.where(taken, self.growth * size, 0.5 * size), 1e10 * self.step_size)
        keep = lambda new, old: jnp.where(taken, new, old)
        return taken, keep(trial, block), jax.tree.map(keep, new_dual, dual), new_size


def _smooth_part(problem: Problem, structure: Any, blocks: tuple[Array, ...], i: int, block: Array) -> Array:
    return problem.smooth_part(structure.unflatten([*blocks[:i], block, *blocks[i + 1 :]]))
