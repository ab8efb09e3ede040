"""The forms of a likelihood that the methods of `posterior_sample` use, each with the function that prepares it."""

import math
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import HIGHEST, multiply
from ..._conjugate_gradients import conjugate_gradients
from ..._linear_gaussian import dense
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Abstract, Key, Scalar, State
from ...likelihood import Likelihood, domain_dtype, gaussian_approximation, prepare, whiten
from ...noise import Gaussian
from ...operators import AbstractLinearOperator, norm
from ...requirements import Requirement, requirement

# The power iteration for the curvature, which only sets a step size, needs no more than this.
_CURVATURE_RTOL = 1e-2
_CURVATURE_STEPS = 30


class AbstractProblem(eqx.Module):
    """A likelihood and a score, prepared for a method.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    """

    if TYPE_CHECKING:
        score = Abstract[AbstractScore]()
        image = Abstract[jax.ShapeDtypeStruct]()
    else:
        score: eqx.AbstractVar[AbstractScore]
        image: eqx.AbstractVar[jax.ShapeDtypeStruct]

    @property
    def process(self) -> AbstractProcess:
        """The noising process of the score."""
        return self.score.process


class Problem(AbstractProblem):
    """A problem with any likelihood.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    - `likelihood`, `y`: the likelihood and the measurement, in the dtype of the image.
    """

    score: AbstractScore
    likelihood: Likelihood
    y: State
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def negative_log_likelihood(self, x: Array) -> Array:
        """`-log p(y | x)`."""
        return self.likelihood.negative_log_likelihood(x, self.y)


class LinearProblem(AbstractProblem):
    """A problem with a linear operator and Gaussian noise: `-log p(y | x) = 1/2 ||B x - b||^2 + constant`.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    - `operator`: `B`, the operator whitened by the noise, with `adjoint`.
    - `data`: `b`, the whitened measurement.
    - `constant`: the constant, so that `-log p(y | x)` is normalised.
    """

    score: AbstractScore
    operator: AbstractLinearOperator
    data: State
    constant: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def residual(self, x: Array) -> State:
        """`b - B x`."""
        return jax.tree.map(jnp.subtract, self.data, self.operator(x))

    def solve_isotropic(
        self, residual: State, variance: Array | float, rtol: Scalar, max_steps: int
    ) -> tuple[State, RESULTS]:
        """`(variance B B^* + I)^{-1} residual` by conjugate gradients, and the code.

        Exhausting the steps is no failure: the result is then a regularised one.
        """
        solved = conjugate_gradients(
            _isotropic,
            residual,
            (self.operator, variance),
            rtol=rtol,
            max_steps=max_steps,
            exhausted=RESULTS.successful,
        )
        return solved.x, solved.result


class ExactProblem(AbstractProblem):
    """`y = A x + std n` with `A` linear and independent noise, which may be 0, as nothing divides by it.

    Rows of `A`, data and noise are 0 where nothing is measured.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    - `operator`: `A` on the measured entries.
    - `data`: the measured entries of `y`.
    - `std`: the standard deviation of each entry, of the shape of the data.
    """

    score: AbstractScore
    operator: AbstractLinearOperator
    data: State
    std: State
    image: jax.ShapeDtypeStruct = eqx.field(static=True)


class DenseProblem(AbstractProblem):
    """`LinearProblem` with `B` as a matrix of real numbers.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    - `matrix`: `B`, `(m, d)`, which multiplies `x.ravel()`.
    - `data`: `b`, `(m,)`.
    - `constant`: the constant, so that `-log p(y | x)` is normalised.
    """

    score: AbstractScore
    matrix: Array
    data: Array
    constant: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def residual(self, x: Array) -> Array:
        """`b - B x`, `(m,)`."""
        return self.data - jnp.matmul(self.matrix, x.ravel(), precision=HIGHEST)


