"""k-means clustering, by the algorithm of `_lloyd.py` from the centres of `_seeding.py`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import as_array, check_count, check_floating, check_key, common_dtype, is_concrete
from .._checks import check_examples, checked
from .._jit import compiled_method
from .._loop import run
from .._module import Module
from .._solution import RESULTS, reject
from .._types import ArrayLike, Checked, Key
from ..requirements import valid
from ._lloyd import Cloud, Lloyd, nearest
from ._seeding import AbstractSeeding, Greedy


class KMeans(Module):
    """A clustering of images about `k` centres.

    - `centres`: the means of the clusters, `(k, h, w, c)`.
    - `labels`: the number of each image's cluster, `(n,)`.
    - `inertia`: `sum_i ||x_i - centre of its cluster||^2`, also called `within`.
    - `between`: `sum_j n_j ||centre_j - mean||^2`; `total`: `sum_i ||x_i - mean||^2 = within + between`.
    - `inertias`: the inertia of each restart.
    - `result`: one of `RESULTS`; `num_steps`: the number of steps.
    """

    centres: Array
    labels: Array
    inertia: Array
    between: Array | None = None
    total: Array | None = None
    inertias: Array | None = None
    result: RESULTS | None = None
    num_steps: Array | None = None

    @property
    def within(self) -> Array:
        """Another name of `inertia`."""
        return self.inertia

    @compiled_method
    def assign(self, x: ArrayLike) -> Array:
        """The number of the nearest centre of an image, a scalar, or of each image of a batch `(n, ...)`, `(n,)`.

        **Raises:** `ValueError` for another shape, or a dtype that is not floating.
        """
        x, shape, k = check_floating(as_array(x), "an image", "KMeans"), self.centres.shape[1:], len(self.centres)
        if x.shape != shape and x.shape[1:] != shape:
            advice = "Add the channel axis: `x[..., None]`." if (*x.shape, 1) == shape else "Check the sizes."
            raise ValueError(f"KMeans takes an image of shape {shape}, or a batch of them; got {x.shape}. {advice}")
        centres = self.centres.reshape(k, -1).astype(common_dtype(x, self.centres))
        cloud = Cloud.of(x.astype(centres.dtype).reshape(-1, math.prod(shape)), k, 1)

        def choose(points, exists, labels):
            del exists
            # The second call is relative to the right centre, so that the rounding is small.
            return nearest(points, nearest(points, labels, centres), centres)

        labels = cloud.map(choose, jnp.zeros(cloud.exists.shape, jnp.int32)).reshape(-1)
        return labels[0] if x.shape == shape else labels[: x.shape[0]]


@checked()
def kmeans(
    data: ArrayLike,
    k: int,
    *,
    key: Key,
    restarts: int = 1,
    start: Checked[AbstractSeeding | None] = None,
    max_steps: int = 300,
) -> KMeans:
    """Cluster images about `k` centres: minimise `sum_i min_j ||x_i - c_j||^2`, by Lloyd's algorithm.

    Each step assigns every image to its nearest centre and moves every centre to the mean of its images, until no image
    changes its cluster. The objective never increases. A cluster that loses all its images gets the image that is
    farthest from its centre. `kmeans` works under `jax.jit` and `jax.vmap`; the restarts are one batch, in chunks of
    images of bounded memory.

    **Arguments:**

    - `data`: the images, `(n, ...)`, of a real floating dtype.
    - `k`: the number of clusters, static, at most the number of distinct images.
    - `key`: a typed key; restart `i` draws from `fold_in(key, i)`.
    - `restarts`: the number of restarts, static; `kmeans` returns the one with the lowest objective.
    - `start`: the initial centres: `Greedy()` (the default), `PlusPlus()`, or `From(centres)`.
    - `max_steps`: the largest number of steps, static.

    **Returns:** a `KMeans`, with `assign`. Inside a trace, data that are not finite give zeros and the code
    `nonfinite_measurement`, and fewer distinct images than clusters leave some empty, with the code `breakdown`.

    **Raises:** `ValueError` for data that are empty or not finite (naming the first such example), and for a `k` larger
    than the number of distinct images.

    **Reference:** Lloyd, Least squares quantization in PCM, 1982; Arthur, Vassilvitskii, k-means++: the advantages of
    careful seeding, 2007.

    !!! example
        ```python
        import jax, jaxinv
        images = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
        images = images.at[:50].add(5.0)
        clusters = jaxinv.subspace.kmeans(images, 2, key=jax.random.key(1), restarts=4)
        assert clusters.assign(images[0]) == clusters.labels[0]
        ```
    """
    check_key(key)
    data, k, restarts = check_examples(data, "kmeans"), check_count(k, "k"), check_count(restarts, "restarts")
    start = Greedy() if start is None else start
    if not isinstance(start, AbstractSeeding):
        raise ValueError(f"`start` must be `Greedy()`, `PlusPlus()` or `From(centres)` of `subspace`; got {start!r}.")
    distinct = _distinct(data, k)
    if distinct < k:
        raise ValueError(
            f"`k` is {k}, more than the number of distinct examples, {distinct} of {data.shape[0]}. Give a smaller k."
        )
    return _cluster(data, k, key, restarts, start, max_steps)


@compiled_method
def _cluster(data: Array, k: int, key: Key, restarts: int, start: AbstractSeeding, max_steps: int) -> KMeans:
    shape, n = data.shape[1:], data.shape[0]
    points = data.reshape(n, -1)
    finite = jnp.all(jnp.isfinite(points))
    points = jnp.where(finite, points, 0)
    result = RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite_measurement)
    cloud = Cloud.of(points, k, restarts)
    starts = start.centres(*cloud.flat, k, shape, restarts, key=key)
    good = valid(start)
    result, starts = reject(result, good), jnp.where(good, starts, 0)
    method = Lloyd()

    def restart(centres):
        problem, _ = method.prepare(cloud, centres)
        state = method.init(problem)
        state, num_steps, code = run(method, problem, state, result=result, max_steps=max_steps)
        clustering, stats = method.finish(problem, state)
        return *clustering, num_steps, code, stats["inertia"]

    labels, centres, num_steps, results, inertias = jax.vmap(restart)(starts)
    best = jnp.argmin(jnp.where(jnp.isfinite(inertias), inertias, jnp.inf))
    labels, centres, inertia = labels[best].reshape(-1)[:n], centres[best], inertias[best]
    code = jax.tree.map(lambda leaf: leaf[best], results)
    overflow = ~jnp.isfinite(inertia) & (code == RESULTS.successful)
    code = RESULTS.where(overflow, RESULTS.nonfinite, code)

    mean = jnp.mean(points, axis=0)
    mean = mean + jnp.mean(points - mean[None], axis=0)
    counts = jnp.sum(jax.nn.one_hot(labels, k, dtype=points.dtype), axis=0)
    between = jnp.sum(counts * jnp.sum((centres - mean[None]) ** 2, axis=1))
    total = jnp.sum((points - mean[None]) ** 2)
    centres = centres.reshape(k, *shape)
    return KMeans(centres, labels, inertia, between, total, inertias, code, num_steps[best])


def _distinct(data: Array, enough: int) -> int:
    """The number of distinct examples, or `enough` if there are at least `enough` or the values are not known."""
    if not is_concrete(data):
        return min(enough, data.shape[0])
    distinct: set[bytes] = set()
    for example in np.asarray(data):
        distinct.add((example + 0).tobytes())  # -0 is 0
        if len(distinct) == enough:
            break
    return len(distinct)
