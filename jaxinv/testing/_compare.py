"""What all checks share: random numbers from a key, sizes of pytrees, and a batch compared with a loop."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_key
from .._types import Key, PyTree

# The tolerances of the package, relative to the sizes of the compared arrays.
SINGLE, DOUBLE = 1e-5, 1e-12


def require(condition: Any, sentence: str) -> None:
    """Raise an `AssertionError` with this sentence unless the condition holds."""
    if not bool(condition):
        raise AssertionError(sentence)


def name_of(thing: Any) -> str:
    """What the sentences call an object: the name of its class, or of the function."""
    name = getattr(thing, "__name__", type(thing).__name__)
    return "the function" if name == "<lambda>" else name


def is_double(tree: Any) -> bool:
    """Whether the arrays or structs of a pytree are of double precision."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.finfo(jnp.result_type(*dtypes)).dtype == jnp.float64


def tolerance_of(tree: Any, tolerance: float | None) -> float:
    """A tolerance that the caller gave, or that of the package for the precision of a pytree."""
    if tolerance is not None:
        return tolerance
    return DOUBLE if is_double(tree) else SINGLE


def generator(key: Key) -> np.random.Generator:
    """A generator of numpy's, seeded by a key. To draw by jax would compile a program for each shape."""
    check_key(key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def draw(struct: Any, random: np.random.Generator, kind: Any = None) -> PyTree:
    """Standard normal numbers with the shapes and dtypes of a struct; `kind` replaces its dtypes."""

    def one(s: Any) -> np.ndarray:
        dtype = jnp.dtype(s.dtype if kind is None else kind)
        value = random.normal(size=s.shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            value = value + 1j * random.normal(size=s.shape)
        return np.asarray(value, dtype)

    return jax.tree.map(one, struct)


def inner(a: PyTree, b: PyTree) -> complex:
    """`sum(conj(a) b)` over all entries, in double precision."""
    products = jax.tree.map(lambda u, v: np.vdot(np.asarray(u, complex), np.asarray(v, complex)), a, b)
    return complex(sum(jax.tree.leaves(products)))


def size(tree: PyTree) -> float:
    """The Euclidean norm over all entries."""
    return float(np.sqrt(inner(tree, tree).real))


def difference(a: PyTree, b: PyTree) -> float:
    """`||a - b||`, relative to `||b||` where that is not zero; infinite where an entry is not finite."""
    gap = size(jax.tree.map(lambda u, v: np.asarray(u, complex) - np.asarray(v, complex), a, b))
    reference = size(b)
    relative = gap / reference if reference > 0 else gap
    return relative if np.isfinite(relative) else np.inf


def flatten(tree: PyTree) -> np.ndarray:
    """All entries as one vector."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Pytrees of one structure as a batch, by numpy except for keys."""

    def join(*leaves: Any) -> Any:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
            return jnp.stack(leaves)
        stacked = np.stack(leaves)
        return jnp.asarray(stacked, stacked.dtype)  # without its dtype JAX compiles a program for each shape

    return jax.tree.map(join, *trees)


def lane(tree: PyTree, index: int) -> PyTree:
    """One member of a batch."""

    def take(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[index]
        return np.asarray(np.asarray(leaf)[index])

    return jax.tree.map(take, tree)


def keys_of(key: Key, number: int) -> Array:
    """A batch of keys."""
    return jax.random.split(key, number)


def combine(a: Any, x: PyTree, b: Any, w: PyTree) -> PyTree:
    """`a x + b w`, by numpy."""
    return jax.tree.map(lambda u, v: np.asarray(a * np.asarray(u) + b * np.asarray(v)), x, w)


def dtypes(tree: Any) -> Any:
    """The dtypes of arrays or structs."""
    return jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), tree)


def shapes(tree: Any) -> Any:
    """The shapes of arrays or structs."""
    return [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]


def require_array_leaves(thing: Any, numbers: bool = False) -> None:
    """Demand that a module has arrays for its leaves, so that `jax.jit` takes it and `jax.vmap` maps over it.

    - `numbers`: whether Python floats may be leaves too, as those of a method may, which verbs trace.
    """
    others = [
        leaf for leaf in jax.tree.leaves(thing) if not eqx.is_array(leaf) and not (numbers and type(leaf) is float)
    ]
    require(
        not others,
        f"{name_of(thing)} has leaves that are not arrays: {', '.join(type(leaf).__name__ for leaf in others[:3])}. "
        "`jax.vmap` cannot map over them, and each new value compiles again. Convert numbers by "
        "`eqx.field(converter=jnp.asarray)`, and mark what is static by `eqx.field(static=True)`.",
    )


def require_value_error(call: Callable[[Any], Any], wrong: Any, what: str) -> None:
    """Demand that a call raises `ValueError` for a wrong argument, when it is traced."""
    try:
        jax.eval_shape(lambda state: call(state), wrong)  # not `call` itself, which JAX would compare by its arrays
    except ValueError:
        return
    except (TypeError, IndexError, AttributeError) as error:
        raise AssertionError(
            f"{what} raised {type(error).__name__} ({error}). Compare the shape with the declared one first, and raise "
            "a ValueError that says what came and what is expected."
        ) from error
    raise AssertionError(
        f"{what} passed in silence. Compare the shape with the declared one, and raise a ValueError that says what "
        "came and what is expected."
    )


def require_wrong_shapes_raise(call: Callable[[Any], Any], struct: Any, what: str) -> None:
    """Demand `ValueError` for a batch of states, and for a state without its last axis."""
    for change, story in ((lambda s: (2, *s), "a batch of two"), (lambda s: s[:-1], "one without its last axis")):
        wrong = jax.tree.map(lambda s, change=change: jax.ShapeDtypeStruct(change(s.shape), s.dtype), struct)
        require_value_error(call, wrong, f"{what}, given {story},")


def require_mapped_equals_loop(
    mapped: Callable[..., PyTree], alone: Callable[..., PyTree], arguments: Sequence[tuple], tolerance: float, what: str
) -> None:
    """Demand that a mapped function gives for a batch of arguments what the function gives for each of them."""
    together = mapped(*stack(arguments))
    for i, argument in enumerate(arguments):
        gap = difference(lane(together, i), alone(*argument))
        require(
            gap <= tolerance,
            f"{what} under `jax.vmap` differs from a loop: number {i} of a batch of {len(arguments)} is off by "
            f"{gap:.1e} of its size; at most {tolerance:.0e} is allowed. Look for what is summed, normed or decided "
            "over the batch, and for kernels that take another form for a batch.",
        )


def require_law(
    draws: Any, mean: Any, covariance: Any, *, deviations: float, allowance: float, what: str, advice: str
) -> None:
    """Demand that draws have a mean and a covariance, in the directions and the units of that covariance.

    In these units a mean of independent draws has the standard error `1 / sqrt(n)`, and a covariance
    `sqrt(2 / n)` on its diagonal and `1 / sqrt(n)` beside it. On top of `deviations` of these comes `allowance`.
    """
    draws = np.asarray(draws, float).reshape(len(draws), -1)
    variances, basis = np.linalg.eigh(np.asarray(covariance, float))
    white = (draws - np.ravel(np.asarray(mean, float))) @ (basis / np.sqrt(variances))
    count, identity = len(white), np.eye(white.shape[1])
    # The mean is compared separately, so its offset does not count as covariance.
    found = np.cov(white.T).reshape(identity.shape)
    for which, gap, error in (
        ("mean", np.abs(white.mean(axis=0)), np.full(len(identity), 1 / np.sqrt(count))),
        ("covariance", np.abs(found - identity), np.sqrt((1 + identity) / count)),
    ):
        excess = gap - deviations * error - allowance
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        require(
            excess[worst] <= 0,
            f"The {which} of {what} is wrong: in units of the exact standard deviations it is off by {gap[worst]:.3f}, "
            f"and {deviations:g} standard errors of {error[worst]:.3f} with an allowance of {allowance:g} for the bias "
            f"are {deviations * error[worst] + allowance:.3f}. {advice}",
        )
