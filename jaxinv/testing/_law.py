"""Draws against a Gaussian law."""

from typing import Any

import numpy as np

from ._compare import require


def require_law(
    draws: Any, mean: Any, covariance: Any, *, deviations: float, allowance: float, what: str, advice: str
) -> None:
    """Demand that draws have a mean and a covariance, in the directions and the units of that covariance.

    In these units a mean of independent draws has the standard error `1 / sqrt(n)`, and a covariance
    `sqrt(2 / n)` on its diagonal and `1 / sqrt(n)` beside it. On top of `deviations` of these comes `allowance`.
    """
    draws = np.asarray(draws, float).reshape(len(draws), -1)
    variances, basis = np.linalg.eigh(np.asarray(covariance, float))
    white = (draws - np.ravel(np.asarray(mean, float))) @ (basis / np.sqrt(variances))
    count, identity = len(white), np.eye(white.shape[1])
    # The mean is compared separately, so its offset does not count as covariance.
    found = np.cov(white.T).reshape(identity.shape)
    for which, gap, error in (
        ("mean", np.abs(white.mean(axis=0)), np.full(len(identity), 1 / np.sqrt(count))),
        ("covariance", np.abs(found - identity), np.sqrt((1 + identity) / count)),
    ):
        excess = gap - deviations * error - allowance
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        require(
            excess[worst] <= 0,
            f"The {which} of {what} is wrong: in units of the exact standard deviations it is off by {gap[worst]:.3f}, "
            f"and {deviations:g} standard errors of {error[worst]:.3f} with an allowance of {allowance:g} for the bias "
            f"are {deviations * error[worst] + allowance:.3f}. {advice}",
        )
