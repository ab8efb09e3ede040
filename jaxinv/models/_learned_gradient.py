"""Learned gradient descent, an unrolled network; `unrolled` has its losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_rngs
from .._types import ArrayLike, Checked, IntLike, PyTree, Scalar
from ..likelihood import domain_dtype
from ..operators import AbstractOperator
from ._measurements import Block, check_measurements, from_grid, grid_of, input_shape, normalised, to_grid


class LearnedGradient(nnx.Module):
    """Unrolled gradient descent whose steps are corrected by convolutional networks.

    `(dx, r) = Lambda_k(x, g_k, s)`, `x <- x - t_k g_k + dx`, `s <- activation(r)`, with `g_k = K* (K x - y / ||A||)`
    for `K = A / ||A||`, and a memory `s` of a few channels, from `x = 0`, `s = 0`. Untrained, with `t_k = 1` and
    `Lambda_k` zero, it is gradient descent on `1/2 ||A x - y||^2`; in the reference the step is `dx` alone, and an
    input of `Lambda_k` is the gradient of a regulariser too. Train it on pairs, by `training.fit` with
    `unrolled.supervised_loss`, or `unrolled.SimulatedLoss`.

    The operator is part of the network, and is not trained.

    **Arguments:**

    - `operator`: `A`, a linear operator. Its images may be complex (real and imaginary part are then channels of the
        convolutions); its measurements may be of any kind, including a stack.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `num_layers`: the number of gradient steps.
    - `tied`: whether all layers share one network `Lambda`, as in the reference.
    - `width`: the number of channels between the three convolutions of a `Lambda_k`.
    - `memory`: the number of channels of `s`.
    - `activation`: the function between the convolutions.
    - `norm`: the norm of the operator, if it is known; by default power iteration computes it.

    **Raises:** `ValueError` for an operator that is not linear, or sizes that are not positive integers; its call, for
    anything but a batch of measurements.

    !!! cite "Reference"
        Adler, Oktem, Solving ill-posed inverse problems using iterative deep neural networks, 2017

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        from jaxinv import models, operators
        scanner = operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 10, endpoint=False))
        network = models.LearnedGradient(scanner, num_layers=2, rngs=nnx.Rngs(0))
        x = network(jax.vmap(scanner)(jnp.ones((5, 16, 16, 1))))  # (5, 16, 16, 1)
        ```
    """

    def __init__(
        self,
        operator: Checked[AbstractOperator],
        *,
        rngs: Checked[nnx.Rngs],
        num_layers: IntLike = 10,
        tied: bool = False,
        width: IntLike = 32,
        memory: IntLike = 5,
        activation: Callable[[Array], Array] = jax.nn.silu,
        norm: Checked[Scalar | None] = None,
    ):
        check_rngs(rngs)
        self.num_layers, self.tied = check_count(num_layers, "num_layers"), bool(tied)
        self.activation, self.memory = activation, check_count(memory, "memory")
        width = check_count(width, "width")
        scaled = normalised(operator, norm, "LearnedGradient")
        self.grid = grid_of(scaled.domain, "LearnedGradient")
        channels, self.input_shape = self.grid[-1], input_shape(scaled)
        # What is no parameter is not trained.
        self.operator = nnx.Variable(scaled)
        self.steps = nnx.Param(jnp.ones((self.num_layers,), domain_dtype(scaled)))
        make = lambda: Block(
            2 * channels + memory, channels + memory, width, activation=activation, zero=True, rngs=rngs
        )
        self.blocks = nnx.List([make() for _ in range(1 if self.tied else self.num_layers)])

    def __call__(self, y: ArrayLike) -> Array:
        """The images `(n, *domain)` of measurements `y`, `(n, *codomain)`, or a tuple of such for a stack."""
        operator = self.operator.get_value()
        y = self.prepare_measurements(y)
        # The operator is divided by its norm, so the measurements are too.
        y = jax.tree.map(lambda leaf: operator.factor * leaf, y)
        n = jax.tree.leaves(y)[0].shape[0]
        x = jnp.zeros((n, *operator.domain.shape), operator.domain.dtype)
        memory = jnp.zeros((n, *self.grid[:2], self.memory), domain_dtype(operator))
        for k in range(self.num_layers):
            x, memory = self.layer(k, (x, memory), y)
        return x

    def prepare_measurements(self, y: PyTree[Array]) -> PyTree[Array]:
        """A batch of measurements as the network expects them.

        **Arguments:**

        - `y`: the measurements, `(n, *codomain)`, or a tuple of such for a stack.

        **Returns:** the batch in the dtype of the codomain, and zero where nothing is measured.

        **Raises:** `ValueError` for measurements of another shape.
        """
        return check_measurements(y, self.operator.get_value(), "LearnedGradient")

    def layer(self, k: int, state: tuple[Array, Array], y: ArrayLike) -> tuple[Array, Float[Array, "n h w memory"]]:
        """One layer: images and memory, and measurements that are divided by the norm of the operator."""
        (x, memory), operator = state, self.operator.get_value()
        residual = jax.tree.map(jnp.subtract, jax.vmap(operator)(x), y)
        gradient = jax.vmap(operator.adjoint)(residual)
        inputs = [to_grid(image, operator.domain, self.grid) for image in (x, gradient)]
        outputs = self.blocks[0 if self.tied else k](jnp.concatenate([*inputs, memory], axis=-1))
        change, memory = jnp.split(outputs, [self.grid[-1]], axis=-1)
        return x - self.steps[k] * gradient + from_grid(change, operator.domain), self.activation(memory)
