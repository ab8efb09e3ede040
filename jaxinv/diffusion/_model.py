"""A noising process with a score of it: what samplers and likelihoods are given."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._types import Scalar
from ..models import Mixer, UNet
from ..operators._base import is_concrete
from ..oracles._mixture_noised import GaussianMixtureScore
from ..oracles._noised import GaussianScore
from ._process import AbstractProcess, check_process
from ._score import NetworkScore, takes_two, velocity


class Model(eqx.Module):
    """A noising process and any score of it, of one image, in one dtype."""

    process: AbstractProcess
    score: Any

    def gradient(self, t: Scalar, x: Array) -> Array:
        """`score(t, x)`, whose shape must be that of `x`."""
        gradient = jnp.asarray(self.score(t, x))
        if gradient.shape != x.shape:
            raise ValueError(
                f"A score returns what has the shape of its input, {x.shape}; {type(self.score).__name__} returned "
                f"{gradient.shape}. It takes one image, without a batch axis: `score(t, x)`; see "
                "`diffusion.score_from`."
            )
        return gradient.astype(x.dtype)

    def split(self, t: Scalar, x: Array) -> tuple[Array, Array]:
        """`(E[x_0 | x_t = x], E[n | x_t = x])`, from one evaluation."""
        if isinstance(self.score, NetworkScore | GaussianScore | GaussianMixtureScore):
            return self.score.split(t, x)
        gradient = self.gradient(t, x)
        scale, std = self.process.marginal(t)
        return (x + std**2 * gradient) / scale, -std * gradient

    def gradient_and_image(self, t: Scalar, x: Array) -> tuple[Array, Array]:
        """The score and `E[x_0 | x_t = x]`, from one evaluation."""
        scale, std = self.process.marginal(t)
        if isinstance(self.score, NetworkScore):
            image, noise = self.score.split(t, x)
            return -noise / std.astype(x.dtype), image
        gradient = self.gradient(t, x)
        return gradient, (x + std**2 * gradient) / scale

    def velocity(self, t: Scalar, x: Array) -> Array:
        """The velocity of the probability-flow ODE."""
        return self.velocity_and_image(t, x)[0]

    def velocity_and_image(self, t: Scalar, x: Array) -> tuple[Array, Array]:
        """That velocity and `E[x_0 | x_t = x]`, from one evaluation.

        That of a network is taken from its own prediction, which is finite where drift and diffusion are not.
        """
        if isinstance(self.score, NetworkScore):
            image, noise = self.score.split(t, x)
            return velocity(self.process, t, image, noise), image
        gradient, image = self.gradient_and_image(t, x)
        return self.process.drift(t, x) - 0.5 * self.process.diffusion(t) ** 2 * gradient, image


def prepare(process: Any, score: Any, dtype: Any) -> Model:
    """The process in the dtype of a verb, and the score that uses it, checked against each other."""
    check_process(process)
    if not callable(score):
        raise ValueError(
            f"`score` must be called as `score(t, x)` on one image; {type(score).__name__} cannot be called. Of a "
            "network: `diffusion.score_from(network, process)`."
        )
    if isinstance(score, UNet | Mixer) or not takes_two(score):
        raise ValueError(
            f"`score` is called as `score(t, x)`, on one image; {type(score).__name__} is not. Of a network: "
            "`diffusion.score_from(network, process)`."
        )
    cast = lambda process: jax.tree.map(lambda leaf: leaf.astype(dtype), process)
    own = getattr(score, "process", None)
    if isinstance(own, AbstractProcess):
        if type(own) is not type(process):
            raise ValueError(
                f"The score is of the process {type(own).__name__}, which is not {type(process).__name__}: give both "
                "the same one."
            )
        score = eqx.tree_at(lambda s: s.process, score, cast(own))
    return Model(cast(process), score)


def one_process(function: Callable) -> Callable:
    """A verb of `(process, score, ...)` that raises for a score of the same process with other numbers.

    And for a `t_min` that no process has. Outside of what is compiled, where the numbers are known.
    """

    @functools.wraps(function)
    def wrapper(process: Any, score: Any, *args: Any, **kwargs: Any) -> Any:
        own = getattr(score, "process", None)
        same = isinstance(own, AbstractProcess) and type(own) is type(process)
        for name, value in vars(own).items() if same else ():
            given = getattr(process, name)
            known = is_concrete(value, given) and jnp.shape(value) == jnp.shape(given)
            if known and not np.allclose(value, given, rtol=1e-5):
                raise ValueError(
                    f"The score is of {type(own).__name__} with {name}={value}, the process given has {given}: give "
                    "both the same one."
                )
        if isinstance(process, AbstractProcess) and kwargs.get("t_min") is not None:
            _check_start(process, kwargs["t_min"])
        return function(process, score, *args, **kwargs)

    return wrapper


def _check_start(process: AbstractProcess, t_min: Any) -> None:
    # By numpy: under a user's jit an operation of JAX on known numbers has no known value.
    known = is_concrete(t_min) and is_concrete(process.t_max)
    if known and not np.all((np.asarray(t_min) >= 0) & (np.asarray(t_min) < np.asarray(process.t_max))):
        raise ValueError(
            f"`t_min` is the other end of the integral to t_max={float(process.t_max):g}: it must be smaller, and not "
            f"negative; got {t_min}."
        )


def is_start(process: AbstractProcess, t_min: Array) -> Array:
    """Whether a solution between `t_min` and the end of the process is of any length."""
    return (t_min >= 0) & (t_min < process.t_max)
