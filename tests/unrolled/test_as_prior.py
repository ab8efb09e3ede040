"""An unrolled network as the network of a deep image prior, whose input is the measurement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import Likelihood, dip, noise, operators
from jaxinv.models import LearnedGradient

SHAPE = (8, 8, 1)


@pytest.mark.slow
def test_a_deep_image_prior():
    operator = operators.Downsample(SHAPE, 2)
    likelihood = Likelihood(operator, noise.Gaussian(0.05))
    x = jnp.zeros(SHAPE).at[2:6, 2:6].set(1.0)
    y = likelihood.simulate(x, key=jax.random.key(0))
    network = LearnedGradient(operator, num_layers=2, width=4, norm=2.0, rngs=nnx.Rngs(0))
    solution = dip.reconstruct(likelihood, network, y, key=jax.random.key(1), num_steps=40, start=dip.From(y)).check()
    misfit = lambda image: float(jnp.sum((operator(image) - y) ** 2))
    assert misfit(solution.value) < 0.8 * misfit(network(y[None])[0])
    trained = solution.aux["network"]
    np.testing.assert_array_equal(trained.operator.get_value().factor, network.operator.get_value().factor)
