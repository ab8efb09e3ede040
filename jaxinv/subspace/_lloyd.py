"""Lloyd's algorithm, in bounded memory, a method of the grammar; `kmeans` runs it from several starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._arrays import HIGHEST
from .._method import AbstractMethod
from .._solution import RESULTS
from .._types import Checked, Key

# The largest number of entries of a temporary array of one chunk of points.
_CHUNK_ENTRIES = 2**22


class Cloud(eqx.Module):
    """Points in chunks of equal size, with padding in the last one.

    - `points`: the points, `(chunks, size, d)`; `exists`: 1 for a point and 0 for padding, `(chunks, size)`.
    """

    points: Array
    exists: Array

    @staticmethod
    def of(points: Float[Array, "n d"], k: int, lanes: int) -> "Cloud":
        """A cloud whose chunks bound the memory of `lanes` simultaneous runs with `k` centres."""
        n, d = points.shape
        size = min(n, max(1, _CHUNK_ENTRIES // (lanes * (k + d))))
        chunks = -(-n // size)
        size = -(-n // chunks)
        padding = chunks * size - n
        exists = jnp.pad(jnp.ones_like(points[:, 0]), (0, padding))
        points = jnp.pad(points, ((0, padding), (0, 0)))
        return Cloud(points.reshape(chunks, size, d), exists.reshape(chunks, size))

    @property
    def flat(self) -> tuple[Float[Array, "m d"], Float[Array, " m"]]:
        """Points and existence without the axis of the chunks."""
        return self.points.reshape(-1, self.points.shape[2]), self.exists.reshape(-1)

    def map(self, function: Checked[Callable[..., Any]], labels: Int[Array, "chunks size"]) -> Any:
        """Apply `function(points, exists, labels)` to every chunk, one after the other."""
        arguments = (self.points, self.exists, labels)
        if self.points.shape[0] == 1:
            return jax.tree.map(lambda leaf: leaf[None], function(*(leaf[0] for leaf in arguments)))
        return jax.lax.map(lambda chunk: function(*chunk), arguments)


def nearest(points: Float[Array, "m d"], labels: Int[Array, " m"], centres: Float[Array, "k d"]) -> Int[Array, " m"]:
    """The number of the nearest centre of each point; `labels` is a guess of it, whose quality decides the rounding.

    With `r = x - c_l` for the guess `l`: `||x - c_j||^2 - ||r||^2 = ||c_j - c_l||^2 - 2 <r, c_j - c_l>`, a matrix
    product whose rounding is relative to `||r||`; that of the expanded square is relative to the distance from the
    origin.
    """
    chosen = jax.nn.one_hot(labels, centres.shape[0], dtype=points.dtype)
    residual = points - jnp.matmul(chosen, centres, precision=HIGHEST)
    gaps = jnp.sum((centres[:, None] - centres[None]) ** 2, axis=2)
    about = centres - jnp.mean(centres, axis=0, keepdims=True)
    products = jnp.matmul(residual, about.T, precision=HIGHEST)
    return jnp.argmin(jnp.matmul(chosen, gaps, precision=HIGHEST) - 2 * products, axis=1).astype(jnp.int32)


def residuals(
    points: Float[Array, "m d"], labels: Int[Array, " m"], centres: Float[Array, "k d"]
) -> tuple[Float[Array, "m d"], Float[Array, "m k"]]:
    """The differences of points and their centres, and the one-hot matrix of the labels."""
    chosen = jax.nn.one_hot(labels, centres.shape[0], dtype=points.dtype)
    return points - jnp.matmul(chosen, centres, precision=HIGHEST), chosen


class Clustering(NamedTuple):
    """The state of Lloyd's algorithm: the label of each point of a `Cloud`, `(chunks, size)`, and the centres."""

    labels: Array
    centres: Array


class Problem(NamedTuple):
    """The points, and the initial centres, `(k, d)`."""

    cloud: Cloud
    start: Array


class Lloyd(AbstractMethod[Problem, Clustering]):
    """Lloyd's algorithm. A step never increases the sum of squared distances from the centres."""

    def prepare(self, cloud: Cloud, start: Float[Array, "k d"]) -> tuple[Problem, RESULTS]:
        return Problem(cloud, start), RESULTS.successful

    def init(self, problem: Problem, *, key: Key | None = None) -> Clustering:
        del key
        return Clustering(jnp.zeros(problem.cloud.exists.shape, jnp.int32), problem.start)

    def step(
        self, problem: Problem, state: Clustering, index: Array, *, key: Key | None = None
    ) -> tuple[Clustering, Bool[Array, ""], RESULTS]:
        """Assign every point to its nearest centre, fill empty clusters, and move the centres to the means."""
        del index, key
        labels, centres = state
        k = centres.shape[0]

        def assign(points, exists, old):
            new = nearest(points, old, centres)
            residual, chosen = residuals(points, new, centres)
            chosen = chosen * exists[:, None]
            square = exists * jnp.sum(residual**2, axis=1)
            return new, square, jnp.matmul(chosen.T, residual, precision=HIGHEST), jnp.sum(chosen, axis=0)

        new, square, sums, counts = problem.cloud.map(assign, labels)
        sums, counts = jnp.sum(sums, axis=0), jnp.sum(counts, axis=0)

        # Each empty cluster gets one point, the farthest first, which lowers the objective by its squared distance. The
        # only point of a cluster, and a point on its centre, stay.
        flat, square = new.reshape(-1), square.reshape(-1)
        points, _ = problem.cloud.flat
        distance, farthest = jax.lax.top_k(jnp.where(counts[flat] > 1, square, 0), min(k, flat.shape[0]))
        empty = counts == 0
        order = jnp.clip(jnp.cumsum(empty) - 1, 0, distance.shape[0] - 1)
        filled = empty & (distance[order] > 0)
        moved = farthest[order]
        donors = jnp.where(filled, flat[moved], k)
        position = points[moved]
        removed = jnp.where(filled[:, None], position - centres[flat[moved]], 0)
        flat = flat.at[jnp.where(filled, moved, flat.shape[0])].set(jnp.arange(k, dtype=flat.dtype), mode="drop")
        sums = sums.at[donors].add(-removed, mode="drop")
        counts = jnp.where(filled, 1, counts.at[donors].add(-1, mode="drop"))
        # Means from sums of residuals keep their digits far from the origin.
        means = centres + sums / jnp.maximum(counts, 1)[:, None]
        centres = jnp.where(filled[:, None], position, means)
        new = flat.reshape(labels.shape)
        exhausted = jnp.any(counts == 0)
        code = RESULTS.where(exhausted, RESULTS.breakdown, RESULTS.successful)
        return Clustering(new, centres), jnp.all(new == labels), code

    def finish(
        self, problem: Problem, state: Clustering, *, key: Key | None = None
    ) -> tuple[Clustering, dict[str, Array]]:
        """The clustering, with its sum of squared distances as `inertia`."""
        del key

        def square(points, exists, labels):
            return jnp.sum(exists * jnp.sum(residuals(points, labels, state.centres)[0] ** 2, axis=1))

        return state, {"inertia": jnp.sum(problem.cloud.map(square, state.labels))}
