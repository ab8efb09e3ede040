"""How the public verbs are compiled."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

from ._arrays import native
from ._checks import check_types
from ._forward_only import calling
from ._network_state import state_is_refused
from ._networks import unbind_linen, weights_are_finite
from ._solution import settle
from .requirements import Requirement, check, not_negative, valid

_P = ParamSpec("_P")
_R = TypeVar("_R")


@overload
def verb(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
@overload
def verb(
    *,
    traced: tuple[str, ...] = (),
    tolerances: tuple[str, ...] = (),
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...
def verb(
    function: Callable | None = None,
    *,
    traced: tuple[str, ...] = (),
    tolerances: tuple[str, ...] = (),
) -> Callable:
    """A function compiled by `eqx.filter_jit`, with Python floats and bound linen modules among its arguments traced.

    `eqx.filter_jit` alone takes a Python number for a constant and compiles again for each new value of a weight.

    Here, once for all verbs, the numbers of all modules among the arguments are checked against what these require:
    where one is out of its range, or a weight of a network is not finite, the solution has the code
    `invalid_parameter` and its value is zero (`settle`).

    **Arguments:**

    - `function`: the function; `@verb` and `@verb(traced=(...))` both decorate.
    - `traced`: the names of the keyword arguments that are numbers of the problem: integers given to these are traced
        as well. Integers given to all others, such as `max_steps`, stay static. The function gives a number that is out
        of its range its code (`prepare_parameter`).
    - `tolerances`: the names of further ones, each of which must be finite and not negative. One that is known and
        is not raises a `ValueError`. A traced one counts as 1 in its problem, so that it ends, with the code
        `invalid_parameter`.

    **Returns:** the function with the same signature.

    **Raises:** `ValueError` for a name in `traced` that is no parameter of the function.
    """
    if function is None:
        return functools.partial(verb, traced=traced, tolerances=tolerances)
    traced = (*traced, *tolerances)
    parameters = inspect.signature(function).parameters
    unknown = set(traced) - parameters.keys()
    if unknown:
        raise ValueError(f"`traced` names {sorted(unknown)}; `{function.__name__}` takes {sorted(parameters)}.")

    @functools.wraps(function)
    def settled(*args: Any, **kwargs: Any) -> Any:
        usable, good = _usable(kwargs, tolerances)
        good = good & valid(args, kwargs) & weights_are_finite(args, kwargs)
        return settle(function(*args, **usable), good)

    compiled = eqx.filter_jit(settled)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        check_types(function, signature, args, kwargs)
        _check_scalars(kwargs, tolerances)
        check(function.__name__.lstrip("_"), _required(kwargs, tolerances))
        args, kwargs = unbind_linen((args, kwargs))
        args, kwargs = jax.tree.map(_as_input, (args, kwargs))
        kwargs = {k: jnp.asarray(float(v)) if k in traced and _is_integer(v) else v for k, v in kwargs.items()}
        token = calling.set(function.__name__.lstrip("_"))
        try:
            with state_is_refused():
                return without_explicit_axes(compiled, *args, **kwargs)
        finally:
            calling.reset(token)

    return wrapper


def compiled_method(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method, or a function, compiled by `eqx.filter_jit`; Python numbers stay static.

    A class holds a function, not what `eqx.filter_jit` makes of it, so that a bound method stays one: `jax.jit` takes
    it, and its signature is shown.
    """
    compiled = eqx.filter_jit(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        check_types(function, signature, args, kwargs)
        return without_explicit_axes(compiled, *jax.tree.map(native, args), **jax.tree.map(native, kwargs))

    return wrapper


def without_explicit_axes(function: Callable, /, *args: Any, **kwargs: Any) -> Any:
    """`function(*args, **kwargs)`, in which the compiler chooses the shardings, also over axes of type `Explicit`.

    Those require a sharding of the result of many an operation; `jax.make_mesh` makes them by default. Under `jax.vmap`
    the results keep the sharding of the problems, else they are replicated.
    """
    mesh = _explicit_mesh((args, kwargs))
    if mesh is None:
        return function(*args, **kwargs)
    arrays, rest = eqx.partition((args, kwargs), eqx.is_array)
    static: list[Any] = []

    def call(arrays: Any) -> Any:
        args, kwargs = eqx.combine(arrays, rest)
        out, other = eqx.partition(function(*args, **kwargs), eqx.is_array)
        static.append(other)
        return out

    with jax.sharding.use_abstract_mesh(mesh):
        out = jax.sharding.auto_axes(call, out_sharding=PartitionSpec())(arrays)
    return eqx.combine(out, static[-1])


def _explicit_mesh(tree: Any) -> AbstractMesh | None:
    """The mesh with axes of type `Explicit` that is set, or over which an array is distributed."""
    meshes = [jax.sharding.get_abstract_mesh()]
    meshes += [jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _as_input(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, float) else native(value)


def _required(kwargs: dict[str, Any], names: tuple[str, ...]) -> tuple[Requirement, ...]:
    return tuple(not_negative(name, kwargs[name]) for name in names if name in kwargs)


def _check_scalars(kwargs: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        shape = () if kwargs.get(name) is None else jnp.shape(kwargs[name])
        if shape != ():
            raise ValueError(f"`{name}` must be a scalar; got shape {shape}. Map over several values with `jax.vmap`.")


def _usable(kwargs: dict[str, Any], tolerances: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """The arguments, where a tolerance that is out of its range becomes 1; and whether none was."""
    good = True
    for requirement in _required(kwargs, tolerances):
        for value in requirement.values.values():
            good = good & jnp.all(jnp.asarray(requirement.holds(value)[0]))
    one = lambda value: jnp.where(good, value, jnp.ones_like(value))
    return kwargs | {name: jax.tree.map(one, kwargs[name]) for name in tolerances if name in kwargs}, good


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
