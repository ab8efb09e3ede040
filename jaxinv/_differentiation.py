"""The two ways to differentiate a solver: through its steps, or at its solution."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._arrays import check_count, nan_unless
from ._types import Checked, PyTree


class Unrolled(eqx.Module):
    """Differentiate through the steps of the solver.

    The solver runs as a `lax.scan` of `max_steps` in which a finished problem does not change; the memory is that of
    `max_steps` states.
    """


class Implicit(eqx.Module):
    """Differentiate at the solution, by the implicit function theorem.

    At a minimiser `grad f(x, p) = 0`, so `dx/dp = -H^{-1} d(grad f)/dp` with `H` the Hessian of `f`, damped; conjugate
    gradients apply `H^{-1}`, matrix-free. The memory does not grow with the steps. The derivative is exact at the exact
    minimiser, and otherwise has the error of the solve. Only first derivatives exist. If conjugate gradients do not
    converge, because the Hessian is singular (such as for `weight=0` with missing data) or `max_steps` is too small,
    the derivative is NaN: set `damping`, or use `Unrolled()`.

    - `rtol`: the relative residual at which conjugate gradients stop, static.
    - `damping`: the multiple of the identity that is added to `H`, static; raise it from 0 if the Hessian is singular.
    - `max_steps`: the largest number of steps of conjugate gradients, static.
    """

    rtol: Checked[float] = eqx.field(default=1e-6, static=True)
    damping: Checked[float] = eqx.field(default=0.0, static=True)
    max_steps: Checked[int] = eqx.field(default=1000, static=True)

    def __check_init__(self):
        for name in ("rtol", "damping"):
            value = getattr(self, name)
            if not isinstance(value, float | int | np.number) or not 0 <= value < math.inf:
                raise ValueError(
                    f"`{name}` of `Implicit` must be a static number, finite and not negative; got {value!r}."
                )
        check_count(self.max_steps, "max_steps")


@jax.custom_jvp
def _poison(x: Array, inputs: list[Array], ok: Array) -> Array:
    del inputs, ok
    return x


@_poison.defjvp
def _(primals, tangents):
    # The value stays; if it is not ok, its derivative in any of the inputs is NaN.
    x, _, ok = primals
    change, inputs, _ = tangents
    spread = sum(jnp.sum(leaf.real) + jnp.sum(leaf.imag) for leaf in inputs)
    return x, change + (nan_unless(ok, spread.dtype) * spread).astype(x.dtype)


def attach_implicit(
    implicit: Implicit,
    x: Array,
    gradient: Callable[[Array], Array],
    curvature: Callable[[Array], Array],
    ok: Array,
    inputs: PyTree,
) -> Array:
    """`x` with the derivative from the implicit function theorem.

    **Arguments:**

    - `implicit`: the options of the solve.
    - `x`: the solution, real or complex; its own derivative is discarded.
    - `gradient`: the gradient of the objective, as a function of `x`; it is differentiated in its other dependencies.
    - `curvature`: `v -> H v`, symmetric positive semi-definite (for complex `x` as a real-linear map).
    - `ok`: a boolean scalar; if it is false, the derivative in `inputs` is NaN.
    - `inputs`: the user's arguments, before invalid values were replaced.

    **Returns:** an array with the value of `x`.
    """
    frozen = jax.lax.stop_gradient(x)
    pack, unpack = _real_pair(frozen)
    residual = pack(gradient(frozen))
    residual = residual - jax.lax.stop_gradient(residual)

    def matvec(v):
        return pack(curvature(unpack(v))) + implicit.damping * v

    def solve(matvec, b):
        v = jax.scipy.sparse.linalg.cg(matvec, b, tol=implicit.rtol, maxiter=implicit.max_steps)[0]
        # Without convergence (a singular Hessian, or too few steps) return NaN rather than a wrong derivative.
        missed, size = (jnp.sqrt(jnp.sum(u**2)) for u in (b - matvec(v), b))
        return v + nan_unless(missed <= max(10 * implicit.rtol, 1e-3) * size, v.dtype)

    step = jax.lax.custom_linear_solve(matvec, residual, solve, symmetric=True)
    # Set NaN after the solve, since conjugate gradients return 0 for a right-hand side that is NaN.
    return _poison(frozen - unpack(step), jax.tree.leaves(eqx.filter(inputs, eqx.is_inexact_array)), ok)


def _real_pair(x: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    # The Hessian of a real function is always symmetric as a real-linear map, but not as a complex one.
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return (lambda v: jnp.stack([v.real, v.imag])), (lambda v: jax.lax.complex(v[0], v[1]))
    return (lambda v: v), (lambda v: v)


def check_differentiate(differentiate: Any) -> None:
    """Raise unless `differentiate` is `None`, `Unrolled()` or `Implicit()`."""
    if not (differentiate is None or isinstance(differentiate, Unrolled | Implicit)):
        raise ValueError(
            f"`differentiate` must be None, `jaxinv.Unrolled()` or `jaxinv.Implicit()`; got {differentiate!r}."
        )
