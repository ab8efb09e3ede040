"""Requirements of the numbers of a module, which the module itself states, once.

The statement makes a `ValueError` of a number that is known when the module is made. Where the number is traced,
`valid` reads the same statement, and the problem of a batch whose number is wrong gets the code
`RESULTS.invalid_parameter`.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._arrays import NotNumbers
from ._checks import name_argument
from ._types import PyTree

__all__ = ["Parametric", "Requirement", "finite", "not_negative", "positive", "requirement", "share", "valid"]

# An array of at most so many entries is shown whole in an error.
_SHOWN = 8


class Requirement(NamedTuple):
    """A condition on some numbers. A NaN must not satisfy it.

    - `words`: the requirement in words, such as "`eta` must lie between 0 and 1".
    - `values`: the numbers by name, each an array or a Python number.
    - `holds`: a function of the values that says where they are good. It uses operators that numpy and JAX share, such
        as `<` and `&`, and returns a boolean array or a list of boolean arrays.

    !!! example
        ```python
        from jaxinv.requirements import Requirement
        ordered = Requirement("It needs low < high", {"low": 0.0, "high": 1.0}, lambda low, high: low < high)
        ```
    """

    words: str
    values: dict[str, PyTree]
    holds: Callable[..., PyTree]


if TYPE_CHECKING:
    # A type checker knows the constructors of the subclasses of this class alone.
    _Base = eqx.Module
else:

    class _Naming(type(eqx.Module)):
        """The metaclass of modules: an argument that is not a number is refused by its name."""

        def __call__(cls, *args, **kwargs):
            try:
                return super().__call__(*args, **kwargs)
            except NotNumbers as error:
                raise name_argument(error, cls.__name__, inspect.signature(cls), args, kwargs) from None

    class _Base(eqx.Module, metaclass=_Naming):
        pass


class Parametric(_Base):
    """A module that states what must hold of its numbers: the base of operators, noise models, priors and methods.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import regularisers, requirements

        class Huber(regularisers.AbstractRegulariser):
            width: jax.Array

            def requirements(self):
                return (requirements.positive("width", self.width),)

            def __call__(self, x):
                inside = jnp.abs(x) < self.width
                return jnp.sum(jnp.where(inside, 0.5 * x**2, self.width * (jnp.abs(x) - 0.5 * self.width)))

            def prox(self, x, step):
                return x - step * jnp.clip(x / (1 + step), -self.width, self.width)

            @property
            def is_quadratic(self):
                return False

            @property
            def is_smooth(self):
                return False

        penalty = Huber(0.1)  # Huber(-0.1) raises a ValueError
        ```
    """

    def requirements(self) -> tuple[Requirement, ...]:
        """The requirements of the numbers of this module. The default is none.

        A number that is known when the module is made, and that does not satisfy its requirement, raises a
        `ValueError`. Where the number is traced, inside `jax.jit` or as one of many in `jax.vmap`, the solution of that
        problem has the code `RESULTS.invalid_parameter` and a value of zeros. A verb that returns an array in place of
        a solution returns NaN.

        **Returns:** a tuple of `Requirement`, made by the functions of `jaxinv.requirements`. The modules inside this
        module state their own.
        """
        return ()

    def __check_init__(self):
        check(type(self).__name__, self.requirements())


def requirement(words: str, value: PyTree, holds: Callable[[PyTree], PyTree]) -> Requirement:
    """A requirement that every entry of an array must satisfy.

    **Arguments:**

    - `words`: the requirement in words.
    - `value`: an array, a Python number, or a tuple of these; `None` satisfies every requirement.
    - `holds`: a function of one of the arrays, as in `Requirement`.

    **Returns:** a `Requirement`.
    """
    leaves = jax.tree.leaves(value)
    names = [""] if len(leaves) == 1 else [f"part {i}" for i in range(len(leaves))]
    return Requirement(words, dict(zip(names, leaves, strict=True)), lambda *leaves: [holds(leaf) for leaf in leaves])


def finite(name: str, value: PyTree, words: str | None = None) -> Requirement:
    """The requirement to be neither NaN nor infinite.

    **Arguments:**

    - `name`: the name of the number, for the error.
    - `value`: that of `requirement`.
    - `words`: the requirement in words, where the name alone does not say enough.

    **Returns:** a `Requirement`.
    """
    return requirement(words or f"`{name}` must be finite", value, lambda v: abs(v) < math.inf)


def positive(name: str, value: PyTree, words: str | None = None) -> Requirement:
    """The requirement to be finite and above 0.

    **Arguments, Returns:** those of `finite`.
    """
    return requirement(words or f"`{name}` must be finite and positive", value, lambda v: (v > 0) & (v < math.inf))


def not_negative(name: str, value: PyTree, words: str | None = None) -> Requirement:
    """The requirement to be finite and at least 0.

    **Arguments, Returns:** those of `finite`.
    """
    words = words or f"`{name}` must be finite and not negative"
    return requirement(words, value, lambda v: (v >= 0) & (v < math.inf))


def share(name: str, value: PyTree, words: str | None = None) -> Requirement:
    """The requirement to lie between 0 and 1, both included.

    **Arguments, Returns:** those of `finite`.
    """
    return requirement(words or f"`{name}` must lie between 0 and 1", value, lambda v: (v >= 0) & (v <= 1))


def valid(*trees: PyTree) -> Array | bool:
    """Whether all modules in some pytrees, at any depth, have numbers that satisfy their requirements.

    **Arguments:**

    - `trees`: any pytrees.

    **Returns:** a boolean scalar; `True` if nothing is required of anything.
    """
    good = [
        jnp.all(jnp.asarray(leaf))
        for module in _modules(trees)
        for _, values, holds in module.requirements()
        if values
        for leaf in jax.tree.leaves(holds(*map(jnp.asarray, values.values())))
    ]
    return functools.reduce(jnp.logical_and, good) if good else True


def check(owner: str, requirements: tuple[Requirement, ...]) -> None:
    """Raise a `ValueError` for the first of these that known numbers do not satisfy.

    It computes by numpy: within a trace, JAX makes tracers of comparisons, even of known numbers.

    **Arguments:**

    - `owner`: the name of the class or function that has the numbers, for the error.
    - `requirements`: what must hold of them.
    """
    for words, values, holds in requirements:
        if not all(_is_known(value) for value in values.values()):
            continue
        known = {name: np.asarray(value) for name, value in values.items()}
        with np.errstate(all="ignore"):
            good = jax.tree.leaves(holds(*known.values()))
        if not all(np.all(leaf) for leaf in good):
            place = "" if words.startswith(owner) else f"{owner}: "
            raise ValueError(f"{place}{words}; got {_shown(known, good)}.")


def _modules(tree: PyTree, inside: Any = None) -> Iterator[Parametric]:
    """All modules with requirements in a pytree, without the module `inside`, whose leaves are walked."""
    for node in jax.tree.leaves(tree, is_leaf=lambda n: isinstance(n, Parametric) and n is not inside):
        if isinstance(node, Parametric) and node is not inside:
            yield node
            yield from _modules(node, node)


def _is_known(value: Any) -> bool:
    if isinstance(value, jax.core.Tracer):
        return False
    if isinstance(value, jax.Array):
        return value.is_fully_addressable
    return isinstance(value, bool | int | float | complex | np.ndarray | np.generic)


def _shown(values: dict[str, np.ndarray], good: list[Any]) -> str:
    """The numbers, or of a large array those that are not good."""
    each: list[Any] = [np.asarray(leaf) for leaf in good] if len(good) == len(values) else [np.zeros(())] * len(values)
    texts = []
    for (name, value), where in zip(values.items(), each, strict=True):
        if value.size > _SHOWN and where.shape == value.shape:
            bad = value[~where]
            text = f"{bad.size} of {value.size} entries that do not, such as {bad[0]}" if bad.size else ""
        else:
            text = f"{value}" if value.ndim == 0 else np.array2string(value, precision=6, separator=", ")
        if text:
            texts.append(f"{name}={text}" if name else text)
    return ", ".join(texts).replace("\n", "")
