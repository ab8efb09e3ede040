"""The figure of what `diffusion.check_posterior` found."""

from typing import TYPE_CHECKING

import numpy as np

from .._types import Checked
from ..diffusion import PosteriorCheck
from ._figure import CAPTION, panels

if TYPE_CHECKING:
    import matplotlib.figure

_BINS = 30
_GOOD, _BAD, _REFERENCE = "C0", "C3", "0.8"


def posterior_check(check: Checked[PosteriorCheck], *, heading: str | None = None) -> "matplotlib.figure.Figure":
    """Draw what `diffusion.check_posterior` found: the misfit, the discrepancy and the spread beside what is expected.

    The first panel has the histogram of `-log p(y | x)` of measurements simulated from the samples in grey, and that of
    the samples' own. The other two have the kernel Stein discrepancy with the range of exact draws, and the spread with
    its error beside 1. What fails is red.

    **Arguments:**

    - `check`: the result for one problem.
    - `heading`: a line at the top of the figure; by default the verdict.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for anything else, or many problems at once; `ImportError` without matplotlib.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import diffusion, oracles, plotting
        prior = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16))
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        y = jnp.ones((2, 2, 1))
        samples = prior.posterior(likelihood, y).sample(200, key=jax.random.key(0))
        score = prior.score(diffusion.VP())
        check = diffusion.check_posterior(likelihood, score, samples, y, key=jax.random.key(1))
        figure = plotting.posterior_check(check)
        ```
    """
    if not isinstance(check, PosteriorCheck) or np.ndim(check.spread):
        raise ValueError(
            "`posterior_check` draws what `diffusion.check_posterior` found for one problem; got "
            f"{type(check).__name__}{' of many' if isinstance(check, PosteriorCheck) else ''}."
        )
    if not np.isfinite(float(check.spread)):
        raise ValueError("The check is not finite: a sample, a score or the measurement was not.")
    threshold = check.significance / 3
    colours = [_GOOD if float(p) >= threshold else _BAD for p in check.p_values.values()]
    titles = ["misfit of y, -log p(y | x)", "kernel Stein discrepancy", "spread"]
    figure, (misfit, stein, spread) = panels(titles, (2.0, 1.4), check.verdict if heading is None else heading)
    own, replicated = np.asarray(check.misfit), np.asarray(check.replicated_misfit).ravel()
    # An outlier among the simulated ones would leave no room for the rest.
    ends = min(own.min(), np.quantile(replicated, 0.001)), max(own.max(), np.quantile(replicated, 0.999))
    edges = np.linspace(*ends, _BINS + 1)
    misfit.hist(replicated, edges, density=True, color=_REFERENCE, label="simulated")
    misfit.hist(own, edges, density=True, color=colours[2], histtype="step", linewidth=1.2, label="measured")
    misfit.legend(fontsize=CAPTION, frameon=False)
    misfit.set_yticks([])
    value, floor = float(check.stein.discrepancy), float(check.stein.floor)
    stein.axvspan(min(0, value), floor, color=_REFERENCE)
    stein.plot([value], [0], "o", color=colours[0], markersize=4)
    stein.set(yticks=[], xlabel="grey: below the 95 % point of exact draws")
    spread.axvline(1, color=_REFERENCE, linewidth=3)
    spread.errorbar(
        [float(check.spread)], [0], xerr=[2 * float(check.spread_error)], fmt="o", color=colours[1], markersize=4
    )
    spread.set(yticks=[], xlabel="1 for the posterior; two standard errors")
    for panel in (stein, spread):
        panel.xaxis.label.set_fontsize(CAPTION)
    return figure
