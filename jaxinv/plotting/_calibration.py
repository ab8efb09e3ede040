"""The figure of the calibration of a sampler, from the ranks of `metrics.calibration_ranks`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import checked
from .._types import ArrayLike, Checked, Scalar
from ._figure import CAPTION, panels

if TYPE_CHECKING:
    import matplotlib.figure

_PER_BIN = 20  # The expected number of ranks in a bin, as the reference recommends.
_MOST_BINS = 50
_INSIDE, _OUTSIDE, _BAND = "C0", "C3", "0.85"


@checked()
def calibration(
    ranks: Checked[ArrayLike | Mapping[str, ArrayLike]],
    num_samples: Checked[int],
    *,
    bins: Checked[int | None] = None,
    level: Scalar = 0.99,
    titles: Checked[Sequence[str] | None] = None,
    heading: str | None = None,
) -> "matplotlib.figure.Figure":
    """Draw histograms of the ranks of simulation-based calibration, with the band for the counts of an exact sampler.

    Draw a truth from the prior and a measurement of it, and `num_samples` from the posterior; the rank of the truth in
    some scalar quantity is the number of samples with a smaller value. If the sampler is exact and its samples are
    independent, ranks are uniform on `0, ..., num_samples`, and the count of a bin of `w` ranks is
    `Binomial(n, w / (num_samples + 1))`. An excess of ranks at both ends indicates samples that spread too little, in
    the middle too much, and at one end a bias.

    **Arguments:**

    - `ranks`: the ranks of `metrics.calibration_ranks`: integers, `(n,)`, or `(n, k)` for `k` quantities, with a
        histogram for each; or a dict of `(n,)` by title, such as the `ranks` of `diffusion.check_calibration`. A rank
        of -1, from a problem that failed, is omitted, and counted below the histogram.
    - `num_samples`: the number of posterior samples of each problem, a Python integer.
    - `bins`: the number of bins, from 2 to `num_samples + 1`; by default about 20 ranks are expected in each bin, and
        the number divides `num_samples + 1` if possible, so that all bins are equally wide.
    - `level`: the probability with which a count lies in the band, bin by bin: at .99 one bin in a hundred is outside
        by chance. Bins outside are drawn in red.
    - `titles`: a title for each quantity.
    - `heading`: a line at the top of the figure.

    **Returns:** a `matplotlib.figure.Figure`, which `plotting.save` writes.

    **Raises:** `ValueError` for ranks that are not integers up to `num_samples`, or all -1, and for options out of
    their range; `ImportError` without matplotlib.

    **Reference:** Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian inference algorithms with
    simulation-based calibration, 2018.

    !!! example
        ```python
        import numpy as np
        from jaxinv import plotting
        ranks = np.random.default_rng(0).integers(0, 100, size=(500, 2))
        figure = plotting.calibration(ranks, 99, titles=["mean", "upper left pixel"])
        ```
    """
    if isinstance(ranks, Mapping) and ranks:
        titles = list(ranks) if titles is None else titles
        ranks = np.stack([np.asarray(each) for each in ranks.values()], axis=-1)
    ranks = _check_ranks(ranks, num_samples)
    n, k = ranks.shape
    bins = _choose_bins(bins, n, num_samples)
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1; got {level!r}.")
    names = [""] * k if titles is None else titles
    if isinstance(names, str) or len(names) != k:
        raise ValueError(f"`titles` must be a sequence of one for each of the {k} quantities; got {names!r}.")
    # Bin i holds the ranks from edges[i] to edges[i + 1] - 1.
    edges = np.arange(bins + 1) * (num_samples + 1) // bins
    shares = np.diff(edges) / (num_samples + 1)
    histograms = [_Histogram(ranks[:, j], edges, shares, float(level)) for j in range(k)]
    top = 1.08 * max(max(h.counts.max(), h.high.max()) for h in histograms)

    figure, axes = panels([str(title) for title in names], (2.4, 1.6), heading)
    axes[0].set_ylabel("count", fontsize=CAPTION, labelpad=2)
    places = edges - 0.5
    for panel, h in zip(axes, histograms, strict=True):
        colours = np.where((h.counts < h.low) | (h.counts > h.high), _OUTSIDE, _INSIDE)
        panel.stairs(h.high, places, baseline=h.low, fill=True, color=_BAND)
        panel.bar(places[:-1], h.counts, np.diff(places), align="edge", color=colours, alpha=0.7, linewidth=0)
        panel.stairs(h.counts.sum() * shares, places, baseline=None, color="0.35", linewidth=0.8)
        panel.set(xlim=(places[0], places[-1]), ylim=(0, top))
        for axis in (panel.xaxis, panel.yaxis):
            axis.get_major_locator().set_params(integer=True)
        panel.set_xlabel(f"rank; {h.failed} of {n} failed" if h.failed else "rank", fontsize=CAPTION, labelpad=2)
    return figure


class _Histogram:
    """The counts of the bins, and the band of each for uniform ranks."""

    def __init__(self, ranks: np.ndarray, edges: np.ndarray, shares: np.ndarray, level: float):
        self.failed = int(np.sum(ranks < 0))
        self.counts = np.histogram(ranks, bins=edges - 0.5)[0]
        n = len(ranks) - self.failed
        band = {share: _binomial_band(n, share, level) for share in np.unique(shares)}
        self.low, self.high = np.array([band[share] for share in shares]).T


def _check_ranks(ranks: Any, num_samples: Any) -> np.ndarray:
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ValueError(f"`num_samples` must be an integer of at least 1; got {num_samples!r}.")
    ranks = np.asarray(ranks)
    if ranks.ndim not in (1, 2) or ranks.size == 0 or ranks.dtype.kind not in "iu":
        raise ValueError(
            "`ranks` must be integers of shape (n,), or (n, k) for k quantities; got shape "
            f"{ranks.shape} and dtype {ranks.dtype}."
        )
    if ranks.min() < -1 or ranks.max() > num_samples:
        raise ValueError(
            f"Among {num_samples} samples the ranks lie from 0 to {num_samples}, -1 marking failure; these lie from "
            f"{ranks.min()} to {ranks.max()}. Is `num_samples` right?"
        )
    if (ranks < 0).all(axis=0).any():
        raise ValueError(
            "All `ranks` of a quantity are -1: no problem had finite samples, so there is nothing to draw."
        )
    return ranks if ranks.ndim == 2 else ranks[:, None]


def _choose_bins(bins: Any, n: int, num_samples: int) -> int:
    possible = num_samples + 1
    if bins is None:
        most = max(2, min(possible, n // _PER_BIN, _MOST_BINS))
        return next((b for b in range(most, most // 2, -1) if possible % b == 0), most)
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or not 2 <= bins <= possible:
        raise ValueError(f"`bins` must be an integer from 2 to `num_samples + 1 = {possible}`; got {bins!r}.")
    return int(bins)


def _binomial_band(n: int, p: float, level: float) -> tuple[int, int]:
    """The ends of the central band of `Binomial(n, p)`, whose tails have probability `(1 - level) / 2` at most."""
    k = np.arange(1, n + 1)
    steps = np.log((n - k + 1) / k) + np.log(p / (1 - p))
    logarithm = n * np.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    probability = np.cumsum(np.exp(logarithm))
    tail = (1 - level) / 2
    low, high = np.searchsorted(probability, tail, side="right"), np.searchsorted(probability, 1 - tail)
    return int(low), min(int(high), n)
