"""A check of a learned score against images that it was not trained on, and of what it generates."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from ..._arrays import as_array, check_key, nan_unless, subkeys
from ..._jit import verb
from ..._module import Module
from ..._report import is_readable, number, table
from ..._score import AbstractScore
from ..._types import Checked, IntLike, Key, State
from ...metrics import EnergyTest, SteinTest, energy_test, stein_test
from .._scores._score import cast_process, takes_score
from ._at_noise import SIGNIFICANCE, check_draws, check_set, in_units, noised, prior_scores, spread_of, time_of


class PriorCheck(Module):
    """The result of `check_prior`, at each level of noise. `print` shows it as a table.

    - `noise`: the levels, `std / scale`, `(levels,)`.
    - `stein`: the kernel Stein discrepancies of the noised images, a `metrics.SteinTest` of arrays `(levels,)`.
    - `spread`, `spread_error`: `-E[(x - E x) . s(x)] / d`, which is 1 for the right score, and its standard error,
      `(levels,)`.
    - `loss`: the mean square of the noise minus its prediction, a share of the variance of the noise, `(levels,)`.
    - `generated`: the energy distance of generated and given images, a `metrics.EnergyTest`; `None` without these.
    - `num_images`, `significance`: static.
    """

    noise: Float[Array, " levels"]
    stein: SteinTest
    spread: Float[Array, " levels"]
    spread_error: Float[Array, " levels"]
    loss: Float[Array, " levels"]
    generated: EnergyTest | None
    num_images: int = eqx.field(static=True)
    significance: float = eqx.field(default=SIGNIFICANCE, static=True)

    @property
    def spread_p_value(self) -> Float[Array, "... levels"]:
        """The two-sided p-value of each spread."""
        return 2 * ndtr(-jnp.abs(self.spread - 1) / self.spread_error)

    @property
    def threshold(self) -> float:
        """The p-value below which one of the tests fails, so that an exact prior fails one with `significance`."""
        return self.significance / (2 * self.noise.shape[-1] + (self.generated is not None))

    @property
    def passed(self) -> Bool[Array, "..."]:
        """Whether no p-value is below `threshold`."""
        values = [self.stein.p_value, self.spread_p_value]
        values += [] if self.generated is None else [self.generated.p_value[..., None]]
        return jnp.all(jnp.concatenate(values, axis=-1) >= self.threshold, axis=-1)

    @property
    def verdict(self) -> str:
        """The verdict in words; outside of `jax.jit` and of one check."""
        if bool(self.passed):
            return "nothing speaks against this prior."
        if not bool(jnp.all(jnp.isfinite(self.spread))):
            return "not to be trusted: an image or a score is not finite."
        wrong = []
        bad = (self.spread_p_value < self.threshold) | (self.stein.p_value < self.threshold)
        if bool(bad.any()):
            levels = ", ".join(number(value) for value in self.noise[bad])
            how = self.spread[bad]
            kind = "the images spread less than the score says" if bool((how < 1).all()) else "the score is not theirs"
            kind = "the images spread more than the score says" if bool((how > 1).all()) else kind
            wrong.append(f"at noise {levels} {kind}")
        if self.generated is not None and self.generated.p_value < self.threshold:
            wrong.append("the generated images are told from the given ones")
        return "not that of these images: " + "; ".join(wrong) + "."

    def __repr__(self) -> str:
        if not is_readable(self.spread) or jnp.ndim(self.spread) != 1:
            return super().__repr__()
        mark = lambda p: f"{number(p)}{'' if p >= self.threshold else ' (!)'}"
        rows = [
            (
                f"noise {number(self.noise[i])}",
                f"{number(self.spread[i])} +- {number(self.spread_error[i])}",
                mark(self.spread_p_value[i]),
                number(self.stein.discrepancy[i]),
                mark(self.stein.p_value[i]),
                number(self.loss[i]),
            )
            for i in range(len(self.noise))
        ]
        if self.generated is not None:
            distance, floor = number(self.generated.distance), number(self.generated.floor)
            rows.append(("generated images", "", "", f"{distance} (< {floor})", mark(self.generated.p_value), ""))
        header = ("", "spread, 1 if right", "p-value", "discrepancy", "p-value", "loss")
        title = f"check of a score by {self.num_images} images; a p-value below {self.threshold:.5f} fails"
        return table(title, header, rows, self.verdict)


@takes_score()
@verb
def check_prior(
    score: AbstractScore,
    images: State,
    *,
    key: Key,
    samples: State | None = None,
    noise: Checked[Sequence[float] | Array] = (0.1, 0.3, 1.0, 3.0),
    num_draws: IntLike = 2000,
) -> PriorCheck:
    """Check a learned score against images that it was not trained on.

    At some levels of noise, the images with that noise are draws of the density whose score the network should be.
    Stein's identity, `-E[(x - E x) . s(x)] = d`, and the kernel Stein discrepancy ask whether they are. With `samples`,
    which `sample(score, ...)` has generated, `metrics.energy_test` asks whether these can be told from the images.

    What it cannot see: whether the images are those that will be measured. On training images a network that has
    learned them by heart passes; give others.

    **Arguments:**

    - `score`: the score, which carries its process.
    - `images`: independent images, `(n, *shape)`, real, at least eight; some hundreds for power.
    - `key`: a typed key for the noise.
    - `samples`: generated images, `(m, *shape)`, or `None`.
    - `noise`: the levels, `std / scale` of the process, in the unit of the images; those beyond its times become the
      nearest ones.
    - `num_draws`: the number of draws of each null law, static; enough that its smallest p-value can fail.

    **Returns:** a `PriorCheck`, whose `print` is a table with a verdict, and whose `passed` is a boolean.

    **Raises:** `ValueError` for images or samples of other shapes, or fewer than eight.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, oracles
        prior = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16))
        images = prior.sample(200, key=jax.random.key(0))
        print(diffusion.check_prior(prior.score(diffusion.VP()), images, key=jax.random.key(1)))
        wider = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.2 * jnp.eye(16))
        print(diffusion.check_prior(wider.score(diffusion.VP()), images, key=jax.random.key(1)))
        ```
    """
    check_key(key)
    images = check_set(images, tuple(as_array(images).shape[1:]), "images", "check_prior")
    score = cast_process(score, images.dtype)
    levels = jnp.atleast_1d(as_array(noise).astype(images.dtype))
    if levels.ndim != 1:
        raise ValueError(f"`noise` must be one level or a sequence of them; got shape {levels.shape}.")
    check_draws(num_draws, SIGNIFICANCE / (2 * len(levels) + (samples is not None)))
    levels_key, samples_key = subkeys(key, 2)

    def at(level: tuple[Array, Array]) -> tuple[Any, ...]:
        ratio, index = level
        noise_key, sign_key = subkeys(jax.random.fold_in(levels_key, index), 2)
        t = time_of(score.process, ratio, images.dtype)
        scale, std = (value.astype(images.dtype) for value in score.process.marginal(t))
        states = noised(score.process, t, images, key=noise_key)
        scores = prior_scores(score, t, states)
        spread, error = spread_of(states, scores)
        stein = stein_test(*in_units(states, scores), key=sign_key, num_draws=num_draws)
        # The noise that was added, and the score's prediction of it, in units of its deviation.
        loss = jnp.mean(((states - scale * images) / std + std * scores) ** 2)
        return std / scale, stein, spread, error, loss

    ratios, stein, spread, error, loss = jax.lax.map(at, (levels, jnp.arange(len(levels))))
    generated = None
    if samples is not None:
        samples = check_set(samples, images.shape[1:], "samples", "check_prior").astype(images.dtype)
        generated = energy_test(samples, images, key=samples_key, num_draws=num_draws)
    spread = spread + nan_unless(jnp.all(levels > 0), spread.dtype)
    return PriorCheck(ratios, stein, spread, error, loss, generated, len(images))
