"""The interface of plug-and-play methods, and the two forms of the data that they use."""

import abc
import warnings
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_count, is_concrete, multiply
from .._checks import checked
from .._conjugate_gradients import minimise_quadratic
from .._method import AbstractMethod, advance
from .._solution import RESULTS
from .._sums import dot
from .._types import Abstract, Key, PyTree, Scalar, State as Measurement, Stats
from ..likelihood import Likelihood, domain_dtype, gaussian_approximation, prepare, whiten
from ..operators import AbstractLinearOperator
from ..operators._norm import norm_bound
from ..requirements import Requirement, not_negative, positive
from ._denoiser import AbstractDenoiser

# The tolerance of the estimate of the norm, whose bound is then larger than the norm by a part in twenty.
_NORM_RTOL = 1e-2


class AbstractData(eqx.Module):
    """A likelihood and a measurement, prepared for a method.

    - `image`: the shape and dtype of an image, static.
    """

    if TYPE_CHECKING:
        image = Abstract[jax.ShapeDtypeStruct]()
    else:
        image: eqx.AbstractVar[jax.ShapeDtypeStruct]

    @abc.abstractmethod
    def negative_log_likelihood(self, x: Array) -> Array:
        """`-log p(y | x)`.

        **Arguments:**

        - `x`: one image.

        **Returns:** a scalar.
        """


class SmoothData(AbstractData):
    """The data of a method of gradient steps: any differentiable operator, and any noise.

    - `likelihood`, `y`: the likelihood and the measurement.
    - `curvature`: a bound of the second derivative of `-log p(y | x)`, from which a step size follows. For an operator
        that is not linear, and for photon noise, it is that at the first image.
    - `image`: the shape and dtype of an image, static.
    """

    likelihood: Likelihood
    y: Measurement
    curvature: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def negative_log_likelihood(self, x: Array) -> Array:
        return self.likelihood.negative_log_likelihood(x, self.y)

    def gradient(self, x: Array) -> Array:
        """The gradient of `-log p(y | x)`.

        **Arguments:**

        - `x`: one image.

        **Returns:** an image.
        """
        return jax.grad(self.negative_log_likelihood)(x)


class QuadraticData(AbstractData):
    """The data of a method with a proximal map: a linear operator and Gaussian noise, `1/2 ||B x - b||^2 + constant`.

    - `operator`, `data`: `B` and `b`, the operator and the measurement whitened by the noise.
    - `constant`: the constant, so that `-log p(y | x)` is normalised.
    - `rtol`: the relative residual at which conjugate gradients stop.
    - `solver_steps`: their largest number of steps, static.
    - `image`: the shape and dtype of an image, static.
    """

    operator: AbstractLinearOperator
    data: Measurement
    constant: Array
    rtol: Array
    solver_steps: int = eqx.field(static=True)
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def negative_log_likelihood(self, x: Array) -> Array:
        return self._misfit(self.operator(x))

    def proximal(self, z: Array, penalty: Array) -> tuple[Array, Array, RESULTS]:
        """`argmin_x -log p(y | x) + penalty / 2 ||x - z||^2`, by conjugate gradients that start at `z`.

        **Arguments:**

        - `z`: one image.
        - `penalty`: a positive scalar.

        **Returns:** the image, its `-log p(y | x)`, and the code of the solve.
        """

        def residual(v: Array, on: Array, args: Any) -> tuple[Array, Measurement]:
            operator, data, z, penalty = args
            prediction = operator(multiply(on, z) + v)
            back = operator.adjoint(jax.tree.map(lambda b, p: multiply(on, b) - p, data, prediction))
            return back - multiply(penalty, v), prediction

        codomain = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), self.operator.codomain)
        solved = minimise_quadratic(
            residual,
            jnp.zeros_like(z),
            codomain,
            (self.operator, self.data, z, penalty),
            rtol=self.rtol,
            max_steps=self.solver_steps,
            exhausted=RESULTS.successful,
        )
        return z + solved.x, self._misfit(solved.aside), solved.result

    def _misfit(self, prediction: Measurement) -> Array:
        residual = jax.tree.map(jnp.subtract, prediction, self.data)
        return 0.5 * dot(residual, residual) + self.constant


Data = TypeVar("Data", bound=AbstractData)


class Problem(eqx.Module, Generic[Data]):
    """A plug-and-play problem.

    - `data`: the likelihood and the measurement, as the method asked for them.
    - `denoiser`: the denoiser.
    - `start`: the first image.
    - `options`: the numbers of the method, a pytree of arrays in the dtype of the image.
    """

    data: Data
    denoiser: AbstractDenoiser
    start: Array
    options: PyTree[Array]

    def denoise(self, x: Array, sigma: Array, *, key: Key | None) -> Array:
        """The denoised image; with a key, by the random decisions of the denoiser."""
        return self.denoiser(x, sigma) if key is None else self.denoiser.draw(x, sigma, key=key)


