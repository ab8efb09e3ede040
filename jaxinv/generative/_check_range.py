"""A test of misspecification: whether any image in the range of a generator explains a measurement."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._arrays import check_key, subkeys
from .._jit import verb
from .._module import Module
from .._prior import AbstractGenerativePrior
from .._report import is_readable, number, table
from .._solution import RESULTS
from .._types import Checked, IntLike, Key, Scalar, State
from ..likelihood import Likelihood, prepare
from ._reconstruct import reconstruct
from ._start import AbstractStart, FromPrior

_REPLICATES = 1000
_SIGNIFICANCE = 0.01


class RangeCheck(Module):
    """The result of `check_range`. `print` shows it as a table.

    - `image`, `latent`: the image of the range that explains `y` best, and its latent.
    - `misfit`: `-log p(y | x)` there.
    - `replicated_misfit`: that of measurements simulated from this image, `(1000,)`.
    - `p_value`: the share of these that is larger.
    """

    image: Array
    latent: Array
    misfit: Float[Array, "..."]
    replicated_misfit: Float[Array, "... replicates"]
    p_value: Float[Array, "..."]

    @property
    def passed(self) -> Bool[Array, "..."]:
        """Whether the range has an image that explains `y`: whether the p-value is at least .01."""
        return self.p_value >= _SIGNIFICANCE

    @property
    def verdict(self) -> str:
        """The verdict in words; outside of `jax.jit` and of one check."""
        if bool(self.passed):
            return "y is plausible under the range of the prior."
        if not bool(jnp.isfinite(self.p_value)):
            return "not to be trusted: the fit is not finite."
        return (
            "no image of the range explains y within its noise: its posterior is not to be trusted. Let the image "
            "leave the range (`Relaxed`, `Soft`), or train a prior that has such images."
        )

    def __repr__(self) -> str:
        if not is_readable(self.p_value) or jnp.ndim(self.p_value):
            return super().__repr__()
        expected = f"{number(jnp.mean(self.replicated_misfit))} +- {number(jnp.std(self.replicated_misfit))}"
        row = ("-log p(y | x) at the best image", number(self.misfit), expected, number(self.p_value))
        title = f"check of the range of a generator; a p-value below {_SIGNIFICANCE:g} fails"
        return table(title, ("", "found", "expected", "p-value"), [row], self.verdict)


@verb(traced=("learning_rate",))
def check_range(
    likelihood: Likelihood,
    prior: Checked[AbstractGenerativePrior],
    y: State,
    *,
    key: Key,
    restarts: IntLike = 4,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    learning_rate: Scalar = 0.05,
    max_steps: IntLike = 1000,
) -> RangeCheck:
    """Check whether an image in the range of a generator explains a measurement within its noise.

    If it does not, the posterior of the latent is that of a wrong model, whatever its sampler: usually narrow, and far
    from the truth. The best latent minimises `-log p(y | G(z))`, without the energy, from several starts. Its misfit is
    compared with that of measurements simulated from its image. The fit of `k` latents to `m` measurements makes the
    misfit smaller by about `k / 2`, so the test passes too easily where `m` is not large compared with `k`.

    **Arguments:**

    - `likelihood`, `prior`, `y`: as for `reconstruct`.
    - `key`: a typed key for the starts and the simulations.
    - `restarts`, `start`, `learning_rate`, `max_steps`: as for `reconstruct`. Too few of them find no explanation where
      there is one.

    **Returns:** a `RangeCheck`, whose `print` is a table with a verdict, and whose `passed` is a boolean.

    **Raises:** as `reconstruct`.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :2]).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.5))
        y = likelihood.simulate(prior.decode(jnp.ones(2)), key=jax.random.key(0))
        print(jaxinv.generative.check_range(likelihood, prior, y, key=jax.random.key(1)))
        print(jaxinv.generative.check_range(likelihood, prior, y + 1, key=jax.random.key(1)))
        ```
    """
    check_key(key)
    start_key, noise_key = subkeys(key, 2)
    solution = reconstruct(
        likelihood,
        prior,
        y,
        key=start_key,
        weight=0.0,
        restarts=restarts,
        start=start,
        learning_rate=learning_rate,
        max_steps=max_steps,
    )
    likelihood, y, code = prepare(likelihood, y)
    image = solution.value
    misfit: Any = lambda y: likelihood.negative_log_likelihood(image, y)
    simulated = jax.vmap(lambda key: misfit(likelihood.simulate(image, key=key)))(
        jax.random.split(noise_key, _REPLICATES)
    )
    found = misfit(y)
    enough = (solution.result == RESULTS.successful) | (solution.result == RESULTS.max_steps_reached)
    good = enough & (code == RESULTS.successful) & jnp.isfinite(found)
    p_value = jnp.where(good, jnp.mean((simulated >= found).astype(found.dtype)), jnp.nan)
    return RangeCheck(image, solution.aux["latent"], found, simulated, p_value)
