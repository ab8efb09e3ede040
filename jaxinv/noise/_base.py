"""The interface of noise models, and what they share: parameters that broadcast to a measurement, or to a stack."""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_key, real_dtype
from .._module import Module
from .._types import Key, PyTree, Scalar, State


class AbstractNoise(Module):
    """The law `p(y | mean)` of a measurement.

    The arguments of its methods are the noiseless measurement, `prediction = A x`, the measurement `y` of the same
    shape, and the weights of `operator.measured`: an entry is measured where `measured > 0`.
    """

    @abc.abstractmethod
    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        """`-log p(y | A x)` with all constants, over the measured entries. **Returns:** a scalar."""

    @abc.abstractmethod
    def simulate(self, prediction: State, *, key: Key) -> State:
        """Draw a measurement, with a typed key. **Returns:** a draw of `y`, of the shape of `prediction`."""

    @abc.abstractmethod
    def linearise(self, y: State) -> tuple[State, State]:
        """The Gaussian approximation at `y`. **Returns:** `(data, std)`, with `data` roughly `N(A x, std^2)`."""

    def prox(self, prediction: State, y: State, measured: State, step: State | Scalar) -> State:
        """The proximal map of the negative log-likelihood, for solvers that take it exactly.

        **Arguments:**

        - `prediction`, `y`, `measured`: those of `negative_log_likelihood`.
        - `step`: positive; a scalar or an array for each entry, for a stack a tuple of these.

        **Returns:** for each entry `argmin_z 1/2 (z - prediction)^2 - step log p(y | z)`, and the prediction itself
        where nothing is measured.

        **Raises:** `ValueError` where this noise has none, which is the default.
        """
        del prediction, y, measured, step
        raise ValueError(
            f"{type(self).__name__} has no proximal map. Take `exact=False`, for its Gaussian approximation "
            "(`noise.linearise`), or `generative.reconstruct` or `dip.reconstruct`, which use its gradient."
        )

    @abc.abstractmethod
    def invalid(self, measured: State) -> Array:
        """Whether a parameter is out of its range at a measured entry. **Returns:** a boolean scalar."""

    @abc.abstractmethod
    def unit(self) -> "AbstractNoise":
        """The same noise with valid parameters, for a problem that has a code. **Returns:** a noise of this class."""


class AbstractGaussianNoise(AbstractNoise):
    """Gaussian noise: `-log p = 1/2 ||whiten(y - A x)||^2 + constant`."""

    @abc.abstractmethod
    def whiten(self, residual: State) -> State:
        """`W r` with `W* W` the inverse covariance. **Returns:** an array of the shape of the residual `r`."""

    @abc.abstractmethod
    def whiten_adjoint(self, residual: State) -> State:
        """`W* r`, the adjoint of `whiten`. **Returns:** an array of the shape of the residual `r`."""

    @abc.abstractmethod
    def restrict(self, measured: State, struct: PyTree) -> "AbstractGaussianNoise":
        """The noise of the measured entries alone; `y - A x` must be zero at the others.

        **Arguments:** `measured`, and `struct`, the codomain of the operator. **Returns:** a noise of this class.
        """


def broadcast_to_parts(parameter: PyTree[Array], like: State) -> PyTree[Array]:
    """The parameter for each part of a stacked measurement: a single one is repeated, a tuple stays as it is.

    **Raises:** `ValueError` for a tuple that does not match the parts.
    """
    if jax.tree.structure(parameter) == jax.tree.structure(like):
        return parameter
    if jax.tree.structure(parameter) != jax.tree.structure(0):
        raise ValueError(
            f"The parameter of the noise has {len(jax.tree.leaves(parameter))} parts, the measurement "
            f"{len(jax.tree.leaves(like))}. Give one for each part, or one for all."
        )
    return jax.tree.map(lambda _: parameter, like)


def as_noise_parameter(value: Any, name: str) -> PyTree[Array]:
    def one(leaf):
        leaf = jnp.asarray(leaf) if isinstance(leaf, float) else as_parameter(leaf)
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"`{name}` must be real; got dtype {leaf.dtype}.")
        return leaf

    return tuple(one(part) for part in value) if isinstance(value, tuple) else one(value)


def fit_to(parameter: Array, y: Array, name: str) -> Array:
    fits = parameter.ndim == y.ndim and all(p in (1, n) for p, n in zip(parameter.shape, y.shape, strict=True))
    if parameter.ndim != 0 and not fits:
        raise ValueError(
            f"`{name}` must be a scalar or broadcast, at equal rank, to the measurement, whose shape is {y.shape}; its "
            f"shape is {parameter.shape}. Add axes of size 1."
        )
    return parameter.astype(real_dtype(y.dtype))


def where_measured(measured: Array, residual: Array) -> Array:
    return jnp.where(measured > 0, residual, jnp.zeros((), residual.dtype))


def total(part, *trees: State) -> Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(part, *trees))


def not_positive(parameter: PyTree[Array], measured: State) -> Array:
    def bad(value, measured):
        wrong = ~(jnp.isfinite(value) & (value > 0))
        return jnp.any(wrong & (measured > 0) if value.ndim == measured.ndim else wrong)

    return jax.tree.reduce(jnp.logical_or, jax.tree.map(bad, broadcast_to_parts(parameter, measured), measured))


def part_keys(key: Key, like: State) -> PyTree[Array]:
    check_key(key)
    leaves, treedef = jax.tree.flatten(like)
    # A single array draws with the key itself; only the parts of a stack fold it.
    keys = [key] if len(leaves) == 1 else [jax.random.fold_in(key, i) for i in range(len(leaves))]
    return treedef.unflatten(keys)


def standard_normal(key: Key, like: Array) -> Array:
    if jnp.iscomplexobj(like):
        # `jax.random.normal` gives complex numbers of unit variance in total.
        return math.sqrt(2) * jax.random.normal(key, like.shape, like.dtype)
    return jax.random.normal(key, like.shape, like.dtype)


def square_of(z: Array) -> Array:
    return z.real**2 + z.imag**2 if jnp.iscomplexobj(z) else z**2
