"""How the public verbs are compiled."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp

from ._networks import unbind_linen

_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def verb(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
@overload
def verb(*, traced: tuple[str, ...]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def verb(function: Callable | None = None, *, traced: tuple[str, ...] = ()) -> Callable:
    """A function compiled by `eqx.filter_jit`, with Python floats and bound linen modules among its arguments traced.

    `eqx.filter_jit` alone takes a Python number for a constant and compiles again for each new value of a weight.

    **Arguments:**

    - `function`: the function; `@verb` and `@verb(traced=(...))` both decorate.
    - `traced`: the names of the keyword arguments that are numbers of the problem (a weight, a tolerance): integers
        given to these are traced as well. Integers given to all others, such as `max_steps`, stay static.

    **Returns:** the function with the same signature.

    **Raises:** `ValueError` for a name in `traced` that is no parameter of the function.
    """
    if function is None:
        return functools.partial(verb, traced=traced)
    parameters = inspect.signature(function).parameters
    unknown = set(traced) - parameters.keys()
    if unknown:
        raise ValueError(f"`traced` names {sorted(unknown)}; `{function.__name__}` takes {sorted(parameters)}.")
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = unbind_linen((args, kwargs))
        args, kwargs = jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, float) else v, (args, kwargs))
        kwargs = {k: jnp.asarray(float(v)) if k in traced and _is_integer(v) else v for k, v in kwargs.items()}
        return compiled(*args, **kwargs)

    return wrapper


def compiled_method(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method compiled by `eqx.filter_jit`.

    A class holds a function, not what `eqx.filter_jit` makes of it, so that a bound method stays one: `jax.jit` takes
    it, and its signature is shown.
    """
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return compiled(*args, **kwargs)

    return wrapper


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
