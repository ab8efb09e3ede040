"""The uncertainty of a deep image prior, by its Jacobian."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_count, check_key
from .._conjugate_gradients import conjugate_gradients
from .._jit import verb
from .._loop import all_finite
from .._solution import RESULTS, Solution
from .._types import ArrayLike, Checked, IntLike, Key, Network, PyTree, Scalar, State
from ..likelihood import Likelihood, Whitened, domain_dtype, prepare, prepare_parameter, whiten
from ._method import Problem
from ._network import prepare_network


@verb(traced=("prior_std",), tolerances=("rtol",))
def linearised_posterior(
    likelihood: Likelihood,
    network: Network,
    y: State,
    *,
    key: Key,
    z0: ArrayLike,
    prior_std: Scalar = 1.0,
    num_samples: IntLike = 16,
    exact_std: bool = False,
    frozen: Checked[tuple[str, ...]] = (),
    max_steps: IntLike = 500,
    rtol: Scalar = 1e-4,
) -> Solution:
    """Draw samples and standard deviations of the image, from the network's Jacobian `J` in its weights.

    Around the weights that were found, `F_theta(z0) + J w` with `w ~ N(0, prior_std^2 I)` is a Gaussian prior on images
    with covariance `K = prior_std^2 J J^T`. Its posterior has the covariance `K - K A* (A K A* + S)^{-1} A K`, with `S`
    that of the noise. Matrix-free: `J v` and `J^T v` by forward and reverse differentiation, the inverse by conjugate
    gradients, samples by correcting draws of the prior. For a network that is linear in its weights this is the exact
    Gaussian posterior.

    **Arguments:**

    - `likelihood`: a linear operator and its noise; photon noise enters by its Gaussian approximation.
    - `network`: a trained one, `solution.aux["network"]`.
    - `y`: the measurement.
    - `key`: a typed key; sample `i` depends on it and `i` alone.
    - `z0`: the input of the network, `solution.aux["input"]`.
    - `prior_std`: the standard deviation of every weight, positive: the scale of the whole answer.
    - `num_samples`: static.
    - `exact_std`: static; standard deviations by one linear solve for each pixel, in place of those of the samples.
    - `frozen`: beginnings of names: the weights that are named so are taken as certain.
    - `max_steps`, `rtol`: the most steps of conjugate gradients, and the relative residual at which they stop, in units
        of the noise.

    **Returns:** a `Solution` whose value is `(num_samples, *domain)`, around the network's image. Its `stats` are
    `std`, with the shape of the image, and the `num_steps` of the longest solve. Its `aux` is a dict of the `image`
    `F_theta(z0)` and the `mean` of the posterior of the linearised network under weights `N(0, prior_std^2 I)`, which
    is the image where the weights minimise `-log p(y | F_theta(z0)) + ||theta||^2 / (2 prior_std^2)`.

    **Raises:** `ValueError` for a non-linear operator, or an input that is not the network's.

    **Reference:** Antoran, Barbano, Leuschner, Hernandez-Lobato, Jin, Uncertainty estimation for computed tomography
    with a linearised deep image prior, 2023.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((16, 16, 1), 2), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jaxinv.data.shepp_logan(16), key=jax.random.key(0))
        network = jaxinv.models.DeepDecoder((16, 16, 1), layers=2, channels=8, rngs=nnx.Rngs(0))
        found = jaxinv.dip.reconstruct(likelihood, network, y, key=jax.random.key(1), num_steps=50)
        posterior = jaxinv.dip.linearised_posterior(
            likelihood, found.aux["network"], y, key=jax.random.key(2), z0=found.aux["input"], num_samples=4
        )
        samples, std = posterior.value, posterior.stats["std"]
        ```
    """
    check_key(key)
    check_count(num_samples, "num_samples")
    prepared, y, result = prepare(likelihood, y)
    operator = prepared.operator
    prior_std, result = prepare_parameter(prior_std, operator, result, positive=True, name="prior_std")
    rtol = jnp.asarray(rtol).astype(prior_std.dtype)
    parts = prepare_network(network, likelihood, frozen)
    z0 = jnp.asarray(z0).astype(domain_dtype(operator))
    if parts.input_shape not in (None, z0.shape):
        raise ValueError(f"`z0` must be the input of the network, of shape {parts.input_shape}; got {z0.shape}.")
    parts.check_image(z0, operator.domain)
    whitened, b = whiten(prepared, y, "linearised_posterior")
    problem = Problem(prepared, y, None, prior_std, parts.rest, parts.frozen, z0)
    tangent = _Tangent(problem, whitened, parts.weights, prior_std)

    solve = lambda r: conjugate_gradients(
        _gram, r, tangent, rtol=rtol, max_steps=max_steps, result=result, exhausted=RESULTS.max_steps_reached
    )

    def draw(i: Array) -> tuple[Array, Array, Any]:
        weight_key, noise_key = (jax.random.fold_in(jax.random.fold_in(key, i), j) for j in range(2))
        image = tangent.forward(_normal_like(parts.weights, weight_key))
        noise = _normal_like(b, noise_key)
        solved = solve(jax.tree.map(jnp.add, whitened(image), noise))
        change = tangent.forward(tangent.backward(whitened.adjoint(solved.x)))
        return image - change, solved.num_steps, solved.result

    image = problem.image(parts.weights, z0)
    draws, steps, codes = jax.vmap(draw)(jnp.arange(num_samples))
    # The linearised network at weights 0, from which its mean departs.
    origin = image - tangent.forward(jax.tree.map(lambda w: w / prior_std, parts.weights))
    solved = solve(jax.tree.map(jnp.subtract, b, whitened(origin)))
    mean = origin + tangent.forward(tangent.backward(whitened.adjoint(solved.x)))
    code = RESULTS.where(solved.result == RESULTS.successful, _first_failure(codes), solved.result)
    steps = jnp.append(steps, solved.num_steps)
    std = jnp.sqrt(jnp.mean(jnp.abs(draws) ** 2, axis=0))
    if exact_std:
        std, more, codes = _exact_std(tangent, solve)
        code = RESULTS.where(code == RESULTS.successful, _first_failure(codes), code)
        steps = jnp.append(steps, more)
    usable = result == RESULTS.successful
    sound = usable & all_finite((draws, std, mean))
    code = RESULTS.where(usable & ~sound & (code == RESULTS.successful), RESULTS.nonfinite, code)
    clean = lambda leaf: jnp.where(sound, leaf, jnp.zeros_like(leaf))
    stats = {"std": clean(std), "num_steps": jnp.max(steps)}
    return Solution(clean(image[None] + draws), code, stats, {"image": clean(image), "mean": clean(mean)})


class _Tangent(eqx.Module):
    """The map `prior_std J` from changes of the weights to changes of the image."""

    problem: Problem
    whitened: Whitened
    weights: dict[str, Array]
    prior_std: Array

    def forward(self, v: dict[str, Array]) -> Array:
        scaled = jax.tree.map(lambda leaf: self.prior_std * leaf, v)
        return jax.jvp(lambda w: self.problem.image(w, self.problem.z0), (self.weights,), (scaled,))[1]

    def backward(self, image: Array) -> dict[str, Array]:
        pull = jax.vjp(lambda w: self.problem.image(w, self.problem.z0), self.weights)[1]
        # The adjoint is conj . transpose . conj.
        back = pull(jnp.conj(image))[0]
        return jax.tree.map(lambda leaf: self.prior_std * jnp.conj(leaf), back)


def _gram(v: State, tangent: _Tangent) -> State:
    """`(B K B* + I) v`, with `B` the whitened operator."""
    image = tangent.forward(tangent.backward(tangent.whitened.adjoint(v)))
    return jax.tree.map(jnp.add, tangent.whitened(image), v)


def _first_failure(codes: RESULTS) -> RESULTS:
    """The first code of several that is not success, if there is one."""
    first = jnp.argmax(codes != RESULTS.successful)
    return jax.tree.map(lambda leaf: leaf[first], codes)


def _exact_std(tangent: _Tangent, solve: Callable[[State], Any]) -> tuple[Array, Array, RESULTS]:
    """The standard deviation of every pixel, and the numbers of steps and the codes of their solves."""
    domain = tangent.problem.likelihood.operator.domain
    count = math.prod(domain.shape)

    def variance(pixel: Array) -> tuple[Array, Array, Any]:
        unit = jnp.zeros(domain.shape, domain.dtype).ravel().at[pixel].set(1).reshape(domain.shape)
        column = tangent.forward(tangent.backward(unit))
        solved = solve(tangent.whitened(column))
        change = tangent.forward(tangent.backward(tangent.whitened.adjoint(solved.x)))
        return (column - change).ravel()[pixel].real, solved.num_steps, solved.result

    variances, steps, codes = jax.lax.map(variance, jnp.arange(count), batch_size=min(count, 16))
    return jnp.sqrt(jnp.maximum(variances, 0)).reshape(domain.shape), steps, codes


def _normal_like(tree: PyTree[Array], key: Key) -> PyTree[Array]:
    leaves, treedef = jax.tree.flatten(tree)
    draws = [jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
    scale = lambda leaf: jnp.sqrt(2.0).astype(jnp.finfo(leaf.dtype).dtype) * leaf if jnp.iscomplexobj(leaf) else leaf
    return treedef.unflatten([scale(draw) for draw in draws])
