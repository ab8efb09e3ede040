"""Scores of networks and of functions, and the checks of every verb that takes a score."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array

from ..._arrays import as_array, check_floating
from ..._checks import checked
from ..._networks import LinenNetwork, PyTreeNetwork, as_network
from ..._score import AbstractGradientScore, AbstractProcess, AbstractScore
from ..._types import Checked, Network, PyTree, Scalar, State
from ...oracles import Gaussian, GaussianMixture
from .._processes._process import check_process, check_times
from ._parametrisation import AbstractParametrisation, Noise, ScoreParametrisation

_P = ParamSpec("_P")
_R = TypeVar("_R")


class NetworkScore(AbstractScore):
    """The score of a network, which `score_from` makes."""

    network: PyTree
    process: AbstractProcess
    parametrisation: AbstractParametrisation

    def predict(self, t: Scalar, x: State) -> tuple[Array, Array]:
        x = check_floating(as_array(x), "an image", "The score")
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


class FunctionScore(AbstractGradientScore):
    """The score that a function computes, which `Score(function, process)` makes."""

    function: PyTree
    process: AbstractProcess

    def __call__(self, t: Scalar, x: State) -> Array:
        x = as_array(x)
        gradient = jnp.asarray(self.function(jnp.asarray(t).astype(x.dtype), x))
        if gradient.shape != x.shape:
            raise ValueError(
                f"The function of a score returns what has the shape of its input, {x.shape}; it returned "
                f"{gradient.shape}. It takes one image, without a batch axis: `function(t, x)`. For a network, which "
                "takes a batch, there is `diffusion.score_from(network, process)`."
            )
        return gradient.astype(x.dtype)


# One name for two things, both of which users call the score: what a network predicts, and a function with its process.
# A class whose `__new__` returned an object of another class could not be copied or pickled; a function has no such
# trouble, and the two signatures are told apart by whether there are arguments.
@overload
def Score() -> ScoreParametrisation: ...
@overload
def Score(function: Callable[[Array, Array], Array], process: AbstractProcess) -> FunctionScore: ...
def Score(
    function: Checked[Callable[[Array, Array], Array] | None] = None, process: Checked[AbstractProcess | None] = None
) -> ScoreParametrisation | FunctionScore:
    """The score of a function, `Score(function, process)`; or, without arguments, a parametrisation of `score_from`.

    `Score(function, process)` is the score `grad log p_t(x) = function(t, x)` of images under a noising process. The
    denoised image `E[x_0 | x_t = x] = (x + std^2 function(t, x)) / scale` and the velocity
    `f x - 1/2 g^2 function(t, x)` follow from it.

    `Score()` says that a network predicts `grad log p_t(x)`: `score_from(network, process, Score())`.

    **Arguments:**

    - `function`: `function(t, x)`, of one time and one image without a batch axis, which returns an array of the shape
        of the image. It may be a pytree with arrays, such as an `equinox.Module` or a `jax.tree_util.Partial`; the
        arrays of a plain function are constants of the compiled program.
    - `process`: the noising process whose score it is.

    **Returns:** a `diffusion.AbstractScore`, or a `diffusion.AbstractParametrisation`.

    **Raises:** `ValueError` for a function without a process, for something that cannot be called as `function(t, x)`,
    and for a network, which `score_from` takes; and when the score is evaluated, for an output of another shape than
    the image.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion
        score = diffusion.Score(lambda t, x: -x, diffusion.VP())  # of images that are standard normal
        images = diffusion.sample(score, (8, 8, 1), key=jax.random.key(0), method=diffusion.DDIM(20)).check().value
        ```
    """
    if function is None and process is None:
        return ScoreParametrisation()
    if not isinstance(process, AbstractProcess):
        raise ValueError(
            "`Score(function, process)` takes the noising process whose score the function is, such as "
            f"`diffusion.VP()`; got {type(process).__name__}."
        )
    if not callable(function):
        raise ValueError(
            f"`Score(function, process)` takes a function `function(t, x)`; {type(function).__name__} cannot be called."
        )
    if isinstance(function, nnx.Module | linen.Module | LinenNetwork) or not takes_two(function):
        raise ValueError(
            f"`Score(function, process)` takes a function `function(t, x)` of one image; {type(function).__name__} is "
            "not. For a network there is `diffusion.score_from(network, process)`."
        )
    return FunctionScore(as_network(function), process)


def check_parametrisation(parametrisation: Any) -> None:
    """Raise unless this is a parametrisation."""
    if not isinstance(parametrisation, AbstractParametrisation):
        raise ValueError(
            "`parametrisation` must be `Noise()`, `Score()`, `Velocity()` or `Denoiser()` of `jaxinv.diffusion`; got "
            f"{parametrisation!r}."
        )


@checked(process=check_process, parametrisation=check_parametrisation)
def score_from(
    network: Network, process: AbstractProcess, parametrisation: AbstractParametrisation = Noise()
) -> NetworkScore:
    """The score `grad log p_t(x)` of a network, on one image without a batch axis.

    The network predicts one of four quantities of `x_t = scale x_0 + std n`, and the score is computed from it: it is
    `-E[n | x_t] / std` from the noise, `(scale E[x_0 | x_t] - x_t) / std^2` from the denoised image, and from the
    velocity it follows by the linear system of the two. The methods `denoiser`, `noise` and `velocity` give the other
    three, with one evaluation of the network each.

    **Arguments:**

    - `network`: `models.UNet`, or any Flax or equinox network or function with the call `network(x, t)`, where `x` has
        shape `(n, ...)` and `t`, the times of the process, shape `(n,)`.
    - `process`: the noising process that the network was trained for.
    - `parametrisation`: what the network predicts: `Noise()`, `Score()`, `Velocity()`, `Denoiser()` or
        `Preconditioned(...)`.

    **Returns:** a `diffusion.AbstractScore`. It is a pytree whose leaves are the weights and the parameters of the
    process; networks of the same structure share compiled programs.

    **Raises:** `ValueError` for a network that takes no time, or something that is no process; and when the score is
    evaluated, for an output of another shape than the input and for a known time outside `[t_min, t_max]`.

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
    """Whether the signature of a function allows a call with two arguments; `True` where it has no signature."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        pass  # Some callables have no signature.
    return True


def check_score(score: Any) -> None:
    """Raise, saying how to make a score, unless this is one."""
    name = type(score).__name__
    expected = "A score is a `diffusion.AbstractScore`, which carries its process"
    if isinstance(score, AbstractScore):
        if not isinstance(score.process, AbstractProcess):
            raise ValueError(
                f"The process of a score must be a noising process, such as `diffusion.VP()`; that of this {name} is "
                f"{type(score.process).__name__}. One of your own is a `diffusion.AbstractProcess`."
            )
        return
    if isinstance(score, Gaussian | GaussianMixture):
        raise ValueError(f"{expected}; got the oracle {name}. Its score is `prior.score(process)`.")
    if isinstance(score, nnx.Module | linen.Module | LinenNetwork):
        raise ValueError(f"{expected}; got the network {name}. Its score is `diffusion.score_from(network, process)`.")
    if callable(score):
        raise ValueError(
            f"{expected}; got the function {name}. If it is the score of one image, `function(t, x)`, give "
            "`diffusion.Score(function, process)`; if it is a network, `network(x, t)` of a batch, give "
            "`diffusion.score_from(network, process)`."
        )
    if isinstance(score, AbstractProcess):
        raise ValueError(
            f"{expected}; got the process {name} alone. A network has the score `score_from(network, process)`."
        )
    raise ValueError(
        f"{expected}; got {name}. Scores are `diffusion.score_from(network, process)`, `prior.score(process)` of an "
        "oracle and `diffusion.Score(function, process)`."
    )


def cast_process(score: AbstractScore, dtype: Any) -> AbstractScore:
    """The score with the parameters of its process in the dtype of a verb."""
    is_process = lambda node: isinstance(node, AbstractProcess)
    cast = lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf
    return jax.tree.map(lambda node: jax.tree.map(cast, node) if is_process(node) else node, score, is_leaf=is_process)


def takes_score(**checks: Callable[[Any], object]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorates a verb with a parameter `score`, which must be a score; one that is given a process too says so.

    **Arguments:**

    - `checks`: further checks, those of `checked`.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        usage = f"{function.__name__}({', '.join(positional)})"
        call = checked(score=check_score, **checks)(function)

        @functools.wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if "process" in kwargs or any(isinstance(value, AbstractProcess) for value in args):
                raise ValueError(
                    f"A score carries its process: `{usage}`, without the process. Scores are "
                    "`diffusion.score_from(network, process)`, `prior.score(process)` of an oracle and "
                    "`diffusion.Score(function, process)`."
                )
            return call(*args, **kwargs)

        return wrapper

    return decorate
