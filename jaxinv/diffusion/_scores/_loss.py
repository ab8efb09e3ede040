"""Denoising score matching, and how it weighs the errors at different times."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._arrays import as_array, as_parameter, check_floating, check_key
from ..._checks import checked
from ..._types import Key, Scalar
from ...requirements import Parametric, Requirement
from .._processes._process import AbstractProcess, check_process
from ._parametrisation import AbstractParametrisation, Noise
from ._score import check_parametrisation, check_takes_time


class AbstractWeighting(Parametric):
    """A weighting: how the squared error at each time counts in the loss."""

    @abc.abstractmethod
    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        """The weight of `||n - E[n | x_t]||^2`, which is `std^2` times the squared error of the score."""


class NoiseWeighting(AbstractWeighting):
    """The weight 1 of the squared error of the noise, which is `std^2` times that of the score, as in the paper."""

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        return t * 0 + 1


class LikelihoodWeighting(AbstractWeighting):
    """The weight `g^2/std^2`, which is `g^2` for the squared error of the score.

    With it the loss bounds the negative log-likelihood.

    **Reference:** Song, Durkan, Murray, Ermon, Maximum likelihood training of score-based diffusion models, 2021.
    """

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        return (process.diffusion(t) / process.marginal(t)[1]) ** 2


class VelocityWeighting(AbstractWeighting):
    """The weight `(d std/dt - std d log scale/dt)^2`: the squared error of the velocity, that of flow matching."""

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        (scale, std), (scale_rate, std_rate) = process.marginal(t), process.rates(t)
        return (std_rate - std * scale_rate / scale) ** 2


class ScoreMatchingLoss(Parametric):
    """The loss `loss(network, batch, *, key)`, which `score_matching_loss` makes."""

    process: AbstractProcess
    weighting: AbstractWeighting
    parametrisation: AbstractParametrisation
    t_min: Array

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "`t_min` must be at least 0 and before the `t_max` of the process",
                {"t_min": self.t_min, "t_max": self.process.t_max},
                lambda low, high: (low >= 0) & (low < high),
            ),
        )

    def __call__(self, network: Any, batch: Any, *, key: Key) -> Float[Array, ""]:
        check_key(key)
        check_takes_time(network)
        batch = check_floating(as_array(batch), "images", "score_matching_loss")
        process = jax.tree.map(lambda leaf: leaf.astype(batch.dtype), self.process)
        time_key, noise_key = jax.random.split(key)
        # One time in each of n equal parts of the interval, so the mean over a batch varies less.
        n = batch.shape[0]
        share = (jnp.arange(n, dtype=batch.dtype) + jax.random.uniform(time_key, (n,), batch.dtype)) / n
        t_min = self.t_min.astype(batch.dtype)
        times = t_min + share * (process.t_max - t_min)
        noise = jax.random.normal(noise_key, batch.shape, batch.dtype)
        scale, std = (v.reshape((-1,) + (1,) * (batch.ndim - 1)) for v in jax.vmap(process.marginal)(times))
        noised = scale * batch + std * noise
        output = network(noised, times)
        if output.shape != batch.shape:
            raise ValueError(
                f"The network must return what has the shape of its input, {batch.shape}; it returned {output.shape}."
            )
        error = lambda t, x, out, n: (
            self.weighting(process, t) * jnp.mean((self.parametrisation.split(process, t, x, out)[1] - n) ** 2)
        )
        return jnp.mean(jax.vmap(error)(times, noised, output, noise))


def check_weighting(weighting: Any) -> None:
    """Raise unless this is a weighting."""
    if not isinstance(weighting, AbstractWeighting):
        raise ValueError(
            "`weighting` must be `NoiseWeighting()`, `LikelihoodWeighting()` or `VelocityWeighting()` of "
            f"`jaxinv.diffusion`; got {weighting!r}."
        )


@checked(process=check_process, weighting=check_weighting, parametrisation=check_parametrisation)
def score_matching_loss(
    process: AbstractProcess,
    weighting: AbstractWeighting = NoiseWeighting(),
    *,
    parametrisation: AbstractParametrisation = Noise(),
    t_min: Scalar = 1e-5,
) -> ScoreMatchingLoss:
    """Denoising score matching, `E w(t) ||E[n | x_t] - n||^2 / d` over `t`, images and noise, for `training.fit`.

    The times are stratified over the batch, with one in each of `n` equal parts of `[t_min, t_max]`.

    **Arguments:**

    - `process`: the noising process.
    - `weighting`: `NoiseWeighting()`, which is that of the paper, `LikelihoodWeighting()`, or `VelocityWeighting()`,
        which is flow matching.
    - `parametrisation`: what the network predicts, as in `score_from`.
    - `t_min`: the least time to train at. The default is the time at which `log_prob` starts.

    **Returns:** the loss, `loss(network, batch, *, key)`: the mean over a batch, with the call `network(x, t)`. A
    network that returns zeros has the loss 1 with the defaults. Make the loss once, since `training.fit` compiles a
    program for each new one.

    **Raises:** `ValueError` for something that is no process, weighting or parametrisation, and for a known `t_min`
    out of range; and when the loss is
    called, for a network that takes no time or returns another shape.

    **Reference:** Vincent, A connection between score matching and denoising autoencoders, 2011; Song, Sohl-Dickstein,
    Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic differential equations, 2021.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        process = jaxinv.diffusion.VP()
        network, history = jaxinv.training.fit(
            jaxinv.models.UNet((8, 8, 1), widths=(8, 16), rngs=nnx.Rngs(0)),
            jaxinv.diffusion.score_matching_loss(process),
            jax.random.uniform(jax.random.key(0), (64, 8, 8, 1)),
            key=jax.random.key(1),
            num_steps=20,
            batch_size=16,
            ema=0.999,
        )
        score = jaxinv.diffusion.score_from(network, process)
        ```
    """
    return ScoreMatchingLoss(process, weighting, parametrisation, as_parameter(t_min))
