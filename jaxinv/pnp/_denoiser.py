"""Denoisers, the priors of plug-and-play methods: the interface, and those made of networks, scores and functions."""

import abc
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array

from .._arrays import as_array, check_floating
from .._checks import checked
from .._differentiation import Unrolled
from .._loop import iterate
from .._module import Module
from .._networks import LinenNetwork, as_network
from .._score import AbstractScore
from .._solution import RESULTS
from .._types import Checked, Key, Network, PyTree, Scalar
from ..regularisers import AbstractRegulariser
from ..requirements import Requirement


class AbstractDenoiser(Module):
    """A denoiser: a function `D(x, sigma)` that removes Gaussian noise of standard deviation `sigma` from an image.

    To define one, implement the call. What a plug-and-play method assumes of it, such as that it is nonexpansive,
    `pnp.certify` measures.

    - `sigma_range`: the least and the largest `sigma` that the denoiser is made for.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import pnp

        class Shrinkage(pnp.AbstractDenoiser):  # of images that are standard normal
            def __call__(self, x, sigma):
                return x / (1 + sigma**2)

        image = Shrinkage()(jnp.ones((8, 8, 1)), 0.1)
        ```
    """

    @property
    def sigma_range(self) -> tuple[Scalar, Scalar]:
        """The least and the largest `sigma` that the denoiser is made for; by default 0 and infinity."""
        return 0.0, jnp.inf

    @abc.abstractmethod
    def __call__(self, x: Array, sigma: Scalar) -> Array:
        """The denoised image.

        **Arguments:**

        - `x`: one image, without a batch axis.
        - `sigma`: the standard deviation of its noise, a scalar in the unit of the image.

        **Returns:** an image of the shape of `x`.
        """

    def draw(self, x: Array, sigma: Scalar, *, key: Key) -> Array:
        """The denoised image, by a denoiser that takes random decisions; by default the call without them.

        **Arguments:**

        - `x`, `sigma`: those of the call.
        - `key`: a typed key.

        **Returns:** an image of the shape of `x`.
        """
        del key
        return self(x, sigma)

    def potential(self, x: Array, sigma: Scalar) -> Array:
        """`g(x)` of the method `GradientStep`, whose denoiser is `x - grad g(x)`; by default `1/2 ||x - D(x)||^2`.

        **Arguments:**

        - `x`, `sigma`: those of the call.

        **Returns:** a scalar.
        """
        return 0.5 * jnp.sum((x - self(x, sigma)) ** 2)


class FunctionDenoiser(AbstractDenoiser):
    """The denoiser that a function of one image computes, which `Denoiser` and `denoiser_from` make."""

    function: PyTree
    low: Array
    high: Array

    @property
    def sigma_range(self) -> tuple[Scalar, Scalar]:
        return self.low, self.high

    def requirements(self) -> tuple[Requirement, ...]:
        return (_ordered(self.low, self.high),)

    def __call__(self, x: Array, sigma: Scalar) -> Array:
        x = check_floating(as_array(x), "an image", "The denoiser")
        return _same_shape(self.function(x, jnp.asarray(sigma).astype(x.dtype)), x)


@checked()
def Denoiser(
    function: Checked[Callable[[Array, Array], Array]], *, sigma_range: tuple[Scalar, Scalar] = (0.0, float("inf"))
) -> FunctionDenoiser:
    """The denoiser of a function, `function(x, sigma) -> x`, of one image.

    **Arguments:**

    - `function`: a function of one image, without a batch axis, and of the standard deviation of its noise. It may be a
        pytree with arrays, such as an `equinox.Module`; the arrays of a plain function are constants of the program.
    - `sigma_range`: the least and the largest `sigma` that it is made for. Methods warn where they leave this range.

    **Returns:** a `pnp.AbstractDenoiser`.

    **Raises:** `ValueError` for a network, which `denoiser_from` takes, and for what cannot be called.

    !!! example
        ```python
        from jaxinv import pnp
        denoiser = pnp.Denoiser(lambda x, sigma: x / (1 + sigma**2))
        ```
    """
    if isinstance(function, nnx.Module | linen.Module | LinenNetwork):
        raise ValueError(
            f"`Denoiser` takes a function `function(x, sigma)` of one image; {type(function).__name__} is a network, "
            "which takes a batch: `pnp.denoiser_from(network)`."
        )
    if not callable(function):
        raise ValueError(f"`Denoiser` takes a function `function(x, sigma)`; got {function!r}, which is none.")
    return FunctionDenoiser(as_network(function), *_range(sigma_range))


