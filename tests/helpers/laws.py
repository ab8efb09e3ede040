"""Comparison of samples with a law that is known."""

import numpy as np


def assert_law(draws, mean, covariance, rounding=0.0):
    """Mean and covariance within 4 standard errors, those of Gaussian samples."""
    n = len(draws)
    error = np.sqrt(np.diag(covariance) / n)
    assert np.all(abs(draws.mean(0) - mean) < 4 * error + rounding)
    squares = np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2
    assert np.all(abs(np.cov(draws.T) - covariance) < 4 * np.sqrt(squares / n) + rounding)
