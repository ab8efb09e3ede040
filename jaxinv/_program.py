"""A fingerprint of a traced program, by which a checkpoint is matched to its run.

`repr` would say too little of a function (its name, and not what it computes) and too much (its address). The
fingerprint is that of the jaxpr: every operation, shape and number in it, but no names, and nothing that differs
between two processes that trace the same program.
"""

import dataclasses
import functools
import hashlib
import platform
import re
import types
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core
from jaxtyping import Array

from ._version import __version__

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
# Only the program inside of these operations counts: the rest are names, rules that the trace has applied already, and
# hints to the compiler.
_INNER = {
    "jit": ("jaxpr",),
    "pjit": ("jaxpr",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
    "debug_callback": (),
    "custom_vjp_call_jaxpr": ("call_jaxpr", "fun_jaxpr"),
}


def program(function: Callable[..., Any], *args: Any) -> str:
    """A fingerprint of what `function(*args)` computes, with the arrays among `args` as its inputs.

    It depends on shapes, dtypes and all that is static, on every number and array that the functions close over, but
    not on the values of the arrays in `args`. It costs one trace, and no compilation.
    """
    arrays, static = eqx.partition(args, eqx.is_array)
    arrays = jax.tree.map(_strong, arrays)
    closed = jax.make_jaxpr(lambda arrays: function(*eqx.combine(arrays, static)))(arrays)
    return _Digests().of(closed)[:16]


def versions() -> dict[str, str]:
    """What else decides how a function is traced: the versions of the libraries, and the kind of device."""
    return {
        "jaxinv": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "equinox": eqx.__version__,
        "Python": platform.python_version(),
        "backend": jax.default_backend(),
    }


class _Digests:
    """The digests of everything that a jaxpr holds. Each inner jaxpr is read once."""

    def __init__(self):
        self.known: dict[int, str] = {}
        self.kept: list[Any] = []  # An object that is collected would leave its id to another.

    def of(self, value: Any) -> str:
        if isinstance(value, core.ClosedJaxpr | core.Jaxpr) or callable(value) or dataclasses.is_dataclass(value):
            if id(value) not in self.known:
                self.known[id(value)] = ""  # Functions can hold themselves.
                self.kept.append(value)
                self.known[id(value)] = self._of_program(value)
            return self.known[id(value)]
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            array = np.ascontiguousarray(value)
            return _hash(f"{array.dtype}{array.shape}", array.reshape(-1).view(np.uint8).data)
        if isinstance(value, dict):
            return _hash(*sorted(self.of(item) for item in value.items()))
        if isinstance(value, set | frozenset):
            return _hash(*sorted(map(self.of, value)))
        if isinstance(value, tuple | list):
            return _hash(*map(self.of, value))
        if isinstance(value, types.ModuleType):
            return _hash(value.__name__)
        if isinstance(value, types.CodeType):
            return self.of((value.co_code, value.co_consts, value.co_names))
        return _hash(type(value).__name__, _ADDRESS.sub("", repr(value)))

    def _of_program(self, value: Any) -> str:
        if isinstance(value, core.ClosedJaxpr):
            return _hash(self.of(value.jaxpr), *map(self.of, value.consts))
        if isinstance(value, core.Jaxpr):
            return self._of_jaxpr(value)
        return self._of_object(value)

    def _of_jaxpr(self, jaxpr: core.Jaxpr) -> str:
        # Variables are numbered in the order in which they appear.
        numbers: dict[Any, int] = {}

        def read(atom: Any) -> str:
            if isinstance(atom, core.Literal):
                return _hash(str(atom.aval), self.of(np.asarray(atom.val)))
            return f"{numbers.setdefault(atom, len(numbers))} {_ADDRESS.sub('', str(atom.aval))}"

        parts = [read(variable) for variable in [*jaxpr.constvars, *jaxpr.invars]]
        for equation in jaxpr.eqns:
            name = equation.primitive.name
            chosen = _INNER.get(name, tuple(sorted(equation.params)))
            parts += [name, *map(read, equation.invars), "->", *map(read, equation.outvars)]
            parts += [f"{key}={self.of(equation.params[key])}" for key in chosen if key in equation.params]
        return _hash(*parts, "=>", *map(read, jaxpr.outvars))

    def _of_object(self, function: Any) -> str:
        # No trace says what a callback computes, so its code stands for it.
        if isinstance(function, functools.partial):
            return self.of((function.func, function.args, function.keywords))
        if isinstance(function, types.MethodType):
            return self.of((function.__func__, function.__self__))
        if isinstance(function, types.FunctionType):
            cells = [_constant(c.cell_contents) for c in function.__closure__ or () if c != types.CellType()]
            return self.of((function.__code__, function.__defaults__, function.__kwdefaults__, cells))
        named = _ADDRESS.sub("", repr(function))
        if isinstance(function, type):
            return self.of(named)
        if dataclasses.is_dataclass(function):
            return self.of((named, {f.name: getattr(function, f.name, None) for f in dataclasses.fields(function)}))
        return self.of((named, {name: _constant(held) for name, held in getattr(function, "__dict__", {}).items()}))


def _strong(array: Array) -> Array:
    # A run is the same whether an array was made of a Python number or of another array.
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return array if is_key else jax.lax.convert_element_type(array, array.dtype)


def _constant(value: Any) -> Any:
    """An object that a function refers to, if it can be a constant of the program, or else its kind.

    A list of losses or a progress bar is another at every call.
    """
    kinds = (bool, int, float, complex, str, bytes, tuple, jax.Array, np.ndarray, np.generic)
    return value if value is None or isinstance(value, kinds) or callable(value) else type(value).__name__


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        # The length is part of the digest, so that other parts with the same bytes have another one.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
