"""Settings of the whole suite: implicit rank promotion is an error, as warnings are (pyproject.toml)."""

import atexit
import ctypes
import gc
import importlib.metadata
import itertools
import os
import pathlib
import shutil
import tempfile

# Before jax is imported. Two devices, simulated, for the sharding tests. And little optimisation: nearly all the time
# goes into compiling small programs, and this halves it; set XLA_FLAGS yourself to test what users run.
_FLAGS = [
    "--xla_force_host_platform_device_count=2",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
# The code generation from before fusions went through MLIR compiles in less than half the time, and a program in one
# part in a fifth less. Later versions may have no such flags, and XLA ends a process that names one it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

# A worker that cleared its caches (below) reads its programs again. Set JAX_COMPILATION_CACHE_DIR yourself to keep them
# for the next run. A folder for each worker: jax writes into it without a lock.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The first process comes here; the workers inherit its environment.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxinv-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] += "/" + os.environ.get("PYTEST_XDIST_WORKER", "main")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


# Compiled programs take memory and memory maps, of which Linux gives a process 65 530: a worker that runs out of them
# is killed by a signal, which looks like a fault of the compiler. To count maps takes a while: not after every test.
_GIGABYTES_MORE = 1.7
_MAPS_KEPT = 40_000
_TESTS_BETWEEN = 16
_tests_run = itertools.count(1)
_memory_after_clearing = 0.0


def _gigabytes():
    return int(pathlib.Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9


def _maps():
    return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")


def pytest_runtest_teardown():
    global _memory_after_clearing
    if not pathlib.Path("/proc/self/maps").exists():
        return
    many = next(_tests_run) % _TESTS_BETWEEN == 0 and _maps() > _MAPS_KEPT
    if many or _gigabytes() > _memory_after_clearing + _GIGABYTES_MORE:
        jax.clear_caches()
        # The C library keeps what is freed unless it is told to give it back.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
        _memory_after_clearing = _gigabytes()


def pytest_collection_modifyitems(items):
    """Puts the tests of a row of a table beside each other, and so on one worker: they share what it has compiled."""
    first, places = {}, {}
    for place, item in enumerate(items):
        params = getattr(item, "callspec", None) and item.callspec.params
        row = params and (params.get("row") or params.get("name"))
        places[item] = first.setdefault((item.path, repr(row)), place) if row else place
    items.sort(key=places.__getitem__)
    # What lives until the end need not be looked through by every collection of garbage; tracing makes many objects.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    """The command line keeps its compiled programs here, and not in the cache folder of whoever runs the tests."""
    os.environ["JAXINV_CACHE"] = str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def key():
    return jax.random.key(0)
