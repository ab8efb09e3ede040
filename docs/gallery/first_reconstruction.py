# %% [markdown]
# # The first reconstruction
#
# Thirty X-ray projections of a phantom, with noise, and the image of least total variation that explains them.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, metrics, noise, operators, plotting

x = data.shepp_logan(64)  # (64, 64, 1)
scanner = operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 30, endpoint=False))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
y = likelihood.simulate(x, key=jax.random.key(0))

images = {
    "filtered back-projection": classical.fbp(scanner, y, window=classical.Hann()).check().value,
    "total variation": classical.tv(likelihood, y, weight=4.0).check().value,
}
for name, image in images.items():
    print(f"{name}: {metrics.psnr(image, x):.1f} dB")
plotting.show(plotting.compare(images, reference=x), "first_reconstruction.png")
