"""Plug-and-play reconstruction, with a denoiser for the prior."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_key, check_one, is_concrete
from .._checks import check_instance, checked
from .._differentiation import Unrolled
from .._jit import verb
from .._loop import run
from .._solution import RESULTS, Solution
from .._types import ArrayLike, Checked, Key, ProgressMeter, State
from ..likelihood import Likelihood, domain_dtype, gaussian_approximation
from ._denoiser import AbstractDenoiser, check_denoiser
from ._hqs import HQS
from ._method import AbstractPlugAndPlay, warn_of_range

# Denoisers are made for images in [0, 1], or in [-1, 1]; values beyond this are of another unit.
_LARGEST = 10.0


@checked()
def reconstruct(
    likelihood: Likelihood,
    denoiser: Checked[AbstractDenoiser],
    y: State,
    *,
    method: Checked[AbstractPlugAndPlay[Any]] = HQS(),  # noqa: B008
    key: Key | None = None,
    start: ArrayLike | None = None,
    differentiate: Checked[Unrolled | None] = None,
    progress: ProgressMeter | None = None,
) -> Solution:
    """Reconstruct an image with a denoiser for its prior (plug-and-play).

    A method alternates between the data, by a proximal map or a gradient of `-log p(y | x)`, and the denoiser.

    **Arguments:**

    - `likelihood`: operator and noise, on real images. `PGD` and `RED` take any differentiable operator and any noise,
      the others linear operators.
    - `denoiser`: `denoiser_from(network)`, `FromScore(score)`, `Proximal(regulariser)`, `Denoiser(function)`,
      `Equivariant(denoiser)`, or one of your own. The image is in the unit in which it was trained, mostly [0, 1].
    - `y`: one measurement.
    - `method`: `HQS()`, the fastest, with a denoiser for all noise levels; `PGD(sigma)`, `ADMM(sigma)`, `RED(sigma)`,
      which have fixed points; or `GradientStep(sigma)`, which minimises an objective.
    - `key`: a typed key, for a denoiser with random decisions, such as `Equivariant`, which takes one random flip or
      turn in each step in place of the mean over all of them. Without it the denoiser is called as it is.
    - `start`: the first image; by default that of the method.
    - `differentiate`: `None`, or `Unrolled()` for gradients through the steps.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`. Its `stats` are `num_steps`, the evaluations of the denoiser
    (`denoiser_evaluations`), and `change`, the relative change of the image in the last step; `GradientStep` adds
    the `objective`. Its `aux` is a dict with `changes`, the relative change of every step: a method that converges has
    falling ones. A method that has not converged has the code `max_steps_reached`, and `HQS`, which ends after a number
    of steps that is part of it, `successful`.

    **Raises:** `ValueError` for what is no denoiser, a likelihood that the method cannot take, and a start of another
    shape. It warns of a noise level outside the range that the denoiser is made for, and of values far from [0, 1].

    **Reference:** Kamilov, Bouman, Buzzard, Wohlberg, Plug-and-play methods for integrating physical and learned models
    in computational imaging, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import pnp, regularisers
        image = jnp.zeros((16, 16, 1)).at[4:12, 4:12].set(1.0)
        likelihood = jaxinv.Likelihood(
            jaxinv.operators.Convolution(jnp.ones((3, 3)) / 9, (16, 16, 1)), jaxinv.noise.Gaussian(0.05)
        )
        y = likelihood.simulate(image, key=jax.random.key(0))
        solution = pnp.reconstruct(likelihood, pnp.Proximal(3 * regularisers.TV()), y, method=pnp.HQS(8))
        ```
    """
    check_denoiser(denoiser)
    method = check_instance(method, AbstractPlugAndPlay, "method", HQS())
    if key is not None:
        check_key(key)
    warn_of_range(method, denoiser)
    _warn_of_unit(likelihood, y)
    return _reconstruct(
        likelihood, denoiser, y, method=method, key=key, start=start, differentiate=differentiate, progress=progress
    )


@verb
def _reconstruct(
    likelihood: Likelihood,
    denoiser: AbstractDenoiser,
    y: State,
    *,
    method: AbstractPlugAndPlay[Any],
    key: Key | None,
    start: ArrayLike | None,
    differentiate: Unrolled | None,
    progress: ProgressMeter | None,
) -> Solution:
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"`likelihood` must be a `jaxinv.Likelihood(operator, noise)`; got {type(likelihood).__name__}. The "
            "measurement `y` is the last positional argument."
        )
    if differentiate is not None and not isinstance(differentiate, Unrolled):
        raise ValueError(f"`differentiate` must be None or `Unrolled()`; got {differentiate!r}.")
    domain: Any = likelihood.operator.domain
    if isinstance(domain, tuple) or jnp.issubdtype(domain.dtype, jnp.complexfloating):
        raise ValueError(
            f"Denoisers are of real images; the operator takes {domain}. A real image enters a complex operator by "
            "`operator @ operators.Real(shape)`."
        )
    first: Array | None = None
    if start is not None:
        first = check_one(start, domain.shape, "the start", "pnp.reconstruct").astype(domain_dtype(likelihood.operator))
    problem, code = method.prepare(likelihood, denoiser, y, first)
    good = jnp.all(jnp.isfinite(problem.start))
    code = RESULTS.where((code == RESULTS.successful) & ~good, RESULTS.nonfinite, code)
    state, num_steps, code = run(
        method,
        problem,
        method.init(problem),
        key=key,
        result=code,
        max_steps=method.max_steps,
        exhausted=method.exhausted,
        differentiate=differentiate,
        progress=progress,
    )
    image, stats = method.finish(problem, state)
    # A problem that cannot be solved has no image.
    image = jnp.where(num_steps > 0, image, jnp.zeros_like(image))
    stats = {"num_steps": num_steps, "denoiser_evaluations": num_steps, **stats}
    return Solution(image, code, stats, {"changes": state.changes})


def _warn_of_unit(likelihood: Any, y: Any) -> None:
    """Warn of a measurement of images in another unit than denoisers are made for, where both are known."""
    if not isinstance(likelihood, Likelihood) or isinstance(likelihood.operator.domain, tuple):
        return
    expected, leaves = jax.tree.leaves(likelihood.operator.codomain), jax.tree.leaves(y)
    fits = [jnp.shape(leaf) for leaf in leaves] == [struct.shape for struct in expected]
    if not fits or not is_concrete(*leaves, *jax.tree.leaves(likelihood)) or _largest(leaves) <= _LARGEST:
        return
    # Counts of photons are no measurements of the operator yet.
    largest = _largest(jax.tree.leaves(gaussian_approximation(likelihood, y)[1]))
    domain: Any = likelihood.operator.domain
    unit = _largest(jax.tree.leaves(likelihood.operator(jnp.ones(domain.shape, domain.dtype))))
    if largest > _LARGEST * max(unit, 1e-30):
        warnings.warn(
            f"The measurement has values up to {largest:.4g}; of an image of ones the operator makes values up to "
            f"{unit:.4g}. Denoisers are made for images in [0, 1]: divide the measurement and its noise, by 255 for "
            "instance.",
            stacklevel=3,
        )


def _largest(leaves: list[Any]) -> float:
    return max((float(np.max(np.abs(np.asarray(leaf)))) for leaf in leaves if np.size(leaf)), default=0.0)
