"""What a method of `posterior_sample` is."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key, State
from ...likelihood import Likelihood


class Draws(eqx.Module):
    """Samples of one posterior.

    - `values`: `(num_samples, *shape)`.
    - `results`: a code for each of them, or one for all.
    - `stats`: `num_steps`, `network_evaluations` and `vjps` of each of them, and what else a method has to tell.
    """

    values: Array
    results: Any
    stats: dict[str, Array]


class AbstractPosteriorMethod(eqx.Module):
    """How the posterior under a diffusion prior is sampled."""

    @abc.abstractmethod
    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[PyTree, Any]:
        """The problem as this method sees it, and whether it can be solved: `RESULTS.successful`, or why not.

        **Raises:** `ValueError` for what this method cannot take, which names methods that can.
        """

    @abc.abstractmethod
    def draw(self, problem: PyTree, num_samples: int, *, key: Key, result: Any, progress: Any) -> Draws:
        """The samples. Those of a problem that cannot be solved are anything finite."""


class AbstractIndependent(AbstractPosteriorMethod):
    """A method whose samples are independent: sample `i` is made with `fold_in(key, i)`."""

    @abc.abstractmethod
    def one(self, problem: PyTree, *, key: Key, result: Any, progress: Any) -> Draws:
        """One sample, without the leading axis."""

    def draw(self, problem: PyTree, num_samples: int, *, key: Key, result: Any, progress: Any) -> Draws:
        one = lambda index: self.one(problem, key=jax.random.fold_in(key, index), result=result, progress=progress)
        return jax.vmap(one)(jnp.arange(num_samples))


def finite_or(image: Array, x: Array, result: Any) -> tuple[Array, Any]:
    """An image with its code: where it is not finite, the state `x` that it was to be made from, and `nonfinite`."""
    running = result == RESULTS.successful
    good = running & jnp.all(jnp.isfinite(image))
    return jnp.where(good, image, x), RESULTS.where(running & ~good, RESULTS.nonfinite, result)


def counts(num_steps: Array, network_evaluations: Any, vjps: Any) -> dict[str, Array]:
    """The statistics that every method has."""
    whole = lambda value: jnp.asarray(value, jnp.int32)
    return {"num_steps": num_steps, "network_evaluations": whole(network_evaluations), "vjps": whole(vjps)}
