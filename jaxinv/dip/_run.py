"""The run of a deep image prior: steps of an optimiser, each of them monitored by a stopping rule."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from .. import _loop, _method as grammar
from .._arrays import check_count, check_key, subkeys
from .._checks import check_instance
from .._differentiation import Implicit, Unrolled
from .._network_state import restored
from .._optimisers import check_optimiser, init_optimiser, step_optimiser
from .._solution import RESULTS, Solution
from .._types import Checked, Key, Network, ProgressMeter, PyTree, Scalar, State as Measurement, Stats
from ..likelihood import Likelihood, domain_dtype, prepare, prepare_parameter
from ..operators import AbstractOperator
from ..regularisers import AbstractRegulariser
from ..regularisers._constraints import check_constraint
from ._method import AbstractMethod, Plain, Problem
from ._monitor import Monitor, MonitorState
from ._network import prepare_network
from ._start import AbstractStart, FromNoise, make_input
from ._stopping import AbstractStopping, FixedSteps


class RunProblem(eqx.Module):
    """A run, prepared: everything that does not change from step to step.

    - `fit`: the measurement and the network, as the method prepared them.
    - `weights`: the first weights that are tuned.
    - `monitor`: the stopping rule, the average and the history.
    - `learning_rate`: the rate of the default optimiser.
    - `jitter`: the standard deviation of the noise on the input.
    - `result`: `RESULTS.successful` for a problem that can be solved.
    """

    fit: Problem
    weights: dict[str, Array]
    monitor: Monitor
    learning_rate: Array
    jitter: Array
    result: RESULTS


class State(NamedTuple):
    """Everything that changes from step to step.

    - `variables`, `memory`: those of the method; `optimiser`: the state of the optimiser.
    - `monitor`: the state of the monitor.
    - `ended`: whether the steps are over, and the variables stay as they are.
    - `code`: how they ended; `max_steps_reached` until something else is known.
    - `num_done`: the number of steps taken.
    - `last`: the image of the last variables, once the steps are over.
    """

    variables: PyTree[Array]
    optimiser: PyTree
    memory: PyTree[Array]
    monitor: MonitorState
    ended: Array
    code: RESULTS
    num_done: Array
    last: Array


class Run(grammar.AbstractMethod[RunProblem, State]):
    """The fit of a network to one measurement, as a method of the grammar.

    When the steps are over, one more step evaluates the network and leaves the variables as they are: so the image
    after the last step is made where all images are made, and the network stands once in the program.

    - `pause_every`: `_loop.run` returns after so many steps although the run has not ended, for a checkpoint.
    """

    method: AbstractMethod
    start: AbstractStart
    stopping: AbstractStopping
    optimiser: optax.GradientTransformation | None = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    frozen: Checked[tuple[str, ...]] = eqx.field(static=True)
    pause_every: int = eqx.field(static=True)

    def prepare(
        self,
        likelihood: Likelihood,
        network: Network,
        y: Measurement,
        *,
        key: Key,
        regulariser: Any,
        weight: Scalar,
        learning_rate: Scalar,
        jitter: Scalar,
        ema: Scalar,
        constraint: AbstractRegulariser | None,
        reference: Any,
        weight_by_noise: Scalar | None,
    ) -> tuple[RunProblem, RESULTS]:
        likelihood, y, result = prepare(likelihood, y)
        operator = likelihood.operator
        weight, result = prepare_parameter(weight, operator, result)
        if weight_by_noise is not None:
            share, result = prepare_parameter(weight_by_noise, operator, result, name="weight_by_noise")
            weight = weight + share / _typical_std(likelihood, y)
        learning_rate, result = prepare_parameter(learning_rate, operator, result, positive=True, name="learning_rate")
        jitter, result = prepare_parameter(jitter, operator, result, name="jitter")
        ema, result = prepare_parameter(ema, operator, result, name="ema")
        invalid = (result == RESULTS.successful) & ~(ema < 1)
        result = RESULTS.where(invalid, RESULTS.invalid_parameter, result)

        start_key, stopping_key = subkeys(key, 2)
        parts = prepare_network(network, likelihood, self.frozen)
        z0 = make_input(self.start, likelihood, y, parts.input_shape, key=start_key)
        parts.check_image(z0, operator.domain)
        stopping, result = self.stopping.prepare(likelihood, y, result, key=stopping_key)
        regulariser = _prepare_regulariser(regulariser, weight)
        constraint = None if constraint is None else _cast(check_constraint(constraint), weight)
        fit = Problem(stopping.likelihood, y, regulariser, weight, parts.rest, parts.frozen, z0, constraint=constraint)
        fit, result = self.method.prepare(fit, result)
        reference = _check_reference(reference, operator)
        known = reference is None or _loop.all_finite(reference)
        invalid = (result == RESULTS.successful) & ~jnp.asarray(known)
        result = RESULTS.where(invalid, RESULTS.invalid_parameter, result)
        monitor = Monitor(self.stopping, stopping, jnp.where(ema < 1, ema, 0), reference, self.stride)
        return RunProblem(fit, parts.weights, monitor, learning_rate, jitter, result), result

    def init(self, problem: RunProblem, *, key: Key | None = None) -> State:
        """The state before the first step. A problem that cannot be solved has ended."""
        del key
        variables, memory = self.method.init(problem.fit, problem.weights)
        domain = problem.fit.likelihood.operator.domain
        solvable = problem.result == RESULTS.successful
        return State(
            variables=variables,
            optimiser=init_optimiser(self._optimiser(problem), variables),
            memory=memory,
            monitor=problem.monitor.init(domain, self.num_steps),
            ended=~solvable,
            code=RESULTS.where(solvable, RESULTS.max_steps_reached, problem.result),
            num_done=jnp.int32(0),
            last=jnp.zeros(domain.shape, domain.dtype),
        )

    def step(
        self, problem: RunProblem, state: State, index: Array, *, key: Key | None = None
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        """One step; or, where the steps are over, an evaluation of the network with its last weights."""
        assert key is not None
        z = _jittered(problem, state.ended, key=key)
        loss = lambda v: self.method.loss(problem.fit, v, state.memory, z, key=key)
        (value, evaluation), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables)
        variables, optimiser, _ = step_optimiser(
            self._optimiser(problem), lambda v: loss(v)[0], value, gradient, state.optimiser, state.variables
        )
        stepped = (variables, optimiser, self.method.step(problem.fit, state.memory, evaluation.image, index))
        monitor, stop, diverged = problem.monitor.step(state.monitor, evaluation, index)

        # A run that nothing has stopped still has to monitor the image after its last step.
        monitored = state.code == RESULTS.max_steps_reached
        finite = _loop.all_finite((evaluation.image, monitor)) & (state.ended | _loop.all_finite(stepped))
        select = lambda which, new, old: jax.tree.map(lambda n, o: jnp.where(which, n, o), new, old)
        variables, optimiser, memory = select(~state.ended & finite, stepped, state[:3])
        complete = state.ended & self.stopping.expects_all_steps
        code = RESULTS.where(stop | complete, RESULTS.successful, RESULTS.max_steps_reached)
        code = RESULTS.where(diverged, RESULTS.diverged, code)
        code = RESULTS.where(finite, code, RESULTS.nonfinite)
        new = State(
            variables=variables,
            optimiser=optimiser,
            memory=memory,
            monitor=select(monitored & finite, monitor, state.monitor),
            ended=state.ended | stop | diverged | ~finite | (index + 1 >= self.num_steps),
            code=RESULTS.where(monitored, code, state.code),
            num_done=jnp.where(state.ended, state.num_done, state.num_done + 1),
            last=jnp.where(
                state.ended & jnp.isfinite(evaluation.image), evaluation.image, jnp.zeros_like(evaluation.image)
            ),
        )
        pause = ~new.ended & (new.num_done % self.pause_every == 0)
        return new, state.ended | pause, RESULTS.successful

    def finish(self, problem: RunProblem, state: State, *, key: Key | None = None) -> tuple[Array, Stats]:
        """The image that is kept, and the statistics of `dip.reconstruct`."""
        del key
        monitor, code = state.monitor, state.code
        failed = (code == RESULTS.nonfinite) | (code == RESULTS.diverged)
        kept = jax.tree.map(lambda low, best: jnp.where(failed, low, best), monitor.lowest, monitor.best)
        if problem.fit.constraint is not None:
            # An average of images at a bound can be beyond it by rounding.
            kept = kept._replace(image=problem.fit.constraint.prox(kept.image, 1.0))
        value = jnp.where(problem.result == RESULTS.successful, kept.image, jnp.zeros_like(kept.image))
        objective = problem.fit.fit(value) + problem.fit.penalty(value)
        history = problem.monitor.history(monitor)
        return value, {"num_steps": state.num_done, "objective": objective, "step": kept.step, "history": history}

    def _optimiser(self, problem: RunProblem) -> optax.GradientTransformation:
        # Built inside the trace, so that another learning rate does not compile again.
        return optax.adam(problem.learning_rate) if self.optimiser is None else self.optimiser


def prepare_run(
    likelihood: Likelihood,
    network: Network,
    y: Measurement,
    *,
    key: Key,
    num_steps: Any,
    method: Any,
    regulariser: Any,
    weight: Scalar,
    optimiser: Any,
    learning_rate: Scalar,
    start: Any,
    stopping: Any,
    jitter: Scalar,
    ema: Scalar,
    constraint: Any,
    frozen: Any,
    reference: Any,
    stride: Any,
    weight_by_noise: Any = None,
    pause_every: int | None = None,
) -> tuple[Run, RunProblem]:
    """The run with the options of `reconstruct`, once these are checked, and its problem."""
    check_key(key)
    num_steps, stride = check_count(num_steps, "num_steps"), check_count(stride, "stride")
    optimiser = check_optimiser(optimiser)
    method = check_instance(method, AbstractMethod, "method", Plain())
    start = check_instance(start, AbstractStart, "start", FromNoise())
    stopping = check_instance(stopping, AbstractStopping, "stopping", FixedSteps())
    if stopping.hides_measurements and start.uses_measurements:
        raise ValueError(
            f"`{type(stopping).__name__}()` compares images by measurements on which the network must not depend; "
            f"{type(start).__name__}() makes its input of all of them. Take `FromNoise()`, or another rule."
        )
    frozen = frozen if isinstance(frozen, str) else tuple(frozen)
    run = Run(method, start, stopping, optimiser, num_steps, stride, frozen, pause_every or num_steps)
    problem, _ = run.prepare(
        likelihood,
        network,
        y,
        key=key,
        regulariser=regulariser,
        weight=weight,
        learning_rate=learning_rate,
        jitter=jitter,
        ema=ema,
        constraint=constraint,
        reference=reference,
        weight_by_noise=weight_by_noise,
    )
    return run, problem


def advance(
    run: Run,
    problem: RunProblem,
    state: State,
    *,
    key: Key,
    first: Array | int = 0,
    differentiate: Unrolled | Implicit | None = None,
    progress: ProgressMeter | None = None,
) -> State:
    """The state after `run.pause_every` more steps, or at the end of the run; `key` is that of `reconstruct`."""
    state, _, _ = _loop.run(
        run,
        problem,
        state,
        key=jax.random.fold_in(key, 2),
        max_steps=run.pause_every + 1,
        first=first,
        differentiate=differentiate,
        progress=progress,
    )
    return state


def solution(run: Run, problem: RunProblem, state: State) -> Solution:
    """The solution at the end of a run."""
    value, stats = run.finish(problem, state)
    weights, z0 = run.method.finish(problem.fit, state.variables)
    aux = {"network": restored(problem.fit.merge(weights)), "input": z0, "last": state.last}
    return Solution(value, state.code, stats, aux)


def _jittered(problem: RunProblem, still: Array, *, key: Key) -> Array:
    """The input of one step, with noise; without, where it is `still`."""
    z0, jitter = problem.fit.z0, problem.jitter
    # A draw of the size of an image costs as much as a layer of a thin network.
    add_noise = lambda: z0 + jitter * jax.random.normal(key, z0.shape, z0.dtype)
    noisy = jax.lax.cond(jitter > 0, add_noise, lambda: z0 + jitter)
    return jnp.where(still, z0, noisy)


def _typical_std(likelihood: Likelihood, y: Measurement) -> Array:
    """The root of the mean variance of the measured entries; 1 where nothing is measured."""
    operator = likelihood.operator
    _, stds = likelihood.noise.linearise(y)
    full = jax.tree.map(lambda m, s: jnp.broadcast_to(m, s.shape) > 0, operator.measured, stds)
    square = sum(jnp.sum(jnp.where(m, s, 0) ** 2) for m, s in zip(*map(jax.tree.leaves, (full, stds)), strict=True))
    count = sum(jnp.sum(m) for m in jax.tree.leaves(full))
    mean = square / jnp.maximum(count, 1)
    return jnp.sqrt(jnp.where(mean > 0, mean, 1)).astype(domain_dtype(operator))


def _prepare_regulariser(regulariser: Any, weight: Array) -> AbstractRegulariser | None:
    if regulariser is None:
        return None
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`regulariser` must be one of `jaxinv.regularisers`, such as TV(); got {type(regulariser).__name__}."
        )
    return _cast(regulariser, weight)


def _cast(regulariser: AbstractRegulariser, weight: Array) -> AbstractRegulariser:
    """The regulariser in the dtype of its weight."""
    is_real = lambda leaf: eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda leaf: leaf.astype(weight.dtype) if is_real(leaf) else leaf, regulariser)


def _check_reference(reference: Any, operator: AbstractOperator) -> Array | None:
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
