# %% [markdown]
# # Plug-and-play: a denoiser for the prior
#
# A small network learns to take noise of any level off digits, and nothing of blur. `pnp.reconstruct` alternates
# between it and the measurement: `HQS` in eight steps, `PGD` to a fixed point. Beside it are two denoisers that need no
# training: the proximal map of total variation, and that of a Gaussian prior of the same digits, made from its score.

# %%
import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv
from jaxinv import data, diffusion, metrics, models, noise, operators, oracles, plotting, pnp, regularisers, training

digits = jnp.asarray(data.digits(size=16)[0])
x, others = digits[2], digits[10:]
kernel = jnp.exp(-(jnp.linspace(-2, 2, 7) ** 2) / 2)
likelihood = jaxinv.Likelihood(
    operators.Convolution(jnp.outer(kernel, kernel) / kernel.sum() ** 2, x.shape), noise.Gaussian(0.05)
)
y = likelihood.simulate(x, key=jax.random.key(0))
network, history = training.fit(
    models.DRUNet((16, 16, 1), widths=(16, 32), num_blocks=1, rngs=nnx.Rngs(0)),
    training.denoising_loss((0.0, 0.3)),
    others,
    key=jax.random.key(1),
    num_steps=600,
    batch_size=32,
    ema=0.98,
)
denoiser = pnp.denoiser_from(network, sigma_range=(0.0, 0.3))
gaussian = pnp.FromScore(oracles.Gaussian.from_samples(others).score(diffusion.VE()))
solutions = {
    "TV, HQS": pnp.reconstruct(likelihood, pnp.Proximal(3 * regularisers.TV()), y),
    "Gaussian score, HQS": pnp.reconstruct(likelihood, gaussian, y),
    "network, HQS": pnp.reconstruct(likelihood, denoiser, y),
    "network, PGD": pnp.reconstruct(likelihood, denoiser, y, method=pnp.PGD(0.05, max_steps=60)),
}
for name, solution in solutions.items():
    steps = solution.stats["denoiser_evaluations"]
    print(f"{name:20} {metrics.psnr(solution.value, x):.1f} dB after {steps} evaluations")

# %%
images = {"measured": y} | {name: solution.value for name, solution in solutions.items()}
plotting.show(plotting.compare(images, reference=x, limits=(0, 1)), "plug_and_play.png")
