"""The initial centres of k-means: drawn by k-means++ or given."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_count
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key
from ..requirements import Parametric, Requirement, finite


class AbstractSeeding(Parametric):
    """The centres that the restarts of k-means begin with."""

    @abc.abstractmethod
    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        """The initial centres of all restarts.

        **Arguments:**

        - `points`: the points, `(m, d)`.
        - `exists`: 1 for data and 0 for padding, `(m,)`.
        - `k`: the number of centres, static.
        - `shape`: the shape of one image.
        - `restarts`: the number of restarts, static.
        - `key`: a typed key; the centres of restart `i` depend on the key and `i`, and not on `restarts`.

        **Returns:** the centres, `(restarts, k, d)`.
        """


class PlusPlus(AbstractSeeding):
    """k-means++: draw each further centre from the points, with probabilities proportional to the squared distance from
    the nearest centre so far.

    **Reference:** Arthur, Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """

    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        del shape
        draw = lambda i: _plus_plus(points, exists, k, 1, jax.random.fold_in(key, i))
        return jax.vmap(draw)(jnp.arange(restarts))


class Greedy(AbstractSeeding):
    """k-means++ with several candidates for each centre, of which it keeps the one that lowers the objective most.

    - `candidates`: the number of candidates for each centre, static; by default `2 + floor(log(k))`.

    **Reference:** Arthur, Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """

    candidates: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.candidates is not None:
            check_count(self.candidates, "candidates")

    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        del shape
        candidates = 2 + int(math.log(k)) if self.candidates is None else self.candidates
        draw = lambda i: _plus_plus(points, exists, k, candidates, jax.random.fold_in(key, i))
        return jax.vmap(draw)(jnp.arange(restarts))


class From(AbstractSeeding):
    """Given centres.

    - `initial`: the centres, `(k, ...)` for all restarts or `(restarts, k, ...)`.
    """

    initial: Array = eqx.field(converter=jnp.asarray)

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("initial", self.initial, "`From(centres)`: the centres must be finite"),)

    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        del exists, key
        initial = self.initial[None] if self.initial.shape == (k, *shape) else self.initial
        if initial.shape != (restarts, k, *shape) and initial.shape != (1, k, *shape):
            raise ValueError(
                f"`From(centres)`: the centres have shape {self.initial.shape}; k={k} of images of shape {shape} have "
                f"{(k, *shape)}, and with restarts={restarts} it may also be {(restarts, k, *shape)}."
            )
        initial = initial.reshape(*initial.shape[:2], -1).astype(points.dtype)
        return jnp.broadcast_to(initial, (restarts, k, points.shape[1]))


class _Cloud(eqx.Module):
    points: Array
    exists: Array
    key: Key
    candidates: int = eqx.field(static=True)
    k: int = eqx.field(static=True)


def _plus_plus(points: Array, exists: Array, k: int, candidates: int, key: Key) -> Float[Array, "k d"]:
    cloud = _Cloud(points, exists, key, candidates, k)
    first = points[_draw(exists, jax.random.fold_in(key, 0), 1)[0]]
    centres = jnp.zeros((k, points.shape[1]), points.dtype).at[0].set(first)
    if k == 1:
        return centres
    state = (centres, exists * _square_distances(points, first[None])[0])
    return iterate(_add_centre, state, cloud, max_steps=k - 1)[0][0]


def _add_centre(index: Array, state: Any, cloud: _Cloud) -> Any:
    centres, square = state
    drawn = cloud.points[_draw(square, jax.random.fold_in(cloud.key, index + 1), cloud.candidates)]
    # Use differences, not the expanded square, so that a point that is a centre already keeps the probability 0.
    nearest = jnp.minimum(square[None], _square_distances(cloud.points, drawn) * cloud.exists[None])
    best = jnp.argmin(jnp.sum(nearest, axis=1))
    return (centres.at[index + 1].set(drawn[best]), nearest[best]), index == cloud.k - 2, RESULTS.successful


def _square_distances(points: Array, centres: Array) -> Float[Array, "c m"]:
    return jnp.sum((points[None] - centres[:, None]) ** 2, axis=2)


def _draw(mass: Array, key: Key, count: int) -> Array:
    """Draw indices with probabilities proportional to `mass`; an index without mass appears only if all have none."""
    ladder = jnp.cumsum(mass)
    heights = jax.random.uniform(key, (count,), mass.dtype) * ladder[-1]
    # Rounding may lift a height to the total mass, beyond the last index.
    return jnp.minimum(jnp.searchsorted(ladder, heights, side="right"), jax.lax.argmax(ladder, 0, jnp.int32))
