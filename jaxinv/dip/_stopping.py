"""When a run stops, and which of its images is kept."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._types import Key, State
from ..likelihood import Likelihood


class AbstractStopping(eqx.Module):
    """A rule that gives every image a figure: the image with the lowest, and the latest of equals, is kept.

    - `name`: of the figure in the history; `None` for a rule without one.
    - `settles`: whether using up all steps is its success.
    """

    name: eqx.AbstractClassVar[str | None]
    settles: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def enter(
        self, likelihood: Likelihood, y: State, result: Any, *, key: Key
    ) -> tuple["AbstractStopping", Likelihood, Any]:
        """The rule for a prepared measurement, the likelihood that is fitted, and the code."""

    @abc.abstractmethod
    def memory(self, like: jax.ShapeDtypeStruct) -> PyTree[Array]:
        """What is carried from image to image, at first."""

    @abc.abstractmethod
    def figure(self, memory: PyTree[Array], image: Array) -> tuple[PyTree[Array], Array]:
        """The memory with the next image in it, and the figure of the image: the lower the better."""

    @abc.abstractmethod
    def stops(self, figure: Array, since: Array) -> Array:
        """Whether to stop, `since` steps after the image with the lowest figure."""


class FixedSteps(AbstractStopping):
    """Take all the steps, and keep the last image."""

    name: ClassVar[str | None] = None
    settles: ClassVar[bool] = True

    def enter(self, likelihood: Likelihood, y: State, result: Any, *, key: Key) -> tuple["FixedSteps", Likelihood, Any]:
        del y, key
        return self, likelihood, result

    def memory(self, like: jax.ShapeDtypeStruct) -> None:
        del like

    def figure(self, memory: PyTree[Array], image: Array) -> tuple[None, Array]:
        del memory
        return None, jnp.zeros((), jnp.finfo(image.dtype).dtype)

    def stops(self, figure: Array, since: Array) -> Array:
        del figure, since
        return jnp.zeros((), bool)
