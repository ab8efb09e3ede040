"""What every part of the package needs for arrays: parameters, dtypes, shapes, keys, guarded roots, checks."""

import contextlib
from collections.abc import Iterator
from operator import index
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from ._types import Checked, Key, PyTree, Scalar, State

# The precision of products of matrices outside networks: the default of accelerators is TF32 or bfloat16, in which
# exact adjoints and closed forms fail.
HIGHEST = jax.lax.Precision.HIGHEST


def real_dtype(dtype: Any) -> Any:
    """The real dtype that matches `dtype` in precision."""
    return jnp.finfo(dtype).dtype


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """A context, or a decorator, in which arrays of different dtypes meet by JAX's standard rules.

    Real parameters meet complex images by design, and other libraries mix dtypes; a user who sets
    `jax_numpy_dtype_promotion="strict"` to find faults in their own code should not find this.
    """
    with jax.numpy_dtype_promotion("standard"):
        yield


def common_dtype(*values: Any) -> Any:
    """The dtype in which arrays, dtypes and Python numbers meet; at least single precision, since JAX has neither
    Fourier transforms nor linear algebra in half precision, and no adjoint is exact in it."""
    with standard_promotion():
        dtype = jnp.result_type(*values)
        half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if half else dtype


def parameter_dtype(*parameters: Any) -> Any:
    """The dtype of images that an operator with these parameters has; booleans and integers count as default floats."""
    return common_dtype(float, *parameters)


def multiply(factor: Array | float, array: Array | np.ndarray) -> Array:
    """The product of two arrays, of which one may be real and the other complex."""
    with standard_promotion():
        return factor * as_array(array)


class NotNumbers(ValueError):
    """Raised where a number or an array of numbers is expected and something else was given.

    - `value`: what came.
    - `name`: the name of the argument; without one, who knows it raises again (`name_argument`).
    """

    def __init__(self, value: Any, name: str | None = None):
        self.value = value
        got = f"{value!r}"[:80] if not isinstance(value, jax.Array | np.ndarray) else f"an array of {value.dtype}"
        where = "Numbers are expected" if name is None else f"`{name}` must be a number or an array of numbers"
        super().__init__(f"{where}; got {got}, a {type(value).__name__}.")


def are_numbers(value: Any) -> bool:
    """Whether JAX makes an array of numbers of `value`; booleans count in an array, as masks do, and not alone."""
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return bool(jnp.issubdtype(value.dtype, np.number) or value.dtype == bool)
    if isinstance(value, list | tuple):
        return all(are_numbers(entry) or isinstance(entry, bool | np.bool_) for entry in value)
    return isinstance(value, int | float | complex) or hasattr(value, "__jax_array__") or hasattr(value, "__array__")


def as_array(value: Any) -> Array:
    """`value` as a JAX array; NumPy arrays of foreign byte order, such as FITS files hold, are converted.

    **Raises:** `NotNumbers`, a `ValueError`, for what holds no numbers.
    """
    if not are_numbers(value):
        raise NotNumbers(value)
    value = native(value)
    if isinstance(value, np.ndarray):
        # The array has its final dtype here: JAX compiles a program for each shape that it converts, or has no dtype
        # for.
        dtype = jax.dtypes.canonicalize_dtype(value.dtype)
        with np.errstate(over="ignore"):
            return jnp.asarray(value.astype(dtype, copy=False), dtype)
    return jnp.asarray(value)


def native(value: Any) -> Any:
    """`value`, or if it is a NumPy array of foreign byte order the same numbers in that of the machine."""
    foreign = isinstance(value, np.ndarray | np.generic) and not value.dtype.isnative
    return value.astype(value.dtype.newbyteorder("=")) if foreign else value


def as_parameter(array: Checked[Scalar | complex | np.generic]) -> Array:
    """A parameter as an array leaf of inexact dtype, at least single precision."""
    array = as_array(array)
    return array.astype(parameter_dtype(array.dtype))


def as_factor(value: Checked[Scalar | complex]) -> Array:
    """A scalar factor as an array leaf of inexact dtype; a Python number stays weak, and promotes nothing."""
    if isinstance(value, bool | int):
        value = float(value)
    return jnp.asarray(value) if isinstance(value, float | complex) else as_parameter(value)