class Iterate(NamedTuple):
    """The state of a method.

    - `image`: the image that would be returned.
    - `memory`: what else the method remembers.
    - `change`: the relative change of the image in the last step, `||x - x_old|| / ||x||`.
    - `changes`: those of all steps.
    """

    image: Array
    memory: PyTree[Array]
    change: Array
    changes: Array


Memory = TypeVar("Memory")


class AbstractPlugAndPlay(AbstractMethod[Problem, Iterate], Generic[Memory]):
    """A method of `pnp.reconstruct`, which alternates between the data and a denoiser.

    To define one, implement `sigmas`, `prepare`, `begin` and `move`. The steps end when the image changes by less than
    `rtol` of itself, or after `max_steps` of them.
    """

    if TYPE_CHECKING:
        max_steps = Abstract[int]()
        rtol = Abstract[Scalar]()
    else:
        max_steps: eqx.AbstractVar[int]
        rtol: eqx.AbstractVar[Scalar]

    @property
    def exhausted(self) -> RESULTS:
        """The code of a problem that used all its steps; by default `RESULTS.max_steps_reached`."""
        return RESULTS.max_steps_reached

    @abc.abstractmethod
    def sigmas(self) -> tuple[Scalar | None, ...]:
        """The noise levels at which the method calls the denoiser, where they are known, for a warning."""

    @abc.abstractmethod
    def prepare(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None
    ) -> tuple[Problem, RESULTS]:
        """The problem, and its code.

        **Arguments:**

        - `likelihood`, `denoiser`, `y`: those of `reconstruct`.
        - `start`: the first image, or `None` for the default of the method.

        **Returns:** a `Problem`, which `smooth_problem` and `quadratic_problem` make, and its code.

        **Raises:** `ValueError` for a likelihood that the method cannot take.
        """

    @abc.abstractmethod
    def begin(self, problem: Problem) -> Memory:
        """The memory of the method before its first step.

        **Arguments:**

        - `problem`: as `prepare` made it.

        **Returns:** a pytree of arrays.
        """

    @abc.abstractmethod
    def move(
        self, problem: Problem, x: Array, memory: Memory, index: Array, *, key: Key | None
    ) -> tuple[Array, Memory, RESULTS]:
        """One step.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `x`: the image.
        - `memory`: what the method remembers.
        - `index`: the number of the step, from 0 on.
        - `key`: for the random decisions of the denoiser, or `None`.

        **Returns:** the next image, what the method remembers, and the code of what was solved within the step.
        """

    def init(self, problem: Problem, *, key: Key | None = None) -> Iterate:
        del key
        x = problem.start
        changes = jnp.zeros(self.max_steps, x.dtype)
        return Iterate(x, self.begin(problem), jnp.zeros((), x.dtype), changes)

    def step(
        self, problem: Problem, state: Iterate, index: Array, *, key: Key | None = None
    ) -> tuple[Iterate, Array, RESULTS]:
        x, memory, code = self.move(problem, state.image, state.memory, index, key=key)
        change = _relative_change(x, state.image)
        new = Iterate(x, memory, change, state.changes.at[index].set(change))
        new, failed, code = advance(new, state, code)
        return new, failed | self.is_done(change, index), code

    def is_done(self, change: Array, index: Array) -> Array:
        """Whether to stop after a step.

        **Arguments:**

        - `change`: the relative change of the image.
        - `index`: the number of the step.

        **Returns:** a boolean scalar.
        """
        del index
        return change <= jnp.asarray(self.rtol, change.dtype)

    def finish(self, problem: Problem, state: Iterate, *, key: Key | None = None) -> tuple[Array, Stats]:
        del key, problem
        return state.image, {"change": state.change}


class AbstractProximal(AbstractPlugAndPlay[Memory]):
    """A method whose data step is a proximal map: its problem, and the requirements of its numbers."""

    if TYPE_CHECKING:
        sigma = Abstract[Scalar]()
        weight = Abstract[Scalar]()
        solver_rtol = Abstract[Scalar]()
        solver_steps = Abstract[int]()
    else:
        sigma: eqx.AbstractVar[Scalar]
        weight: eqx.AbstractVar[Scalar]
        solver_rtol: eqx.AbstractVar[Scalar]
        solver_steps: eqx.AbstractVar[int]

    def __check_init__(self):
        check_count(self.max_steps, "max_steps")
        check_count(self.solver_steps, "solver_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            positive("sigma", self.sigma),
            positive("weight", self.weight),
            not_negative("rtol", self.rtol),
            not_negative("solver_rtol", self.solver_rtol),
        )

    def sigmas(self) -> tuple[Scalar | None, ...]:
        return (self.sigma,)

    def prepare(
        self, likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None
    ) -> tuple[Problem[QuadraticData], RESULTS]:
        return quadratic_problem(
            likelihood,
            denoiser,
            y,
            start,
            (self.sigma, self.weight),
            name=type(self).__name__,
            solver_rtol=self.solver_rtol,
            solver_steps=self.solver_steps,
        )


