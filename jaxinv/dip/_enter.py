"""What a run of a deep image prior is given, checked and brought to one dtype."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_count
from .._keys import check_key
from .._loop import all_finite
from .._solution import RESULTS
from .._types import Key, Scalar, State
from ..likelihood import Likelihood, domain_dtype, prepare, prepare_parameter
from ..regularisers import AbstractRegulariser
from ..training._options import check_optimiser
from ._held_out import HeldOut
from ._method import AbstractMethod, Input, Problem
from ._network import enter_network
from ._plain import Plain
from ._run import Run
from ._start import AbstractStart, FromAdjoint, FromFBP, FromNoise, make_input
from ._stopping import AbstractStopping, FixedSteps
from ._watch import Watcher


def enter(
    likelihood: Likelihood,
    network: Any,
    y: State,
    *,
    key: Key,
    num_steps: Any,
    method: Any = None,
    regulariser: Any = None,
    weight: Scalar = 0.0,
    optimiser: Any = None,
    learning_rate: Scalar = 1e-2,
    start: Any = None,
    stopping: Any = None,
    jitter: Scalar = 0.0,
    ema: Scalar = 0.0,
    frozen: Any = (),
    reference: Any = None,
    stride: Any = 1,
) -> Run:
    """A run of `reconstruct`, whose options these are."""
    check_key(key)
    num_steps, stride = check_count(num_steps, "num_steps"), check_count(stride, "stride")
    check_optimiser(optimiser)
    method = _chosen(method, Plain, AbstractMethod, "method")
    start = _chosen(start, FromNoise, AbstractStart, "start")
    rule = _chosen(stopping, FixedSteps, AbstractStopping, "stopping")
    if isinstance(rule, HeldOut) and isinstance(start, FromAdjoint | FromFBP):
        raise ValueError(
            f"`HeldOut()` judges by measurements that the network must not see; {type(start).__name__}() makes its "
            "input of all of them. Take `FromNoise()`, or another rule."
        )
    likelihood, y, result = prepare(likelihood, y)
    operator = likelihood.operator
    weight, result = prepare_parameter(weight, operator, result)
    learning_rate, result = prepare_parameter(learning_rate, operator, result, positive=True, name="learning_rate")
    jitter, result = prepare_parameter(jitter, operator, result, name="jitter")
    ema, result = prepare_parameter(ema, operator, result, name="ema")
    below = ema < 1
    result = RESULTS.where((result == RESULTS.successful) & ~below, RESULTS.invalid_parameter, result)

    start_key, stopping_key, step_key = (jax.random.fold_in(key, i) for i in range(3))
    prior = enter_network(network, likelihood, frozen)
    z0 = make_input(start, likelihood, y, prior.input_shape, key=start_key)
    prior.check_image(z0, operator.domain)
    rule, fitted, result = rule.enter(likelihood, y, result, key=stopping_key)
    problem = Problem(fitted, y, _enter_regulariser(regulariser, weight), weight, prior.rest, prior.frozen)
    method, result = method.enter(problem, z0, result)
    reference = _check_reference(reference, operator)
    known = reference is None or all_finite(reference)
    result = RESULTS.where((result == RESULTS.successful) & ~jnp.asarray(known), RESULTS.invalid_parameter, result)
    watcher = Watcher(rule, jnp.where(below, ema, 0), reference, stride)
    given = Input(z0, jitter)
    return Run(problem, prior, method, watcher, given, learning_rate, step_key, result, optimiser, num_steps)


def _chosen(value: Any, default: type, kind: type, name: str) -> Any:
    value = default() if value is None else value
    if not isinstance(value, kind):
        raise ValueError(
            f"`{name}` must be an instance of a class of `jaxinv.dip`, such as `{name}={default.__name__}()`; got "
            f"{value!r}."
        )
    return value


def _enter_regulariser(regulariser: Any, weight: Array) -> AbstractRegulariser | None:
    if regulariser is None:
        return None
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`regulariser` must be one of `jaxinv.regularisers`, such as TV(); got {type(regulariser).__name__}."
        )
    cast = lambda leaf: leaf.astype(weight.dtype) if _is_real(leaf) else leaf
    return jax.tree.map(cast, regulariser)


def _is_real(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _check_reference(reference: Any, operator: Any) -> Array | None:
    if reference is None:
        return None
    reference, domain = jnp.asarray(reference), operator.domain
    if reference.shape != tuple(domain.shape):
        raise ValueError(
            f"`reference` must be an image of the operator's domain, of shape {tuple(domain.shape)}; got "
            f"{reference.shape}."
        )
    if jnp.iscomplexobj(reference) and not jnp.issubdtype(domain.dtype, jnp.complexfloating):
        raise ValueError(f"`reference` is complex; the operator takes images of dtype {domain.dtype}.")
    return reference.astype(domain.dtype if jnp.iscomplexobj(reference) else domain_dtype(operator))
