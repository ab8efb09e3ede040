"""Several operators at once: `stack` makes one problem with all their measurements, `batch` many problems."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_state, common_dtype, shapes
from .._types import Checked, PyTree, State, Struct
from ._base import AbstractLinearOperator, AbstractOperator, add_states, image_struct


class Stack(AbstractOperator):
    """`x -> (A_1(x), A_2(x), ...)`, made by `stack`."""

    operators: tuple[AbstractOperator, ...]

    @property
    def domain(self) -> Struct:
        return _common_domain(self.operators)

    @property
    def codomain(self) -> Struct:
        return tuple(image_struct(operator, self.domain) for operator in self.operators)

    @property
    def measured(self) -> PyTree[Array]:
        return tuple(operator.measured for operator in self.operators)

    def __call__(self, x: State) -> State:
        return tuple(operator(x) for operator in self.operators)

    def linearise(self, x: State) -> "LinearStack":
        return LinearStack(tuple(operator.linearise(x) for operator in self.operators))


class LinearStack(AbstractLinearOperator):
    """`x -> (A_1 x, A_2 x, ...)` for linear operators, made by `stack`."""

    operators: tuple[AbstractLinearOperator, ...]

    @property
    def domain(self) -> Struct:
        return _common_domain(self.operators)

    @property
    def codomain(self) -> Struct:
        return tuple(image_struct(operator, self.domain) for operator in self.operators)

    @property
    def measured(self) -> PyTree[Array]:
        return tuple(operator.measured for operator in self.operators)

    def __call__(self, x: State) -> State:
        return tuple(operator(x) for operator in self.operators)

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        parts = [operator.adjoint(part) for operator, part in zip(self.operators, y, strict=True)]
        return functools.reduce(add_states, parts)


def stack(operators: Checked[Sequence[AbstractOperator]]) -> Stack | LinearStack:
    """One problem with the measurements of several operators: `x -> (A_1(x), A_2(x), ...)`, a tuple.

    **Arguments:**

    - `operators`: one or more operators with the same domain.

    **Returns:** an operator whose measurement is a tuple; it is linear if all of them are.

    **Raises:** `ValueError` if the domains differ. (For many problems, each with its own operator, use `batch`.)

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        mask = jaxinv.operators.Mask(jnp.ones((8, 8, 1)))
        coarse = jaxinv.operators.Downsample((8, 8, 1), 2)
        fine_part, coarse_part = jaxinv.operators.stack([mask, coarse])(jnp.ones((8, 8, 1)))
        ```
    """
    operators = tuple(operators)
    _check_stackable(operators)
    linear = tuple(operator for operator in operators if isinstance(operator, AbstractLinearOperator))
    return LinearStack(linear) if len(linear) == len(operators) else Stack(operators)


def batch(operators: Checked[Sequence[AbstractOperator]]) -> AbstractOperator:
    """Operators of one kind as one, with their parameters stacked along a new leading axis for `jax.vmap`.

    **Arguments:**

    - `operators`: one or more operators of the same class, shapes and static parameters.

    **Returns:** an operator of that class, to be mapped over its leading axis, one problem for each operator.

    **Raises:** `ValueError` that names the operator that differs from the first.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operators = jaxinv.operators.batch([jaxinv.operators.Mask(jnp.full((4, 4, 1), v)) for v in (0.0, 1.0)])
        y = jax.vmap(lambda A, x: A(x))(operators, jnp.ones((2, 4, 4, 1)))
        ```
    """
    operators = list(operators)
    if not operators:
        raise ValueError("`batch` needs at least one operator; got none.")
    first = jax.tree.structure(operators[0])
    for index, operator in enumerate(operators):
        ours, theirs = (([jnp.shape(leaf) for leaf in jax.tree.leaves(o)]) for o in (operators[0], operator))
        if jax.tree.structure(operator) != first or ours != theirs:
            raise ValueError(
                f"`batch` needs operators that differ in the values of their parameters only; number {index} is "
                f"{operator}, number 0 is {operators[0]}."
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *operators)


def _common_domain(operators: tuple[AbstractOperator, ...]) -> Struct:
    promote = lambda *parts: jax.ShapeDtypeStruct(parts[0].shape, common_dtype(*(part.dtype for part in parts)))
    return jax.tree.map(promote, *(operator.domain for operator in operators))


def _check_stackable(operators: tuple[Any, ...]) -> None:
    if not operators:
        raise ValueError("`stack` needs at least one operator; got none.")
    for operator in operators:
        if not isinstance(operator, AbstractOperator):
            raise ValueError(f"`stack` takes operators; got {type(operator).__name__}.")
        if shapes(operator.domain) != shapes(operators[0].domain):
            raise ValueError(
                f"`stack` needs operators with the same domain; {type(operator).__name__} has "
                f"{shapes(operator.domain)}, {type(operators[0]).__name__} has {shapes(operators[0].domain)}. For many "
                "problems use `batch`."
            )
