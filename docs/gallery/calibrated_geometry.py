# %% [markdown]
# # Finding the axis of a scanner
#
# The detector sits three pixels off the axis of rotation, and nobody knows. The projector can be differentiated in its
# geometry: descend the misfit of the reconstruction in the offset, and the picture becomes sharp.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(48)
angles = jnp.linspace(0, 2 * jnp.pi, 60, endpoint=False)
scan = lambda offset: jaxinv.Likelihood(
    operators.ParallelBeam(x.shape, angles, 72, centre_offset=offset), noise.Gaussian(0.2)
)
y = scan(3.0).simulate(x, key=jax.random.key(0))
reconstruct = lambda offset: classical.tikhonov(scan(offset), y, weight=50.0, differentiate=jaxinv.Implicit())


@jax.jit
@jax.value_and_grad
def misfit(offset):
    image = reconstruct(offset).value
    return scan(offset).negative_log_likelihood(image, y) + 25 * jnp.sum(image**2)


offset, slopes = jnp.array(0.0), []
for step in range(5):
    value, slope = misfit(offset)
    # The secant of the last two slopes stands for the curvature.
    slopes.append((float(offset), float(slope)))
    (a, f), (b, g) = slopes[-2:] if step else ((0.0, 0.0), (-1.0, float(slope)))
    offset = jnp.clip(offset - slope * abs((b - a) / (g - f + 1e-9)), offset - 1, offset + 1)
    print(f"offset {slopes[-1][0]:.3f}, misfit {value:.0f}")

# %%
images = {f"offset {o:.2f}": reconstruct(jnp.array(o)).value for o in (0.0, float(offset))}
plotting.show(plotting.compare(images, reference=x, limits=(0, 1)), "calibrated_geometry.png")
