"""Networks and problems small enough to follow by hand."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from verbs import rng_of

from jaxinv import Likelihood, noise, operators

SHAPE = (4, 3, 1)
KEY = jax.random.key(0)
RNG = rng_of(0)
MATRIX, BASIS, Y = RNG.normal(size=(8, 12)), RNG.normal(size=(12, 5)), RNG.normal(size=8)
STD = 0.5


class Linear(eqx.Module):
    """`F(z0) = B theta`, whatever `z0` is; the basis is to be frozen."""

    basis: jax.Array
    theta: jax.Array

    def __call__(self, z0):
        image = jnp.matmul(self.basis, self.theta, precision="highest")
        return jnp.broadcast_to(image.reshape(SHAPE)[None], (z0.shape[0], *SHAPE))


class Wave(eqx.Module):
    """`F(z0) = theta sin(z0)`, one weight for each pixel."""

    theta: jax.Array

    def __call__(self, z0):
        return self.theta[None] * jnp.sin(z0)


class Squashed(eqx.Module):
    """A network with a function among its leaves."""

    function: Any
    theta: jax.Array

    def __call__(self, z0):
        return self.function(self.theta[None] * z0)


def linear(theta=0.0):
    return Linear(jnp.asarray(BASIS), jnp.full(5, theta))


def compressed():
    return Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(STD))


def pixels(std=1.0):
    return Likelihood(operators.Identity(SHAPE), noise.Gaussian(std))
