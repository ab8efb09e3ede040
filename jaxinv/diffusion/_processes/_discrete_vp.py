"""The noising process of discrete steps (DDPM), which published networks were trained with."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter, check_count
from ..._types import ArrayLike, Checked, Scalar
from ...requirements import Requirement, requirement
from ._process import AbstractProcess

# The part of a step by which a time may be above that of the step.
_ROUNDING = 1e-3


class DiscreteVP(AbstractProcess):
    """Variance preserving in `N` steps: `x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) n`, as DDPM trains.

    The time of step `i`, counted from 0, is `t = (i + 1) / N`; there `scale^2 = prod_{j <= i} (1 - beta_j)`, exactly,
    and `std^2 = 1 - scale^2`. Between two steps the logarithm of the scale is linear in time, which is the process
    `dx = -b/2 x dt + sqrt(b) dw` with the rate `b = -N log(1 - beta_i)`, constant over a step. So a network that was
    trained with discrete steps has a score at all times from `1 / N` on, and every sampler takes it.

    - `betas`: the shares of noise, `(N,)`, each between 0 and 1. `DiscreteVP.linear()` and `DiscreteVP.cosine()` make
        the usual ones, and `diffusion.from_diffusers(folder)` reads those of a file.

    **Reference:** Ho, Jain, Abbeel, Denoising diffusion probabilistic models, 2020; Nichol, Dhariwal, Improved
    denoising diffusion probabilistic models, 2021 (cosine).

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion
        process = diffusion.DiscreteVP.linear()
        scale, std = process.marginal(1.0)
        assert abs(scale - 0.00635) < 1e-4
        ```
    """

    betas: Array = eqx.field(converter=as_parameter)

    def __check_init__(self):
        if self.betas.ndim != 1 or self.betas.shape[0] < 2 or jnp.iscomplexobj(self.betas):
            raise ValueError(
                "`betas` must be a vector of at least 2 real numbers, one for each step; got shape "
                f"{self.betas.shape} and dtype {self.betas.dtype}."
            )

    def requirements(self) -> tuple[Requirement, ...]:
        words = "`betas` must lie between 0 and 1, without the ends"
        return (requirement(words, self.betas, lambda b: (b > 0) & (b < 1)),)

    @staticmethod
    def linear(num_timesteps: Checked[int] = 1000, beta_start: Scalar = 1e-4, beta_end: Scalar = 0.02) -> "DiscreteVP":
        """The process of DDPM and guided diffusion, whose betas grow linearly.

        **Arguments:**

        - `num_timesteps`: the number of steps, static.
        - `beta_start`, `beta_end`: the first and the last beta.

        **Returns:** a `DiscreteVP`.
        """
        check_count(num_timesteps, "num_timesteps")
        return DiscreteVP(jnp.linspace(beta_start, beta_end, num_timesteps))

    @staticmethod
    def cosine(num_timesteps: Checked[int] = 1000, largest: Scalar = 0.999) -> "DiscreteVP":
        """The process whose `scale^2` is a squared cosine.

        **Arguments:**

        - `num_timesteps`: the number of steps, static.
        - `largest`: the largest beta, at which those of the last steps are capped.

        **Returns:** a `DiscreteVP`.
        """
        check_count(num_timesteps, "num_timesteps")
        ends = jnp.cos((jnp.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * jnp.pi / 2) ** 2
        return DiscreteVP(jnp.minimum(1 - ends[1:] / ends[:-1], largest))

    @property
    def t_min(self) -> Array:
        return jnp.full((), 1 / self.betas.shape[-1], self.betas.dtype)

    @property
    def t_max(self) -> Array:
        return jnp.ones((), self.betas.dtype)

    @property
    def prior_std(self) -> Array:
        return jnp.ones((), self.betas.dtype)

    def _step(self, t: Scalar) -> Array:
        """The step whose rate holds at a time: between two times of steps it is that of the later one."""
        n = self.betas.shape[-1]
        # A time of a step belongs to that step, also where single precision rounds it up.
        return jnp.clip(jnp.ceil(jnp.asarray(t) * n - _ROUNDING) - 1, 0, n - 1).astype(jnp.int32)

    def _rate(self, t: Scalar) -> Array:
        rate = -self.betas.shape[-1] * jnp.log1p(-self.betas[self._step(t)])
        # A time that is no number has a step, as an integer, and no rate.
        return jnp.where(jnp.isnan(t), jnp.nan, rate)

    def _log_squares(self) -> Array:
        """`log scale^2` at the times `0, 1/N ... 1`."""
        steps = jnp.cumsum(jnp.log1p(-self.betas))
        return jnp.concatenate([jnp.zeros((1,), steps.dtype), steps])

    def _log_square(self, t: Scalar) -> Array:
        step = self._step(t)
        since = (jnp.asarray(t) * self.betas.shape[-1] - step).astype(self.betas.dtype)
        # A sum over the earlier steps, whose slope is the rate at the times of steps too.
        return self._log_squares()[step] + since * jnp.log1p(-self.betas[step])

    def drift(self, t: Scalar, x: ArrayLike) -> Array:
        return -0.5 * self._rate(t) * jnp.asarray(x)

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(self._rate(t))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        log_square = self._log_square(t)
        return jnp.exp(0.5 * log_square), jnp.sqrt(-jnp.expm1(log_square))

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        scale, std = self.marginal(t)
        half = 0.5 * self._rate(t)
        return -half * scale, half * scale**2 / std

    def time(self, noise_to_signal: Scalar) -> Array:
        n = self.betas.shape[-1]
        depth = jnp.log1p(jnp.asarray(noise_to_signal) ** 2)
        return jnp.interp(depth, -self._log_squares(), jnp.arange(n + 1, dtype=self.betas.dtype)) / n
