# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Posterior sampling with a diffusion prior
#
# A measurement $y = A x + n$ leaves many images possible. Under a prior $p(x)$ they are distributed as
# $p(x \mid y) \propto p(y \mid x)\, p(x)$, and a score of the noised prior is enough to draw from it, if only one knew
# $p(y \mid x_t)$: what a *noised* image tells of the measurement. Methods differ in how they approximate it. We begin
# where the answer is known exactly, and then take a learned score.

# %%
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxinv
from jaxinv import classical, data, diffusion, metrics, models, noise, operators, oracles, plotting, training
from jaxinv.diffusion import Preconditioned

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: more samples, a larger network and a longer training

# %% [markdown]
# ## One number about eight
#
# A mixture of 25 modes in eight dimensions, and a single linear measurement: several modes remain possible, with
# weights that are known. `GaussianMixture.posterior` is exact, so that every sampler can be judged.

# %%
process = diffusion.VP(beta_max=40.0)
grid = jnp.stack(jnp.meshgrid(*2 * [jnp.arange(-16.0, 17.0, 8.0)], indexing="ij"), axis=-1).reshape(25, 2)
prior = oracles.GaussianMixture(jnp.full(25, 1 / 25), jnp.tile(grid, (1, 4)), 1.0)
row = jax.random.normal(key, (1, 8)) / 4
likelihood = jaxinv.Likelihood(operators.Matrix(row, (8,)), noise.Gaussian(0.3))
y = likelihood.simulate(prior.sample(1, key=jax.random.key(1))[0], key=jax.random.key(2))
posterior = prior.posterior(likelihood, y)
print("mode weights above 1 %:", np.round(np.sort(posterior.weights[posterior.weights > 0.01])[::-1], 3))

# %%
NUM_SAMPLES, PARTICLES = (1000, 1024) if FULL else (200, 512)
exact, more = (posterior.sample(NUM_SAMPLES, key=jax.random.key(i)) for i in (3, 4))
distance = lambda samples: metrics.sliced_wasserstein(samples, exact, key=key)
print(f"{'exact samples':16} {distance(more):6.3f}")
score = prior.score(process)
methods = {
    "DPS": diffusion.DPS(100),
    "PiGDM": diffusion.PiGDM(),
    "MomentMatching": diffusion.MomentMatching(),
    "TDS": diffusion.TDS(particles=PARTICLES, temper_below=0.05),
}
if FULL:
    methods = {"TMPD": diffusion.TMPD(), **methods}
for name, method in methods.items():
    solution = diffusion.posterior_sample(likelihood, score, y, key=key, method=method, num_samples=NUM_SAMPLES)
    weights = metrics.mode_weights(solution.check().value, posterior.means)
    wrong = 0.5 * jnp.abs(weights - posterior.weights).sum()
    print(f"{name:16} {distance(solution.value):6.3f}, {100 * wrong:4.1f} % of the mass in the wrong mode")

# %% [markdown]
# `TDS` is also the default, with 1024 particles, where there are as few measurements as here. `MomentMatching` moves
# its particles; they are weighted by what that neglects, and resampled. The weights also give the evidence
# $\log p(y)$, and the number of particles that count says whether to trust it.

# %%
print(f"log-evidence {solution.stats['log_evidence']:.3f}, exact {prior.evidence(likelihood, y):.3f}")
print(f"effective particles at worst: {solution.stats['effective_particles']:.0f} of {PARTICLES}")

# %% [markdown]
# ## A learned score
#
# Small digits in $[0, 1]$ and a small network, as in the notebook before this one.