@checked()
def denoiser_from(network: Network, *, sigma_range: tuple[Scalar, Scalar] = (0.0, float("inf"))) -> FunctionDenoiser:
    """The denoiser of a network, `network(x, sigma) -> x`, of a batch.

    **Arguments:**

    - `network`: `models.DRUNet`, or any Flax or equinox network or function with the call `network(x, sigma)`, where
        `x` has shape `(n, h, w, c)` and `sigma`, the standard deviations of the noise, shape `(n,)`.
    - `sigma_range`: the least and the largest `sigma` that it was trained for. Methods warn where they leave it.

    **Returns:** a `pnp.AbstractDenoiser`, a pytree whose leaves are the weights.

    **Raises:** `ValueError` for what cannot be called; and when the denoiser is evaluated, for an output of another
    shape than the input.

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.DRUNet((16, 16, 1), widths=(8, 16), num_blocks=1, rngs=nnx.Rngs(0))
        denoiser = jaxinv.pnp.denoiser_from(network, sigma_range=(0.0, 0.2))
        image = denoiser(jnp.ones((16, 16, 1)), 0.1)
        ```
    """
    if isinstance(network, AbstractScore):
        raise ValueError("A score is a denoiser by `pnp.FromScore(score)`; `denoiser_from` takes a network.")
    if not callable(network) and not isinstance(network, LinenNetwork):
        raise ValueError(f"A network is called as `network(x, sigma)`; {type(network).__name__} cannot be called.")
    return FunctionDenoiser(jax.tree_util.Partial(_of_one_image, as_network(network)), *_range(sigma_range))


def _of_one_image(network: Network, x: Array, sigma: Array) -> Array:
    output = network(x[None], sigma[None])
    if output.shape != (1, *x.shape):
        raise ValueError(
            f"The network must return what has the shape of its input, {(1, *x.shape)}; it returned {output.shape}. "
            "Networks take and return a batch, `network(x, sigma)` with `sigma` of shape (n,)."
        )
    return output[0].astype(x.dtype)


class FromScore(AbstractDenoiser):
    """The denoiser of a diffusion prior: `D(x, sigma) = E[x_0 | x_t = scale x]`, at the time where `std/scale = sigma`.

    - `score`: a score, with its process. `sigma` is in the unit of the images that it was trained on.
    """

    score: AbstractScore

    def __init__(self, score: Checked[AbstractScore]):
        if not isinstance(score, AbstractScore):
            raise ValueError(
                f"`FromScore` takes a score, such as `diffusion.score_from(network, process)`; got "
                f"{type(score).__name__}. A network that denoises is a denoiser by `pnp.denoiser_from(network)`."
            )
        self.score = score

    @property
    def sigma_range(self) -> tuple[Scalar, Scalar]:
        process = self.score.process
        low, high = (process.marginal(t) for t in (process.t_min, process.t_max))
        return low[1] / low[0], high[1] / high[0]

    def __call__(self, x: Array, sigma: Scalar) -> Array:
        x = check_floating(as_array(x), "an image", "The denoiser")
        process = jax.tree.map(lambda leaf: leaf.astype(x.dtype), self.score.process)
        low, high = self.sigma_range
        sigma = jnp.clip(jnp.asarray(sigma).astype(x.dtype), jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype))
        t = jnp.clip(process.time(sigma), process.t_min, process.t_max)
        return self.score.denoiser(t, process.marginal(t)[0] * x)


class Proximal(AbstractDenoiser):
    """The denoiser of a regulariser, its proximal map: `D(x, sigma) = argmin_u 1/2 ||u - x||^2 + sigma^2 R(u)`.

    With it a plug-and-play method minimises `-log p(y | x) + R(x)`, or `weight R(x)` with the weight in the scale of
    the regulariser, `weight * R`.

    - `regulariser`: one with a proximal map, `L1()`, `Tikhonov()`, `TV()` or one of your own.
    - `num_steps`: static, the number of rounds of a proximal map that iterates, as that of `TV`.
    """

    regulariser: AbstractRegulariser
    num_steps: int = eqx.field(default=20, static=True)

    def __init__(self, regulariser: Checked[AbstractRegulariser], *, num_steps: Checked[int] = 20):
        if not isinstance(regulariser, AbstractRegulariser):
            raise ValueError(f"`Proximal` takes a regulariser, such as `regularisers.TV()`; got {regulariser!r}.")
        if regulariser.proximal_map(jnp.ones(())) is None:
            raise ValueError(f"`Proximal` needs a regulariser with a proximal map; {regulariser} has none.")
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"`num_steps` must be a static integer of at least 1; got {num_steps!r}.")
        self.regulariser = regulariser
        self.num_steps = num_steps

    def __call__(self, x: Array, sigma: Scalar) -> Array:
        x = check_floating(as_array(x), "an image", "The denoiser")
        proximal: Any = self.regulariser.proximal_map(jnp.ones((), x.dtype))
        variance = jnp.asarray(sigma).astype(x.dtype) ** 2
        memory = proximal.init(x)
        if memory is None:
            return proximal(x, variance, None)[0]
        safe = jnp.where(variance > 0, variance, 1)

        def step(index: Array, state: PyTree[Array], args: Any) -> tuple[PyTree[Array], Array, RESULTS]:
            del index
            proximal, x, variance = args
            return proximal(x, variance, state[1]), jnp.zeros((), bool), RESULTS.successful

        (image, _), _, _ = iterate(
            step,
            (x, memory),
            (proximal, x, safe),
            max_steps=self.num_steps,
            differentiate=Unrolled(),
            exhausted=RESULTS.successful,
        )
        return jnp.where(variance > 0, image, x)


