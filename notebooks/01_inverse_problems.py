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
# # Inverse problems: operators, noise, baselines
#
# We measure $y = A(x) + \text{noise}$ and want the image $x$. This notebook builds operators and checks them, simulates
# measurements, reconstructs with the classical methods, and then does the same for many problems at once: over
# measurements, over operators, and over doses.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, metrics, noise, operators, plotting, regularisers

key = jax.random.key(0)

# %% [markdown]
# ## An operator and its adjoint
#
# An operator takes one image `(h, w, c)` and gives one measurement. Thirty X-ray projections of a phantom:

# %%
phantom = data.shepp_logan(64)
angles = jnp.linspace(0, jnp.pi, 30, endpoint=False)
scanner = operators.ParallelBeam(phantom.shape, angles)
sinogram = scanner(phantom)
print("image", phantom.shape, "-> sinogram", sinogram.shape)

# %% [markdown]
# The adjoint is exact: $\langle Ax, y\rangle = \langle x, A^* y\rangle$ to rounding. `certify` measures that, the
# linearity and the norm, for your own operators too.

# %%
certificate = operators.certify(scanner, key=key).check()
print(f"adjoint error {certificate.adjoint_error:.1e}, linearity error {certificate.linearity_error:.1e}")
print(f"norm {certificate.norm:.2f}")

differences = operators.FunctionOperator(lambda x: x[1:] - x[:-1], phantom.shape)
print("a derived adjoint passes as well:", bool(operators.certify(differences, key=key).passed))

# %% [markdown]
# Operators compose: a blur followed by downsampling, two instruments that look at one object, a scaled sum.

# %%
blur = operators.Convolution(jnp.ones((5, 5)) / 25, phantom.shape, boundary="reflect")
coarse = operators.Downsample(phantom.shape, 2) @ blur
both = operators.stack([coarse, scanner])
small, lines = both(phantom)
print("two measurements:", small.shape, lines.shape)

# %% [markdown]
# ## Noise and the likelihood
#
# A likelihood is an operator with its noise. It simulates measurements and scores images.

# %%
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
y = likelihood.simulate(phantom, key=key)
print("negative log-likelihood of the truth   ", float(likelihood.negative_log_likelihood(phantom, y)))
print("negative log-likelihood of an empty one", float(likelihood.negative_log_likelihood(0 * phantom, y)))

# %% [markdown]
# ## Classical reconstructions
#
# All minimise `nll + weight * R`, and all return a `Solution`: the image, a code per problem, statistics.

# %%
solutions = {
    "FBP": classical.fbp(scanner, y, window=classical.Hann()),
    "Tikhonov": classical.tikhonov(likelihood, y, weight=20.0),
    "TV": classical.tv(likelihood, y, weight=4.0),
    "smoothed TV": classical.tv(likelihood, y, weight=4.0, kind=regularisers.Smoothed(0.01)),
}
for name, solution in solutions.items():
    quality = metrics.psnr(solution.check().value, phantom)
    print(f"{name:<12} PSNR {quality:5.2f} dB, steps {solution.stats.get('num_steps', '-')}")

plotting.show(plotting.compare({name: s.value for name, s in solutions.items()}, reference=phantom), "baselines.png")

# %% [markdown]
# ## Many problems in one call
#
# `jax.vmap` over measurements gives, per problem, what a loop gives. Here eight phantoms drawn at random, one of which
# has a broken detector: it gets a code, and the others do not notice.

# %%
images = data.ellipses(8, 64, key=key)
measure = lambda x, k: likelihood.simulate(x, key=k)
measurements = jax.vmap(measure)(images, jax.random.split(key, 8))
measurements = measurements.at[3, 5, 7].set(jnp.nan)
solve = jax.vmap(lambda y: classical.tv(likelihood, y, weight=4.0))
batch = solve(measurements)
try:
    batch.check()
except RuntimeError as error:
    print(error)
print("steps:", batch.stats["num_steps"])

# %% [markdown]
# The parameters of an operator are arrays too, so we can map over operators: the same object seen by three scanners.

# %%
scanners = operators.batch(
    [operators.ParallelBeam(phantom.shape, jnp.linspace(0, stop, 30, endpoint=False)) for stop in (jnp.pi, 2.0, 1.0)]
)


def scan(scanner, k):
    likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
    y = likelihood.simulate(phantom, key=k)
    return classical.tv(likelihood, y, weight=4.0).value


views = jax.vmap(scan)(scanners, jax.random.split(key, 3))
names = ["180 degrees", "115 degrees", "57 degrees"]
plotting.show(plotting.compare(dict(zip(names, views, strict=True)), reference=phantom), "limited_angle.png")

# %% [markdown]
# ## A dose sweep
#
# With photon noise, $y \sim \text{Poisson}(\text{photons} \cdot e^{-Ax})$, the dose is an array leaf of the noise: a
# sweep over doses is one `vmap`. The photon counts enter by their Gaussian approximation, weighted least squares.

# %%
attenuation = operators.ParallelBeam(phantom.shape, angles, pixel_size=0.05, detector_spacing=0.05)


def at_dose(photons, k):
    likelihood = jaxinv.Likelihood(attenuation, noise.TransmissionPoisson(photons))
    counts = likelihood.simulate(phantom, key=k)
    return classical.tv(likelihood, counts, weight=jnp.sqrt(photons) / 10).value


doses = jnp.array([100.0, 1000.0, 10000.0])
sweep = jax.jit(jax.vmap(at_dose))(doses, jax.random.split(key, 3))
for photons, image in zip(doses, sweep, strict=True):
    print(f"{int(photons):>6} photons per ray: PSNR {metrics.psnr(image, phantom):.2f} dB")
plotting.show(
    plotting.compare({f"{int(n)} photons": image for n, image in zip(doses, sweep, strict=True)}, reference=phantom),
    "dose.png",
)

# %% [markdown]
# ## Gradients
#
# Solvers differentiate, through their steps (`Unrolled()`) or at the solution (`Implicit()`), here the error of a
# Tikhonov reconstruction with respect to its weight.

# %%
error = lambda weight: jnp.sum(
    (classical.tikhonov(likelihood, y, weight=weight, differentiate=jaxinv.Implicit()).value - phantom) ** 2
)
print("d error / d weight at 1 and at 100:", float(jax.grad(error)(1.0)), float(jax.grad(error)(100.0)))
