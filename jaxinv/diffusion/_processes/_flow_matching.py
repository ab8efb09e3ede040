"""The straight path of flow matching."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter
from ..._types import ArrayLike, Scalar
from ...requirements import Requirement
from ._process import AbstractProcess, check_scalars


class FlowMatching(AbstractProcess):
    """The straight path from data to noise: `x_t = (1 - t) x_0 + t n`.

    The corresponding SDE is `dx = -x/(1 - t) dt + sqrt(2 t/(1 - t)) dw`. It is singular at `t = 1`, so sampling starts
    at a smaller `t_max`. The velocity `E[n - x_0 | x_t]` is not singular, so networks predict that:
    `score_from(network, process, Velocity())`. Time 0 is data, as for every process here; papers on flows count in the
    other direction.

    - `t_min`, `t_max`: the times at which sampling ends and starts.

    **Reference:** Lipman, Chen, Ben-Hamu, Nickel, Le, Flow matching for generative modeling, 2023; Liu, Gong, Liu, Flow
    straight and fast, 2023.

    !!! example
        ```python
        from jaxinv import diffusion
        scale, std = diffusion.FlowMatching().marginal(0.25)  # .75 and .25
        ```
    """

    t_min: Array = eqx.field(default=1e-3, converter=as_parameter)
    t_max: Array = eqx.field(default=1 - 1e-3, converter=as_parameter)

    def __check_init__(self):
        check_scalars(self)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "FlowMatching needs 0 <= t_min < t_max < 1",
                {"t_min": self.t_min, "t_max": self.t_max},
                lambda low, high: (low >= 0) & (low < high) & (high < 1),
            ),
        )

    @property
    def prior_std(self) -> Array:
        return jnp.ones_like(self.t_max)

    def drift(self, t: Scalar, x: ArrayLike) -> Array:
        return -jnp.asarray(x) / (1 - t)

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(2 * t / (1 - t))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        t = as_parameter(t)
        return 1 - t, t

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        one = jnp.ones_like(as_parameter(t))
        return -one, one

    def time(self, noise_to_signal: Scalar) -> Array:
        ratio = jnp.asarray(noise_to_signal)
        return ratio / (1 + ratio)
