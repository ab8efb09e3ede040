# %% [markdown]
# # An operator of your own, and a wrong adjoint
#
# Motion blur over seven pixels to the right, as a class with its adjoint. The adjoint must blur to the *left*; whoever
# forgets that gets a picture that is wrong, or worse, one that is nearly right. `certify` finds it.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting


class Motion(operators.AbstractLinearOperator):
    shape: tuple[int, ...] = eqx.field(static=True)
    back: int = eqx.field(static=True, default=-1)  # where the adjoint moves: +1 is the mistake

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    codomain = domain

    def __call__(self, x):
        return sum(jnp.roll(x, shift, axis=1) for shift in range(7)) / 7

    def adjoint(self, y):
        return sum(jnp.roll(y, self.back * shift, axis=1) for shift in range(7)) / 7


x = data.shepp_logan(64)
right, wrong = Motion(x.shape), Motion(x.shape, back=1)
try:
    operators.certify(wrong, key=jax.random.key(0)).check()
except RuntimeError as error:
    print(error)
print(operators.certify(right, key=jax.random.key(0)).check().adjoint_error)

# %% [markdown]
# If you would rather not write an adjoint, give the function alone, and it is derived: exactly as right.

# %%
derived = operators.FunctionOperator(right.__call__, x.shape)
print(operators.certify(derived, key=jax.random.key(0)).check().adjoint_error)

# %% [markdown]
# The same measurement, deblurred with the right adjoint and with the wrong one.

# %%
y = jaxinv.Likelihood(right, noise.Gaussian(0.02)).simulate(x, key=jax.random.key(1))
images = {"measured": y}
for name, operator in {"right adjoint": right, "wrong adjoint": wrong}.items():
    solution = classical.tv(jaxinv.Likelihood(operator, noise.Gaussian(0.02)), y, weight=20.0, max_steps=500)
    print(name, jaxinv.RESULTS[solution.result])
    images[name] = solution.value
plotting.show(plotting.compare(images, reference=x), "own_operator.png")
