"""The type aliases that the whole package shares."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

import diffrax
import jax
import numpy as np
from jaxtyping import Array, Shaped

if TYPE_CHECKING:
    # Anything, as in jaxtyping, whose own alias is an unknown type, which a strict checker reports wherever it is used.
    T = TypeVar("T")
    PyTree: TypeAlias = Annotated[Any, T]
else:
    from jaxtyping import PyTree

# What a user hands in: shapes and dtypes of these are checked by the library itself, with a message that says what to
# do, so the aliases stay as wide as the messages need.
State = PyTree[Array | np.ndarray]
Image = Shaped[Array, "h w c"]
Scalar = Array | np.ndarray | float | int
Struct = PyTree[jax.ShapeDtypeStruct]
# A Flax network, an equinox network, or any object with the batched calls that the docstring names.
Network = PyTree
# Statistics of a run by their names: arrays, or trees of them.
Stats = dict[str, PyTree]
# A progress meter, whatever its own state is.
ProgressMeter: TypeAlias = diffrax.AbstractProgressMeter[Any]
# A function of a network, entry by entry.
Activation = Callable[[Array], Array]

# `Checked[T]` is the type `T` of an argument that the library itself checks, by a `ValueError` that says what to do. A
# type checker reads `T`, and so does `help()`; a checker at run time (jaxtyping with beartype) lets everything pass,
# so that its error does not come before the library's own.
if TYPE_CHECKING:
    Checked = Annotated[T, "checked by the library"]
    Key = Array
    IntLike = int
    BoolLike = bool
    ArrayLike = Array | np.ndarray

    class Abstract(Generic[T]):
        """An `eqx.AbstractVar` for type checkers, which take that for a field, and so for an argument of `__init__`."""

        def __get__(self, instance: Any, owner: Any) -> T: ...

else:

    class Checked:
        """`Checked[T]` is documentation at run time: any value passes, and `help()` shows `T`."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Annotated[Any, kind]

    Abstract = None
    Key = Checked[Array]
    IntLike = Checked[int]
    BoolLike = Checked[bool]
    ArrayLike = Checked[Array | np.ndarray]
