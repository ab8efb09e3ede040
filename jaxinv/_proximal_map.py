"""Proximal maps: the interface, those in closed form, and that of total variation."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ._arrays import as_image
from ._types import ArrayLike, PyTree


class AbstractProximalMap(eqx.Module):
    """The map `argmin_u 1/2 ||u - v||^2 + step * weight * R(u)`, with a state for maps that are iterative."""

    @abc.abstractmethod
    def init(self, u: Array) -> PyTree[Array]:
        """The state before the first call.

        **Arguments:**

        - `u`: an array of the shape and dtype of the arguments to come.

        **Returns:** a pytree of arrays, or `None` for a map in closed form.
        """

    @abc.abstractmethod
    def __call__(self, v: Array, step: Array, state: PyTree[Array]) -> tuple[Array, PyTree[Array]]:
        """The minimiser.

        **Arguments:**

        - `v`: the point.
        - `step`: a positive scalar.
        - `state`: as `init` or the call before returned it.

        **Returns:** the minimiser, and the new state. A map that iterates goes on from call to call, and is exact once
        the surrounding descent has converged.
        """


class ClosedForm(AbstractProximalMap):
    """The proximal map of `weight * regulariser`, by `regulariser.prox`."""

    regulariser: Any
    weight: Array

    def init(self, u: Array) -> None:
        del u

    def __call__(self, v: Array, step: Array, state: None) -> tuple[Array, None]:
        return self.regulariser.prox(v, step * self.weight), state


# One dual step per call would do for convergence, together with the descent around it (Loris and Verhoeven).
_DUAL_STEPS = 5
# An upper bound of the squared norm of the gradient of an image.
_SQUARED_NORM = 8.0


class DualVariation(AbstractProximalMap):
    """The proximal map of total variation, by projected gradient steps on its dual, which go on from call to call.

    `kind` is a kind of `TV` that has `project`. The dual does not depend on the step, so the map is exact once the
    surrounding descent has converged.

    **Reference:** Loris, Verhoeven, On a generalization of the iterative soft-thresholding algorithm for the case of
    non-separable penalty, 2011; Chambolle, An algorithm for total variation minimization and applications, 2004.
    """

    kind: Any
    weight: Array

    def init(self, u: Array) -> Array:
        return jnp.zeros((2, *u.shape), u.dtype)

    def __call__(self, v: Array, step: Array, state: Array) -> tuple[Array, Array]:
        for _ in range(_DUAL_STEPS):
            u = v - step * image_gradient_adjoint(state)
            state = self.kind.project(state + image_gradient(u) / (_SQUARED_NORM * step), self.weight)
        return v - step * image_gradient_adjoint(state), state


def image_gradient(x: ArrayLike) -> Array:
    """Forward differences of `(h, w, c)` along height and width, `(2, h, w, c)`; zero across the border.

    The norm of this map is less than `sqrt(8)`.

    **Arguments:**

    - `x`: an image, `(h, w, c)`.

    **Raises:** `ValueError` for another rank, or integers.
    """
    x = _of_rank(x, 3, "`image_gradient` takes an image of shape (h, w, c)")
    return jnp.stack(
        [jnp.pad(x[1:] - x[:-1], ((0, 1), (0, 0), (0, 0))), jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0)))]
    )


def image_gradient_adjoint(dual: ArrayLike) -> Array:
    """The adjoint of `image_gradient`: minus the divergence.

    **Arguments:**

    - `dual`: a field, `(2, h, w, c)`.

    **Raises:** `ValueError` for another rank, or integers.
    """
    dual = _of_rank(dual, 4, "`image_gradient_adjoint` takes a field of shape (2, h, w, c)")
    down, right = dual[0, :-1], dual[1, :, :-1]
    vertical = jnp.pad(down, ((1, 0), (0, 0), (0, 0))) - jnp.pad(down, ((0, 1), (0, 0), (0, 0)))
    horizontal = jnp.pad(right, ((0, 0), (1, 0), (0, 0))) - jnp.pad(right, ((0, 0), (0, 1), (0, 0)))
    return vertical + horizontal


def _of_rank(x: Any, rank: int, what: str) -> Array:
    x = as_image(x, what.split(" takes")[0])
    if x.ndim != rank:
        raise ValueError(f"{what}; got {x.shape}.")
    return x
