# %% [markdown]
# # When to stop a deep image prior
#
# A network fits a noisy picture, and none of three rules knows the truth: the discrepancy knows the noise level,
# held-out pixels know nothing, and the windowed variance asks when the image moves least. The lower curve
# is without the pixels that `HeldOut` keeps for itself. The first two stop about two decibels too early, the
# variance one too late.

# %%
import jax
import matplotlib.figure
import numpy as np
from flax import nnx

import jaxinv
from jaxinv import data, dip, models, noise, operators, plotting

x = data.shepp_logan(32)
likelihood = jaxinv.Likelihood(operators.Identity(x.shape), noise.Gaussian(0.1))
y = likelihood.simulate(x, key=jax.random.key(0))
network = models.SkipUNet(x.shape, scales=2, channels=8, rngs=nnx.Rngs(0))
rules = {
    "Discrepancy": dip.Discrepancy(),
    "HeldOut": dip.HeldOut(0.1),
    "WindowedVariance": dip.WindowedVariance(window=30),
}
figure = matplotlib.figure.Figure(figsize=(7, 3), layout="constrained")
axes = figure.add_subplot()
for colour, (name, rule) in enumerate(rules.items()):
    solution = dip.reconstruct(
        likelihood,
        network,
        y,
        key=jax.random.key(1),
        num_steps=500,
        reference=x,
        learning_rate=0.02,
        ema=0.9,
        stopping=rule,
    )
    history, kept = np.asarray(solution.stats["history"]["psnr"]), int(solution.stats["step"])
    print(f"{name:17} keeps step {kept:3}: {history[kept]:.1f} dB, best of the run {history.max():.1f} dB")
    if name != "Discrepancy":  # which ends its run at once
        axes.plot(history, linewidth=1, color=f"C{colour}", alpha=0.6)
    axes.plot(kept, history[kept], "o", color=f"C{colour}", label=f"{name}: step {kept}")
axes.set(xlabel="step", ylabel="PSNR (dB)", ylim=(12, None))
axes.legend(fontsize=8)
plotting.show(figure, "stopping_rules.png")
