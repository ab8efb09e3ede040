"""JAX's settings: every public computation works under each of them, or as well as without it.

A table of settings and calls. What shows when a program is traced is tested by tracing; what needs numbers runs a few
calls of each kind. `rank promotion "raise"` is the setting of the whole suite (`conftest.py`).
"""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CALLS, Call
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from programs import answers, assert_same, equations

from jaxinv import Implicit, Likelihood, classical, diffusion, generative, metrics, noise, operators, oracles, subspace

BY_NAME = {call.name: call for call in CALLS}
# One of each kind: they share what all others need.
KINDS = {
    "tikhonov",
    "gaussian",
    "simulate",
    "norm",
    "interpolate",
    "sample-ddim",
    "diffusion-forward",
    "posterior DPS",
    "operator Convolution zero 3x3",
    "operator MultiCoilFourier",
    "operator nested",
    "operator FunctionOperator custom_vjp",
    "noise Gaussian",
    "noise Poisson",
    "regulariser TV smoothed and L1",
    "psnr",
}


def table(belongs=lambda call: True, fast=KINDS):
    chosen = [call for call in CALLS if belongs(call)]
    marked = [
        pytest.param(call, id=call.name, marks=[] if call.name in fast else [pytest.mark.slow]) for call in chosen
    ]
    return pytest.mark.parametrize("call", marked)


def named(*names, fast=()):
    return table(lambda call: call.name in names, fast)


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


# What shows in a trace: all settings at once, in one trace, and each alone only to name the one that is to blame.
# Strict promotion where the default float is not single precision: a weak number and a default integer promote too.
HIGHEST = jax.lax.Precision.HIGHEST
STRICT, EXPLICIT = "strict promotion", "a batch on a mesh with explicit axes"  # which `jax.make_mesh` makes by default


def trace_under(call, settings):
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(True))
        arguments = call.arguments(jnp.float64) if call.host else jax.eval_shape(lambda: call.arguments(jnp.float64))
        function = call.function if call.host else jax.make_jaxpr(call.function)
        if EXPLICIT in settings:
            mesh = jax.make_mesh((2,), ("problems",), axis_types=(AxisType.Explicit,))
            sharding = NamedSharding(mesh, PartitionSpec("problems"))
            stack.enter_context(jax.set_mesh(mesh))
            lift = lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype, sharding=sharding)
            arguments = jax.tree.map(lift, arguments)
            function = jax.make_jaxpr(jax.vmap(call.function))
        if STRICT in settings:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
        program = function(arguments)
    if call.precision and not call.host:
        # The default would be bfloat16 on a TPU and TF32 on a GPU, with a CPU suite that stays green.
        products = ("dot_general", "conv_general_dilated")
        for equation in equations(program.jaxpr):
            if equation.primitive.name in products and equation.params["precision"] not in (HIGHEST, (HIGHEST,) * 2):
                raise ValueError(f"The precision of a product is not explicit: {equation}")


def traced_under(call, settings):
    """What cannot be traced under the settings together, by the settings that are to blame."""
    try:
        trace_under(call, settings)
    except Exception as error:
        alone = {}
        for setting in settings:
            try:
                trace_under(call, [setting])
            except Exception as guilty:
                alone[setting] = guilty
        return alone or {" and ".join(settings): error}
    return {}


@table(fast=KINDS | {"fbp-parallel", "operator Downsample blurred"})
def test_traced_under_every_setting_with_explicit_precision(call):
    one_alone = call.host or call.name.startswith("network")
    assert traced_under(call, [STRICT] if one_alone else [STRICT, EXPLICIT]) == {}


def test_the_setting_that_is_to_blame_is_named():
    pair = lambda dtype: jnp.ones(2, dtype)
    promoting = Call("promoting", pair, lambda x: x + jnp.arange(2))
    assert list(traced_under(promoting, [STRICT, EXPLICIT])) == [STRICT]

    def against_meshes(x):
        if not jax.sharding.get_abstract_mesh().empty:
            raise ValueError("a mesh")
        return x

    assert list(traced_under(Call("against meshes", pair, against_meshes), [STRICT, EXPLICIT])) == [EXPLICIT]
    product = Call("product", pair, lambda x: x @ x)
    assert "is not explicit" in str(traced_under(product, [STRICT, EXPLICIT])[STRICT])
    assert traced_under(dataclasses.replace(product, precision=False), [STRICT, EXPLICIT]) == {}


