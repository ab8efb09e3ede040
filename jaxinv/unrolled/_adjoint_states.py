"""Back-propagation as an adjoint equation."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._jit import verb
from .._types import Checked, PyTree, State


class AdjointStates(eqx.Module):
    """The states, adjoint states and gradients of a network of `K` layers, as `adjoint_states` returns them.

    - `states`: `z_0, ..., z_K`.
    - `adjoints`: `p_0, ..., p_K`, each of the shapes of its state; `p_0` is the gradient in `z_0`.
    - `gradients`: in the parameters of each layer, `g_0, ..., g_(K-1)`; `None` in place of a leaf that is no floating
        array.
    """

    states: tuple[PyTree, ...]
    adjoints: tuple[PyTree, ...]
    gradients: tuple[PyTree, ...]


@verb(traced=())
def adjoint_states(
    layers: Checked[Sequence[Callable[[PyTree, PyTree], PyTree]]],
    parameters: Checked[Sequence[PyTree]],
    z0: State,
    residual: Checked[PyTree | Callable[[PyTree], PyTree]],
) -> AdjointStates:
    """Compute the adjoint states of a layered network, and with them the gradients in its parameters.

    The states run forwards, `z_(k+1) = f_k(theta_k, z_k)`. The data residual is the last adjoint state, and they run
    backwards, `p_k = (df_k / dz_k)^* p_(k+1)`; the gradient in the parameters of a layer is
    `g_k = (df_k / dtheta_k)^* p_(k+1)`. With `p_K` the gradient of a loss in `z_K`, the `g_k` are the gradients of that
    loss, as `jax.grad` has them (which for complex arrays returns their conjugates).

    It is the method of Lagrange: `p_(k+1)` is the multiplier of the constraint `z_(k+1) = f_k(theta_k, z_k)`.

    **Arguments:**

    - `layers`: the functions `f_k(theta_k, z_k)`, a tuple or list of `K`. Define them once: new ones compile again.
        Arrays that they close over are constants of the compiled program: put into the parameters what changes.
    - `parameters`: the pytrees `theta_k`, a tuple or list of `K`.
    - `z0`: the first state, a pytree of floating arrays: one of any shape, or a batch, if the layers take one.
    - `residual`: `p_K`, of the shapes of the last state; or a function from the last state to it, such as
        `lambda z: operator.adjoint(operator(z) - y)`, which is like the layers: defined anew, it compiles anew.

    **Returns:** `AdjointStates(states, adjoints, gradients)`, tuples of `K + 1`, `K + 1` and `K`.

    **Raises:** `ValueError` if there are not as many parameters as layers, if `z0` is not of a floating dtype, or if
    the residual is not like the last state.

    **Reference:** LeCun, A theoretical framework for back-propagation, 1988.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import unrolled
        layer = lambda weights, z: jnp.tanh(weights @ z)
        weights = list(jax.random.normal(jax.random.key(0), (3, 5, 5)))
        y = jnp.ones(5)
        run = unrolled.adjoint_states([layer] * 3, weights, jnp.ones(5), lambda z: z - y)
        gradient_of_the_first_layer = run.gradients[0]  # (5, 5)
        ```
    """
    layers, parameters = _check_layers(layers, parameters)
    states, pullbacks = [_check_start(z0)], []
    for layer, theta in zip(layers, parameters, strict=True):
        state, pullback = eqx.filter_vjp(layer, theta, states[-1])
        states.append(state)
        pullbacks.append(pullback)
    last = residual(states[-1]) if callable(residual) else residual
    adjoints, gradients = [_check_residual(last, states[-1])], []
    for pullback in reversed(pullbacks):
        # JAX pulls back by the transpose: the adjoint is its conjugate, at the conjugate.
        gradient, adjoint = _conjugate(pullback(_conjugate(adjoints[-1])))
        adjoints.append(adjoint)
        gradients.append(gradient)
    return AdjointStates(tuple(states), tuple(adjoints[::-1]), tuple(gradients[::-1]))


def _conjugate(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.conj, tree)


def _check_layers(layers: Any, parameters: Any) -> tuple[Sequence[Callable], Sequence[PyTree]]:
    if not isinstance(layers, tuple | list) or not layers or not all(callable(layer) for layer in layers):
        raise ValueError(
            "`layers` must be a tuple or list of functions `f(theta, z)`, one for each layer; of K times the same: "
            f"`[f] * K`. Got {type(layers).__name__}."
        )
    if not isinstance(parameters, tuple | list) or len(parameters) != len(layers):
        got = f" of {len(parameters)}" if isinstance(parameters, tuple | list) else ""
        raise ValueError(
            f"`parameters` must be a tuple or list with an entry for each of the {len(layers)} layers; got "
            f"{type(parameters).__name__}{got}. A stacked array becomes `list(array)`; a layer without "
            "parameters has `None`."
        )
    return layers, parameters


def _check_start(z0: State) -> PyTree:
    z0 = jax.tree.map(jnp.asarray, z0)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(z0) if not eqx.is_inexact_array(leaf)}
    if kinds:
        raise ValueError(f"`z0` must be of a floating or complex dtype; got {sorted(kinds)}. Take `z0.astype(float)`.")
    return z0


def _check_residual(residual: Any, state: PyTree) -> PyTree:
    """The residual in the dtype of the last state, whose shapes it must have."""
    residual = jax.tree.map(jnp.asarray, residual)
    if jax.tree.map(jnp.shape, residual) != jax.tree.map(jnp.shape, state):
        raise ValueError(
            f"`residual` must be like the last state, {jax.tree.map(jnp.shape, state)}; got "
            f"{jax.tree.map(jnp.shape, residual)}. It is the gradient of the misfit in that state, such as "
            "`operator.adjoint(operator(z) - y)`."
        )
    for r, z in zip(jax.tree.leaves(residual), jax.tree.leaves(state), strict=True):
        if jnp.iscomplexobj(r) and not jnp.iscomplexobj(z):
            raise ValueError("`residual` is complex and the last state is real; take its real part.")
    return jax.tree.map(lambda r, z: r.astype(z.dtype), residual, state)