def as_leaf(value: Any) -> Array | float:
    """A number that stays a Python number, so that a default instance can stand in a signature; or an array leaf.

    An array would start the backend at import. `verb` makes arrays of the numbers that are given to it, so that another
    number does not compile again.
    """
    return float(value) if type(value) in (int, float) else as_parameter(value)


def is_concrete(*arrays: Any) -> bool:
    """Whether the values are known, so that they can be checked at construction."""
    return not any(isinstance(array, jax.core.Tracer) for array in arrays)


def is_complex(struct: Any) -> bool:
    """Whether an array of a struct, or of a stack of them, is complex."""
    return any(jnp.issubdtype(s.dtype, jnp.complexfloating) for s in jax.tree.leaves(struct))


def shapes(struct: Any) -> Any:
    """The shape of a struct, or the tuple of shapes of a stack."""
    return tuple(shapes(s) for s in struct) if isinstance(struct, tuple) else tuple(struct.shape)


def name_of(module: object) -> str:
    """The name of the class of an operator, prior or network, for error messages."""
    return type(module).__name__


def varying_like(x: State, *others: Any) -> State:
    """`x`, made to vary over the axes of a `shard_map` that `others` vary over: a transpose requires equal types."""
    flag = jnp.zeros((), bool)
    for leaf in filter(eqx.is_inexact_array, jax.tree.leaves(others)):
        flag = flag | jnp.zeros_like(leaf, shape=(), dtype=bool)
    return jax.tree.map(lambda leaf: leaf + flag.astype(leaf.dtype), x)


def safe_sqrt(square: Array) -> Array:
    """The square root of what is not negative, with the derivative 0 at 0; 0 for a negative number.

    The input of the root is selected, not its output: a derivative of infinity times 0 would be NaN.
    """
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def nan_unless(ok: Array, dtype: DTypeLike) -> Array:
    """0 where `ok` is true, else NaN. Where it is true no NaN is computed, so `jax_debug_nans` stops at failed problems
    only."""
    return jnp.sqrt(jnp.where(ok, jnp.zeros((), dtype), -jnp.ones((), dtype)))


def check_key(key: Key) -> None:
    """Raise unless `key` is one typed threefry key.

    An `rbg` key draws other numbers under `vmap` than alone, which would break the promise that a batch equals a loop.
    """
    what = f"{type(key).__name__} of dtype {getattr(key, 'dtype', None)} and shape {getattr(key, 'shape', None)}"
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`key` must be one typed key, made by `jax.random.key(0)`; got {what}. "
            "Keys of the old style (uint32) convert by `jax.random.wrap_key_data(key)`."
        )
    if "fry" not in str(jax.random.key_impl(key)):
        raise ValueError(
            f"`key` must be a threefry key; got {what}. Other generators draw different numbers under `vmap` than one "
            "by one. Make it by `jax.random.key(0, impl='threefry2x32')`."
        )
    if key.shape != ():
        raise ValueError(
            f"`key` must be one key, of shape (); got shape {key.shape}. Map over several keys with `jax.vmap`."
        )


def subkeys(key: Key, count: int) -> tuple[Key, ...]:
    """`jax.random.fold_in(key, i)` for `i` from 0 to `count - 1`.

    They are computed by one loop of threefry: each such loop in a program takes about as long to compile as a layer.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return tuple(keys[i] for i in range(count))


def check_count(value: Any, name: str) -> int:
    """Return `value`, which must be an integer of at least 1 that is known when the program is traced."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a static integer of at least 1; got {value!r}.")
    return int(value)


def check_shape(shape: Any, what: str = "shape") -> tuple[int, ...]:
    """`shape` as a tuple of positive integers; shapes are static.

    **Raises:** `ValueError` if it is anything else.
    """
    try:
        shape = tuple(index(n) for n in shape)
    except TypeError as error:
        raise ValueError(f"`{what}` must be a tuple of static integers, such as (28, 28, 1); got {shape!r}.") from error
    if not shape or min(shape) < 1:
        raise ValueError(f"`{what}` must be a tuple of positive integers, such as (28, 28, 1); got {shape}.")
    return shape


def check_image_shape(shape: Any) -> tuple[int, int, int]:
    """`shape` as `(h, w, c)`.

    **Raises:** `ValueError` if it does not have three positive entries.
    """
    shape = check_shape(shape)
    if len(shape) != 3:
        raise ValueError(
            f"`shape` must be (height, width, channels); got {shape}. A grey image has one channel: {(*shape[:2], 1)}."
        )
    return shape


