"""Scores: of networks, of oracles, of the user."""

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._linen import LinenNetwork
from .._types import Scalar, State
from ..models._network import PyTreeNetwork, as_network, check_floating
from ._parametrisation import AbstractParametrisation, Noise
from ._process import AbstractProcess, check_process, check_times


class NetworkScore(eqx.Module):
    """The score of a network, on one unbatched image: what `score_from` makes."""

    network: PyTree
    process: AbstractProcess
    parametrisation: AbstractParametrisation

    def __call__(self, t: Scalar, x: State) -> Array:
        """`grad log p_t(x)`."""
        x = jnp.asarray(x)
        _, noise = self.split(t, x)
        return -noise / self.process.marginal(t)[1].astype(x.dtype)

    def denoiser(self, t: Scalar, x: State) -> Array:
        """`E[x_0 | x_t = x]`."""
        return self.split(t, x)[0]

    def noise(self, t: Scalar, x: State) -> Array:
        """`E[n | x_t = x]`."""
        return self.split(t, x)[1]

    def velocity(self, t: Scalar, x: State) -> Array:
        """The velocity of the probability-flow ODE at `x`."""
        return velocity(self.process, t, *self.split(t, x))

    def split(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """The denoiser and the noise, from one evaluation of the network."""
        x = check_floating(jnp.asarray(x), "an image", "The score")
        t = check_times(self.process, t, "t").astype(x.dtype)
        if t.ndim != 0:
            raise ValueError(f"The score takes one time; got shape {t.shape}. Map over times with `jax.vmap`.")
        output = self.network(x[None], t[None])
        if output.shape != (1, *x.shape):
            raise ValueError(
                f"The network must return what has the shape of its input, {(1, *x.shape)}; it returned "
                f"{output.shape}. Networks take and return a batch, `network(x, t)` with `t` of shape (n,)."
            )
        process = jax.tree.map(lambda leaf: leaf.astype(x.dtype), self.process)
        return self.parametrisation.split(process, t, x, output[0].astype(x.dtype))


def score_from(network: Any, process: Any, parametrisation: Any = None) -> NetworkScore:
    """The score `grad log p_t(x)` of a network, as a module `score(t, x)` on one unbatched image.

    With `x_t = scale x_0 + std n`: `-E[n|x_t]/std` from the noise, `(scale E[x_0|x_t] - x_t)/std^2` from the denoiser,
    and from the velocity through the linear system of the two. Its methods `denoiser`, `noise` and `velocity` convert
    to the other three, from one evaluation of the network each.

    **Arguments:**

    - `network`: `models.UNet`, or any Flax or equinox network or function with the call `network(x, t)`, `x` of shape
        `(n, ...)` and `t` of shape `(n,)`, the time of the process.
    - `process`: the noising process that it was trained for.
    - `parametrisation`: what it predicts: `Noise()` (default), `Score()`, `Velocity()` or `Denoiser()`.

    **Returns:** a pytree whose leaves are the weights; networks of the same structure share compiled programs.

    **Raises:** `ValueError` for a network that takes no time, or something that is no process; its call, for an output
    of another shape than the input, and for a time outside `[t_min, t_max]` where it is known.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.UNet((28, 28, 1), widths=(16, 32), rngs=nnx.Rngs(0))
        score = jaxinv.diffusion.score_from(network, jaxinv.diffusion.VP())
        gradient, image = score(0.5, jnp.ones((28, 28, 1))), score.denoiser(0.5, jnp.ones((28, 28, 1)))
        ```
    """
    check_process(process)
    parametrisation = Noise() if parametrisation is None else parametrisation
    if not isinstance(parametrisation, AbstractParametrisation):
        raise ValueError(
            "`parametrisation` must be `Noise()`, `Score()`, `Velocity()` or `Denoiser()` of `jaxinv.diffusion`; got "
            f"{parametrisation!r}."
        )
    check_takes_time(network)
    return NetworkScore(as_network(network), process, parametrisation)


def check_takes_time(network: Any) -> None:
    """Raise for a network that cannot be called as `network(x, t)`, where its signature tells."""
    if isinstance(network, LinenNetwork | PyTreeNetwork):
        return
    if not callable(network):
        raise ValueError(f"A score network is called as `network(x, t)`; {type(network).__name__} cannot be called.")
    if not takes_two(network):
        raise ValueError(
            f"A score network is called as `network(x, t)`, with the times `t` of shape (n,); "
            f"{type(network).__name__}{inspect.signature(network)} does not take them. `models.UNet` does."
        )


def takes_two(function: Any) -> bool:
    """Whether a function can be called with two arguments, as far as its signature tells."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        pass  # Some have no signature.
    return True


def velocity(process: AbstractProcess, t: Scalar, image: Array, noise: Array) -> Array:
    """The velocity of the probability-flow ODE, of the pair that `split` gives."""
    scale_rate, std_rate = (rate.astype(image.dtype) for rate in process.rates(t))
    return scale_rate * image + std_rate * noise
