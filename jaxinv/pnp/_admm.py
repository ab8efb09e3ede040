"""Alternating directions with a denoiser (PnP-ADMM), a method of `pnp.reconstruct`."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf
from .._solution import RESULTS
from .._types import IntLike, Key, Scalar
from ._method import AbstractProximal, Problem, QuadraticData


class ADMM(AbstractProximal[Array]):
    """Alternating directions: `x = argmin -log p(y | x) + weight / (2 sigma^2) ||x - z + u||^2`, `z = D(x + u, sigma)`.

    Then `u <- u + x - z`, and the image is `z`. It takes linear operators and Gaussian noise, by conjugate gradients;
    photon noise by its Gaussian approximation. With `Proximal(regulariser)` it minimises
    `-log p(y | x) + weight R(x)`. It has the fixed points of `PGD` whose step is `sigma^2 / weight`, and needs fewer
    steps where the operator is badly conditioned. It converges if `D` is the proximal map of a convex function, or
    under the conditions of the reference.

    - `sigma`: positive, the noise level at which it calls the denoiser; the larger, the smoother the image.
    - `weight`: positive; the larger, the smoother the image.
    - `max_steps`: static.
    - `rtol`: the relative change of the image at which the steps end.
    - `solver_rtol`, `solver_steps`: the relative residual at which conjugate gradients stop, and their largest number
        of steps, static.

    **Reference:** Venkatakrishnan, Bouman, Wohlberg, Plug-and-play priors for model based reconstruction, 2013; Chan,
    Wang, Elgendy, Plug-and-play ADMM for image restoration: fixed-point convergence and applications, 2017.
    """

    sigma: Scalar = eqx.field(converter=as_leaf)
    weight: Scalar = eqx.field(default=1.0, converter=as_leaf)
    max_steps: IntLike = eqx.field(default=100, static=True)
    rtol: Scalar = eqx.field(default=1e-4, converter=as_leaf)
    solver_rtol: Scalar = eqx.field(default=1e-5, converter=as_leaf)
    solver_steps: IntLike = eqx.field(default=100, static=True)

    def begin(self, problem: Problem[QuadraticData]) -> Array:
        return jnp.zeros_like(problem.start)

    def move(
        self, problem: Problem[QuadraticData], x: Array, memory: Array, index: Array, *, key: Key | None
    ) -> tuple[Array, Array, RESULTS]:
        del index
        sigma, weight = problem.options
        fitted, _, code = problem.data.proximal(x - memory, weight / sigma**2)
        image = problem.denoise(fitted + memory, sigma, key=key)
        return image, memory + fitted - image, code
