"""The result of simulation-based calibration: ranks and coverage over many problems, with a verdict."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Bool, Float, Integer

from .._module import Module
from .._report import is_readable, number, table


class Calibration(Module):
    """The ranks and the coverage of the true images of many simulated problems among their posterior samples.

    `diffusion.check_calibration` makes it; of another sampler, make it of
    `metrics.calibration_ranks` and `metrics.coverage`. For exact posteriors with independent samples each rank is
    uniform on `0, ..., num_samples`. Two scores say what is wrong, each of which is standard normal for exact
    posteriors: that of the mean rank finds a bias, and that of the mean square of `rank - num_samples / 2` samples that
    spread too little (positive) or too much (negative). `passed` compares all scores, and that of the coverage, with
    the quantile of the normal law at which `significance` is the probability that an exact posterior fails.

    `print` shows all that as a table, and `plotting.calibration(check.ranks, check.num_samples)` draws the ranks.

    - `ranks`: the ranks of each quantity by name, `(problems,)`; -1 in a problem that failed, which does not count.
    - `coverage`: the share of covered entries in each problem, `(problems,)`; NaN in one that failed.
    - `num_samples`: the number of posterior samples of a problem, static.
    - `level`: the probability of the interval of the coverage, static.
    - `significance`: the probability with which exact posteriors fail, static.

    Under `jax.vmap` its numbers have an axis more, and so have those of its properties that are no words.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        truths = jax.random.normal(jax.random.key(0), (200, 4))
        samples = jax.random.normal(jax.random.key(1), (200, 39, 4))
        ranks = jax.vmap(lambda s, x: metrics.calibration_ranks(s, x, lambda x: x.sum()))(samples, truths)
        print(metrics.Calibration({"sum": ranks}, jax.vmap(metrics.coverage)(samples, truths), 39))
        ```
    """

    ranks: dict[str, Integer[Array, "*batch problems"]]
    coverage: Float[Array, "*batch problems"]
    num_samples: int = eqx.field(static=True)
    level: float = eqx.field(default=0.9, static=True)
    significance: float = eqx.field(default=0.01, static=True)

    def __check_init__(self):
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise ValueError(f"Calibration: `num_samples` must be an integer of at least 1; got {self.num_samples!r}.")
        for name in ("level", "significance"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Calibration: `{name}` must lie between 0 and 1; got {getattr(self, name)!r}.")

    @property
    def num_failed(self) -> Integer[Array, "..."]:
        """The number of problems that failed, and do not count."""
        return jnp.sum(jnp.isnan(self.coverage), axis=-1)

    @property
    def bias_scores(self) -> dict[str, Float[Array, "..."]]:
        """For each quantity the standard score of the mean rank: positive if the truth tends to be larger."""
        return {name: self._scores(ranks)[0] for name, ranks in self.ranks.items()}

    @property
    def spread_scores(self) -> dict[str, Float[Array, "..."]]:
        """For each quantity the standard score of the spread of the ranks: positive if the samples are too narrow."""
        return {name: self._scores(ranks)[1] for name, ranks in self.ranks.items()}

    @property
    def mean_coverage(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The mean coverage over problems, and its standard error."""
        there = ~jnp.isnan(self.coverage)
        count = jnp.sum(there, axis=-1)
        mean = jnp.sum(jnp.where(there, self.coverage, 0), axis=-1) / count
        square = jnp.sum(jnp.where(there, (self.coverage - mean[..., None]) ** 2, 0), axis=-1)
        square = square / jnp.maximum(count - 1, 1)
        return mean, jnp.sqrt(square / count)

    @property
    def expected_coverage(self) -> float:
        """The expected coverage of as many samples of the exact posterior, `level (n - 1) / (n + 1)`."""
        return self.level * (self.num_samples - 1) / (self.num_samples + 1)

    @property
    def coverage_score(self) -> Float[Array, "..."]:
        """The standard score of the mean coverage: negative if the samples are too narrow.

        The score of a few problems has Student's law; this is the normal score of the same probability, by Wallace's
        approximation.
        """
        mean, error = self.mean_coverage
        gap = mean - self.expected_coverage
        # Interpolation between samples makes the expectation exact to two thousandths only.
        gap = jnp.sign(gap) * jnp.maximum(jnp.abs(gap) - 2e-3, 0)
        student = gap / jnp.where(error > 0, error, 1 / self.num_samples)
        freedom = jnp.maximum(self.coverage.shape[-1] - self.num_failed - 1, 1)
        normal = jnp.sqrt(freedom * jnp.log1p(student**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
        return jnp.sign(student) * normal

    @property
    def threshold(self) -> Float[Array, "..."]:
        """The bound of every standard score: the two-sided quantile, shared among all scores."""
        number_of_scores = 2 * len(self.ranks) + 1
        return _normal_quantile(self.significance / (2 * number_of_scores))

    @property
    def passed(self) -> Bool[Array, "..."]:
        """Whether no score exceeds the threshold; not so if no problem succeeded."""
        scores = [*self.bias_scores.values(), *self.spread_scores.values(), self.coverage_score]
        return jnp.all(jnp.abs(jnp.stack(scores)) <= self.threshold, axis=0)

    @property
    def verdict(self) -> str:
        """The verdict in words; outside of `jax.jit` and of one check."""
        if bool(self.passed):
            return f"calibrated, as far as {len(self.coverage) - int(self.num_failed)} problems can tell."
        if int(self.num_failed) == len(self.coverage):
            return "every problem failed: look at the codes of the solutions."
        wrong = []
        for name in self.ranks:
            bias, spread = float(self.bias_scores[name]), float(self.spread_scores[name])
            if abs(bias) > self.threshold:
                wrong.append(f"{name} is too {'small' if bias > 0 else 'large'}")
            if abs(spread) > self.threshold:
                wrong.append(f"{name} spreads too {'little' if spread > 0 else 'much'}")
        if abs(float(self.coverage_score)) > self.threshold:
            wrong.append(f"intervals are too {'narrow' if self.coverage_score < 0 else 'wide'}")
        return "not calibrated: of the samples, " + ", ".join(wrong) + "."

    def _scores(self, ranks: Array) -> tuple[Array, Array]:
        there = ranks >= 0
        count, n = jnp.sum(there, axis=-1), self.num_samples
        u = jnp.where(there, ranks - n / 2, 0)
        # The central moments of the uniform law on 0, ..., n.
        grid = np.arange(n + 1) - n / 2
        second, fourth = np.mean(grid**2), np.mean(grid**4)
        bias = jnp.sum(u, axis=-1) / jnp.sqrt(count * second)
        spread = jnp.sum(jnp.where(there, u**2 - second, 0), axis=-1) / jnp.sqrt(count * max(fourth - second**2, 1e-12))
        return bias, spread

    def __repr__(self) -> str:
        if not is_readable(self.coverage) or jnp.ndim(self.coverage) != 1:
            return super().__repr__()
        mark = lambda score: " (!)" if abs(float(score)) > self.threshold else ""
        rows = []
        for name in self.ranks:
            bias, spread = self.bias_scores[name], self.spread_scores[name]
            remark = "" if not mark(bias) + mark(spread) else "uneven ranks"
            rows.append((name, f"{float(bias):+.1f}{mark(bias)}", f"{float(spread):+.1f}{mark(spread)}", remark))
        mean, error = self.mean_coverage
        found = f"{number(mean)} +- {number(error)}"
        score = self.coverage_score
        rows.append((f"coverage at {self.level:g}", found, f"{float(score):+.1f}{mark(score)}", self._expected()))
        problems, failed = len(self.coverage), int(self.num_failed)
        title = f"calibration of {self.num_samples} samples in {problems - failed} problems"
        title += f" ({failed} more failed)" if failed else ""
        title += f"; scores are standard normal if exact, at most {float(self.threshold):.1f} pass"
        return table(title, ("quantity", "bias", "spread", ""), rows, self.verdict)

    def _expected(self) -> str:
        return f"expected {self.expected_coverage:.3f}"


def _normal_quantile(tail: Any) -> Array:
    """The number that a standard normal exceeds with this probability."""
    return -ndtri(jnp.asarray(tail, jnp.result_type(float)))
