"""The forward process, which turns images into noise."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from ..._arrays import as_parameter, check_key, is_concrete
from ..._checks import checked
from ..._jit import verb
from ..._types import Key, Scalar
from ._process import AbstractProcess, check_process, check_times, within


@checked(process=check_process)
def forward(process: AbstractProcess, x0: ArrayLike, *, key: Key, t: Scalar | None = None) -> Array:
    """A noised image, `x_t = scale(t) x_0 + std(t) n` with `n` standard normal.

    **Arguments:**

    - `process`: the noising process.
    - `x0`: one image, of any shape.
    - `key`: the random key of the noise.
    - `t`: the time, in `[t_min, t_max]`; with `None` it is `t_max`.

    **Returns:** an image of the shape of `x0`. It is NaN where a traced time, or a traced number of the process, is out
    of its range.

    **Raises:** `ValueError` for a known time outside the interval.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion
        noised = diffusion.forward(diffusion.VP(), jnp.ones((8, 8, 1)), key=jax.random.key(0), t=0.3)
        ```
    """
    # Before anything is compiled, because there the values are known.
    t = process.t_max if t is None else check_times(process, t, "t")
    if t.ndim != 0:
        raise ValueError(f"`t` must be one time; got shape {t.shape}. For several along a path: `trajectory`.")
    return _forward(process, x0, t, key)


@verb
def _forward(process: AbstractProcess, x0: ArrayLike, t: Array, key: Key) -> Array:
    process, x0 = _prepare(process, x0, key)
    t = _or_nan(process, t.astype(x0.dtype))
    scale, std = process.marginal(t)
    return scale * x0 + std * jax.random.normal(key, x0.shape, x0.dtype)


@checked(process=check_process)
def trajectory(process: AbstractProcess, x0: ArrayLike, times: ArrayLike, *, key: Key) -> Array:
    """A path of the forward SDE at given times.

    Its states are correlated, while several draws of `forward` are independent.

    From one time to the next the transition is exact, `x_s = (scale_s/scale_t) x_t + v n` with
    `v^2 = std_s^2 - (scale_s/scale_t)^2 std_t^2`, so the times may be arbitrarily far apart. A path of the reverse
    process comes from `sample(..., num_saved=...)`.

    **Arguments:**

    - `process`, `x0`, `key`: those of `forward`.
    - `times`: the times, `(n,)`, increasing, in `[t_min, t_max]`.

    **Returns:** the states, `(n, *shape)`; NaN as for `forward`, and for traced times that do not increase.

    **Raises:** `ValueError` for known times that are outside the interval or do not increase.

    **Reference:** Sarkka, Solin, Applied stochastic differential equations, 2019, section 6.2.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion
        times = jnp.linspace(0.01, 1, 8)
        path = diffusion.trajectory(diffusion.VP(), jnp.ones((8, 8, 1)), times, key=jax.random.key(0))  # (8, 8, 8, 1)
        ```
    """
    times = check_times(process, times, "times")
    if times.ndim != 1 or times.shape[0] < 1:
        raise ValueError(f"`times` must be a vector of at least one time; got shape {times.shape}.")
    if is_concrete(times) and not bool(jnp.all(times[1:] > times[:-1])):
        raise ValueError("`times` must increase.")
    return _trajectory(process, x0, times, key)


@verb
def _trajectory(process: AbstractProcess, x0: ArrayLike, times: Array, key: Key) -> Array:
    process, x0 = _prepare(process, x0, key)
    times = _or_nan(process, times.astype(x0.dtype))
    times = jnp.where(jnp.all(times[1:] > times[:-1]), times, jnp.nan)
    scales, stds = jax.vmap(process.marginal)(times)
    # x_s / scale_s is a random walk; the variance of its steps is the growth of (std/scale)^2.
    variance = (stds / scales) ** 2
    growth = jnp.maximum(jnp.diff(variance, prepend=jnp.zeros((1,), variance.dtype)), 0)
    draw = lambda index: jax.random.normal(jax.random.fold_in(key, index), x0.shape, x0.dtype)
    column = (-1,) + (1,) * x0.ndim
    steps = jnp.sqrt(growth).reshape(column) * jax.vmap(draw)(jnp.arange(times.shape[0]))
    return scales.reshape(column) * (x0[None] + jnp.cumsum(steps, axis=0))


def _or_nan(process: AbstractProcess, t: Array) -> Array:
    """Times, NaN where one of them is outside the interval of the process: they were traced, and nothing raised."""
    return jnp.where(jnp.all(within(process, t)), t, jnp.nan)


def _prepare(process: AbstractProcess, x0: ArrayLike, key: Key) -> tuple[AbstractProcess, Array]:
    check_key(key)
    x0 = as_parameter(x0)
    if jnp.iscomplexobj(x0):
        raise ValueError("`x0` must be real: noise real and imaginary part as two channels.")
    return jax.tree.map(lambda leaf: leaf.astype(x0.dtype), process), x0