def test_strict_promotion_of_what_users_write():
    # Python numbers, masks of booleans, counts of integers; operators that take real images to complex measurements.
    with jax.numpy_dtype_promotion("strict"):
        mask = operators.Mask(np.ones((4, 3, 1), bool))
        fourier = operators.MaskedFourier(np.ones((4, 3, 1), bool)) @ operators.Real((4, 3, 1))
        image = jnp.ones((4, 3, 1))
        jax.tree.map(np.asarray, (2 * operators.stack([mask, fourier]) - operators.stack([mask, fourier]) / 2)(image))
        likelihood = Likelihood(fourier + 1j * mask, noise.Gaussian(1))
        y = likelihood.simulate(image, key=jax.random.key(0))
        for verb in (classical.tikhonov, classical.tv, classical.fista):
            jax.eval_shape(lambda y, verb=verb: verb(likelihood, y, weight=1, max_steps=2), y)
        jax.eval_shape(lambda y: classical.tsvd(likelihood, y, rank=2), y)
        counts = Likelihood(mask, noise.Poisson(3)).simulate(image, key=jax.random.key(0))
        Likelihood(mask, noise.Poisson(3)).negative_log_likelihood(image, np.asarray(counts, np.uint16))
        metrics.psnr(image, image / 2, 1)


# With leaks checked nothing is cached, so tracing takes twice as long.
@named("tikhonov", "reconstruct-adam", "sample-ddim", "posterior DPS", "operator FunctionOperator custom_vjp", "dip")
def test_leaks_and_types_are_checked(call):
    arguments = jax.eval_shape(lambda: call.arguments(jnp.float32))
    with jax.checking_leaks(), jax.enable_checks(True):
        jax.make_jaxpr(call.function)(arguments)


RUN = (
    "tikhonov",
    "fbp-parallel",
    "sample-dpm-solver",
    "posterior DPS",
    "diffusion-decode",
    "tikhonov implicit gradient",
)


@named(*RUN)
def test_numbers_are_checked(call):
    arguments = call.arguments(jnp.float32)
    with jax.debug_nans(True), jax.debug_infs(True):
        jax.block_until_ready(call.function(arguments))


@named("tikhonov", "fbp-fan", "gaussian", "sample-dpm-solver", "posterior DPS", "dip-discrepancy", "diffusion-decode")
def test_without_jit(call):
    arguments = call.arguments(jnp.float32)
    expected = call.function(arguments)
    with jax.disable_jit():
        assert_same(call.function(arguments), expected, 1e-3)


@pytest.mark.slow
def test_an_implicit_gradient_without_jit_makes_no_nan():
    # `jax_debug_nans` looks at the result of every operation there.
    likelihood = Likelihood(operators.Identity((3,)), noise.Gaussian(1.0))

    def solve(y):
        solution = classical.tikhonov(likelihood, y, weight=1.0, max_steps=2, differentiate=Implicit())
        return jnp.sum(solution.value)

    with jax.disable_jit(), jax.debug_nans(True):
        np.testing.assert_allclose(jax.grad(solve)(jnp.ones(3)), 0.5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("partitionable", [True, False])
@named("simulate", "sample-ddim", "posterior DPS")
def test_keys_of_either_kind(call, partitionable):
    # They draw different numbers; that a batch equals a loop holds for both.
    with jax.threefry_partitionable(partitionable):
        arguments = call.arguments(jnp.float32)
        batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), arguments)
        together = jax.jit(jax.vmap(call.function))(batch)
        assert_same(jax.tree.map(lambda leaf: leaf[1], together), call.function(arguments), 1e-5)


@named("tikhonov", "fista", "sample-ddim", "posterior DPS", "operator ParallelBeam", fast={"operator ParallelBeam"})
def test_x64_on_and_off_in_one_process(call):
    # The programs and constants of one precision do not show in the other.
    outcomes = {}
    for dtype in ("float32", "float64", "float32"):
        with precision(dtype):
            out = jax.device_get(call.function(call.arguments(jnp.dtype(dtype))))
        floats, rest = answers(out)
        assert {leaf.dtype.name for leaf in floats} <= {dtype, {"float32": "complex64"}.get(dtype, "complex128")}
        if dtype in outcomes:
            assert_same(out, outcomes[dtype], 0)
        outcomes[dtype] = out


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [lambda: jax.default_matmul_precision("bfloat16"), lambda: jax.default_device(jax.devices()[1])],
    ids=["matmul precision", "device"],
)
@named("tikhonov", "posterior DPS")
def test_defaults(call, setting):
    expected = call.function(call.arguments(jnp.float32))
    with setting():
        assert_same(call.function(call.arguments(jnp.float32)), expected, 1e-5)


