"""The learned primal-dual reconstruction, an unrolled network; `unrolled` has its losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .._arrays import check_count
from .._networks import check_rngs
from .._types import ArrayLike, Checked, IntLike, PyTree, Scalar
from ..likelihood import domain_dtype
from ..operators import AbstractOperator
from ._measurements import Block, check_measurements, from_grid, grid_of, input_shape, normalised, to_grid


class LearnedPrimalDual(nnx.Module):
    """An unrolled primal-dual method whose proximal maps are convolutional networks, on images and on measurements.

    `h <- h + Gamma_k(h, K f_2, y / ||A||)`, `f <- f + Lambda_k(f, K* h_1)` with `K = A / ||A||`, from zero. `f` and `h`
    are several images and measurements, stacked as channels: `f_2` is the second of `f`, `h_1` the first of `h`, and
    the final `f_1` is the reconstruction. The `Lambda_k` start as zero, and so does the image. Train it on pairs, by
    `training.fit` with `unrolled.supervised_loss`, or `unrolled.SimulatedLoss`.

    The operator is part of the network, and is not trained.

    **Arguments:**

    - `operator`: `A`, a linear operator whose measurement is one array (not a stack). Real and imaginary part of
        complex images or measurements are channels of the convolutions; an array of another shape than `(h, w, c)` is
        one column to them.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `num_layers`: the number of pairs of a dual and a primal step.
    - `width`: the number of channels between the three convolutions of a `Gamma_k` or `Lambda_k`.
    - `num_primal`, `num_dual`: the numbers of images in `f`, at least two, and of measurements in `h`.
    - `activation`: the function between the convolutions.
    - `norm`: the norm of the operator, if it is known; by default power iteration computes it.

    **Raises:** `ValueError` for an operator that is not linear or has a stack of measurements, or sizes that are not
    positive integers; its call, for anything but a batch of measurements.

    !!! cite "Reference"
        Adler, Oktem, Learned primal-dual reconstruction, 2018

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        from jaxinv import models, operators
        scanner = operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 10, endpoint=False))
        network = models.LearnedPrimalDual(scanner, num_layers=3, rngs=nnx.Rngs(0))
        x = network(jax.vmap(scanner)(jnp.ones((5, 16, 16, 1))))  # (5, 16, 16, 1)
        ```
    """

    def __init__(
        self,
        operator: Checked[AbstractOperator],
        *,
        rngs: Checked[nnx.Rngs],
        num_layers: IntLike = 10,
        width: IntLike = 32,
        num_primal: IntLike = 5,
        num_dual: IntLike = 5,
        activation: Callable[[Array], Array] = jax.nn.silu,
        norm: Checked[Scalar | None] = None,
    ):
        check_rngs(rngs)
        self.num_layers = check_count(num_layers, "num_layers")
        self.num_primal, self.num_dual = check_count(num_primal, "num_primal"), check_count(num_dual, "num_dual")
        if self.num_primal < 2:
            raise ValueError(f"`num_primal` must be at least 2, as the second of `f` is measured; got {num_primal}.")
        width = check_count(width, "width")
        scaled = normalised(operator, norm, "LearnedPrimalDual")
        self.primal = grid_of(scaled.domain, "LearnedPrimalDual")
        self.dual = grid_of(scaled.codomain, "LearnedPrimalDual")
        f, h = self.num_primal * self.primal[-1], self.num_dual * self.dual[-1]
        make = lambda into, out, zero: Block(into, out, width, activation=activation, zero=zero, rngs=rngs)
        self.input_shape = input_shape(scaled)
        # What is no parameter is not trained.
        self.operator = nnx.Variable(scaled)
        self.dual_blocks = nnx.List([make(h + 2 * self.dual[-1], h, False) for _ in range(self.num_layers)])
        self.primal_blocks = nnx.List([make(f + self.primal[-1], f, True) for _ in range(self.num_layers)])

    def __call__(self, y: ArrayLike) -> Array:
        """The images `(n, *domain)` of measurements `y`, `(n, *codomain)`."""
        operator = self.operator.get_value()
        y = self.prepare_measurements(y)
        # The operator is divided by its norm, so the measurements are too.
        y = to_grid(operator.factor * y, operator.codomain, self.dual)
        start = lambda grid, count: jnp.zeros((y.shape[0], *grid[:2], count * grid[2]), domain_dtype(operator))
        state = start(self.primal, self.num_primal), start(self.dual, self.num_dual)
        for k in range(self.num_layers):
            state = self.layer(k, state, y)
        return from_grid(_part(state[0], 0, self.primal), operator.domain)

    def prepare_measurements(self, y: PyTree[Array]) -> PyTree[Array]:
        """A batch of measurements as the network expects them.

        **Arguments:**

        - `y`: the measurements, `(n, *codomain)`.

        **Returns:** the batch in the dtype of the codomain, and zero where nothing is measured.

        **Raises:** `ValueError` for measurements of another shape.
        """
        return check_measurements(y, self.operator.get_value(), "LearnedPrimalDual")

    def layer(self, k: int, state: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
        """Apply one layer to `f` and `h`; they and `y` are channels, and `y` is divided by the norm of the operator."""
        (f, h), operator = state, self.operator.get_value()
        image = from_grid(_part(f, 1, self.primal), operator.domain)
        projected = to_grid(jax.vmap(operator)(image), operator.codomain, self.dual)
        h = h + self.dual_blocks[k](jnp.concatenate([h, projected, y], axis=-1))
        measurement = from_grid(_part(h, 0, self.dual), operator.codomain)
        projected = to_grid(jax.vmap(operator.adjoint)(measurement), operator.domain, self.primal)
        return f + self.primal_blocks[k](jnp.concatenate([f, projected], axis=-1)), h


def _part(stack: Array, index: int, grid: tuple[int, int, int]) -> Array:
    """One of several images or measurements that are stacked as channels."""
    return stack[..., index * grid[-1] : (index + 1) * grid[-1]]
