"""The truncated singular value decomposition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import HIGHEST, standard_promotion
from .._checks import checked
from .._jit import verb
from .._solution import RESULTS, Solution, reject
from .._types import State
from ..likelihood import Likelihood, prepare, whiten
from ..operators import materialise


def _check_rank(rank: Any) -> None:
    if isinstance(rank, bool) or not (isinstance(rank, int) or hasattr(rank, "dtype")) or jnp.ndim(rank) != 0:
        raise ValueError(f"`rank` must be an integer, or an integer array of shape (); got {rank!r}.")


@checked(rank=_check_rank)
@verb
def tsvd(likelihood: Likelihood, y: State, *, rank: int | Array | np.ndarray) -> Solution:
    """`x = sum_{i <= rank} v_i <u_i, b> / s_i`, the pseudo-inverse on the largest singular values.

    The operator, whitened by the noise, is materialised, so this is for small problems. Singular values that are zero
    up to rounding are left out whatever the rank. Photon noise enters by its Gaussian approximation.

    **Arguments:**

    - `likelihood`: a linear operator and its noise.
    - `y`: one measurement.
    - `rank`: an integer; or an integer array, so that `jax.vmap` maps over ranks with one decomposition.

    **Returns:** a `Solution`; `stats`: `rank`, `singular_values` of the whitened operator.

    **Raises:** `ValueError` for a non-linear operator, or a static rank that is no integer, below 1, or above the
    number of singular values. An array of such a value gives the code `invalid_parameter`.

    **Reference:** Hansen, Rank-deficient and discrete ill-posed problems, 1998.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.Matrix(jax.random.normal(jax.random.key(0), (20, 16)), (4, 4, 1))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        image = jaxinv.classical.tsvd(likelihood, jax.numpy.ones(20), rank=10).value
        ```
    """
    prepared, data, result = prepare(likelihood, y)
    whitened, b = whiten(prepared, data, "tsvd")
    matrix = materialise(whitened).matrix
    with standard_promotion():
        b = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(b)])
    domain = likelihood.operator.domain
    if jnp.iscomplexobj(matrix) and not jnp.issubdtype(domain.dtype, jnp.complexfloating):
        # A complex measurement of a real image is two real ones.
        matrix, b = jnp.concatenate([matrix.real, matrix.imag]), jnp.concatenate([b.real, b.imag])
    most = min(matrix.shape)
    if isinstance(rank, int) and not 1 <= rank <= most:
        raise ValueError(f"`rank` must lie between 1 and the number of singular values, {most}; got {rank}.")
    left, singular, right = jnp.linalg.svd(matrix, full_matrices=False)
    floor = jnp.finfo(singular.dtype).eps * max(matrix.shape) * singular[0]
    number = jnp.asarray(rank)
    whole = number if jnp.issubdtype(number.dtype, jnp.integer) else jnp.floor(number)
    known = (number >= 1) & (number <= most) & (number == whole)
    rank = jnp.where(known, whole, 1).astype(jnp.int32)
    kept = (jnp.arange(most, dtype=rank.dtype) < rank) & (singular > floor)
    coefficients = jnp.matmul(jnp.conj(left.T), b, precision=HIGHEST)
    with standard_promotion():
        coefficients = jnp.where(kept, coefficients / jnp.where(kept, singular, 1), 0)
    image = jnp.matmul(jnp.conj(right.T), coefficients, precision=HIGHEST).reshape(domain.shape)
    result = reject(result, known)
    broken = ~jnp.all(jnp.isfinite(image)) & (result == RESULTS.successful)
    result = RESULTS.where(broken, RESULTS.breakdown, result)
    stats = {"rank": jnp.sum(kept), "singular_values": singular}
    return Solution(jnp.where(result == RESULTS.successful, image, jnp.zeros_like(image)), result, stats)
