"""The two ways in which tests compile: fast, and as users do."""

import functools
import importlib.metadata

import jax

# Nearly all of the time of most tests is that of the compiler's machine-code passes, which change nothing tested there.
compiled = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)

# Where a kernel or a solver is judged inside a larger program: without optimisations no fault of this kind shows.
_AS_USERS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
# Which conftest.py switches off where the flag exists.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _AS_USERS["xla_cpu_use_fusion_emitters"] = True
production = functools.partial(jax.jit, compiler_options=_AS_USERS)
