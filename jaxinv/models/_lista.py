"""The learned iterative shrinkage-thresholding algorithm, an unrolled network; `unrolled.train_lista` trains it."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import HIGHEST, check_count, is_complex, is_concrete
from .._types import ArrayLike, Checked, IntLike, PyTree, Scalar
from ..likelihood import domain_dtype
from ..operators import AbstractLinearOperator, AbstractOperator, materialise
from ..operators._matrix import Materialised
from ..operators._norm import check_linear
from ._measurements import check_measurements, check_scalar, input_shape, normalised


class LISTA(nnx.Module):
    """Unrolled iterative shrinkage-thresholding, with learned weights, thresholds, slopes and momenta.

    `x_(k+1) = S_k(x_k + W_k^T (y / ||A|| - K x_k) + b_k (x_k - x_(k-1)))` with `K = A / ||A||`, and
    `S_k(u) = sign(u) min(s_k max(|u| - theta_k, 0), |u|)`: soft thresholding for a slope `s_k = 1`; a larger slope
    keeps large entries unchanged. A threshold that training makes negative acts by its modulus. Untrained, with
    `W_k = K`, `theta_k = weight / ||A||^2`, `s_k = 1` and `b_k = 0`, it is `num_layers` steps of `classical.ista` for
    `1/2 ||A x - y||^2 + weight ||x||_1`. Train it on sparse images by `unrolled.train_lista`.

    `K`, which is not trained, and the `W_k` are stored as matrices: `(num_layers + 1) m n` numbers.

    **Arguments:**

    - `operator`: `A`, a linear operator from real images of `n` entries to `m` real measurements.
    - `num_layers`: the number of layers, static.
    - `tied`: whether all layers share one `W`. Each layer has its own threshold, slope and momentum.
    - `weight`: the initial weight of the 1-norm, a scalar, not negative.
    - `norm`: the norm of the operator, if it is known; by default power iteration computes it, as in `classical.ista`.

    **Raises:** `ValueError` for an operator that is not linear, or complex, or has a stack of measurements, and for a
    weight that is not a scalar; its methods, for anything but a batch of measurements.

    !!! cite "Reference"
        Gregor, LeCun, Learning fast approximations of sparse coding, 2010; Chen, Liu, Wang, Yin, Theoretical linear
        convergence of unfolded ISTA and its practical weights and thresholds, 2018 (the coupling of the weights; in
        place of its support selection, a slope); Chen, Liu, Wang, Yin, Hyperparameter tuning is all you need for LISTA,
        2021 (the momentum)

    !!! example
        ```python
        import jax, jaxinv
        matrix = jax.random.normal(jax.random.key(0), (30, 60)) / 30**0.5
        network = jaxinv.models.LISTA(jaxinv.operators.Matrix(matrix, (60,)), 4, tied=True)
        x = network(jax.numpy.ones((5, 30)))  # (5, 60)
        ```
    """

    def __init__(
        self,
        operator: Checked[AbstractOperator],
        num_layers: IntLike = 16,
        *,
        tied: bool = False,
        weight: Checked[Scalar] = 0.1,
        norm: Checked[Scalar | None] = None,
    ):
        self.num_layers, self.tied = check_count(num_layers, "num_layers"), bool(tied)
        _check_real(check_linear(operator, "LISTA"))
        dtype = domain_dtype(operator)
        weight = _check_weight(weight, dtype)
        scaled = normalised(operator, norm, "LISTA")
        stored = _stored(scaled)
        each = lambda value: nnx.Param(jnp.full((self.num_layers,), value, dtype))
        shape = (1 if self.tied else self.num_layers, *stored.matrix.shape)
        self.input_shape = input_shape(scaled)
        # What is no parameter is not trained.
        self.operator, self.factor = nnx.Variable(stored), nnx.Variable(scaled.factor)
        self.weights = nnx.Param(jnp.broadcast_to(stored.matrix, shape))
        self.thresholds = each(scaled.factor**2 * weight)
        self.slopes, self.momenta = each(1), each(0)

    def __call__(self, y: ArrayLike) -> Float[Array, "n *domain"]:
        """The images `(n, *domain)` of measurements `y`, `(n, *codomain)`."""
        return self._images(y)[-1]

    def iterates(self, y: ArrayLike) -> Float[Array, "layers n *domain"]:
        """The images after each layer, `(num_layers, n, *domain)`; `y` as for a call."""
        return jnp.stack(self._images(y))

    def prepare_measurements(self, y: PyTree[Array]) -> PyTree[Array]:
        """A batch of measurements as the network expects them.

        **Arguments:**

        - `y`: the measurements, `(n, *codomain)`.

        **Returns:** the batch in the dtype of the codomain, and zero where nothing is measured.

        **Raises:** `ValueError` for measurements of another shape.
        """
        return check_measurements(y, self.operator.get_value(), "LISTA")

    def untied(self) -> "LISTA":
        """A copy in which every layer has its own weights, equal to the shared ones, as a start for their training."""
        model = nnx.clone(self)
        model.tied = False
        shared = self.weights[...]
        model.weights = nnx.Param(jnp.broadcast_to(shared, (self.num_layers, *shared.shape[1:])))
        return model

    def _images(self, y: Any) -> list[Array]:
        operator = self.operator.get_value()
        y = self.factor[...] * self.prepare_measurements(y)
        n, shape = y.shape[0], operator.domain.shape
        y = y.reshape(n, math.prod(operator.codomain.shape))
        x = jnp.zeros((n, math.prod(shape)), y.dtype)
        states = [(x, x)]
        for k in range(self.num_layers):
            states.append(self.layer(k, states[-1], y))
        return [x.reshape(n, *shape) for x, _ in states[1:]]

    def layer(
        self, k: int, state: tuple[Float[Array, "n pixels"], Float[Array, "n pixels"]], y: Float[Array, "n entries"]
    ) -> tuple[Float[Array, "n pixels"], Float[Array, "n pixels"]]:
        """One layer: the images `(x_k, x_(k-1))`, ravelled, become `(x_(k+1), x_k)`; `y` is divided by `||A||`."""
        x, previous = state
        residual = y - jnp.matmul(x, self.operator.get_value().matrix.T, precision=HIGHEST)
        step = jnp.matmul(residual, self.weights[0 if self.tied else k], precision=HIGHEST)
        u = x + step + self.momenta[k] * (x - previous)
        return shrink(u, self.thresholds[k], self.slopes[k]), x


def shrink(u: Array, threshold: Array, slope: Array) -> Array:
    """`sign(u) min(slope max(|u| - |threshold|, 0), |u|)`, entry by entry."""
    modulus = jnp.abs(u)
    # A threshold below 0 would have no gradient, and stay there. Unlike that of `abs`, the gradient at 0 is not 0.
    threshold = jnp.where(threshold < 0, -threshold, threshold)
    return jnp.sign(u) * jnp.minimum(slope * jnp.maximum(modulus - threshold, 0), modulus)


def _stored(operator: AbstractLinearOperator) -> Materialised:
    """The operator as a matrix, computed by columns or by rows, whichever needs fewer applications."""
    domain, codomain = operator.domain, operator.codomain
    if math.prod(codomain.shape) < math.prod(domain.shape):
        return Materialised(materialise(operator.H).matrix.T, operator.measured, domain, codomain)
    return materialise(operator)


def _check_weight(weight: Any, dtype: Any) -> Float[Array, ""]:
    check_scalar(weight, "weight")
    if is_concrete(weight) and not 0 <= float(np.asarray(weight)) < math.inf:
        raise ValueError(f"`weight` must be finite and not negative; got {weight}.")
    return jnp.asarray(weight).astype(dtype)


def _check_real(operator: AbstractLinearOperator) -> None:
    for what in ("domain", "codomain"):
        struct = getattr(operator, what)
        if isinstance(struct, tuple) or is_complex(struct):
            raise ValueError(
                f"LISTA takes an operator from a real image to one real measurement; the {what} of this one is "
                f"{'a stack' if isinstance(struct, tuple) else 'complex'}. Write it as a real one, real and imaginary "
                "part as channels or the parts of the stack in one array, by `operators.FunctionOperator`."
            )