class Equivariant(AbstractDenoiser):
    """A denoiser that commutes with the flips and quarter turns of an image: `1/|G| sum_g g^{-1} D(g x)`.

    A network is not quite equivariant, and its errors in one direction add up over the steps of a method; the mean over
    the group has a smaller Lipschitz constant. A method that is given a key takes one random element of the group in
    each of its steps in place of the mean, which costs no more than the denoiser itself.

    - `denoiser`: the denoiser.

    **Reference:** Terris, Moreau, Pustelnik, Tachella, Equivariant plug-and-play image reconstruction, 2024.
    """

    denoiser: AbstractDenoiser

    def __init__(self, denoiser: Checked[AbstractDenoiser]):
        self.denoiser = check_denoiser(denoiser)

    @property
    def sigma_range(self) -> tuple[Scalar, Scalar]:
        return self.denoiser.sigma_range

    def __call__(self, x: Array, sigma: Scalar) -> Array:
        group = _group(x)
        denoised = jax.vmap(lambda image: self.denoiser(image, sigma))(jnp.stack([there(x) for there, _ in group]))
        back = [undo(image) for (_, undo), image in zip(group, denoised, strict=True)]
        return jnp.mean(jnp.stack(back), axis=0)

    def draw(self, x: Array, sigma: Scalar, *, key: Key) -> Array:
        group = _group(x)
        chosen = jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(group))
        there, back = ([move[i] for move in group] for i in (0, 1))
        denoised = self.denoiser.draw(jax.lax.switch(chosen, there, x), sigma, key=jax.random.fold_in(key, 1))
        return jax.lax.switch(chosen, back, denoised)


def check_denoiser(denoiser: Any) -> AbstractDenoiser:
    """Return `denoiser`, or raise, saying how to make one, unless it is a denoiser."""
    if isinstance(denoiser, AbstractDenoiser):
        return denoiser
    name = type(denoiser).__name__
    expected = "A denoiser is a `pnp.AbstractDenoiser`"
    if isinstance(denoiser, AbstractScore):
        raise ValueError(f"{expected}; got a score. Its denoiser is `pnp.FromScore(score)`.")
    if isinstance(denoiser, AbstractRegulariser):
        raise ValueError(f"{expected}; got the regulariser {name}. Its denoiser is `pnp.Proximal(regulariser)`.")
    if isinstance(denoiser, nnx.Module | linen.Module | LinenNetwork):
        raise ValueError(f"{expected}; got the network {name}. Its denoiser is `pnp.denoiser_from(network)`.")
    raise ValueError(
        f"{expected}; got {name}. One of a function of one image, `function(x, sigma)`, is `pnp.Denoiser(function)`."
    )


def _group(x: Array) -> list[tuple[Callable[[Array], Array], Callable[[Array], Array]]]:
    """The flips, and for a square image the quarter turns, each with its inverse."""
    turns = range(4) if x.shape[0] == x.shape[1] else (0, 2)

    def there(flip: bool, turn: int) -> Callable[[Array], Array]:
        return lambda image: jnp.rot90(image[:, ::-1] if flip else image, turn)

    def back(flip: bool, turn: int) -> Callable[[Array], Array]:
        return lambda image: jnp.rot90(image, -turn)[:, ::-1] if flip else jnp.rot90(image, -turn)

    return [(there(flip, turn), back(flip, turn)) for flip, turn in itertools.product((False, True), turns)]


def _same_shape(output: Any, x: Array) -> Array:
    output = jnp.asarray(output)
    if output.shape != x.shape:
        raise ValueError(
            f"A denoiser returns what has the shape of its input, {x.shape}; this one returned {output.shape}. It "
            "takes one image, without a batch axis. For a network, which takes a batch, there is `pnp.denoiser_from`."
        )
    return output.astype(x.dtype)


def _range(sigma_range: Any) -> tuple[Array, Array]:
    if not isinstance(sigma_range, tuple | list) or len(sigma_range) != 2:
        raise ValueError(f"`sigma_range` must be a pair (least, largest); got {sigma_range!r}.")
    low, high = (as_array(value).astype(jnp.result_type(float)) for value in sigma_range)
    if low.ndim or high.ndim:
        raise ValueError(f"`sigma_range` must be a pair of scalars; got shapes {low.shape} and {high.shape}.")
    return low, high


def _ordered(low: Array, high: Array) -> Requirement:
    words = "`sigma_range` must be a pair (least, largest) with 0 <= least < largest"
    return Requirement(words, {"least": low, "largest": high}, lambda low, high: (low >= 0) & (low < high))
