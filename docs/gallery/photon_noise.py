# %% [markdown]
# # Few photons
#
# Transmission tomography counts photons: the fewer, the noisier. The same scan at three doses, with the noise of each
# entry known to the solver.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(48)
scanner = operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 40, endpoint=False)) / 20
images = {}
for dose in (1e3, 1e4, 1e5):
    likelihood = jaxinv.Likelihood(scanner, noise.TransmissionPoisson(dose))
    counts = likelihood.simulate(x, key=jax.random.key(0))
    images[f"{dose:.0f} photons"] = classical.tv(likelihood, counts, weight=5.0).check().value
plotting.show(plotting.compare(images, reference=x), "photon_noise.png")
