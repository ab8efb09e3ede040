"""The likelihood, which pairs an operator with its noise, and its preparation, with which every verb begins."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._arrays import as_array, check_key, check_state, common_dtype, real_dtype
from ._module import Module
from ._solution import RESULTS, reject, settle
from ._types import Checked, Key, PyTree, Scalar, State, Struct
from ._workarounds import rounded
from .noise import AbstractGaussianNoise, AbstractNoise, Gaussian
from .operators import AbstractLinearOperator, AbstractOperator, Identity
from .operators._norm import norm_bound, positive
from .requirements import valid

__all__ = ["Likelihood"]


class Likelihood(Module):
    """`p(y | x)`: the noise around the measurement `A x`.

    - `operator`: `A`, an operator of `jaxinv.operators` or the user's own.
    - `noise`: a noise model of `jaxinv.noise`.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.Downsample((16, 16, 1), 2)
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.05))
        x = jax.numpy.ones((16, 16, 1))
        y = likelihood.simulate(x, key=jax.random.key(0))
        nll = likelihood.negative_log_likelihood(x, y)
        ```
    """

    operator: AbstractOperator
    noise: AbstractNoise

    def __init__(self, operator: Checked[AbstractOperator], noise: Checked[AbstractNoise]):
        if not isinstance(operator, AbstractOperator):
            raise ValueError(
                f"Likelihood(operator, noise): `operator` is a {type(operator).__name__}, not one of "
                "`jaxinv.operators`."
            )
        if not isinstance(noise, AbstractNoise):
            raise ValueError(
                f"Likelihood(operator, noise): `noise` is a {type(noise).__name__}, not one of `jaxinv.noise`."
            )
        self.operator = operator
        self.noise = noise

    @property
    def is_linear_gaussian(self) -> bool:
        """Whether the operator is linear and the noise Gaussian, so that `-log p(y | x)` is quadratic in `x`."""
        return isinstance(self.operator, AbstractLinearOperator) and isinstance(self.noise, AbstractGaussianNoise)

    def negative_log_likelihood(self, x: State, y: State) -> Array:
        """`-log p(y | x)`, with all constants, over the measured entries only.

        **Arguments:**

        - `x`: an image of the shape of the operator's domain.
        - `y`: a measurement of the shape of its codomain.

        **Returns:** a scalar.
        """
        y = check_state(y, self.operator.codomain, "the measurement", self.operator)
        return self.noise.negative_log_likelihood(self.operator(x), y, self.operator.measured)

    def simulate(self, x: State, *, key: Key) -> State:
        """Draw a measurement of an image.

        **Arguments:**

        - `x`: an image of the shape of the operator's domain.
        - `key`: a typed key.

        **Returns:** a draw of `y` given `x`, of the shape of the codomain; entries that are not measured are 0. It is
        NaN where a traced parameter of operator or noise is out of its range.
        """
        check_key(key)
        y = _measured_only(self.operator.measured, self.noise.simulate(self.operator(x), key=key))
        return jax.tree.map(lambda leaf: settle(leaf, valid(self)), y)


def prepare(likelihood: Likelihood, y: State) -> tuple[Likelihood, State, RESULTS]:
    """Check the measurement, cast to the verb's dtype, and give a code to problems that cannot be solved.

    Every verb begins with this function.

    **Arguments:**

    - `likelihood`: operator and noise, as the user gave them.
    - `y`: one measurement, an array or, for a stack, a tuple of arrays.

    **Returns:** the likelihood with its noise in the real dtype of the operator's domain; the measurement in the dtype
    of the codomain and zero where nothing is measured; and a code. Where the code is not `RESULTS.successful` the
    measurement is zero and the noise has unit parameters, so that the computations for such a problem stay finite.

    **Raises:** `ValueError` for a `likelihood` that is none, and for a measurement of the wrong shape or dtype.
    """
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"`likelihood` must be a `jaxinv.Likelihood(operator, noise)`; got {type(likelihood).__name__}. The "
            "measurement `y` is the last positional argument."
        )
    operator, noise = likelihood.operator, likelihood.noise
    y = check_state(y, operator.codomain, "the measurement", operator)
    real = domain_dtype(operator)
    y = jax.tree.map(lambda leaf, c: leaf.astype(_matching(leaf.dtype, c.dtype)), y, operator.codomain)
    y = _measured_only(operator.measured, y)
    noise = jax.tree.map(lambda leaf: leaf.astype(real) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, noise)
    finite = jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), y))
    invalid = noise.invalid(operator.measured)
    good = ~invalid & valid(operator, noise)
    result = reject(RESULTS.successful, good)
    result = RESULTS.where(finite, result, RESULTS.nonfinite_measurement)
    usable = finite & good
    y = jax.tree.map(lambda leaf: jnp.where(usable, leaf, jnp.zeros((), leaf.dtype)), y)
    # The condition is that of the noise alone, so that a batch of measurements with one noise factors it only once.
    # Rounded, so that a parameter has one value however it is computed in the program of the caller.
    noise = jax.tree.map(lambda leaf, unit: rounded(jnp.where(invalid, unit, leaf)), noise, noise.unit())
    return Likelihood(operator, noise), y, result


def prepare_parameter(
    value: Scalar, operator: AbstractOperator, result: Any, positive: bool = False, name: str = "weight"
) -> tuple[Array, RESULTS]:
    """A scalar parameter in the verb's dtype, and the code: a value out of range becomes 1 and `invalid_parameter`.

    **Arguments:**

    - `value`: the number, concrete or traced.
    - `operator`: the operator, whose domain has the dtype.
    - `result`: the code so far, which is kept if it is not `RESULTS.successful`.
    - `positive`: whether 0 is out of range, as negative values always are.
    - `name`: the name of the argument, for the error message.

    **Returns:** the parameter and the code.

    **Raises:** `ValueError` if it is not a real scalar.
    """
    value = as_array(value)
    if value.ndim != 0 or jnp.iscomplexobj(value):
        raise ValueError(
            f"`{name}` must be a real scalar; got shape {value.shape} and dtype {value.dtype}. Map over several values "
            "with `jax.vmap`."
        )
    value = value.astype(domain_dtype(operator))
    good = jnp.isfinite(value) & ((value > 0) if positive else (value >= 0))
    bad = (result == RESULTS.successful) & ~good
    return jnp.where(good, value, jnp.ones_like(value)), RESULTS.where(bad, RESULTS.invalid_parameter, result)


def domain_dtype(operator: AbstractOperator) -> Any:
    """The real dtype in which a verb computes.

    **Arguments:**

    - `operator`: the operator, whose domain decides.
    """
    return real_dtype(common_dtype(*(s.dtype for s in jax.tree.leaves(operator.domain))))


class Whitened(AbstractLinearOperator):
    """`B = W A` with `W* W` the inverse covariance of the noise on the measured entries, so that
    `-log p(y | x) = 1/2 ||B x - W y||^2 + constant`.

    - `operator`: the linear operator `A`.
    - `noise`: the noise, restricted to the measured entries.
    """

    operator: AbstractLinearOperator
    noise: AbstractGaussianNoise

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return self.operator.codomain

    @property
    def measured(self) -> PyTree[Array]:
        return self.operator.measured

    def __call__(self, x: State) -> State:
        return self.whiten(self.operator(x))

    def whiten(self, prediction: State) -> State:
        """`W` applied to the prediction `A x`, or to a difference of predictions."""
        return self.noise.whiten(_measured_only(self.operator.measured, prediction))

    def norm_bound(self, norm: Scalar | None) -> Array:
        """A bound of the norm of `B`; `norm` is that of `A`, where the user knows it."""
        dtype = domain_dtype(self)
        if norm is None:
            return norm_bound(self).astype(dtype)
        bound = jnp.asarray(norm).astype(dtype) * _whitening_norm(jax.lax.stop_gradient(self))
        return positive(bound).astype(dtype)

    def adjoint(self, y: State) -> State:
        return self.operator.adjoint(_measured_only(self.operator.measured, self.noise.whiten_adjoint(y)))


def _whitening_norm(whitened: Whitened) -> Array:
    noise = whitened.noise
    if isinstance(noise, Gaussian):
        return jax.tree.reduce(jnp.maximum, jax.tree.map(lambda s: jnp.max(rounded(1 / s)), noise.std))
    identity: AbstractLinearOperator = Identity(whitened.codomain.shape)
    return norm_bound(Whitened(identity, noise))


def whiten(likelihood: Likelihood, y: State, name: str) -> tuple[Whitened, State]:
    """The least-squares problem `1/2 ||B x - b||^2` of a prepared likelihood, with `B` linear.

    Photon noise is replaced by its Gaussian approximation, `noise.linearise`: penalised weighted least squares.

    **Arguments:**

    - `likelihood`, `y`: a likelihood and a measurement, as `prepare` returned them.
    - `name`: the verb, for the error message.

    **Returns:** `B` and `b`.

    **Raises:** `ValueError` if the operator is not linear; the message names the verb `name`.
    """
    operator = likelihood.operator
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(operator).__name__} is not one. Linearise it at an image, "
            "`operator.linearise(x)`, or use `generative.reconstruct`, which takes any differentiable operator."
        )
    likelihood, y = gaussian_approximation(likelihood, y)
    assert isinstance(likelihood.noise, AbstractGaussianNoise)
    noise = likelihood.noise.restrict(operator.measured, operator.codomain)
    return Whitened(operator, noise), noise.whiten(y)


def gaussian_approximation(likelihood: Likelihood, y: State) -> tuple[Likelihood, State]:
    """The likelihood and data with Gaussian noise that approximate photon noise, by `noise.linearise(y)`.

    A likelihood with Gaussian noise is returned unchanged.

    **Arguments:**

    - `likelihood`, `y`: a likelihood and a measurement, as `prepare` returned them.

    **Reference:** Sauer, Bouman, A local update strategy for iterative reconstruction from projections, 1993.
    """
    operator, noise = likelihood.operator, likelihood.noise
    if isinstance(noise, AbstractGaussianNoise):
        return likelihood, y
    # Rounded, so that no program makes one division of one in there and one by the standard deviation.
    data, std = jax.tree.map(rounded, noise.linearise(y))
    # A standard deviation from counts is positive, so this skips the checks of the constructor.
    gaussian = eqx.tree_at(lambda n: n.std, Gaussian(1.0), std)
    return Likelihood(operator, gaussian), _measured_only(operator.measured, data)


def simulate_each(likelihood: Likelihood, images: Array, *, key: Key) -> State:
    """A measurement of each image of a batch.

    **Arguments:**

    - `likelihood`: operator and noise.
    - `images`: the images, `(n, *domain.shape)`.
    - `key`: a typed key, split into one for each image.

    **Returns:** the measurements, with a leading axis of length `n`.
    """
    keys = jax.random.split(key, images.shape[0])
    return jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(images, keys)


def discrepancy(likelihood: Likelihood, y: State, x: State) -> Array:
    """`||W (y - A x)||^2 / m`, with `W` the whitening of the noise and `m` the number of real measured values.

    It is around 1 for the true image. Photon noise is replaced by its Gaussian approximation.

    **Arguments:**

    - `likelihood`, `y`: a likelihood and a measurement, as `prepare` returned them.
    - `x`: an image.

    **Returns:** a scalar.
    """
    square, count = misfit(likelihood, y, x)
    return square / jnp.maximum(count, 1)


def misfit(likelihood: Likelihood, y: State, x: State) -> tuple[Array, Array]:
    """`||W (y - A x)||^2` and the number `m` of `discrepancy`, in the same dtype.

    **Arguments:**

    - `likelihood`, `y`: a likelihood and a measurement, as `prepare` returned them.
    - `x`: an image.

    **Returns:** two scalars.
    """
    whitened, measured = whitened_residual(likelihood, y, x), likelihood.operator.measured
    square = jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: jnp.sum(jnp.abs(leaf) ** 2), whitened))
    parts = lambda m, c: jnp.sum(jnp.broadcast_to(m, c.shape) > 0) * (2 if jnp.iscomplexobj(c) else 1)
    count = sum(jax.tree.leaves(jax.tree.map(parts, measured, y)))
    return square, jnp.asarray(count, square.dtype)


def whitened_residual(likelihood: Likelihood, y: State, x: State) -> State:
    """`W (y - A x)` of `discrepancy`.

    **Arguments:**

    - `likelihood`, `y`: a likelihood and a measurement, as `prepare` returned them.
    - `x`: an image.

    **Returns:** an array, or a tuple of them, of the shape of the measurement, and 0 where nothing is measured.
    """
    operator = likelihood.operator
    likelihood, y = gaussian_approximation(likelihood, y)
    assert isinstance(likelihood.noise, AbstractGaussianNoise)
    keep = lambda m, p, d: jnp.where(m > 0, d - p, jnp.zeros((), d.dtype))
    residual = jax.tree.map(keep, operator.measured, operator(x), y)
    return likelihood.noise.restrict(operator.measured, operator.codomain).whiten(residual)


def _measured_only(measured: State, y: State) -> State:
    return jax.tree.map(lambda m, leaf: jnp.where(m > 0, leaf, jnp.zeros((), leaf.dtype)), measured, y)


def _matching(dtype: Any, codomain: Any) -> Any:
    # Casting a complex measurement to a real codomain (of a real blur of a complex image, say) would silently drop the
    # imaginary part.
    if jnp.issubdtype(dtype, jnp.complexfloating) and not jnp.issubdtype(codomain, jnp.complexfloating):
        raise ValueError(
            f"the measurement is complex ({dtype}), the operator's codomain is real ({codomain}). Reconstruct real and "
            "imaginary part as two problems, or make the operator complex: `(1 + 0j) * operator`."
        )
    return codomain
