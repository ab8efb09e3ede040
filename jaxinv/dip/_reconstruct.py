"""Reconstruction by a network that is fitted to one measurement."""

from typing import Any

import diffrax

from .._differentiation import Implicit, check_differentiate
from .._solution import Solution
from .._types import Key, Scalar, State
from .._verb import verb
from ..likelihood import Likelihood
from ._enter import enter
from ._run import advance, begin, finish


@verb
def reconstruct(
    likelihood: Likelihood,
    network: Any,
    y: State,
    *,
    key: Key,
    num_steps: Any,
    method: Any = None,
    regulariser: Any = None,
    weight: Scalar = 0.0,
    optimiser: Any = None,
    learning_rate: Scalar = 1e-2,
    start: Any = None,
    stopping: Any = None,
    jitter: Scalar = 0.0,
    ema: Scalar = 0.0,
    frozen: Any = (),
    reference: Any = None,
    stride: Any = 1,
    differentiate: Any = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> Solution:
    """Fit a network to one measurement: `min_theta -log p(y | F_theta(z0)) + weight * R(F_theta(z0))`.

    The deep image prior, which needs no training data: a convolutional network fits an image before it fits noise, so
    the run is to be stopped early, or regularised. Each step is one of the optimiser's, on all weights, from those that
    `network` has.

    **Arguments:**

    - `likelihood`: any differentiable operator and any noise.
    - `network`: one of `models.SkipUNet`, `models.ConvDecoder` and `models.DeepDecoder`, or any Flax or equinox network
        with the call `network(z0)`, `z0` of shape `(n, *input_shape)`. Not changed.
    - `y`: one measurement.
    - `key`: for the input, its jitter and what is held out. The weights are the network's own.
    - `num_steps`: static.
    - `method`: `Plain()`, the default, `ADMM(penalty)`, or `SelfGuided(weight)`.
    - `regulariser`, `weight`: any of `jaxinv.regularisers`, and its weight, not negative. Default: none. One that is
        not smooth enters by a subgradient; `TV(Smoothed(eps))` has a gradient everywhere.
    - `optimiser`: of optax, on a dict of the weights by name; default Adam with `learning_rate`. `training.muon()` is
        many times faster in tomography, with a regulariser; without one it fits noise as soon as the image. Create it
        once: each new one compiles again, which another `learning_rate` does not.
    - `start`: the input: `FromNoise()` (default), `FromAdjoint()`, `FromFBP()` or `From(image)`.
    - `stopping`: `FixedSteps()` (default), `WindowedVariance()`, `Discrepancy()` or `HeldOut(fraction)`: when to stop,
        and which image to keep.
    - `jitter`: the standard deviation of fresh noise on the input in every step; 1/30 in the first reference, where
        that of the input is as much: `start=FromNoise(std=0.03)`. So noise is fitted late, if at all. What is returned
        without an average is made of the input itself.
    - `ema`: the decay `d` of an average of the images, `average <- d average + (1 - d) image` from the first one on;
        the average is then what is judged and returned. 0.99 in the first reference; 0 for none.
    - `frozen`: the weights whose names begin so stay as they are: `("down",)` is the encoder of a `SkipUNet`.
    - `reference`: the true image, for the history; finite.
    - `stride`: static; the history has an entry for every so many steps.
    - `differentiate`: `None` or `Unrolled()`.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`, whose value after `t` steps and without a stopping rule is that of the network after `t`
    steps of the optimiser. `stats`: `num_steps`; `objective`, and `step`, the number of steps, of the image that is
    returned; `history`, a dict of `step`, `objective`, the figure of the stopping rule by its name, and `psnr` where a
    reference is given (after an early stop the last entries repeat). `aux`: a dict of the `network` after the last
    step, which is not that of an average or of an earlier image, its `input`, and its image `last`. Its result is
    `max_steps_reached` where a stopping rule has not stopped the run, and where the objective diverges or is not
    finite, the value is the image of the lowest objective.

    **Raises:** `ValueError` for a network whose image does not fit the operator, or whose input is not that of `start`.

    **Reference:** Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018; Baguer, Leuschner, Schmidt, Computed tomography
    reconstruction using deep image prior and learned reconstruction methods, 2020.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        x = jaxinv.data.shepp_logan(32)
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((32, 32, 1), 2), jaxinv.noise.Gaussian(0.05))
        y = likelihood.simulate(x, key=jax.random.key(0))
        solution = jaxinv.dip.reconstruct(
            likelihood,
            jaxinv.models.DeepDecoder((32, 32, 1), channels=16, rngs=nnx.Rngs(0)),
            y,
            key=jax.random.key(1),
            regulariser=jaxinv.regularisers.TV(),
            weight=1.0,
            num_steps=100,
            ema=0.9,
            reference=x,
        )
        image, psnr = solution.check().value, solution.stats["history"]["psnr"]
        ```
    """
    check_differentiate(differentiate)
    if isinstance(differentiate, Implicit):
        raise ValueError(
            "`dip.reconstruct` stops before a minimum, which `Implicit()` would need; take `differentiate=Unrolled()`."
        )
    run = enter(
        likelihood,
        network,
        y,
        key=key,
        num_steps=num_steps,
        method=method,
        regulariser=regulariser,
        weight=weight,
        optimiser=optimiser,
        learning_rate=learning_rate,
        start=start,
        stopping=stopping,
        jitter=jitter,
        ema=ema,
        frozen=frozen,
        reference=reference,
        stride=stride,
    )
    state = advance(run, begin(run), 0, max_steps=run.num_steps, differentiate=differentiate, progress=progress)
    return finish(run, state)
