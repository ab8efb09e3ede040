"""Reconstruction by a network that is fitted to one measurement."""

import optax

from .._differentiation import Implicit, Unrolled, check_differentiate
from .._jit import verb
from .._solution import Solution
from .._types import ArrayLike, Checked, IntLike, Key, Network, ProgressMeter, Scalar, State
from ..likelihood import Likelihood
from ..regularisers import AbstractRegulariser
from ._method import AbstractMethod, Plain
from ._recipe import Recipe, filled
from ._run import advance, prepare_run, solution
from ._start import AbstractStart
from ._stopping import AbstractStopping


@verb(traced=("weight", "jitter", "ema", "learning_rate"))
def reconstruct(
    likelihood: Likelihood,
    network: Network,
    y: State,
    *,
    key: Key,
    recipe: Checked[Recipe | None] = None,
    num_steps: IntLike | None = None,
    method: Checked[AbstractMethod] = Plain(),  # noqa: B008
    regulariser: Checked[AbstractRegulariser | None] = None,
    weight: Scalar | None = None,
    optimiser: Checked[optax.GradientTransformation | None] = None,
    learning_rate: Scalar | None = None,
    start: Checked[AbstractStart | None] = None,
    stopping: Checked[AbstractStopping | None] = None,
    jitter: Scalar | None = None,
    ema: Scalar | None = None,
    constraint: Checked[AbstractRegulariser | None] = None,
    frozen: Checked[tuple[str, ...]] = (),
    reference: ArrayLike | None = None,
    stride: IntLike = 1,
    differentiate: Checked[Unrolled | None] = None,
    progress: ProgressMeter | None = None,
) -> Solution:
    """Fit a network to one measurement: `min_theta -log p(y | F_theta(z0)) + weight * R(F_theta(z0))`.

    The deep image prior needs no training data: a convolutional network fits an image before it fits noise, so the run
    is to be stopped early, or regularised. Each step is a step of the optimiser on all weights, and the first weights
    are those of `network`.

    **Arguments:**

    - `likelihood`: any differentiable operator and any noise.
    - `network`: one of `models.SkipUNet`, `models.ConvDecoder` and `models.DeepDecoder`, or any Flax or equinox network
        with the call `network(z0)`, `z0` of shape `(n, *input_shape)`. Not changed.
    - `y`: one measurement.
    - `key`: a typed key, for the input, its jitter and what is held out. The weights are the network's own.
    - `recipe`: `photograph()`, `tomography(weight)`, or a `Recipe` of your own, of which every option is taken that is
        not given here, `num_steps` too. Its network is `recipe.network(image_shape, rngs=rngs)`. The defaults below are
        those without a recipe.
    - `num_steps`: static; needed without a recipe.
    - `method`: `Plain()`, `ADMM(penalty)` for a regulariser that is not smooth, or `SelfGuided(weight)`.
    - `regulariser`, `weight`: any of `jaxinv.regularisers`, and its weight, not negative. Default: none. A regulariser
        that is not smooth enters by a subgradient; `TV(Smoothed(eps))` is differentiable.
    - `optimiser`: one of optax, on a dict of the weights by name; default Adam. `training.muon()`
        is many times faster in tomography, with a regulariser; without one it fits noise as soon as the image. Create
        it once: each new one compiles again, which another `learning_rate` does not.
    - `learning_rate`: the rate of Adam, positive, .01 by default; lower it where the objective in the history jumps up
        and down.
    - `start`: the input: `FromNoise()`, the default, `FromAdjoint()`, `FromFBP()` or `From(image)`.
    - `stopping`: when to stop, and which image to keep: `FixedSteps()`, the default, `WindowedVariance()`,
        `Discrepancy()` or `HeldOut(fraction)`.
    - `jitter`: the standard deviation of fresh noise on the input in every step, which delays the fit of noise; 0 by
        default. The first reference, and `photograph()`, have 1/30, as much as the input itself:
        `start=FromNoise(std=0.03)`. An image that is returned without an average is made of the input without noise.
    - `ema`: the decay `d` of an average of the images, `average <- d average + (1 - d) image` from the first one on,
        and 0, the default, for none; the first reference has 0.99. The stopping rule then evaluates the average,
        which is returned.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`: the image is the projection
        of what the network makes. Where this lies outside and the objective falls towards the inside, descent brings it
        back. Not needed where the last layer of the network keeps its values in a range, as that of `SkipUNet` does.
    - `frozen`: beginnings of names: the weights that are named so stay as they are. `("down",)` is the encoder of a
        `SkipUNet`.
    - `reference`: the true image, for the history; finite.
    - `stride`: static; the history has an entry for every so many steps.
    - `differentiate`: `None` or `Unrolled()`.
    - `progress`: a progress meter of diffrax.

    **Returns:** a `Solution`. Its value after `t` steps and without a stopping rule is the image of the network after
    `t` steps of the optimiser. Its `stats` are `num_steps`; the `objective` of the image that is returned, and `step`,
    the number of steps before it; and `history`, a dict of `step`, `objective`, the criterion of the stopping rule by
    its name, and `psnr` where a reference is given (after an early stop the last entries repeat). Its `aux` is a dict
    of the `network` after the last step, which does not belong to an average or to an earlier image, its `input`, and
    its image `last`. The result is `max_steps_reached` where a stopping rule has not stopped the run. Where the
    objective diverges or is not finite, the value is the image with the lowest objective.

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
    options = {
        "num_steps": num_steps,
        "regulariser": regulariser,
        "weight": weight,
        "optimiser": optimiser,
        "learning_rate": learning_rate,
        "start": start,
        "stopping": stopping,
        "jitter": jitter,
        "ema": ema,
    }
    run, problem = prepare_run(
        likelihood,
        network,
        y,
        key=key,
        method=method,
        constraint=constraint,
        frozen=frozen,
        reference=reference,
        stride=stride,
        **filled(recipe, options),
    )
    state = advance(run, problem, run.init(problem), key=key, differentiate=differentiate, progress=progress)
    return solution(run, problem, state)
