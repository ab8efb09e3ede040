"""Gaussian mixture priors, and their exact posteriors under linear-Gaussian measurements."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import HIGHEST, as_array, as_parameter, check_count, check_key, common_dtype, is_concrete
from .._jit import compiled_method
from .._linear_gaussian import prepare_update
from .._module import Module
from .._score import AbstractProcess
from .._types import ArrayLike, Checked, Key, Scalar, State
from ..likelihood import Likelihood
from ..requirements import Requirement, finite
from ._components import Components, log_weights
from ._low_rank import LowRank, as_low_rank
from ._mixture_noised import GaussianMixtureDenoiser, GaussianMixtureScore
from ._mixture_update import update


class GaussianMixture(Module):
    """The prior `x ~ sum_k weights_k N(means_k, covariances_k)` on images.

    - `weights`: the weights of the components, `(k,)`, not negative, with sum 1.
    - `means`: the means of the components, `(k, h, w, c)` or `(k, ...)` for any image shape, with `d` entries each.
    - `covariances`: matrices `(k, d, d)`, or one `(d, d)` for all components; variances `(k,)` of isotropic components,
      or one for all; or a `LowRank`. Matrices are stored as their eigenvectors and eigenvalues (those below `10 eps`
      times the largest are rounding, and become 0), without the directions of the smallest eigenvalue, where many
      share it.

    No method forms a `(d, d)` matrix for a point, and with variances, or a `LowRank`, none forms one at all. The
    posterior of isotropic components under `m` measurements has a basis of `m` directions, which all components share
    if they have one variance.

    **Raises:** `ValueError` if shapes do not match, weights do not sum to 1 or are negative, or a covariance is not
    symmetric or has a negative eigenvalue beyond rounding, where their values are known.

    !!! example
        ```python
        import itertools, jax, jax.numpy as jnp, jaxinv
        centres = jnp.asarray(list(itertools.product((-16, -8, 0, 8, 16), repeat=2)), float)
        prior = jaxinv.oracles.GaussianMixture(jnp.full(25, 1 / 25), jnp.tile(centres, (1, 40)), 1.0)
        operator = jaxinv.operators.Matrix(jax.random.normal(jax.random.key(0), (2, 80)), (80,))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(prior.sample(1, key=jax.random.key(1))[0], key=jax.random.key(2))
        posterior = prior.posterior(likelihood, y)
        draws, log_evidence = posterior.sample(5, key=jax.random.key(3)), prior.evidence(likelihood, y)
        ```
    """

    log_weights: Array
    means: Array
    covariances: LowRank
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike | LowRank | float,
    ):
        means = as_parameter(means)
        weights = as_array(weights)
        if weights.ndim != 1 or means.ndim < 2 or len(weights) != len(means) or means.size == 0:
            raise ValueError(
                "`weights` must have shape (k,) and `means` (k, h, w, c), or (k, ...), one of each for every "
                f"component; got {weights.shape} and {means.shape}, with covariances of shape {_shape(covariances)}."
            )
        if jnp.iscomplexobj(means) or jnp.iscomplexobj(weights):
            raise ValueError(f"A mixture is of real images; got means of dtype {means.dtype}.")
        self.shape = means.shape[1:]
        numbers = [c for c in jax.tree.leaves(covariances) if hasattr(c, "dtype")]
        dtype = common_dtype(means, *(as_parameter(c) for c in numbers))
        self.log_weights = _log_weights(weights, dtype)
        self.means = means.astype(dtype)
        self.covariances = as_low_rank(covariances, len(means), math.prod(self.shape), dtype)

    def requirements(self) -> tuple[Requirement, ...]:
        return (log_weights(self.log_weights), finite("means", self.means))

    @property
    def weights(self) -> Array:
        """The weights of the components."""
        return jnp.exp(self.log_weights)

    @property
    def mean(self) -> Array:
        """The mean of the whole mixture, of the shape of an image."""
        weights = self.log_weights.reshape(*self.log_weights.shape, *(1 for _ in self.shape))
        return jnp.sum(jnp.exp(weights) * self.means, axis=-1 - len(self.shape))

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """The covariance of the whole mixture, within and between its components, as a matrix."""
        spread = self._spread()
        between = jnp.matmul(spread.T * self.weights[None, :], spread, precision=HIGHEST)
        return self.covariances.weighted_sum(self.weights) + between

    @property
    def variance(self) -> Array:
        """The variance of each entry, of the shape of an image."""
        between = jnp.sum(self.weights[:, None] * self._spread() ** 2, axis=0)
        return (self.covariances.weighted_diagonal(self.weights) + between).reshape(self.shape)

    def covariance_product(self, v: State) -> Array:
        """`covariance v`, of the shape of `v`, without the matrix."""
        v = jnp.asarray(v)
        spread, flat = self._spread(), v.ravel()
        between = jnp.matmul(self.weights * jnp.matmul(spread, flat, precision=HIGHEST), spread, precision=HIGHEST)
        return (self.covariances.weighted_product(self.weights, flat) + between).reshape(v.shape)

    @compiled_method
    def sample(self, n: int, *, key: Key) -> Array:
        """`n` draws, `(n, *shape)`. Draw `i` depends on the key and `i` only."""
        check_key(key)
        check_count(n, "n")
        roots = self.covariances.map(jnp.sqrt)

        def draw(index):
            which, what = (jax.random.fold_in(jax.random.fold_in(key, index), i) for i in range(2))
            component = jax.random.categorical(which, self.log_weights)
            z = jax.random.normal(what, (math.prod(self.shape),), self.means.dtype)
            return self.means[component] + roots.component(component).product(z[None])[0].reshape(self.shape)

        size = self.covariances.basis[0].size
        if size == 0:
            return jax.vmap(draw)(jnp.arange(n))
        # Draw in blocks whose size does not depend on `n`, since the rounding of a matrix product depends on its size.
        # All draws at once would gather too many bases.
        block = max(1, min(64, 2**24 // size))
        indices = jnp.arange(-(-n // block) * block).reshape(-1, block)
        return jax.lax.map(jax.vmap(draw), indices).reshape(-1, *self.shape)[:n]

    @compiled_method
    def log_prob(self, x: State) -> Array:
        """The log-density at one image.

        A component with a singular covariance has its density on the affine space that supports it, and density 0 for
        images whose relative distance from that space exceeds `sqrt(eps)`.
        """
        view = self._view(x)
        limit = math.sqrt(jnp.finfo(self.means.dtype).eps)
        law = self.covariances
        largest = jnp.max(jnp.concatenate([v.ravel() for v in (law.variances, law.rest)]))
        distances = jnp.sqrt(jnp.sum((as_array(x).ravel()[None] - self._flat_means()) ** 2, axis=1))
        inside = view.strays <= limit**2 * (jnp.sqrt(largest) + jax.lax.stop_gradient(distances)) ** 2
        return jax.nn.logsumexp(jnp.where(inside, view.log_densities, -jnp.inf))

    @compiled_method
    def responsibilities(self, x: State) -> Float[Array, " k"]:
        """`p(component | x)`, the share of each component in the density at one image."""
        return self._view(x).shares

    def denoiser(self, process: Checked[AbstractProcess]) -> GaussianMixtureDenoiser:
        """`E[x_0 | x_t = x]` for a noising process with `marginal(t) -> (scale, std)`, as a module `(t, x) -> x_0`.

        The module also has `covariance(t, x)`, `covariance_product(t, x, v)` and `conditional(t, x)`.
        """
        return GaussianMixtureDenoiser(self, self._components(), process)

    def score(self, process: Checked[AbstractProcess]) -> GaussianMixtureScore:
        """The score `grad log p_t(x)` under a noising process, a `diffusion.AbstractScore`: `score(t, x)` of one image.

        The score itself uses only `marginal(t) -> (scale, std)` of the process; the verbs of `diffusion` need a
        `diffusion.AbstractProcess`.
        """
        return GaussianMixtureScore(components=self._components(), process=process)

    def noised(self, process: Checked[AbstractProcess], t: Scalar) -> "GaussianMixture":
        """The law of `x_t = scale x_0 + std n`, with `(scale, std) = process.marginal(t)`: again a mixture."""
        scale, std = (jnp.asarray(v).astype(self.means.dtype) for v in process.marginal(t))
        covariances = self.covariances.map(lambda v: scale**2 * v + std**2)
        return self.like(self.log_weights, scale * self.means, covariances)

    @compiled_method
    def posterior(self, likelihood: Likelihood, y: State) -> "GaussianMixture":
        """The exact posterior `p(x | y)` for a linear operator and Gaussian noise, again a Gaussian mixture.

        Component `k` has the weight `w_k N(y; A m_k, A C_k A^T + N)`, with `N` the covariance of the noise, the mean
        `m_k + C_k A^T (A C_k A^T + N)^{-1} (y - A m_k)` (the gain form) and the covariance
        `C_k - C_k A^T (A C_k A^T + N)^{-1} A C_k`. Square roots do not square the condition number, so float32
        suffices. Its basis is that of the prior, with the directions that the operator measures.

        **Arguments:**

        - `likelihood`: a likelihood with a linear operator and Gaussian noise.
        - `y`: one measurement, of the shape of the operator's codomain.

        **Returns:** a `GaussianMixture`; its means and weights are NaN if the measurement or a noise level is not
        finite.

        **Raises:** `ValueError` if the operator is not linear, the noise is not Gaussian, or the shapes differ.

        **Reference:** Cardoso et al., Monte Carlo guided diffusion for Bayesian linear inverse problems, 2023.
        """
        prior, problem, failed = self._prepare(likelihood, y)
        evidences, means = problem.evidences_and_means()
        log_weights = jax.nn.log_softmax(prior.log_weights + evidences)
        log_weights, means = (jnp.where(failed, jnp.nan, v) for v in (log_weights, means))
        return prior.like(log_weights, means.reshape(prior.means.shape), problem.covariances())

    @compiled_method
    def evidence(self, likelihood: Likelihood, y: State) -> Array:
        """The exact log-evidence `log p(y) = log sum_k w_k N(y; A m_k, A C_k A^T + N)`, over the measured entries.

        **Arguments, Raises:** as for `posterior`.

        **Returns:** a scalar.
        """
        prior, problem, failed = self._prepare(likelihood, y)
        evidences, _ = problem.evidences_and_means()
        return jnp.where(failed, jnp.nan, jax.nn.logsumexp(prior.log_weights + evidences))

    def like(self, log_weights: Array, means: Array, covariances: LowRank) -> "GaussianMixture":
        """A mixture of other components on the same images, without checks."""
        return eqx.tree_at(lambda m: (m.log_weights, m.means, m.covariances), self, (log_weights, means, covariances))

    def _flat_means(self) -> Array:
        return self.means.reshape(-1, math.prod(self.shape))

    def _spread(self) -> Array:
        return self._flat_means() - self.mean.ravel()[None]

    def _components(self) -> Components:
        return Components(self.log_weights, self._flat_means(), self.covariances, self.shape)

    def _view(self, x: State) -> Any:
        x = as_array(x)
        if x.shape != self.shape:
            raise ValueError(
                f"The prior is on images of shape {self.shape}; got an image of shape {x.shape}. Map over a batch with "
                "`jax.vmap`."
            )
        dtype = self.means.dtype
        return self._components().view(jnp.ones((), dtype), jnp.zeros((), dtype), x.ravel().astype(dtype))

    def _prepare(self, likelihood: Likelihood, y: State) -> tuple["GaussianMixture", Any, Array]:
        likelihood, y, failed, dtype = prepare_update(self.shape, likelihood, y)
        prior = jax.tree.map(lambda leaf: leaf.astype(dtype), self)
        return prior, update(likelihood, y, prior.means, prior.covariances), failed


def _log_weights(weights: Array, dtype: Any) -> Array:
    """The logarithms of the weights; NaN where they are traced, and negative or do not sum to 1."""
    exact = jnp.finfo(weights.dtype).eps if jnp.issubdtype(weights.dtype, jnp.inexact) else 0
    weights = weights.astype(dtype)
    total, tolerance = jnp.sum(weights), 1e-3 if exact > 1e-10 else 1e-6
    good = jnp.all(weights >= 0) & (jnp.abs(total - 1) <= tolerance)
    if is_concrete(weights):
        if not bool(jnp.all(weights >= 0)):
            raise ValueError(f"`weights` must be finite and not negative; the least is {float(jnp.min(weights)):.3g}.")
        if not abs(float(total) - 1) <= tolerance:
            raise ValueError(
                f"`weights` must sum to 1; they sum to {float(total):.6g}. Divide them by their sum: "
                "`weights / weights.sum()`."
            )
    positive = weights > 0
    logs = jnp.where(positive, jnp.log(jnp.where(positive, weights, 1)), -jnp.inf)
    return jnp.where(good, logs - jnp.log(total), jnp.nan)


def _shape(covariances: Any) -> Any:
    return covariances.basis.shape if isinstance(covariances, LowRank) else jnp.shape(covariances)
