"""The interfaces of noising processes and of scores, which the oracles and the diffusion module share."""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from ._arrays import as_array, check_key, common_dtype
from ._module import Module
from ._types import Abstract, ArrayLike, Checked, Key, Scalar, State


class AbstractProcess(Module):
    """A process that turns an image into noise: `dx = f(t) x dt + g(t) dw` from data at time 0.

    Its marginals are `x_t = scale(t) x_0 + std(t) n` with `n` standard normal. All methods take one time; parameters
    are array leaves, so that `jax.vmap` maps over them. To define a process, implement these eight members: `t_min`,
    `t_max`, `drift`, `diffusion`, `marginal`, `rates`, `time` and `prior_std`.
    """

    if TYPE_CHECKING:
        t_min = Abstract[Array]()
        t_max = Abstract[Array]()
    else:
        t_min: eqx.AbstractVar[Array]
        t_max: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def drift(self, t: Scalar, x: ArrayLike) -> Array:
        """`f(t) x`, the drift of the forward SDE."""

    @abc.abstractmethod
    def diffusion(self, t: Scalar) -> Array:
        """`g(t)`, a scalar."""

    @abc.abstractmethod
    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        """`(scale, std)` of `x_t = scale x_0 + std n`."""

    @abc.abstractmethod
    def rates(self, t: Scalar) -> tuple[Array, Array]:
        """The derivatives of `marginal` in time."""

    @abc.abstractmethod
    def time(self, noise_to_signal: Scalar) -> Array:
        """The time at which `std / scale` has the given value: the inverse of that increasing function."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> Array:
        """The standard deviation of the noise from which sampling starts."""

    def prior_sample(
        self, shape: Checked[Sequence[int]], *, key: Key, dtype: Checked[DTypeLike | None] = None
    ) -> Array:
        """A draw from the noise at `t_max`, `prior_std` times a standard normal."""
        check_key(key)
        noise = jax.random.normal(key, shape, jnp.result_type(float) if dtype is None else dtype)
        return jnp.asarray(self.prior_std).astype(noise.dtype) * noise

    def prior_log_prob(self, x: ArrayLike) -> Array:
        """The log-density of that noise at one image."""
        x = as_array(x)
        x = x.astype(common_dtype(float, x.dtype))
        std = jnp.asarray(self.prior_std).astype(x.dtype)
        return -0.5 * jnp.sum((x / std) ** 2) - x.size * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi).astype(x.dtype))


class AbstractScore(Module):
    """The score `grad log p_t(x)` of images under a noising process, together with that process.

    Where `x_t = scale x_0 + std n` with `n` standard normal, a score predicts the two conditional means
    `E[x_0 | x_t = x]` and `E[n | x_t = x]`, which satisfy `x = scale E[x_0 | x_t = x] + std E[n | x_t = x]`. The score
    is `-E[n | x_t = x] / std`, and the velocity of the probability-flow ODE is
    `d scale/dt E[x_0 | x_t = x] + d std/dt E[n | x_t = x]`.

    To define a score, implement `process` and `predict`; the other methods follow from these two, and a subclass may
    override them where it can compute them better. Every method takes one time and one image without a batch axis, and
    evaluates the score once.

    Scores are also made by `diffusion.score_from(network, process)`, by `prior.score(process)` of an oracle, and by
    `diffusion.Score(function, process)`.

    **Arguments:**

    - `process`: the noising process, a `diffusion.AbstractProcess`.

    !!! example
        ```python
        import equinox as eqx, jax, jax.numpy as jnp
        from jaxinv import diffusion

        class White(diffusion.AbstractScore):  # of images that are standard normal
            process: diffusion.AbstractProcess

            def predict(self, t, x):
                scale, std = self.process.marginal(t)
                total = scale**2 + std**2
                return scale / total * x, std / total * x

        score = White(diffusion.VP())
        images = diffusion.sample(score, (8, 8, 1), key=jax.random.key(0), method=diffusion.DDIM(20)).check().value
        ```
    """

    if TYPE_CHECKING:
        process = Abstract[AbstractProcess]()
    else:
        process: eqx.AbstractVar[AbstractProcess]

    @abc.abstractmethod
    def predict(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """The denoised image and the noise, `(E[x_0 | x_t = x], E[n | x_t = x])`, from one evaluation.

        **Arguments:**

        - `t`: one time of the process.
        - `x`: one image, the state at that time.

        **Returns:** two arrays of the shape and dtype of `x`.
        """

    def __call__(self, t: Scalar, x: State) -> Array:
        """The score `grad log p_t(x)`.

        **Arguments:** those of `predict`.

        **Returns:** an array of the shape of `x`.
        """
        return self.score_and_image(t, x)[0]

    def denoiser(self, t: Scalar, x: State) -> Array:
        """The denoised image, `E[x_0 | x_t = x]`.

        **Arguments:** those of `predict`.

        **Returns:** an array of the shape of `x`.
        """
        return self.predict(t, x)[0]

    def noise(self, t: Scalar, x: State) -> Array:
        """The noise, `E[n | x_t = x]`.

        **Arguments:** those of `predict`.

        **Returns:** an array of the shape of `x`.
        """
        return self.predict(t, x)[1]

    def velocity(self, t: Scalar, x: State) -> Array:
        """The velocity of the probability-flow ODE, `f x - 1/2 g^2 grad log p_t(x)`.

        **Arguments:** those of `predict`.

        **Returns:** an array of the shape of `x`.
        """
        return self.velocity_and_image(t, x)[0]

    def score_and_image(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """The score and the denoised image, `(grad log p_t(x), E[x_0 | x_t = x])`, from one evaluation.

        **Arguments:** those of `predict`.

        **Returns:** two arrays of the shape of `x`.
        """
        image, noise = self.predict(t, x)
        return -noise / jnp.asarray(self.process.marginal(t)[1]).astype(noise.dtype), image

    def velocity_and_image(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """The velocity of the probability-flow ODE and the denoised image, from one evaluation.

        The velocity is made of the two predictions, so it is finite also where drift and diffusion are not.

        **Arguments:** those of `predict`.

        **Returns:** two arrays of the shape of `x`.
        """
        image, noise = self.predict(t, x)
        scale_rate, std_rate = (jnp.asarray(rate).astype(image.dtype) for rate in self.process.rates(t))
        return scale_rate * image + std_rate * noise, image


class AbstractGradientScore(AbstractScore):
    """A score that is known as a gradient: a subclass implements `__call__`, and the predictions follow from it."""

    @abc.abstractmethod
    def __call__(self, t: Scalar, x: State) -> Array:
        """The score `grad log p_t(x)`."""

    def predict(self, t: Scalar, x: State) -> tuple[Array, Array]:
        gradient, image = self.score_and_image(t, x)
        return image, -self._marginal(t, gradient.dtype)[1] * gradient

    def noise(self, t: Scalar, x: State) -> Array:
        gradient = self(t, x)
        return -self._marginal(t, gradient.dtype)[1] * gradient

    def score_and_image(self, t: Scalar, x: State) -> tuple[Array, Array]:
        gradient = self(t, x)
        scale, std = self._marginal(t, gradient.dtype)
        return gradient, (x + std**2 * gradient) / scale

    def velocity_and_image(self, t: Scalar, x: State) -> tuple[Array, Array]:
        gradient, image = self.score_and_image(t, x)
        velocity = self.process.drift(t, x) - 0.5 * self.process.diffusion(t) ** 2 * gradient
        return velocity.astype(gradient.dtype), image

    def _marginal(self, t: Scalar, dtype: Any) -> tuple[Array, Array]:
        scale, std = self.process.marginal(t)
        return jnp.asarray(scale).astype(dtype), jnp.asarray(std).astype(dtype)
