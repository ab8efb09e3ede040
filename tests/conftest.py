"""Settings of the whole suite: implicit rank promotion is an error, as warnings are (pyproject.toml)."""

import os

# Before jax is imported. Two devices, simulated, for the sharding tests. And little optimisation: nearly all the time
# goes into compiling small programs, and this halves it; set XLA_FLAGS yourself to test what users run.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


# Every compiled program takes a few hundred memory maps, of which Linux gives a process 65 530: without this a worker
# runs out of them after some 400 tests and is killed by a signal.
_PROGRAMS_KEPT_FOR = 100  # tests
_finished = 0


def pytest_runtest_teardown():
    global _finished
    _finished += 1
    if _finished % _PROGRAMS_KEPT_FOR == 0:
        jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