# %%
process = diffusion.VP()
digits, _ = data.digits(size=8)
digits = digits[np.random.default_rng(0).permutation(len(digits))]
train, test = digits[100:], jnp.asarray(digits[: 24 if FULL else 8])
shape = train.shape[1:]
parametrisation = Preconditioned.from_samples(train)
STEPS = 1500 if FULL else 300
network, history = training.fit(
    models.UNet(shape, widths=(32, 64) if FULL else (16, 32), rngs=nnx.Rngs(0)),
    diffusion.score_matching_loss(process, parametrisation=parametrisation),
    train,
    key=key,
    optimiser=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, STEPS, 1e-5)),
    num_steps=STEPS,
    batch_size=32,
    ema=0.99,
)
score = diffusion.score_from(network, process, parametrisation)
gaussian = oracles.Gaussian.from_samples(train)
print(f"{history['seconds']:.0f} s of training")

# %% [markdown]
# Three kinds of measurement, one prior: nothing is trained again. The mean of the samples is the reconstruction, their
# deviation is its uncertainty, and each of them is an image that explains the measurement. The Gaussian prior, of the
# mean and covariance of the same digits, is the baseline. Each operator is stored as a matrix of 64 rows (those of the
# pixels that inpainting does not see are zero), so that one compiled program serves all three.

# %%
mask = (jax.random.uniform(jax.random.key(5), shape) < 0.35).astype(jnp.float32)
line = jnp.array([1.0, 2.0, 1.0])
problems = {
    "inpainting": operators.Mask(mask),
    "deblurring": operators.Convolution(jnp.outer(line, line) / 16, shape),
    "tomography": operators.ParallelBeam(shape, jnp.linspace(0, jnp.pi, 4, endpoint=False), num_detectors=16),
}
SAMPLES = 15 if FULL else 11
METHOD = diffusion.MomentMatching(30 if FULL else 15, schedule=diffusion.UniformLogSNR())


@jax.jit
def solve(score, likelihood, x, key):
    """Simulate a measurement of each image, and return samples of each posterior and the means for a Gaussian prior."""

    def one(x, key):
        y = likelihood.simulate(x, key=jax.random.fold_in(key, 0))
        solution = diffusion.posterior_sample(
            likelihood, score, y, key=jax.random.fold_in(key, 1), num_samples=SAMPLES, method=METHOD
        )
        return solution, classical.gaussian(likelihood, gaussian, y).value

    return jax.vmap(one)(x, jax.random.split(key, len(x)))


ranks = {}
for name, operator in problems.items():
    matrix = operators.Matrix(operators.materialise(operator).matrix, shape)
    likelihood = jaxinv.Likelihood(matrix, noise.Gaussian(0.05 * operators.norm(matrix, key=key)))
    solution, affine = solve(score, likelihood, test, jax.random.key(6))
    samples = solution.check().value
    quality = {"posterior mean": samples.mean(1), "one sample": samples[:, 0], "Gaussian prior": affine}
    held = jax.vmap(metrics.coverage)(samples, test).mean()
    said = ", ".join(f"{kind} {metrics.psnr(jnp.clip(value, 0, 1), test):.2f} dB" for kind, value in quality.items())
    print(f"{name:12} {said}; 90 % intervals hold {100 * held:.0f} % of the pixels")
    ranks[name] = jax.vmap(lambda s, x: metrics.calibration_ranks(s, x, jnp.sum))(samples, test)
    columns = {"truth": test[:4], "mean": samples[:4].mean(1), "deviation": samples[:4].std(1) * 3}
    columns |= {f"sample {i + 1}": samples[:4, i] for i in range(4)}
    figure = plotting.compare(
        {title: np.clip(value, 0, 1) for title, value in columns.items()},
        heading=f"Posterior of {name}; deviations times 3",
        limits=(0, 1),
    )
    plotting.show(figure, f"posterior_{name}.png")

# %% [markdown]
# Is the uncertainty right? If samples are drawn from the posterior, the truth is as likely to have any rank among them:
# a histogram of ranks is flat, up to chance. Here it is of the total brightness.

# %%
figure = plotting.calibration(
    np.stack([np.asarray(r) for r in ranks.values()], axis=1), SAMPLES, bins=4, titles=list(ranks)
)
plotting.show(figure, "calibration.png")
