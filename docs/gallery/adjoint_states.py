# %% [markdown]
# # Back-propagation, seen
#
# An unrolled network is an evolution: states run forwards, adjoint states backwards from the residual, by the adjoint
# equation. Here the layers are steps of gradient descent on a blurred picture, each with a step size of its own; the
# adjoint states are pictures of what each layer would have had to add.

# %%
import jax
import jax.numpy as jnp

from jaxinv import data, operators, plotting, unrolled

x = data.shepp_logan(32)
line = jnp.exp(-0.5 * (jnp.arange(-3, 4) / 1.5) ** 2)
blur = operators.Convolution(jnp.outer(line, line) / line.sum() ** 2, x.shape)
y = blur(x) + 0.01 * jax.random.normal(jax.random.key(0), x.shape)
layer = lambda size, z: z + size * blur.adjoint(y - blur(z))
sizes = jnp.full(6, 1.5)
run = unrolled.adjoint_states([layer] * 6, list(sizes), jnp.zeros_like(x), lambda z: z - x)


def loss(sizes):
    z = jnp.zeros_like(x)
    for size in sizes:
        z = layer(size, z)
    return 0.5 * jnp.sum((z - x) ** 2)


print("adjoint states:", jnp.stack(run.gradients))
print("jax.grad:      ", jax.grad(loss)(sizes))
figure = plotting.adjoint_states(run.states, run.adjoints, gradients=run.gradients, heading="Six steps of descent")
plotting.show(figure, "adjoint_states.png")
