# %% [markdown]
# # Operators and their adjoints
#
# What the common operators do to a picture, and what their adjoints make of that: the first step of every iterative
# method is a multiple of the second row.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from jaxinv import data, operators, plotting

x = data.shepp_logan(64)
key = jax.random.key(0)
line = jnp.exp(-0.5 * (jnp.arange(-4, 5) / 2.0) ** 2)
frequencies = jnp.zeros(x.shape).at[::4].set(1.0).at[28:36].set(1.0)
instruments = {
    "Mask": operators.Mask((jax.random.uniform(key, x.shape) < 0.3).astype(jnp.float32)),
    "Convolution": operators.Convolution(jnp.outer(line, line) / line.sum() ** 2, x.shape),
    "Downsample": operators.Downsample(x.shape, 4),
    "ParallelBeam": operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 60, endpoint=False)),
    "FanBeam": operators.FanBeam(
        x.shape,
        jnp.linspace(0, 2 * jnp.pi, 60, endpoint=False),
        128,
        1.2,
        source_origin=120.0,
        origin_detector=60.0,
    ),
    "MaskedFourier": operators.MaskedFourier(frequencies) @ operators.Real(x.shape),
}


def picture(values):
    """Any measurement as a square picture in [0, 1]."""
    values = jnp.sqrt(jnp.abs(values)) if jnp.iscomplexobj(values) else jnp.abs(values)
    values = values.reshape(*values.shape[:2], -1)[..., :1]
    return jax.image.resize(values / values.max(), x.shape, "nearest")


measured = {name: operator(x) for name, operator in instruments.items()}
adjoints = {name: instruments[name].adjoint(y) for name, y in measured.items()}
for name, y in measured.items():
    print(f"{name:14} {x.shape} -> {y.shape}")
rows = {name: np.stack([picture(measured[name]), picture(adjoints[name])]) for name in instruments}
plotting.show(plotting.compare(rows, titles=["A x", "A* A x"], limits=(0, 1)), "operators.png")
