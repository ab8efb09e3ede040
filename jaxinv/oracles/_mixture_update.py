"""The linear-Gaussian update of a mixture, component by component; `_update.py` has that of one Gaussian."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import HIGHEST
from .._linear_gaussian import Observation, dense, triangle
from .._types import State
from ..likelihood import Likelihood
from ._low_rank import LowRank


class MixtureUpdate(eqx.Module):
    """The update of a mixture prior of `x` by `b = H x + n`, with `n` standard normal.

    - `rows`: the whitened operator `H`, `(m, d)`.
    - `data`: the whitened measurement `b`, `(m,)`.
    - `noise_constant`: the constant of the negative log-likelihood of the noise.
    """

    rows: Array
    data: Array
    noise_constant: Array
    means: Array
    prior: LowRank

    def evidences_and_means(self) -> tuple[Array, Array]:
        """`log N(y; A m_k, A C_k A^T + N)`, `(k,)`, and the posterior means, `(k, d)`."""
        roots = self.prior.map(_root)
        residuals = self.data[None] - jnp.matmul(self.means, self.rows.T, precision=HIGHEST)
        roots = self.prior.map(_root)

        def one(residual, mean, root):
            # The symmetric root of the covariance needs no basis of the measured directions, whose derivative is
            # infinite where one of them is measured twice or not at all.
            design = root.product(self.rows)
            observation = Observation(design, residual, triangle(design), self.noise_constant)
            return observation.log_evidence(), mean + root.product(observation.latent_mean()[None])[0]

        return jax.vmap(one, in_axes=(0, 0, None if self.prior.is_shared else 0))(
            residuals, self.means, roots.each(len(self.means))
        )

    def covariances(self) -> LowRank:
        """The posterior covariances."""
        law = self.prior
        if law.basis.shape[2] == 0:
            return self._isotropic()
        one = lambda component: _covariance(self.rows, component)
        if law.is_shared:
            return one(law)
        made = jax.vmap(one)(law.each(len(self.means)))
        return jax.tree.map(lambda leaf: leaf[:, 0], made)

    def _isotropic(self) -> LowRank:
        # The measured directions do not depend on the variances, so one decomposition serves all components.
        _, singular, directions = jnp.linalg.svd(self.rows, full_matrices=False)
        rest = self.prior.rest
        variances = rest[:, None] / (1 + rest[:, None] * singular[None, :] ** 2)
        return LowRank(directions.T, variances, rest)


def update(likelihood: Likelihood, y: State, means: Array, covariances: LowRank) -> MixtureUpdate:
    """The update of a mixture by a prepared measurement."""
    rows, data, noise_constant = dense(likelihood, y, means.shape[1:], means.dtype)
    return MixtureUpdate(rows, data, noise_constant, means.reshape(len(means), -1), covariances)


def _covariance(rows: Array, law: LowRank) -> LowRank:
    """The posterior of one covariance, in a basis of the prior's directions and the measured ones."""
    basis, rank = law.basis[0], law.basis.shape[2]
    if law.is_full:
        wide, stds = basis, jnp.sqrt(law.variances[0])
    else:
        # QR gives orthonormal columns even for dependent rows; the first are those of the basis, up to signs.
        wide = jnp.linalg.qr(jnp.concatenate([basis, rows.T], axis=1))[0]
        more = jnp.broadcast_to(jnp.sqrt(law.rest), (wide.shape[1] - rank,))
        stds = jnp.concatenate([jnp.sqrt(law.variances[0]), more])
    design = jnp.matmul(rows, wide, precision=HIGHEST) * stds[None, :]
    observation = Observation(design, jnp.zeros_like(design[:, 0]), triangle(design), jnp.zeros((), design.dtype))
    # Decompose in the coordinates of `wide`, so that directions of variance 0 stay in its span.
    vectors, stds, _ = jnp.linalg.svd(observation.latent_factor(jnp.diag(stds)))
    return LowRank(jnp.matmul(wide, vectors, precision=HIGHEST), stds**2, law.rest[0])


def _root(variances: Any) -> Array:
    positive = variances > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variances, 1)), 0)
