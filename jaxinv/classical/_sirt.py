"""The simultaneous iterative reconstruction technique."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _loop
from .._arrays import check_count
from .._jit import verb
from .._method import AbstractMethod
from .._solution import RESULTS, Solution
from .._types import Checked, Key, Scalar, State, Stats
from ..likelihood import Likelihood, domain_dtype, gaussian_approximation, prepare, prepare_parameter
from ..operators import AbstractLinearOperator
from ..regularisers import AbstractRegulariser
from ..regularisers._constraints import check_constraint
from ._solver import cast_to, square_of


@verb(traced=("relaxation",), tolerances=("rtol", "atol"))
def sirt(
    likelihood: Likelihood,
    y: State,
    *,
    constraint: Checked[AbstractRegulariser | None] = None,
    relaxation: Scalar = 1.0,
    max_steps: int = 200,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
) -> Solution:
    """The simultaneous iterative reconstruction technique: `x <- P(x + relaxation C A* R (y - A x))` from `x = 0`.

    `R` and `C` divide by the sums of the rows and columns of `A`, and `P` is the projection of the constraint. It
    converges to an image of least `||R^(1/2) (y - A x)||^2`, slowly, smooth parts first: the number of steps is the
    regularisation. All rays count alike, whatever their noise; `classical.tikhonov` weighs them by it. Photon counts
    enter as `noise.linearise` makes data of them.

    **Arguments:**

    - `likelihood`: a linear operator without negative entries, such as a projector or a blur, and its noise.
    - `y`: one measurement.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`.
    - `relaxation`: the factor of a step, above 0 and below 2.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and `||R^(1/2) (y - A x)||^2` by less than
      `atol + rtol * size`.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`, which is `-log p(y | x)`. The code is `breakdown`
    where a sum of a row or column is negative. A pixel that nothing measures is 0.

    **Raises:** `ValueError` for a non-linear operator, another constraint, or wrong shapes.

    **Reference:** Gregor, Benson, Computational analysis and improvement of SIRT, 2008.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, 3, 12))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.zeros((16, 16, 1)).at[4:12, 6:10].set(1.0), key=jax.random.key(0))
        image = jaxinv.classical.sirt(likelihood, y, max_steps=50).value
        ```
    """
    method = _SIRT()
    problem, result = method.prepare(likelihood, y, constraint, relaxation, rtol, atol)
    state, num_steps, result = _loop.run(
        method,
        problem,
        method.init(problem, key=None),
        result=result,
        max_steps=check_count(max_steps, "max_steps") + 1,
    )
    x, stats = method.finish(problem, state, key=None)
    return Solution(x, result, {"num_steps": jnp.maximum(num_steps - 1, 0), **stats})


class _Problem(eqx.Module):
    likelihood: Likelihood
    y: State
    data: State
    measured: State
    constraint: AbstractRegulariser | None
    relaxation: Array
    rtol: Array
    atol: Array


class _State(NamedTuple):
    image: Array
    prediction: State
    columns: Array
    rows: State
    value: Array


class _SIRT(AbstractMethod[_Problem, _State]):
    """The first step finds the sums of rows and columns, so that operator and adjoint stand once in the program."""

    def prepare(
        self, likelihood: Likelihood, y: State, constraint: Any, relaxation: Scalar, rtol: Scalar, atol: Scalar
    ) -> tuple[_Problem, Any]:
        if constraint is not None:
            check_constraint(constraint)
        prepared, kept, result = prepare(likelihood, y)
        operator = prepared.operator
        if not isinstance(operator, AbstractLinearOperator):
            raise ValueError(
                f"`sirt` needs a linear operator; {type(operator).__name__} is not one. Linearise it at an image, "
                "`operator.linearise(x)`."
            )
        relaxation, result = prepare_parameter(relaxation, operator, result, positive=True, name="relaxation")
        large = relaxation >= 2
        result = RESULTS.where(large & (result == RESULTS.successful), RESULTS.invalid_parameter, result)
        real = domain_dtype(operator)
        _, data = gaussian_approximation(prepared, kept)
        measured = jax.tree.map(lambda m, d: jnp.broadcast_to(m > 0, d.shape).astype(d.dtype), operator.measured, data)
        numbers = relaxation, jnp.asarray(rtol, real), jnp.asarray(atol, real)
        return _Problem(prepared, kept, data, measured, cast_to(constraint, real), *numbers), result

    def init(self, problem: _Problem, /, *, key: Key | None = None) -> _State:
        domain = problem.likelihood.operator.domain
        zero = jax.tree.map(jnp.zeros_like, problem.data)
        image = jnp.zeros(domain.shape, domain.dtype)
        return _State(image, zero, image, zero, jnp.zeros_like(problem.rtol))

    def step(
        self, problem: _Problem, state: _State, index: Array, /, *, key: Key | None = None
    ) -> tuple[_State, Array, Any]:
        finding = index == 0
        operator: Any = problem.likelihood.operator
        residual = jax.tree.map(lambda m, d, p: m * (d - p), problem.measured, problem.data, state.prediction)
        weighted = jax.tree.map(jnp.multiply, state.rows, residual)
        back = operator.adjoint(jax.tree.map(lambda m, w: jnp.where(finding, m, w), problem.measured, weighted))
        new = state.image + problem.relaxation.astype(back.dtype) * state.columns * back
        new = new if problem.constraint is None else problem.constraint.prox(new, problem.relaxation)
        ones = jnp.ones_like(new)
        prediction = operator(jnp.where(finding, ones, new))
        columns = jnp.where(finding, _inverse(back), state.columns)
        rows = jax.tree.map(
            lambda p, m, r: jnp.where(finding, m * _inverse(p), r), prediction, problem.measured, state.rows
        )
        products = jax.tree.map(lambda w, r: jnp.sum((jnp.conj(w) * r).real), weighted, residual)
        value = jnp.asarray(sum(jax.tree.leaves(products)))
        still = _loop.has_converged(
            new, state.image, value, state.value, problem.rtol, problem.atol, _rounding(problem.data)
        )
        sums = [jnp.any(leaf.real < 0) for leaf in jax.tree.leaves((back, prediction))]
        wrong = finding & (sums[0] | sums[1])
        empty = lambda leaf: jnp.where(finding, jnp.zeros_like(leaf), leaf)
        moved = _State(empty(new), jax.tree.map(empty, prediction), columns, rows, empty(value))
        finished = (still & (index > 2)) | wrong
        return moved, finished, RESULTS.where(wrong, RESULTS.breakdown, RESULTS.successful)

    def finish(self, problem: _Problem, state: _State, /, *, key: Key | None = None) -> tuple[Array, Stats]:
        likelihood = problem.likelihood
        fit = likelihood.noise.negative_log_likelihood(state.prediction, problem.y, likelihood.operator.measured)
        return state.image, {"objective": fit}


def _inverse(sums: Array) -> Array:
    return jnp.where(sums.real > 0, 1 / jnp.where(sums.real > 0, sums, 1), 0)


def _rounding(data: State) -> Array:
    square = square_of(data)
    return jnp.finfo(square.dtype).eps * square
