"""Every linear operator of the table keeps every promise of `AbstractLinearOperator`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, ROWS, real_fourier
from compilation import compiled, production
from jax.sharding import NamedSharding, PartitionSpec

from jaxinv import operators

# The bars of the project: relative to ||A x|| ||y||.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
precisions = pytest.mark.parametrize("dtype", ["float32", "float64"])


# Compiled once for each row and precision, and shared by the tests.
@compiled
def both(operator, x, y):
    return operator(x), operator.adjoint(y)


@compiled
def everything(operator, x, y):
    stored = operators.materialise(operator)
    image = operator(x)
    return {
        "image": image,
        "back": operator.adjoint(y),
        "H": operator.H(y),
        "matrix": stored.matrix,
        "stored image": stored(x),
        "stored back": stored.adjoint(y),
        "normal": operator.normal(x),
        "back of image": operator.adjoint(image),
        # jax.grad of a real function gives the conjugate of the gradient.
        "gradient": jax.tree.map(jnp.conj, jax.grad(half_square, argnums=1)(operator, x, y)),
    }


def half_square(operator, x, y):
    residual = jax.tree.map(jnp.subtract, operator(x), y)
    return sum(0.5 * jnp.sum(jnp.abs(r) ** 2) for r in jax.tree.leaves(residual))


loss_and_gradient_in_parameters = compiled(jax.value_and_grad(half_square))
certify = compiled(lambda operator, key: operators.certify(operator, key=key))
# Of an operator with a kernel of its own.
certify_as_users_do = production(lambda operator, key: operators.certify(operator, key=key))
matrix_of = compiled(lambda operator: operators.materialise(operator).matrix)
mapped = compiled(jax.vmap(lambda operator, x, y: (operator(x), operator.adjoint(y))))
mapped_over_inputs = compiled(jax.vmap(lambda operator, x, y: (operator(x), operator.adjoint(y)), in_axes=(None, 0, 0)))


def flatten(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


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


@rows
@precisions
def test_dot_and_linearity(row, dtype):
    with jax.enable_x64(dtype == "float64"):
        operator = row.operator(dtype)
        # Real states in double precision: the test of the matrix below.
        real = [] if dtype == "float64" else [jnp.dtype(dtype)]
        for number in (*real, jnp.result_type(dtype, 1j)):
            x, y = draw(operator.domain, 1, number), draw(operator.codomain, 2, number)
            w, z = draw(operator.domain, 3, number), draw(operator.codomain, 4, number)
            image, back = both(operator, x, y)
            gap = inner(image, y) - inner(x, back)
            gap = gap.real if row.over_reals else gap
            assert abs(gap) <= TOLERANCE[dtype] * size(image) * size(y)
            assert size(image) > 0
            # Complex scalars too, unless the operator is linear over the reals only.
            imaginary = jnp.issubdtype(number, jnp.complexfloating) and not row.over_reals
            a, b = (2 - 1j, 3j) if imaginary else (2.0, -3.0)
            combine = lambda p, q, a=a, b=b: jax.tree.map(lambda u, v: a * np.asarray(u) + b * np.asarray(v), p, q)
            others = both(operator, w, z)
            together = both(operator, combine(x, w), combine(y, z))
            assert_close(together, combine((image, back), others), TOLERANCE[dtype])


@rows
def test_matrix_adjoint_normal_and_gradient(row):
    with jax.enable_x64(True):
        operator = row.operator("float64")
        x, y = draw(operator.domain, 1), draw(operator.codomain, 2)
        found = everything(operator, x, y)
        image, back, matrix = found["image"], found["back"], np.asarray(found["matrix"])
        assert_close(matrix @ flatten(x), flatten(image), 1e-12)
        expected = matrix.conj().T @ flatten(y)
        assert_close(flatten(back), expected.real if row.over_reals else expected, 1e-12)
        assert_close(found["stored image"], image, 1e-12)
        assert_close(found["stored back"], back, 1e-12)
        assert dtypes(found["stored image"]) == dtypes(image)
        assert dtypes(found["stored back"]) == dtypes(back)
        assert_close(found["H"], back, 1e-12)
        assert_close(found["normal"], found["back of image"], 1e-12)
        assert operator.H.H is operator or operator.H.H.H is operator.H
        # The gradient of 1/2 ||A x - y||^2 is A* (A x - y).
        assert_close(found["gradient"], jax.tree.map(np.subtract, found["normal"], back), 1e-12)


@rows
def test_declared_dtypes_and_shapes_are_the_actual_ones(row):
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            operator = row.operator(dtype)
            for call, into, out in (
                (operator, operator.domain, operator.codomain),
                (operator.adjoint, operator.codomain, operator.domain),
            ):
                result = jax.eval_shape(call, into)
                assert jax.tree.map(lambda s: s.shape, result) == jax.tree.map(lambda s: s.shape, out)
                assert dtypes(result) == dtypes(out)


@rows
@precisions
def test_an_operator_computes_in_the_precision_of_image_and_parameters(row, dtype):
    with jax.enable_x64(True):
        operator = row.operator(dtype)
        for call, into in ((operator, operator.domain), (operator.adjoint, operator.codomain)):
            single = jax.tree.map(lambda s: np.zeros(s.shape, "c8" if s.dtype.kind == "c" else "f4"), into)
            expected = jnp.finfo(jnp.result_type(jnp.float32, *jax.tree.leaves(operator))).dtype
            found = jnp.result_type(*jax.tree.leaves(jax.eval_shape(call, single)))
            assert jnp.finfo(found).dtype == expected


@pytest.mark.parametrize("row", [row for row in ROWS if row.draw("float32")], ids=lambda row: row.name)
def test_gradient_in_the_parameters(row):
    with jax.enable_x64(True):
        operator = row.operator("float64")
        x, y = draw(operator.domain, 1), draw(operator.codomain, 2)
        leaves, treedef = jax.tree.flatten(operator)
        directions = treedef.unflatten([draw(leaf, i) for i, leaf in enumerate(leaves)])
        step = 1e-5
        shifted = lambda sign: jax.tree.map(lambda p, d: np.asarray(p) + sign * step * d, operator, directions)
        value = lambda sign: loss_and_gradient_in_parameters(shifted(sign), x, y)[0]
        difference = (value(1) - value(-1)) / (2 * step)
        _, gradient = loss_and_gradient_in_parameters(shifted(0), x, y)
        # jax.grad gives the conjugate of the gradient, so the slope has no conjugation.
        slope = sum(
            np.sum(np.asarray(g) * d).real for g, d in zip(*map(jax.tree.leaves, (gradient, directions)), strict=True)
        )
        # Central differences: error step^2 times the third derivative, rounding 1e-16 / step times the value.
        np.testing.assert_allclose(slope, difference, rtol=1e-6, atol=1e-8 * float(value(0)))
        assert abs(slope) > 0


@rows
def test_vmap_over_inputs_and_parameters(row):
    with jax.enable_x64(True):
        loop = [row.operator("float64", seed) for seed in range(BATCH)]
        xs = [draw(loop[0].domain, seed) for seed in range(BATCH)]
        ys = [draw(loop[0].codomain, seed + BATCH) for seed in range(BATCH)]
        expected = stacked([both(*problem) for problem in zip(loop, xs, ys, strict=True)])
        parameters = [row.draw("float64", seed) for seed in range(BATCH)]
        batches = [operators.batch(loop), jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)]
        if parameters[0]:
            batches.append(jax.vmap(row.build)(*map(np.stack, zip(*parameters, strict=True))))
        for batch in batches:
            assert jax.tree.structure(batch) == jax.tree.structure(loop[0])
            assert_close(mapped(batch, stacked(xs), stacked(ys)), expected, 1e-12)
        expected = stacked([both(loop[0], x, y) for x, y in zip(xs, ys, strict=True)])
        assert_close(mapped_over_inputs(loop[0], stacked(xs), stacked(ys)), expected, 1e-12)


@rows
def test_measured(row):
    operator = row.operator("float32")
    assert jax.tree.structure(operator.measured) == jax.tree.structure(operator.codomain)
    for measured, part in zip(*map(jax.tree.leaves, (operator.measured, operator.codomain)), strict=True):
        assert measured.ndim == len(part.shape)
        assert all(m in (1, full) for m, full in zip(measured.shape, part.shape, strict=True))
        assert set(np.unique(measured)) <= {0.0, 1.0}


@rows
def test_linearise_is_the_operator_itself(row):
    operator = row.operator("float32")
    assert operator.linearise(draw(operator.domain, 0)) is operator


# Of every kind one: dot test, linearity and norm are those of the tests above, taken by `certify`.
KERNELS = {"ParallelBeam", "FanBeam", "Convolution reflect 3x3"}
CERTIFIED = {"ParallelBeam", "MaskedFourier", "stack.H @ stack", "materialise real to complex and real", "Matrix"}
SLOW = [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * (row.name not in CERTIFIED)) for row in ROWS]


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
    batch = operators.batch([ROWS[3].operator("float32", seed) for seed in range(2)])
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
        assert dtypes(jax.eval_shape(operator, operator.domain)) == dtypes(operator.codomain)
        point, direction = draw(operator.domain, 1), draw(operator.domain, 2)
        y, step = draw(operator.codomain, 3), 1e-6

        @compiled
        def measure(point, direction, y):
            derivative = operator.linearise(point)
            shifted = lambda sign: operator(point + sign * step * direction)
            difference = jax.tree.map(lambda a, b: (a - b) / (2 * step), shifted(1), shifted(-1))
            return derivative(direction), difference, derivative.adjoint(y)

        image, difference, back = measure(point, direction, y)
        # Rounding 1e-16 / step.
        assert_close(image, difference, 1e-8)
        assert abs((inner(image, y) - inner(direction, back)).real) <= 1e-12 * size(image) * size(y)
        assert certify(operator, key).check().passed
        together = compiled(jax.vmap(lambda p: operator.linearise(p)(direction)))(np.stack([2 * point, point]))
        assert_close(jax.tree.map(lambda leaf: leaf[1], together), image, 1e-12)


def test_magnitude_has_a_finite_derivative_at_zero():
    operator = operators.Magnitude(operators.MaskedFourier(jnp.ones((4, 3, 1))))
    gradient = compiled(jax.grad(lambda x: jnp.sum(operator(x))))(jnp.zeros((4, 3, 1), complex))
    np.testing.assert_array_equal(gradient, 0)
