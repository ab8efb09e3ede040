# %% [markdown]
# # How much blur is there
#
# A blurred digit, of which nobody knows the width of the blur nor the level of the noise. `calibration.calibrate` finds
# both where the measurement is most likely under a Gaussian prior of other digits, with standard errors; then the
# picture can be sharpened. The dashed line is the truth, the grey band two standard errors to either side.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxinv
from jaxinv import calibration, classical, data, metrics, noise, operators, oracles, plotting

digits = jnp.asarray(data.digits(size=16)[0])
x, prior = digits[3], oracles.Gaussian.from_samples(digits[10:210])
place = jnp.arange(-5.0, 6.0)


def camera(parameters):
    weight = jnp.exp(-0.5 * (place / parameters["blur"]) ** 2)
    kernel = jnp.outer(weight, weight) / weight.sum() ** 2
    return jaxinv.Likelihood(operators.Convolution(kernel, x.shape), noise.Gaussian(parameters["noise"]))


y = camera({"blur": 1.5, "noise": 0.05}).simulate(x, key=jax.random.key(0))
evidence = calibration.Evidence(prior)
guess, widths = {"blur": 1.6, "noise": 0.07}, {"blur": 1.2, "noise": 0.06}
found = calibration.calibrate(camera, guess, y, widths=widths, criterion=evidence).check()
for name, value in found.value.items():
    print(f"{name} {value:.3f} +- {found.aux['standard_error'][name]:.3f}")

# %%
solve = lambda parameters: classical.gaussian(camera(parameters), prior, y).check().value
images = {
    "measured": y,
    "blur 0.8": solve({"blur": 0.8, "noise": 0.05}),
    f"found: {found.value['blur']:.2f}": solve(found.value),
    "blur 2.5": solve({"blur": 2.5, "noise": 0.05}),
}
figure = matplotlib.figure.Figure(figsize=(10, 2.4), layout="constrained")
curve, *places = figure.subplots(1, 6, width_ratios=(1.6, 1, 1, 1, 1, 1))
blurs = jnp.linspace(0.6, 2.6, 41)
values = jax.jit(jax.vmap(lambda b: evidence(camera({"blur": b, "noise": found.value["noise"]}), y)))(blurs)
curve.plot(blurs, values)
curve.axvspan(*(found.value["blur"] + np.array([-2, 2]) * found.aux["standard_error"]["blur"]), color="0.85")
curve.axvline(1.5, color="C1", linestyle="--")
curve.set(xlabel="width of the blur (pixels)", ylabel="-log p(y | width)")
for axes, (name, image) in zip(places, {"truth": x, **images}.items(), strict=True):
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(title=name, xticks=[], yticks=[], xlabel=f"{metrics.psnr(image, x):.1f} dB" if name != "truth" else "")
plotting.show(figure, "blur_width.png")
