# %% [markdown]
# # The derivative of a reconstruction
#
# A solution can be differentiated in everything that it depends on, if the verb is told how: `jaxinv.Implicit()`
# solves one more linear system, `jaxinv.Unrolled()` goes back through the steps. Here the weight of a Tikhonov penalty
# is chosen by descending the error on one known picture, through the solver.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(32)
scanner = operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 15, endpoint=False))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.3))
y = likelihood.simulate(x, key=jax.random.key(0))


def image(log_weight):
    return classical.tikhonov(likelihood, y, weight=jnp.exp(log_weight), differentiate=jaxinv.Implicit()).value


error = jax.jit(jax.value_and_grad(lambda log_weight: jnp.mean((image(log_weight) - x) ** 2)))
log_weight = jnp.array(-2.0)
for step in range(30):
    value, slope = error(log_weight)
    log_weight -= 2.0 * slope / jnp.maximum(value, 1e-6)
    if step % 10 == 0:
        print(f"weight {jnp.exp(log_weight):.3f}, mean squared error {value:.4f}")
images = {"first weight": image(jnp.array(-2.0)), "learned weight": image(log_weight)}
plotting.show(plotting.compare(images, reference=x), "gradient.png")
