"""Where k-means starts."""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_count, is_concrete
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key


class AbstractSeeding(eqx.Module):
    """The centres that the restarts of k-means begin with."""

    @abc.abstractmethod
    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        """`(restarts, k, d)` for points `(m, d)`, of which those with `exists > 0` are data; one image has `shape`.

        Those of restart `i` depend on the key and `i`, not on `restarts`.
        """


class PlusPlus(AbstractSeeding):
    """k-means++: each further centre is a point drawn with probability proportional to its squared distance from those
    that there are.

    **Reference:** Arthur, Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """

    def centres(
        self, points: Array, exists: Array, k: int, shape: tuple[int, ...], restarts: int, *, key: Key
    ) -> Array:
        del shape
        draw = lambda i: _plus_plus(points, exists, k, 1, jax.random.fold_in(key, i))
        return jax.vmap(draw)(jnp.arange(restarts))


class Greedy(AbstractSeeding):
    """k-means++ with several draws for each centre, of which the one that lowers the objective most is taken.

    - `candidates`: draws for each centre, static; default `2 + floor(log(k))`.

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

    - `initial`: `(k, ...)`, or `(restarts, k, ...)`.
    """

    initial: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if is_concrete(self.initial) and not bool(jnp.all(jnp.isfinite(self.initial))):
            raise ValueError("`From(centres)`: the centres must be finite.")

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
    # Differences, not the expanded square: a point that is a centre already must keep the probability 0.
    nearest = jnp.minimum(square[None], _square_distances(cloud.points, drawn) * cloud.exists[None])
    best = jnp.argmin(jnp.sum(nearest, axis=1))
    return (centres.at[index + 1].set(drawn[best]), nearest[best]), index == cloud.k - 2, RESULTS.successful


def _square_distances(points: Array, centres: Array) -> Float[Array, "c m"]:
    return jnp.sum((points[None] - centres[:, None]) ** 2, axis=2)


def _draw(mass: Array, key: Key, count: int) -> Array:
    """Indices drawn with probabilities proportional to `mass`; never one without mass, but where there is none."""
    ladder = jnp.cumsum(mass)
    heights = jax.random.uniform(key, (count,), mass.dtype) * ladder[-1]
    # Rounding may lift a height to the top of the ladder, past the last rung.
    return jnp.minimum(jnp.searchsorted(ladder, heights, side="right"), jnp.argmax(ladder))
