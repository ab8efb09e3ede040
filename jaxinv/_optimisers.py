"""One step of an optimiser of optax, for every verb whose user may choose the optimiser."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ._arrays import standard_promotion
from ._types import PyTree

# Optax, or JAX inside of it, raises one of these where a transformation does not fit.
_ERRORS = (TypeError, ValueError, AttributeError, LookupError, NotImplementedError, AssertionError)


def check_optimiser(
    optimiser: Any, name: str = "optimiser", *, alternative: str = ""
) -> optax.GradientTransformation | None:
    """The transformation that `optimiser` is or makes, as `optax.MultiSteps` does; `None` for `None`.

    - `alternative`: what else the verb takes, for the error.

    **Raises:** `ValueError` for anything else.
    """
    if not isinstance(optimiser, optax.GradientTransformation) and hasattr(optimiser, "gradient_transformation"):
        optimiser = optimiser.gradient_transformation()
    if optimiser is not None and not isinstance(optimiser, optax.GradientTransformation):
        raise ValueError(
            f"`{name}` must be an optax transformation, such as `optax.adamw(1e-3)`{alternative}; got "
            f"{type(optimiser).__name__}. "
            "A rate alone is `learning_rate`."
        )
    return optimiser


def init_optimiser(optimiser: optax.GradientTransformation, variables: PyTree[Array]) -> PyTree[Array]:
    """The first state of an optimiser, as finite arrays.

    **Raises:** `ValueError` if it cannot be used on these variables.
    """
    try:
        return jax.tree.map(_finite, optimiser.init(variables))
    except _ERRORS as error:
        raise _unusable(error) from error


def _finite(leaf: Any) -> Array:
    # The array is not of the weak type of a Python number, which the first step would change.
    leaf = jnp.asarray(leaf)
    leaf = jax.lax.convert_element_type(leaf, leaf.dtype)
    if leaf.ndim > 0 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    # Some states begin with infinity for the lowest value so far, which loops would take for a failure.
    limits = jnp.finfo(leaf.dtype)
    return jnp.clip(leaf, limits.min, limits.max)


def step_optimiser(
    optimiser: optax.GradientTransformation,
    function: Callable[[PyTree[Array]], Array],
    value: Array,
    gradient: PyTree[Array],
    state: PyTree[Array],
    variables: PyTree[Array],
) -> tuple[PyTree[Array], PyTree[Array], Bool[Array, ""]]:
    """The variables after one step of an optimiser, its state, and whether it has moved.

    Some optimisers need more than the gradient: the value (`polyak_sgd`, `reduce_on_plateau`), or the function, to
    search along a line (`lbfgs`) or to differentiate elsewhere (`contrib.sam`). They get it; it costs the others
    nothing.

    **Arguments:**

    - `optimiser`: the optimiser.
    - `function`, `value`, `gradient`: what is minimised, its value at `variables`, and the gradient of JAX there.
    - `state`, `variables`: before the step.

    **Returns:** variables and state, with the structure, shapes and dtypes that they had; and whether the update is not
    zero, as it is while `MultiSteps` collects gradients.

    **Raises:** `ValueError` if the optimiser cannot be used on these variables.
    """
    # For complex variables the conjugate of JAX's gradient is the direction of steepest ascent.
    ascent = lambda gradient: jax.tree.map(jnp.conj, gradient)
    gradient = ascent(gradient)

    # A line search refuses what its function does not take.
    def value_fn(variables, grad_fn=None, obj_fn=None):
        del grad_fn, obj_fn
        return function(variables)

    extra = {
        "value": value,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": function,
        "grad_fn": lambda variables, index=None: ascent(jax.grad(function)(variables)),
    }
    try:
        with standard_promotion():
            updates, new = _update(optimiser, gradient, state, variables, extra)
        _check_like(updates, variables, "updates")
        _check_like(new, state, "state")
        moved = optax.apply_updates(variables, updates)
    except _ERRORS as error:
        raise _unusable(error) from error
    # Loops need the dtypes of the state to stay, and some transformations compute in that of the loss.
    state = jax.tree.map(lambda new, old: jax.lax.convert_element_type(new, old.dtype), new, state)
    return moved, state, jnp.any(jnp.stack([jnp.any(update != 0) for update in jax.tree.leaves(updates)]))


def _update(
    optimiser: optax.GradientTransformation, gradient: PyTree, state: PyTree, variables: PyTree, extra: dict[str, Any]
) -> tuple[PyTree, PyTree]:
    """The update, with as much of `extra` as the optimiser takes: not all take what others need.

    `optax.with_extra_args_support` goes by the class, and would keep everything from `MultiSteps` and give too much to
    `contrib.sam`.
    """
    update: Callable[..., tuple[PyTree, PyTree]] = optimiser.update
    while True:
        try:
            return update(gradient, state, variables, **extra)
        except TypeError as error:
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused is None or refused[1] not in extra:
                raise
            extra = {name: value for name, value in extra.items() if name != refused[1]}


def _check_like(new: PyTree, old: PyTree, what: str) -> None:
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (new, old)]
    if jax.tree.structure(new) != jax.tree.structure(old) or shapes[0] != shapes[1]:
        raise ValueError(f"its {what} change their structure, from shapes {shapes[1][:4]} to {shapes[0][:4]}")


def _unusable(error: Exception) -> ValueError:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    return ValueError(
        f"`optimiser` cannot be used here ({type(error).__name__}: {reason}). It must work on a pytree of the weights, "
        "with one gradient for all examples together, and keep the structure of its state. Take another of optax, such "
        "as `optax.adamw(1e-3)`."
    )
