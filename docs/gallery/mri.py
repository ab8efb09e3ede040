# %% [markdown]
# # Magnetic resonance with several coils
#
# Each coil sees the picture through its own sensitivity, and a quarter of the frequencies is measured: the middle, and
# every sixth line beyond. The adjoint shows the folds. The known sensitivities undo
# a part of them, and total variation nearly all.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(64)
place = jnp.stack(jnp.meshgrid(jnp.linspace(-1, 1, 64), jnp.linspace(-1, 1, 64), indexing="ij"), -1)
angles = 2 * jnp.pi * jnp.arange(4) / 4
centres = 1.1 * jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
distance = jnp.sum((place[None] - centres[:, None, None]) ** 2, -1)
coils = jnp.exp(-distance / 1.5 + 1j * angles[:, None, None])[..., None]
lines = jnp.zeros(x.shape).at[::6].set(1.0).at[28:36].set(1.0)
print(f"{100 * lines.mean():.0f} % of the frequencies, {len(coils)} coils")

# %% [markdown]
# The picture is real, which `Real` tells the operator; without it the same problem has complex pictures.

# %%
scanner = operators.MultiCoilFourier(lines, coils) @ operators.Real(x.shape)
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.02))
y = likelihood.simulate(x, key=jax.random.key(0))
adjoint = scanner.adjoint(y)
images = {
    "adjoint": adjoint * jnp.vdot(adjoint, x) / jnp.vdot(adjoint, adjoint),
    "Tikhonov": classical.tikhonov(likelihood, y, weight=100.0).check().value,
    "total variation": classical.tv(likelihood, y, weight=20.0).check().value,
}
plotting.show(plotting.compare(images, reference=x), "mri.png")
