"""Settings of the whole suite: implicit rank promotion is an error, as warnings are (pyproject.toml)."""

import os

# Before jax is imported: the sharding tests need two devices, simulated.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(0)
