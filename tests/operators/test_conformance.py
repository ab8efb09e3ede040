"""Every linear operator of the table keeps every promise of `AbstractLinearOperator`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, ROWS, real_fourier
from compilation import compiled, production
from jax.sharding import NamedSharding, PartitionSpec

from jaxinv import operators, testing
from jaxinv.operators._base import into_complex

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


def half_square(operator, x, y):
    residual = jax.tree.map(jnp.subtract, operator(x), y)
    return sum(0.5 * jnp.sum(jnp.abs(r) ** 2) for r in jax.tree.leaves(residual))


loss_and_gradient_in_parameters = compiled(jax.value_and_grad(half_square))
certify = compiled(lambda operator, key: operators.certify(operator, key=key))
# For operators with a kernel of their own, which users compile with all optimisation.
certify_as_users_do = production(lambda operator, key: operators.certify(operator, key=key))
matrix_of = compiled(lambda operator: operators.materialise(operator).matrix)


def stacked(trees):
    # By numpy, here and below: jax would compile a program for each operation and shape.
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def draw(struct, seed, kind=None):
    """Random numbers of the shapes of a struct; `kind` replaces its dtypes."""
    random = np.random.default_rng(seed)

    def one(s):
        dtype = s.dtype if kind is None else kind
        value = random.normal(size=s.shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            value = value + 1j * random.normal(size=s.shape)
        return np.asarray(value, dtype)

    return jax.tree.map(one, struct)


def inner(a, b):
    products = jax.tree.map(lambda u, v: np.vdot(np.asarray(u, complex), np.asarray(v, complex)), a, b)
    return sum(jax.tree.leaves(products))


def size(tree):
    return np.sqrt(inner(tree, tree).real)


def assert_close(a, b, tolerance):
    difference = jax.tree.map(lambda u, v: np.asarray(u) - np.asarray(v), a, b)
    assert size(difference) <= tolerance * max(size(b), 1e-30)


def dtypes(tree):
    return jax.tree.map(lambda leaf: jnp.dtype(leaf.dtype), tree)


# Whose batches take another form than one image.
KERNELS = {"ParallelBeam", "FanBeam", "Convolution reflect 3x3"}


# A row of each kind: by pixels, a matrix, in frequencies, over the reals, from a function, made of others.
CHECKED = KERNELS | {"Mask", "Matrix", "MaskedFourier", "MaskedFourier @ Real", "FunctionOperator", "A @ B"}


def checked_rows():
    for row in ROWS:
        for dtype in ("float32", "float64"):
            # The others are slow tests, and so is single precision, in which kernels differ from what XLA makes of a
            # formula: within larger programs they are in `test_in_programs` at once.
            slow = row.name not in CHECKED or dtype == "float32"
            yield pytest.param(row, dtype, id=f"{dtype}-{row.name}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("row", "dtype"), list(checked_rows()))
def test_the_check_for_everybody(row, dtype, key):
    with jax.enable_x64(dtype == "float64"):
        loop = [row.operator(dtype, seed) for seed in range(BATCH)]
        if dtype == "float64":
            # All sizes at which a kernel changes its form are in `test_in_programs`.
            sizes = (1, 37) if row.name in KERNELS else (BATCH,)
            testing.check_linear_operator(loop[0], key=key, others=loop[1:], batch_sizes=sizes)
        else:
            # What single precision adds is the dot test at its own bar.
            testing.check_linear_operator(loop[0], key=key, batch_sizes=(), derivatives=False, max_matrix_entries=0)


@rows
def test_three_ways_to_a_batch_of_operators(row):
    with jax.enable_x64(True):
        loop = [row.operator("float64", seed) for seed in range(BATCH)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *loop)
        parameters = [row.draw("float64", seed) for seed in range(BATCH)]
        batches = [operators.batch(loop)]
        if parameters[0]:
            batches.append(jax.vmap(row.build)(*map(np.stack, zip(*parameters, strict=True))))
        for batch in batches:
            assert jax.tree.structure(batch) == jax.tree.structure(loop[0])
            assert_close(jax.tree.leaves(batch), jax.tree.leaves(stacked), 1e-12)
        assert into_complex(loop[0]) == row.over_reals
        assert loop[0].H.H is loop[0] or loop[0].H.H.H is loop[0].H


# One operator of every kind: dot test, linearity and norm are those of the tests above, taken by `certify`.
CERTIFIED = {"ParallelBeam", "MaskedFourier", "Matrix"}
# `test_the_check_for_everybody` has what is made of other rows.
KINDS = [row for row in ROWS if not row.twin or row.name in KERNELS]
SLOW = [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * (row.name not in CERTIFIED)) for row in KINDS]


@pytest.mark.parametrize("row", SLOW)
def test_certify_passes_and_its_norm_is_the_largest_singular_value(row, key):
    with jax.enable_x64(True):
        operator = row.operator("float64")
        measure = certify_as_users_do if row.name in KERNELS else certify
        certificate = measure(operator, key).check()
        matrix = np.asarray(matrix_of(operator))
        if row.over_reals:  # measurements are real and imaginary parts, 2 m real numbers
            matrix = np.concatenate([matrix.real, matrix.imag])
        # Power iteration approaches from below; 1e-3 is the default tolerance of `norm`.
        largest = np.linalg.norm(matrix, 2)
        assert largest * (1 - 1e-3) <= certificate.norm <= largest * (1 + 1e-12)


SHARDED = [
    row
    for row in ROWS
    if row.name
    in {
        "Mask",
        "Convolution reflect 3x3",
        "Matrix",
        "ParallelBeam",
        "MaskedFourier @ Real",
        "nested",
        "FunctionOperator",
    }
]


@pytest.mark.parametrize("row", SHARDED, ids=lambda row: row.name)
def test_two_devices(row):
    devices = jax.device_count()
    assert devices == 2
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    operator = row.operator("float32")
    xs = stacked([draw(operator.domain, seed) for seed in range(4)])
    round_trip = jax.vmap(lambda A, x: A.adjoint(A(x)), in_axes=(None, 0))
    expected = compiled(round_trip)(operator, xs)
    batch = PartitionSpec("batch")
    placed = jax.device_put(xs, NamedSharding(mesh, batch))
    assert_close(compiled(round_trip)(operator, placed), expected, 1e-6)
    sharded = jax.shard_map(round_trip, mesh=mesh, in_specs=(PartitionSpec(), batch), out_specs=batch, check_vma=True)
    assert_close(compiled(sharded)(operator, placed), expected, 1e-6)


class WrongAdjoint(operators.AbstractLinearOperator):
    """The transpose for the adjoint."""

    matrix: jax.Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __call__(self, x):
        return self.matrix @ x

    def adjoint(self, y):
        return self.matrix.T @ y


class Affine(WrongAdjoint):
    def __call__(self, x):
        return self.matrix @ x + 1e-3


def test_certify_fails_on_broken_promises(key):
    struct = jax.ShapeDtypeStruct((4,), jnp.complex64)
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)) + 0.01j * np.eye(4), jnp.complex64)
    certificate = certify(WrongAdjoint(matrix, struct, struct), key)
    assert not certificate.passed
    assert certificate.linearity_error <= certificate.linearity_tolerance
    with pytest.raises(RuntimeError, match="adjoint"):
        certificate.check()
    certificate = certify(Affine(matrix.real, *[jax.ShapeDtypeStruct((4,), jnp.float32)] * 2), key)
    assert not certificate.passed
    assert certificate.linearity_error > certificate.linearity_tolerance
    with pytest.raises(RuntimeError, match="linear"):
        certificate.check()


@jax.custom_batching.custom_vmap
def _halved_in_large_batches(y):
    return y


@_halved_in_large_batches.def_vmap
def _(axis_size, in_batched, y):
    del in_batched
    return (y / 2 if axis_size > 4 else y), True


class WrongInBatches(WrongAdjoint):
    """As a kernel that takes another form for more than a few images, and is wrong there."""

    def adjoint(self, y):
        return _halved_in_large_batches(self.matrix.T @ y)


class WrongInLoops(WrongAdjoint):
    """As a kernel that is compiled otherwise within a loop: its adjoint has no finite value of what a solver makes."""

    def adjoint(self, y):
        made = jnp.sum(jnp.abs(y)) > 1e3
        return jnp.where(made, jnp.nan, self.matrix.T @ y)


@pytest.mark.parametrize("wrong", [WrongInBatches, WrongInLoops])
def test_certify_looks_at_batches_and_loops(wrong, key):
    matrix = jnp.asarray(300 * np.random.default_rng(0).normal(size=(4, 4)), jnp.float32)
    certificate = certify(wrong(matrix, *[jax.ShapeDtypeStruct((4,), jnp.float32)] * 2), key)
    assert not certificate.passed
    assert certificate.linearity_error <= certificate.linearity_tolerance


def test_certify_is_mapped_over_operators(key):
    (row,) = [row for row in ROWS if row.name == "Mask"]
    batch = operators.batch([row.operator("float32", seed) for seed in range(2)])
    together = compiled(jax.vmap(lambda operator: operators.certify(operator, key=key)))(batch)
    assert together.passed.shape == (2,)
    assert bool(jnp.all(together.passed))
    together.check()


NONLINEAR = {
    "Magnitude of complex": lambda: operators.Magnitude(operators.MaskedFourier(jnp.ones((4, 3, 1)))),
    "Magnitude of a real image": lambda: operators.Magnitude(real_fourier(jnp.ones((4, 3, 1)))),
    "Magnitude of a stack": lambda: operators.Magnitude(
        operators.stack([operators.Identity((4, 3, 1)), operators.Downsample((4, 3, 1), 1)])
    ),
    "NonlinearFunction": lambda: operators.NonlinearFunction(lambda x: (jnp.sin(x), x[1:] ** 2), (4, 3, 1)),
    "NonlinearFunction @ linear": lambda: (
        operators.NonlinearFunction(jnp.tanh, (4, 3, 1)) @ operators.Convolution(jnp.ones((2, 2)), (4, 3, 1))
    ),
    "linear @ NonlinearFunction": lambda: (
        operators.MaskedFourier(jnp.ones((4, 3, 1)))
        @ operators.Real((4, 3, 1))
        @ operators.NonlinearFunction(jnp.exp, (4, 3, 1))
    ),
    "stack": lambda: operators.stack(
        [operators.NonlinearFunction(jnp.exp, (4, 3, 1)), operators.Magnitude(operators.Identity((4, 3, 1)))]
    ),
}


LINEARISED = {"Magnitude of complex", "stack", "linear @ NonlinearFunction"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in LINEARISED)) for name in NONLINEAR]
)
def test_linearise_against_finite_differences(name, key):
    with jax.enable_x64(True):
        operator = NONLINEAR[name]()
        assert not isinstance(operator, operators.AbstractLinearOperator)
        # Central differences with a step of 1e-5: its square, and rounding 1e-16 / step.
        testing.check_operator(operator, key=key, tolerance=1e-8)
        assert certify(operator, key).check().passed


def test_magnitude_has_a_finite_derivative_at_zero():
    operator = operators.Magnitude(operators.MaskedFourier(jnp.ones((4, 3, 1))))
    gradient = compiled(jax.grad(lambda x: jnp.sum(operator(x))))(jnp.zeros((4, 3, 1), complex))
    np.testing.assert_array_equal(gradient, 0)
