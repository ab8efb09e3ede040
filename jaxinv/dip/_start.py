"""The starts of a deep image prior: what its network takes for input."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf, check_count, common_dtype
from .._solution import or_nan
from .._sums import dot
from .._types import Checked, Key, Scalar, State
from ..classical import fbp
from ..likelihood import Likelihood, domain_dtype, gaussian_approximation
from ..operators import AbstractLinearOperator
from ..requirements import Parametric, Requirement, finite, not_negative


class AbstractStart(Parametric):
    """The input `z0` of the network. A start of your own implements these members.

    - `uses_measurements`: whether the input is made of the whole measurement, which `HeldOut` forbids; `True` by
        default.
    """

    uses_measurements: ClassVar[bool] = True

    @abc.abstractmethod
    def input(self, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key) -> Array:
        """The input.

        **Arguments:**

        - `likelihood`, `y`: as prepared for the solve: in its dtype, and finite.
        - `shape`: the shape that the network takes, where it states one, without the batch axis.
        - `key`: a typed key.

        **Returns:** `z0`, without a batch axis.

        **Raises:** `ValueError` where there is no such input for the problem.
        """


class FromNoise(AbstractStart):
    """Noise of independent normal values, drawn once.

    - `channels`: the number of channels of the input. It is needed only for a network without an `input_shape`, where
        the default is as many as the image has.
    - `std`: the standard deviation of the values. Lower it, to that of the jitter, with `reconstruct(..., jitter=...)`.

    **Reference:** Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018.
    """

    channels: int | None = eqx.field(static=True)
    std: Array | float
    uses_measurements: ClassVar[bool] = False

    def __init__(self, channels: Checked[int | None] = None, std: Scalar = 0.1):
        self.channels = None if channels is None else check_count(channels, "channels")
        self.std = as_leaf(std)

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("std", self.std),)

    def input(self, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key) -> Array:
        del y
        domain = likelihood.operator.domain
        if shape is None:
            shape = tuple(domain.shape) if self.channels is None else (*domain.shape[:-1], self.channels)
        if self.channels not in (None, shape[-1]):
            raise ValueError(
                f"`FromNoise({self.channels})`: the network takes inputs of shape {shape}, with {shape[-1]} channels. "
                f"Make it with `input_shape={(*shape[:-1], self.channels)}`, or leave the channels out here."
            )
        dtype = domain_dtype(likelihood.operator)
        return jnp.asarray(self.std).astype(dtype) * jax.random.normal(key, shape, dtype)


class FromAdjoint(AbstractStart):
    """The real part of the adjoint of the data in the unit of an image, `a A* y`: a step of steepest descent from 0."""

    def input(self, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key) -> Array:
        del shape, key
        operator = likelihood.operator
        if not isinstance(operator, AbstractLinearOperator):
            raise ValueError(
                f"`FromAdjoint()` needs a linear operator; {type(operator).__name__} is not one. Take `FromNoise()`."
            )
        _, data = gaussian_approximation(likelihood, y)
        back = operator.adjoint(data)
        measured = jax.tree.map(lambda m, leaf: jnp.where(m > 0, leaf, 0), operator.measured, operator(back))
        square, size = dot(measured, measured), dot(back, back)
        step = jnp.where(square > 0, size / jnp.where(square > 0, square, 1), 0)
        return (step * back).real


class FromFBP(AbstractStart):
    """The filtered back-projection of a sinogram."""

    def input(self, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key) -> Array:
        del shape, key
        _, data = gaussian_approximation(likelihood, y)
        return or_nan(fbp(likelihood.operator, data)).real


class From(AbstractStart):
    """A given input, such as another method's reconstruction.

    - `image`: an array of the shape that the network takes.
    """

    image: Array = eqx.field(converter=jnp.asarray)
    uses_measurements: ClassVar[bool] = False

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("image", self.image),)

    def input(self, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key) -> Array:
        del y, shape, key
        real = domain_dtype(likelihood.operator)
        return self.image.astype(common_dtype(real, 1j) if jnp.iscomplexobj(self.image) else real)


def make_input(
    start: AbstractStart, likelihood: Likelihood, y: State, shape: tuple[int, ...] | None, *, key: Key
) -> Array:
    """Make `z0`, which must have the shape that the network takes, where the network states it."""
    z0 = start.input(likelihood, y, shape, key=key)
    if shape is not None and z0.shape != shape:
        raise ValueError(
            f"{type(start).__name__} makes an input of shape {z0.shape}; the network takes {shape}. Make it with "
            f"`input_shape={z0.shape}` if it can take such inputs, as `SkipUNet` can, or start from `FromNoise()`."
        )
    return z0
