# %% [markdown]
# # Total variation, generalised variation, wavelets
#
# A picture with slopes, a disc and stripes, blurred, with noise. Total variation makes stairs of the slopes, and `TGV`
# keeps them. Undecimated wavelets gain a little in the stripes over `TGV`, and lose elsewhere. `primal_dual` takes each
# of them, sums of them, and a constraint; each has here the best weight of four, chosen by the truth.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, metrics, noise, operators, plotting, regularisers

row, column = jnp.meshgrid(jnp.linspace(0, 1, 48), jnp.linspace(0, 1, 48), indexing="ij")
slope = jnp.where(row < 0.5, column, 1 - column)
disc = jnp.hypot(row - 0.3, column - 0.35) < 0.18
stripes = (row > 0.62) & (row < 0.9) & (column > 0.55) & (column < 0.9)
x = jnp.where(disc, 0.9, jnp.where(stripes, 0.5 + 0.4 * jnp.sin(60 * column), 0.8 * slope))[..., None]
likelihood = jaxinv.Likelihood(operators.Convolution(jnp.ones((3, 3)) / 9, x.shape), noise.Gaussian(0.05))
y = likelihood.simulate(x, key=jax.random.key(0))
weights = jnp.array([0.7, 2.0, 6.0, 18.0])


def reconstruct(regulariser):
    def solve(weight):
        box = regularisers.Box(0.0, 1.0)
        return classical.primal_dual(likelihood, regulariser, y, weight=weight, constraint=box, max_steps=400).value

    images = jax.vmap(solve)(weights)
    best = jnp.argmax(jax.vmap(lambda image: metrics.psnr(image, x))(images))
    striped = metrics.psnr(images[best][30:43, 27:43], x[30:43, 27:43])
    print(f"{type(regulariser).__name__}: weight {weights[best]:.1f}, {striped:.1f} dB in the stripes")
    return images[best]


images = {
    "measured": y,
    "TV": reconstruct(regularisers.TV()),
    "TGV": reconstruct(regularisers.TGV()),
    "wavelets": reconstruct(regularisers.Wavelets(order=2, undecimated=True)),
}
plotting.show(plotting.compare(images, reference=x), "regularisers.png")
