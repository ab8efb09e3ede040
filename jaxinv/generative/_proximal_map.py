"""Proximal maps of the penalties on a deviation, with a memory for those that are iterative."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..regularisers import (
    L1,
    TV,
    AbstractRegulariser,
    Anisotropic,
    Gaussian,
    Isotropic,
    Scaled,
    Smoothed,
    Tikhonov,
    image_gradient,
    image_gradient_adjoint,
)


class AbstractProximalMap(eqx.Module):
    """`argmin_u 1/2 ||u - v||^2 + step * weight * R(u)`."""

    @abc.abstractmethod
    def memory(self, u: Array) -> PyTree[Array]:
        """What is carried from one call to the next, at first."""

    @abc.abstractmethod
    def __call__(self, v: Array, step: Array, memory: PyTree[Array]) -> tuple[Array, PyTree[Array]]:
        """The minimiser, and the new memory."""


class ClosedForm(AbstractProximalMap):
    """That of a regulariser with a `prox`."""

    regulariser: AbstractRegulariser
    weight: Array

    def memory(self, u: Array) -> None:
        del u

    def __call__(self, v: Array, step: Array, memory: None) -> tuple[Array, None]:
        return self.regulariser.prox(v, step * self.weight), memory


# Dual steps per call. One would do for convergence, together with the descent (Loris and Verhoeven).
_DUAL_STEPS = 5
# The squared norm of the gradient of an image.
_RADIUS = 8.0


class DualVariation(AbstractProximalMap):
    """That of total variation, by projected gradient steps on its dual, which go on from call to call.

    The dual does not depend on the step, so where the descent around it stands still, the map is exact.

    **Reference:** Loris, Verhoeven, On a generalization of the iterative soft-thresholding algorithm for the case of
    non-separable penalty, 2011; Chambolle, An algorithm for total variation minimization and applications, 2004.
    """

    kind: Isotropic | Anisotropic
    weight: Array

    def memory(self, u: Array) -> Array:
        return jnp.zeros((2, *u.shape), u.dtype)

    def __call__(self, v: Array, step: Array, memory: Array) -> tuple[Array, Array]:
        for _ in range(_DUAL_STEPS):
            u = v - step * image_gradient_adjoint(memory)
            memory = self.kind.project(memory + image_gradient(u) / (_RADIUS * step), self.weight)
        return v - step * image_gradient_adjoint(memory), memory


def proximal_map(regulariser: AbstractRegulariser, weight: Array) -> AbstractProximalMap | None:
    """The proximal map of `weight * regulariser`; `None` where there is none."""
    if isinstance(regulariser, Scaled):
        return proximal_map(regulariser.regulariser, weight * regulariser.factor.astype(weight.dtype))
    if isinstance(regulariser, TV):
        return None if isinstance(regulariser.kind, Smoothed) else DualVariation(regulariser.kind, weight)
    closed = isinstance(regulariser, L1 | Gaussian) or (
        isinstance(regulariser, Tikhonov) and regulariser.operator is None
    )
    # A regulariser of the user's own says by its smoothness what it needs: its prox, or its gradient.
    theirs = not type(regulariser).__module__.startswith("jaxinv.") and not regulariser.is_smooth
    return ClosedForm(regulariser, weight) if closed or theirs else None
