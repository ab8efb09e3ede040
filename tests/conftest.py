"""Settings of the whole suite: implicit rank promotion is an error, as warnings are (pyproject.toml)."""

import os
import pathlib

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
# runs out of them and is killed by a signal, which looks like a fault of the compiler.
_MAPS_KEPT = 40_000


def pytest_runtest_teardown():
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MAPS_KEPT:
        jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """The command line keeps its compiled programs here, and not in the cache folder of whoever runs the tests."""
    os.environ["JAXINV_CACHE"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def key():
    return jax.random.key(0)
