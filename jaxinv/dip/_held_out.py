"""Stopping by measurements that are not fitted."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._solution import RESULTS
from .._types import Key, State, Struct
from ..likelihood import Likelihood, domain_dtype, prepare_parameter
from ..operators._base import AbstractLinearOperator, AbstractOperator, as_parameter, is_concrete
from ._stopping import AbstractStopping


class HeldOut(AbstractStopping):
    """Fit without a part of the measurement, and keep the image that predicts this part best.

    Every measured entry is held out with probability `fraction`, one at least. The figure is `-log p` of these entries,
    per entry. Where none is left to fit the result is `invalid_parameter`. The input of the network must not know them:
    start from noise.

    - `fraction`: between 0 and 1.
    - `patience`: static; stop so many steps after the last best image.

    **Reference:** Yaman, Hosseini, Akcakaya, Zero-shot self-supervised learning for MRI reconstruction, 2022.
    """

    fraction: Array = eqx.field(default=0.1, converter=as_parameter)
    patience: Any = eqx.field(default=1000, static=True)
    problem: tuple[Likelihood, State, Array] | None = None
    name: ClassVar[str | None] = "held_out"
    settles: ClassVar[bool] = False

    def __check_init__(self):
        check_count(self.patience, "patience")
        if is_concrete(self.fraction) and not (self.fraction.shape == () and bool(0 < self.fraction < 1)):
            raise ValueError(f"`fraction` must be between 0 and 1; got {self.fraction}.")

    def enter(self, likelihood: Likelihood, y: State, result: Any, *, key: Key) -> tuple["HeldOut", Likelihood, Any]:
        operator = likelihood.operator
        fraction, result = prepare_parameter(self.fraction, operator, result, positive=True, name="fraction")
        result = RESULTS.where((result == RESULTS.successful) & ~(fraction < 1), RESULTS.invalid_parameter, result)
        held, fitted = _cut(operator.measured, operator.codomain, fraction, key)
        count = sum(jnp.sum(leaf > 0) for leaf in jax.tree.leaves(held))
        rest = sum(jnp.sum(leaf > 0) for leaf in jax.tree.leaves(fitted))
        result = RESULTS.where(
            (result == RESULTS.successful) & ((count == 0) | (rest == 0)), RESULTS.invalid_parameter, result
        )
        judge = Likelihood(Restricted(operator, held), likelihood.noise)
        problem = (judge, y, jnp.maximum(count, 1).astype(domain_dtype(operator)))
        return (
            HeldOut(fraction, self.patience, problem),
            Likelihood(Restricted(operator, fitted), likelihood.noise),
            result,
        )

    def memory(self, like: jax.ShapeDtypeStruct) -> None:
        del like

    def figure(self, memory: None, image: Array) -> tuple[None, Array]:
        assert self.problem is not None
        judge, y, count = self.problem
        return None, judge.negative_log_likelihood(image, y) / count

    def stops(self, figure: Array, since: Array) -> Array:
        del figure
        return since >= self.patience


class Restricted(AbstractOperator):
    """An operator of whose measurements only a part counts."""

    operator: AbstractOperator
    part: PyTree[Array]

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return self.operator.codomain

    @property
    def measured(self) -> PyTree[Array]:
        return self.part

    def __call__(self, x: State) -> State:
        return self.operator(x)

    def linearise(self, x: State) -> AbstractLinearOperator:
        return self.operator.linearise(x)


def _cut(measured: PyTree[Array], codomain: Struct, fraction: Array, key: Key) -> tuple[PyTree, PyTree]:
    """The weights of the entries that are held out, at least one, and of the others."""
    leaves, treedef = jax.tree.flatten(measured)
    whole = [jnp.broadcast_to(leaf, c.shape) for leaf, c in zip(leaves, jax.tree.leaves(codomain), strict=True)]
    draws = [jax.random.uniform(jax.random.fold_in(key, i), w.shape, fraction.dtype) for i, w in enumerate(whole)]
    draws = [jnp.where(w > 0, u, 1) for w, u in zip(whole, draws, strict=True)]
    bound = jnp.maximum(fraction, jnp.min(jnp.stack([jnp.min(u) for u in draws])))
    held = [jnp.where(u <= bound, w, 0) for w, u in zip(whole, draws, strict=True)]
    fitted = [jnp.where(u <= bound, 0, w) for w, u in zip(whole, draws, strict=True)]
    return treedef.unflatten(held), treedef.unflatten(fitted)