def check_state(x: PyTree, struct: PyTree, what: str, operator: object) -> PyTree[Array]:
    """`x` as arrays that have the shapes of `struct` and an inexact dtype; every operator checks its argument by this.

    **Arguments:**

    - `x`: an image or a measurement, or a tuple of arrays.
    - `struct`: the shape that it should have, the `domain` or the `codomain` of an operator.
    - `what`: "the image" or "the measurement", for the error message; measurements may be integers, which are counts.
    - `operator`: the operator that is called, for the error message.

    **Returns:** the arrays, in their own dtype; integers in the default floating one.

    **Raises:** `ValueError` that names the shape or dtype of `x` and the one that `operator` expects.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import operators
        operator = operators.Identity((4, 4, 1))
        x = operators.check_state(jnp.ones((4, 4, 1)), operator.domain, "the image", operator)
        ```
    """
    if isinstance(struct, tuple):
        if not isinstance(x, tuple | list) or len(x) != len(struct):
            raise ValueError(
                f"{name_of(operator)} expects {what} as a tuple of {len(struct)} arrays, of shapes {shapes(struct)}; "
                f"got {type(x).__name__}{f' of {len(x)}' if isinstance(x, tuple | list) else ''}."
            )
        return tuple(check_state(part, s, what, operator) for part, s in zip(x, struct, strict=True))
    x = as_array(x)
    if x.shape != tuple(struct.shape):
        raise ValueError(
            f"{name_of(operator)} expects {what} of shape {tuple(struct.shape)}; got {x.shape}. "
            f"{_advice(x.shape, struct.shape)}"
        )
    if what == "the measurement" and jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.result_type(float))  # counts
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            f"{name_of(operator)} expects {what} of a floating or complex dtype; got {x.dtype}. Convert it: "
            "`x.astype(float)`, divided by 255 for an 8-bit image."
        )
    return x.astype(common_dtype(x.dtype))


def as_image(x: Any, name: str) -> Array:
    """`x` as one array of an inexact dtype, at least single precision; `name` is what takes it, for the error.

    **Raises:** `ValueError` for integers, whose differences and squares wrap round.
    """
    x = as_array(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(
            f"{name} takes an image of a floating or complex dtype; got {x.dtype}. Convert it: `x.astype(float)`, "
            "divided by 255 for an 8-bit image."
        )
    return x.astype(common_dtype(x.dtype))


def check_floating(x: Array, what: str, name: str) -> Array:
    """`x`, which must have a real floating dtype."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{name} expects {what} of a real floating dtype; got {x.dtype}. Convert it: `x.astype(float)`, divided by "
            "255 for an 8-bit image."
        )
    return x


def check_one(x: Any, shape: tuple[int, ...], what: str, name: str) -> Array:
    """`x` as one array of the given shape and floating dtype, as a prior expects it."""
    x = as_array(x)
    if x.shape != shape:
        advice = "Check the sizes."
        if x.shape[1:] == shape:
            advice = "It looks like a batch: a prior takes one at a time, so map with `jax.vmap`."
        elif x.shape == shape[:-1] and shape[-1:] == (1,):
            advice = "Add the channel axis: `x[..., None]`."
        raise ValueError(f"{name} expects {what} of shape {shape}; got {x.shape}. {advice}")
    return check_floating(x, what, name)


def _advice(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    expected = tuple(expected)
    if got == expected[:-1] and expected[-1] == 1:
        return "Add the channel axis: `x[..., None]`."
    if got[1:] == expected:
        return "It looks like a batch: operators take one at a time, so map with `jax.vmap`."
    return "It may belong to another operator; compare with `operator.domain` and `operator.codomain`."


def same_varying(*operands: Array) -> tuple[Array, ...]:
    """The operands, cast so that all of them vary over every axis of the mesh over which one of them varies.

    Inside `jax.shard_map` the type of an array says along which axes of the mesh its value differs, and a primitive
    requires operands of one such type. Outside, the operands are unchanged.
    """
    axes = frozenset().union(*(_axes(operand) for operand in operands))
    return tuple(_vary(operand, tuple(sorted(axes - _axes(operand)))) for operand in operands)


def _axes(operand: Array) -> frozenset:
    return jax.typeof(operand).manual_axis_type.varying


def _vary(operand: Array, axes: tuple) -> Array:
    return jax.lax.pcast(operand, axes, to="varying") if axes else operand
