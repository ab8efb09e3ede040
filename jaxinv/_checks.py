"""Checks of arguments that many modules take."""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ._arrays import NotNumbers, are_numbers, as_array, common_dtype, is_concrete
from ._types import State

# The annotations of numbers and of arrays of numbers; and the packages whose classes are checked.
_NUMBERS = {Array, np.ndarray, np.generic, np.number, np.bool_, bool, int, float, complex}
_CHECKED = ("jaxinv", "diffrax")

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked(**checks: Callable[[Any], object]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorates a function whose arguments are checked by name, each by a function that raises for a wrong one.

    The checks come before anything is compiled and before a run-time type checker looks at the annotations, so a caller
    always gets the `ValueError` that says what to do. Defaults are not checked. What is annotated as a number, an
    array, an integer, a switch or a function needs no check of its own: `@checked()` sees to these.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        names = list(signature.parameters)

        @functools.wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            # With a wrong number of arguments the function itself raises.
            given = dict(zip(names, args, strict=False)) | kwargs
            for name, check in checks.items():
                if name in given:
                    check(given[name])
            check_types(function, signature, args, kwargs)
            try:
                return function(*args, **kwargs)
            except NotNumbers as error:
                raise name_argument(error, function.__name__, signature, args, kwargs) from None

        return wrapper

    return decorate


def check_instance(value: Any, kind: type, name: str, default: Any) -> Any:
    """Return `value`, which must be an instance of `kind`, a class of a public module; `None` stands for `default`."""
    value = default if value is None else value
    if not isinstance(value, kind):
        module = ".".join(kind.__module__.split(".")[:2])
        raise ValueError(
            f"`{name}` must be an instance of a class of `{module}`, such as `{name}={type(default).__name__}()`; got "
            f"{value!r}."
        )
    return value


def check_examples(data: Any, verb: str, name: str = "data", *, allow_complex: bool = False) -> Array:
    """`data` as an array `(n, ...)` of inexact dtype, float32 at least; values are checked where they are known.

    **Raises:** `ValueError` for data that are empty, of the wrong dtype, or not finite, naming the first such example.
    """
    if not hasattr(data, "shape") or not hasattr(data, "dtype"):
        raise ValueError(f"`{verb}` takes `{name}` as one array (n, ...) of n examples; got {type(data).__name__}.")
    if not are_numbers(data):
        raise NotNumbers(data, name)
    data = as_array(data)
    if data.ndim < 2:
        raise ValueError(
            f"`{verb}` takes `{name}` of shape (n, ...), n examples along the first axis; got shape {data.shape}. "
            "Numbers are examples of one entry: `data[:, None]`."
        )
    if data.size == 0:
        raise ValueError(f"`{name}` is empty: its shape is {data.shape}.")
    kind, called = (jnp.inexact, "a floating or complex") if allow_complex else (jnp.floating, "a real floating")
    if not jnp.issubdtype(data.dtype, kind):
        raise ValueError(
            f"`{verb}` takes `{name}` of {called} dtype; got {data.dtype}. Convert it: `{name}.astype(float)`, divided "
            "by 255 for 8-bit images."
        )
    data = data.astype(common_dtype(data.dtype))
    if is_concrete(data):
        finite = np.asarray(_finite_examples(data))
        if not finite.all():
            raise ValueError(
                f"`{name}` must be finite; example {int(np.argmin(finite))} holds NaN or infinity, and "
                f"{int((~finite).sum())} of {len(finite)} examples do. Leave them out, or mend them."
            )
    return data


@jax.jit
def _finite_examples(data: Array) -> Bool[Array, " n"]:
    return jnp.all(jnp.isfinite(data), axis=tuple(range(1, data.ndim)))


def name_argument(error: NotNumbers, owner: str, signature: inspect.Signature, args: tuple, kwargs: dict) -> ValueError:
    """An error that names the argument whose value is no number: the one that holds the value, by identity."""
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return error
    name = next((name for name, value in given.items() if value is error.value), None)
    return error if name is None else ValueError(f"{owner}: {NotNumbers(error.value, name)}")


def check_types(function: Callable, signature: inspect.Signature, args: tuple, kwargs: dict) -> None:
    """Raise a `ValueError` for the first argument of `function` that is not of the kind that its annotation names.

    Looked at are numbers, states, integers, switches and the classes that every verb takes. What is annotated otherwise
    the function itself checks. Called with wrong names or a wrong number of arguments, it raises itself.
    """
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return
    kinds = _kinds(function)
    for name, value in given.items():
        check = kinds.get(name)
        if check is not None and value is not signature.parameters[name].default:
            check(name, value)


@functools.cache
def _kinds(function: Callable) -> dict[str, Callable[[str, Any], None]]:
    """The check of each argument of a function, by its annotation."""
    # Without those of optional libraries, which stand in quotes.
    names = {name: hint for name, hint in function.__annotations__.items() if not isinstance(hint, str)}
    hints = typing.get_type_hints(types.SimpleNamespace(__annotations__=names), include_extras=True)
    checks = {name: _check_of(hint) for name, hint in hints.items() if name not in ("key", "return")}
    return {name: check for name, check in checks.items() if check is not None}


def _check_of(hint: Any) -> Callable[[str, Any], None] | None:
    if hint is State:
        return _check_state
    own, members = typing.get_origin(hint) is typing.Annotated, _members(hint)
    kinds = members - {type(None)}
    check = None
    if kinds and all(typing.get_origin(kind) is Callable for kind in kinds):
        check = None if own else _check_callable
    elif kinds == {tuple[str, ...]}:
        check = _check_names
    elif not kinds or not all(isinstance(kind, type) for kind in kinds):
        return None
    elif kinds == {int}:
        check = _check_integer
    elif kinds == {bool}:
        check = _check_switch
    elif kinds <= _NUMBERS:
        check = _check_numbers
    elif not own and all(kind.__module__.split(".")[0] in _CHECKED for kind in kinds):
        check = functools.partial(_check_class, kinds)
    if check is None or kinds == members:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _members(hint: Any) -> set[Any]:
    """What a union is of, without the marks of arguments that the library checks."""
    if typing.get_origin(hint) is typing.Annotated:
        return _members(hint.__metadata__[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return set().union(*map(_members, typing.get_args(hint)))
    # A generic class, such as that of a progress meter, counts as the class.
    generic = typing.get_origin(hint)
    if isinstance(generic, type) and generic.__module__.split(".")[0] in _CHECKED:
        return {generic}
    return {hint}


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise ValueError(f"`{name}` must be a function; got {value!r}, a {type(value).__name__}.")


def _check_names(name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"`{name}` must be a tuple of strings; got {value!r}.")


def _check_state(name: str, value: Any) -> None:
    leaves = jax.tree.leaves(value)
    bad = [leaf for leaf in leaves if not are_numbers(leaf)]
    if bad or not leaves:
        raise NotNumbers(bad[0] if bad else value, name)


def _check_numbers(name: str, value: Any) -> None:
    if not are_numbers(value):
        raise NotNumbers(value, name)


def _check_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"`{name}` must be a static integer; got {value!r}, a {type(value).__name__}.")


def _check_switch(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False; got {value!r}, a {type(value).__name__}.")


def _check_class(kinds: set[type], name: str, value: Any) -> None:
    if not isinstance(value, tuple(kinds)):
        public = lambda kind: ".".join(part for part in kind.__module__.split(".") if not part.startswith("_"))
        names = " or ".join(sorted(f"`{public(kind)}.{kind.__name__}`" for kind in kinds))
        raise ValueError(f"`{name}` must be an instance of {names}; got {value!r}, a {type(value).__name__}.")
