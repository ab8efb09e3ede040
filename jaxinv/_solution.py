"""The return value of every reconstruction, and its result codes."""

import abc
import functools
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._module import Module, Text
from ._types import PyTree, Stats


class RESULTS(eqx.Enumeration):
    """The result codes of one problem. Indexing gives the sentence: `RESULTS[solution.result]`."""

    successful = "The solve succeeded."
    max_steps_reached = (
        "The solve used all of `max_steps` without meeting its tolerances; the last iterate is returned. "
        "Raise `max_steps`, or loosen `rtol` and `atol`."
    )
    nonfinite_measurement = (
        "The measurement, or the image that a verb takes in its place, holds NaN or infinity where it is measured; "
        "nothing was solved."
    )
    invalid_parameter = (
        "A parameter (a noise level, a weight, a time, an option of the method) is out of its range, or not finite; "
        "nothing was solved."
    )
    nonfinite = "An iterate became NaN or infinite; the last finite one is returned. Try a smaller step size."
    diverged = "The objective grew beyond all bounds; the last finite iterate is returned. Try a smaller step size."
    breakdown = (
        "A quantity that must be positive was not (the curvature of a quadratic, say), in the arithmetic used; "
        "the last good iterate is returned. Try float64, or a larger `weight`."
    )
    weight_collapse = "The particle weights collapsed onto too few particles; the samples are not to be trusted."
    implausible = (
        "The samples are much further from the measurement, or much closer to it, than its noise allows; they are not "
        "those of the posterior. Check the noise level and the score, or try another method."
    )


_NAMES = (
    "successful",
    "max_steps_reached",
    "nonfinite_measurement",
    "invalid_parameter",
    "nonfinite",
    "diverged",
    "breakdown",
    "weight_collapse",
    "implausible",
)


def reject(result: RESULTS, good: Array | bool) -> RESULTS:
    """The code of a problem: `invalid_parameter` where its parameters are not good and nothing worse is known.

    **Arguments:**

    - `result`: the code so far.
    - `good`: what `requirements.valid` says of everything that the problem is made of.
    """
    return RESULTS.where(jnp.asarray(good) | (result != RESULTS.successful), result, RESULTS.invalid_parameter)


def settle(outcome: Any, good: Array | bool) -> Any:
    """What a verb returns, given whether the parameters of the problem are good.

    An outcome with a code gets its last guard, by its method `settled`. An array has no code, and becomes NaN where the
    parameters are not good. Anything else stays as it is.
    """
    if isinstance(outcome, AbstractOutcome):
        return outcome.settled(good)
    if good is True or not eqx.is_inexact_array(outcome):
        return outcome
    return jnp.where(good, outcome, jnp.nan)


def _guarded(value: PyTree[Array], result: Any, good: Array | bool) -> tuple[PyTree[Array], Any]:
    """The value and the code of `Solution.settled`, of one problem or of several samples."""
    if jnp.ndim(result == RESULTS.successful) > 0:
        return jax.vmap(lambda value, result: _guarded(value, result, good))(value, result)
    inexact = [leaf for leaf in jax.tree.leaves(value) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in inexact], jnp.ones((), bool))
    result = RESULTS.where(finite | (result != RESULTS.successful), result, RESULTS.nonfinite)
    result = RESULTS.where(good | (result == RESULTS.nonfinite_measurement), result, RESULTS.invalid_parameter)
    return jax.tree.map(lambda leaf: jnp.where(finite & good, leaf, jnp.zeros_like(leaf)), value), result


def or_nan(solution: Any, *enough: RESULTS) -> Array:
    """The value of a solution, NaN where it failed, so that whatever starts from it reports the failure.

    **Arguments:**

    - `solution`: a `Solution` whose value is one array.
    - `enough`: codes that count as success.
    """
    found = functools.reduce(
        lambda ok, code: ok | (solution.result == code), enough, solution.result == RESULTS.successful
    )
    return jnp.where(found, solution.value, jnp.nan)


def from_diffrax(result: diffrax.RESULTS) -> RESULTS:
    """Translate a diffrax result code."""
    codes = diffrax.RESULTS
    ours = RESULTS.where(result == codes.successful, RESULTS.successful, RESULTS.breakdown)
    ours = RESULTS.where(result == codes.max_steps_reached, RESULTS.max_steps_reached, ours)
    return RESULTS.where(result == codes.dt_min_reached, RESULTS.diverged, ours)