SHAPE = (6, 5, 1)
MASK = operators.Mask(np.ones(SHAPE, np.float32))
LIKELIHOOD = Likelihood(MASK, noise.Gaussian(0.5))
GAUSSIAN = oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(30))
KEY = jax.random.key(0)


def _there_and_back(operator, draw):
    return operator(draw(*operator.domain.shape)), operator.adjoint(draw(*operator.codomain.shape))


# What a user hands in, drawn in an unusual dtype.
INPUTS = {
    "Mask": lambda draw: _there_and_back(operators.Mask(draw(*SHAPE)), draw),
    "Convolution": lambda draw: _there_and_back(operators.Convolution(draw(3, 3), SHAPE), draw),
    "Matrix": lambda draw: _there_and_back(operators.Matrix(draw(7, 30), SHAPE), draw),
    "ParallelBeam": lambda draw: _there_and_back(operators.ParallelBeam(SHAPE, draw(4)), draw),
    "MaskedFourier": lambda draw: _there_and_back(operators.MaskedFourier(draw(*SHAPE)), draw),
    "MultiCoilFourier": lambda draw: _there_and_back(operators.MultiCoilFourier(draw(*SHAPE), draw(2, *SHAPE)), draw),
    "Scaled": lambda draw: _there_and_back(draw()[()] * operators.Identity((4,)), draw),
    "noise": lambda draw: Likelihood(MASK, noise.Gaussian(draw(*SHAPE))).negative_log_likelihood(
        draw(*SHAPE), draw(*SHAPE)
    ),
    "oracles.Gaussian": lambda draw: GAUSSIAN.log_prob(draw(*SHAPE)),
    "tikhonov": lambda draw: classical.tikhonov(LIKELIHOOD, draw(*SHAPE), weight=draw()[()], max_steps=2),
    "posterior_sample": lambda draw: diffusion.posterior_sample(
        LIKELIHOOD, GAUSSIAN.score(diffusion.VP()), draw(*SHAPE), key=KEY, method=diffusion.DPS(2)
    ),
    "reconstruct": lambda draw: generative.reconstruct(
        LIKELIHOOD, GAUSSIAN.as_latent(), draw(*SHAPE), key=KEY, max_steps=2
    ),
    "psnr": lambda draw: metrics.psnr(draw(*SHAPE), draw(*SHAPE)),
    "mmd": lambda draw: metrics.mmd(draw(4, 3), draw(5, 3)),
    "pca": lambda draw: subspace.pca(draw(12, *SHAPE), rank=2).encode(draw(*SHAPE)),
}
# What the FFT, linear algebra and the kernels would refuse in half precision runs, too.
UNUSUAL = [(name, ">f4") for name in INPUTS]
UNUSUAL += [(name, "float16") for name in ("Convolution", "MaskedFourier", "ParallelBeam", "tikhonov")]
QUICK = ("Mask", "Convolution", "ParallelBeam", "Scaled", "psnr")


@pytest.mark.parametrize(
    ("name", "dtype"), [pytest.param(n, d, marks=[pytest.mark.slow] * (n not in QUICK)) for n, d in UNUSUAL]
)
def test_unusual_dtypes_become_single_precision(name, dtype):
    random = np.random.default_rng(0)
    draw = lambda *shape: np.asarray(random.uniform(0.2, 1, size=shape)).astype(dtype)
    floats, _ = answers(INPUTS[name](draw))
    assert floats
    assert {leaf.dtype.name for leaf in floats} <= {"float32", "complex64"}
    assert all(np.isfinite(leaf).all() for leaf in floats)


def of_a_network(call):
    """Whether the answer is that of a network, or of a function of the user, alone, which computes as it is made."""
    return call.name in ("lsvd", "sample-latent", "adjoint_states", "score_matching_loss") or "network" in call.name


def of_a_gradient(call):
    """Whether the answer holds gradients, which have the dtype of what they belong to."""
    return call.name.startswith(("noise", "regulariser")) or "gradient" in call.name


@table(lambda call: not (call.host or of_a_network(call)), fast=("tikhonov", "operator Convolution zero 3x3"))
def test_half_precision_is_computed_in_single(call):
    # Traced: nothing is in half precision but what came in. One of the two in each call: both widen in the same place.
    dtype = ("float16", "bfloat16")[len(call.name) % 2]
    answer = jax.eval_shape(call.function, jax.eval_shape(lambda: call.arguments(jnp.dtype(dtype))))
    kinds = [leaf.dtype.name for leaf in jax.tree.leaves(answer) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if of_a_gradient(call):
        kinds = [kind for kind in kinds if kind != dtype] or kinds
    assert set(kinds) <= {"float32", "complex64"}