@checked()
def smooth_problem(
    likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None, options: PyTree[Scalar]
) -> tuple[Problem[SmoothData], RESULTS]:
    """The problem of a method of gradient steps, and its code.

    **Arguments:**

    - `likelihood`, `denoiser`, `y`, `start`: those that `prepare` got. By default the start is the gradient step from
        zero, in the scale of the best one: `A^* y` for white noise.
    - `options`: the numbers of the method.

    **Returns:** a `Problem` whose `data` is `SmoothData`, and its code.
    """
    likelihood, y, code = prepare(likelihood, y)
    image = _image(likelihood)
    zero = jnp.zeros(image.shape, image.dtype)
    at = zero if start is None else start
    operator = likelihood.operator.linearise(at)
    whitened, b = whiten(*gaussian_approximation(Likelihood(operator, likelihood.noise), y), "the curvature")
    curvature = norm_bound(whitened, _NORM_RTOL).astype(image.dtype) ** 2
    if start is None:
        at = whitened.adjoint(b) / curvature if isinstance(likelihood.operator, AbstractLinearOperator) else zero
    data = SmoothData(likelihood=likelihood, y=y, curvature=curvature, image=image)
    return Problem(data, denoiser, at, _cast(options, image.dtype)), code


@checked()
def quadratic_problem(
    likelihood: Likelihood,
    denoiser: AbstractDenoiser,
    y: Measurement,
    start: Array | None,
    options: PyTree[Scalar],
    *,
    name: str,
    solver_rtol: Scalar,
    solver_steps: int,
) -> tuple[Problem[QuadraticData], RESULTS]:
    """The problem of a method with a proximal map of the data, and its code.

    **Arguments:**

    - `likelihood`, `denoiser`, `y`, `start`: those that `prepare` got. Photon noise is replaced by its Gaussian
        approximation. By default the start is zero.
    - `options`: the numbers of the method.
    - `name`: the name of the method, for the error message.
    - `solver_rtol`, `solver_steps`: those of conjugate gradients.

    **Returns:** a `Problem` whose `data` is `QuadraticData`, and its code.

    **Raises:** `ValueError` for an operator that is not linear.
    """
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(likelihood.operator).__name__} is not one. `PGD` and `RED` take "
            "any differentiable operator."
        )
    likelihood, y, code = prepare(likelihood, y)
    likelihood, y = gaussian_approximation(likelihood, y)
    operator, b = whiten(likelihood, y, name)
    constant = likelihood.noise.negative_log_likelihood(y, y, likelihood.operator.measured)
    image = _image(likelihood)
    data = QuadraticData(
        operator=operator,
        data=b,
        constant=constant,
        rtol=jnp.asarray(solver_rtol).astype(image.dtype),
        solver_steps=solver_steps,
        image=image,
    )
    at = jnp.zeros(image.shape, image.dtype) if start is None else start
    return Problem(data, denoiser, at, _cast(options, image.dtype)), code


def warn_of_range(method: AbstractPlugAndPlay, denoiser: AbstractDenoiser) -> None:
    """Warn if a known noise level of the method is outside the range that the denoiser is made for."""
    low, high = denoiser.sigma_range
    known = [s for s in method.sigmas() if s is not None and is_concrete(s)]
    if not known or not is_concrete(low, high):
        return
    least, largest = (float(f(np.asarray(f([np.asarray(s) for s in known])))) for f in (np.min, np.max))
    # The ends may have been computed in single precision.
    if least < float(low) * (1 - 1e-5) or largest > float(high) * (1 + 1e-5):
        warnings.warn(
            f"{type(method).__name__} calls the denoiser with sigma from {least:.3g} to {largest:.3g}; it is made for "
            f"{float(low):.3g} to {float(high):.3g}, in the unit of its images.",
            stacklevel=2,
        )


def _relative_change(new: Array, old: Array) -> Array:
    # The decision to stop has no gradient.
    new, old = jax.lax.stop_gradient((new, old))
    square = jnp.sum(new**2)
    return jnp.sqrt(jnp.sum((new - old) ** 2) / jnp.where(square > 0, square, 1))


def _image(likelihood: Likelihood) -> jax.ShapeDtypeStruct:
    domain: Any = likelihood.operator.domain
    return jax.ShapeDtypeStruct(tuple(domain.shape), domain_dtype(likelihood.operator))


def _cast(options: PyTree[Scalar], dtype: Any) -> PyTree[Array]:
    return jax.tree.map(lambda value: jnp.asarray(value).astype(dtype), options)
