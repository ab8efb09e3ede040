"""The bridge to lineax."""

import lineax

from ._base import AbstractOperator
from ._norm import check_linear


def as_lineax(operator: AbstractOperator) -> lineax.FunctionLinearOperator:
    """The operator for lineax's solvers.

    Beware: lineax works with transposes, this library with adjoints; they differ for complex operators.

    **Returns:** a `lineax.FunctionLinearOperator` from the domain to the codomain. For least squares hand
    `lineax.linear_solve` the operator itself, for the normal equations `as_lineax(operator.H @ operator)` with the tag
    `lineax.positive_semidefinite_tag` through `lineax.TaggedLinearOperator`.

    !!! example
        ```python
        import jax.numpy as jnp, lineax, jaxinv
        operator = jaxinv.operators.Mask(jnp.ones((4, 4, 1)))
        y = jaxinv.operators.as_lineax(operator).mv(jnp.ones((4, 4, 1)))
        ```
    """
    operator = check_linear(operator, "as_lineax")
    return lineax.FunctionLinearOperator(operator, operator.domain)