class CurvedProblem(AbstractProblem):
    """Any likelihood with a bound on its curvature, from which gradient methods compute their step size.

    - `score`: the score, with its process.
    - `image`: the shape and dtype of an image, static.
    - `likelihood`, `y`: the likelihood and the measurement, in the dtype of the image.
    - `constant_curvature`: the bound if it is the same at every image, and otherwise `None`.
    """

    score: AbstractScore
    likelihood: Likelihood
    y: State
    constant_curvature: Array | None
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def slope(self, x: Array) -> Array:
        """The gradient of `-log p(y | x)`."""
        return jax.grad(lambda x: self.likelihood.negative_log_likelihood(x, self.y))(x)

    def curvature(self, x: Array) -> Array:
        """A bound on the second derivative of `-log p(y | x)`, `||S^{-1/2} A'(x)||^2`, by a power iteration.

        `S` is the covariance of the noise; for photon noise it is that of `noise.linearise`.
        """
        if self.constant_curvature is not None:
            return self.constant_curvature
        return _curvature(Likelihood(self.likelihood.operator.linearise(x), self.likelihood.noise), self.y, x)


def any_problem(likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
    """The problem of a method that accepts any likelihood.

    **Arguments:**

    - `likelihood`, `score`, `y`: those that `AbstractPosteriorMethod.prepare` got.

    **Returns:** the problem and its code, which `prepare` returns.

    **Raises:** `ValueError` for a measurement that does not fit the operator.
    """
    likelihood, y, code = prepare(likelihood, y)
    return Problem(score=score, likelihood=likelihood, y=y, image=_image(likelihood)), code


def curved_problem(likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[CurvedProblem, RESULTS]:
    """The problem of a method of gradient steps on any likelihood, with a bound on the curvature for their size.

    **Arguments:**

    - `likelihood`, `score`, `y`: those that `AbstractPosteriorMethod.prepare` got.

    **Returns:** the problem and its code, which `prepare` returns.

    **Raises:** `ValueError` for a measurement that does not fit the operator.
    """
    problem, code = any_problem(likelihood, score, y)
    linear = isinstance(problem.likelihood.operator, AbstractLinearOperator)
    origin = jnp.zeros(problem.image.shape, problem.image.dtype)
    constant = _curvature(problem.likelihood, problem.y, origin) if linear else None
    curved = CurvedProblem(
        score=score,
        likelihood=problem.likelihood,
        y=problem.y,
        constant_curvature=constant,
        image=problem.image,
    )
    return curved, code


def linear_problem(likelihood: Likelihood, score: AbstractScore, y: State, name: str) -> tuple[LinearProblem, RESULTS]:
    """The problem of a method for a linear operator; photon noise is replaced by its Gaussian approximation.

    **Arguments:**

    - `likelihood`, `score`, `y`: those that `AbstractPosteriorMethod.prepare` got.
    - `name`: the name of the method, for error messages.

    **Returns:** the problem and its code, which `prepare` returns.

    **Raises:** `ValueError` for a measurement that does not fit the operator, or an operator that is not linear.
    """
    check_linear(likelihood, name)
    likelihood, data, code = prepare(likelihood, y)
    likelihood, data = gaussian_approximation(likelihood, data)
    operator, b = whiten(likelihood, data, name)
    constant = likelihood.noise.negative_log_likelihood(data, data, likelihood.operator.measured)
    problem = LinearProblem(score=score, operator=operator, data=b, constant=constant, image=_image(likelihood))
    return problem, code


def dense_problem(likelihood: Likelihood, score: AbstractScore, y: State, name: str) -> tuple[DenseProblem, RESULTS]:
    """`linear_problem` with the matrix of the operator, whose memory grows with measurements times pixels.

    **Arguments:**

    - `likelihood`, `score`, `y`: those that `AbstractPosteriorMethod.prepare` got.
    - `name`: the name of the method, for error messages.

    **Returns:** the problem and its code, which `prepare` returns.

    **Raises:** `ValueError` for a measurement that does not fit the operator, or an operator that is not linear.
    """
    check_linear(likelihood, name)
    likelihood, data, code = prepare(likelihood, y)
    likelihood, data = gaussian_approximation(likelihood, data)
    image = _image(likelihood)
    matrix, b, constant = dense(likelihood, data, image.shape, image.dtype)
    return DenseProblem(score=score, matrix=matrix, data=b, constant=constant, image=image), code


def exact_problem(likelihood: Likelihood, score: AbstractScore, y: State, name: str) -> tuple[ExactProblem, RESULTS]:
    """The problem of a method for a linear operator and independent Gaussian noise, or no noise.

    **Arguments:**

    - `likelihood`, `score`, `y`: those that `AbstractPosteriorMethod.prepare` got.
    - `name`: the name of the method, for error messages.

    **Returns:** the problem and its code, which `prepare` returns.

    **Raises:** `ValueError` for another operator or noise.
    """
    check_linear(likelihood, name)
    if not isinstance(likelihood.noise, Gaussian):
        raise ValueError(
            f"`{name}` takes `noise.Gaussian`, whose standard deviation may be 0; got "
            f"{type(likelihood.noise).__name__}. `MomentMatching()`, `TMPD()`, `PiGDM()`, `DiffPIR()` and `DDRM()` "
            "take noise of any covariance, and photon noise by its Gaussian approximation."
        )
    linear, code = linear_problem(unit_noise(likelihood), score, y, name)
    _, std = likelihood.noise.linearise(linear.data)
    std = jax.tree.map(lambda s, m: jnp.where(m > 0, s, jnp.zeros((), s.dtype)), std, likelihood.operator.measured)
    std, code = usable_std(std, code)
    problem = ExactProblem(score=score, operator=linear.operator, data=linear.data, std=std, image=linear.image)
    return problem, code


def unit_noise(likelihood: Likelihood) -> Likelihood:
    """The same operator with noise of unit size, so that whitening does not change its measured entries."""
    return Likelihood(likelihood.operator, Gaussian(1.0))


def usable_std(std: State, code: RESULTS) -> tuple[State, RESULTS]:
    """Standard deviations with their code; if one is negative or not finite, all become 0 and `invalid_parameter`."""
    good = jax.tree.map(lambda s: jnp.all(jnp.isfinite(s) & (s >= 0)), std)
    good: Array = jax.tree.reduce(jnp.logical_and, good)
    bad = (code == RESULTS.successful) & ~good
    std = jax.tree.map(lambda s: jnp.where(good, s, jnp.zeros((), s.dtype)), std)
    return std, RESULTS.where(bad, RESULTS.invalid_parameter, code)


def white_noise(like: State, key: Key) -> State:
    """Noise of unit variance, in real and imaginary part each, of the shape of a whitened measurement."""
    leaves, structure = jax.tree.flatten(like)
    size = lambda leaf: math.sqrt(2) if jnp.iscomplexobj(leaf) else 1.0
    draw = lambda i, leaf: size(leaf) * jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, [draw(i, leaf) for i, leaf in enumerate(leaves)])


def check_linear(likelihood: Likelihood, name: str) -> None:
    """Raise unless the operator is linear; the message names the method `name`."""
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(likelihood.operator).__name__} is not one. `DPS()`, "
            "`TDS(LookAhead())`, `TDS(DPS())`, `AnnealedLangevin()`, `DAPS()`, `PnPDM()`, `REDDiff()`, `DFlow()` and "
            "`PnPFlow()` take any differentiable operator."
        )


def step_size(value: Array) -> Requirement:
    """What must hold of the relative step size of Langevin steps, or of gradient steps."""
    return requirement("`step_size` must be positive and below 2", value, lambda v: (v > 0) & (v < 2))


def _isotropic(u: State, args: Any) -> State:
    operator, variance = args
    return jax.tree.map(lambda u, v: u + multiply(variance, v), u, operator(operator.adjoint(u)))


def _curvature(likelihood: Likelihood, y: State, x: Array) -> Array:
    whitened, _ = whiten(likelihood, y, "the curvature")
    # A fixed start of the power iteration is the documented exception to "keys are never defaulted".
    key = jax.random.key(0, impl="threefry2x32")
    return (norm(whitened, key=key, rtol=_CURVATURE_RTOL, max_steps=_CURVATURE_STEPS) ** 2).astype(x.dtype)


def _image(likelihood: Likelihood) -> jax.ShapeDtypeStruct:
    domain: Any = likelihood.operator.domain
    return jax.ShapeDtypeStruct(tuple(domain.shape), domain_dtype(likelihood.operator))