class AbstractOutcome(Module):
    """What a verb returns together with a code: a solution, or the result of a decomposition."""

    @abc.abstractmethod
    def settled(self, good: Array | bool) -> "AbstractOutcome":
        """This outcome with its last guard.

        **Arguments:**

        - `good`: whether all parameters of the problem are in their range.

        **Returns:** an outcome of this class, which is finite, and has a code where it is not to be trusted.
        """


class Solution(AbstractOutcome):
    """The reconstruction of one problem, or of a batch under `jax.vmap`.

    - `value`: the image, `(h, w, c)`, or the samples, `(num_samples, h, w, c)`.
    - `result`: one of `RESULTS` for each problem. A failed problem keeps its last finite iterate, or zeros.
    - `stats`: a dict of arrays, with `num_steps` and `objective` if the method has them.
    - `aux`: further results of the method, which its docstring describes, or `None`.
    """

    value: PyTree[Array]
    result: RESULTS
    stats: Stats
    aux: PyTree = None

    def check(self) -> "Solution":
        """Return this solution if every problem in it succeeded.

        **Raises:** `RuntimeError` that names the failed problems of the batch and the reasons. Call it on the host:
        inside `jax.jit` it raises a `ValueError`.

        !!! example
            ```python
            import jax, jaxinv
            operator = jaxinv.operators.Identity((8, 8, 1))
            likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
            y = jax.numpy.ones((8, 8, 1))
            image = jaxinv.classical.tikhonov(likelihood, y, weight=1.0).check().value
            ```
        """
        if isinstance(self.result == RESULTS.successful, jax.core.Tracer):
            raise ValueError(
                "`Solution.check()` looks at values and cannot run inside `jax.jit` or `jax.vmap`; call it on what "
                "the compiled function returns."
            )
        complaints = []
        for name in _NAMES[1:]:
            item = getattr(RESULTS, name)
            failed = np.asarray(self.result == item)
            if failed.any():
                lanes = "" if failed.ndim == 0 else f"problem(s) {_lanes(failed)} of {failed.shape}: "
                complaints.append(f"{lanes}{name}: {RESULTS[item]}")
        if complaints:
            raise RuntimeError("\n".join(complaints))
        return self

    def settled(self, good: Array | bool) -> "Solution":
        """This solution with its last guard.

        **Arguments:**

        - `good`: whether all parameters of the problem are in their range.

        **Returns:** a `Solution`. Where the parameters are not good, its code is `invalid_parameter` and its value 0.
        A value that is not finite becomes 0, with the code `nonfinite` unless it has another.
        """
        value, result = _guarded(self.value, self.result, good)
        return Solution(value, result, self.stats, self.aux)

    def lane(self, index: int | tuple[int, ...]) -> "Solution":
        """The solution of one problem of a batch.

        **Arguments:**

        - `index`: the number of the problem, or a tuple of numbers for nested batches.

        **Returns:** a `Solution`.

        **Raises:** `ValueError` if this is the solution of one problem, or the batch has no such number.
        """
        if jnp.ndim(self.result == RESULTS.successful) == 0:
            raise ValueError(
                "This is the solution of one problem, so it has no lanes; `lane` is for what `jax.vmap` returns."
            )
        lanes = jnp.shape(self.result == RESULTS.successful)
        position = index if isinstance(index, tuple) else (index,)
        if len(position) > len(lanes) or any(not -n <= i < n for i, n in zip(position, lanes, strict=False)):
            raise ValueError(f"The batch has {lanes} problems; there is no number {index}.")
        return jax.tree.map(lambda leaf: leaf[index], self)

    def _is_printed_whole(self, node: Any) -> bool:
        return isinstance(node, type(RESULTS.successful))

    def _printed(self, leaf: Any) -> Any:
        if not self._is_printed_whole(leaf) or isinstance(leaf == RESULTS.successful, jax.core.Tracer):
            return super()._printed(leaf)
        counts = {name: int(np.sum(np.asarray(leaf == getattr(RESULTS, name)))) for name in _NAMES}
        found = {name: count for name, count in counts.items() if count}
        if jnp.ndim(leaf == RESULTS.successful) == 0:
            return Text(next(iter(found)))
        return Text(", ".join(f"{count} x {name}" for name, count in found.items()))


def _lanes(failed: np.ndarray, most: int = 10) -> str:
    indices = np.argwhere(failed)
    shown = [int(i[0]) if len(i) == 1 else tuple(int(j) for j in i) for i in indices[:most]]
    more = "" if len(indices) <= most else f" and {len(indices) - most} more"
    return ", ".join(map(str, shown)) + more
