import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.models import Affine, Convolutional, Dense, Flow, RationalQuadratic
from jaxinv.models._coupling import cut, extent, join, partitions

SPLINE = RationalQuadratic(bins=4, bound=3.0)
KINDS = {
    "affine, dense": {"trunk": Dense((6, 5))},
    "spline, dense": {"trunk": Dense((6,)), "coupling": SPLINE},
    "affine, convolutional": {"trunk": Convolutional((3, 4))},
    "spline, convolutional": {"trunk": Convolutional((3,)), "coupling": SPLINE},
}


def _make(shape, kind, seed=0, dtype=jnp.float32, **options):
    """A small flow of drawn weights: with those that it starts from, it is the identity.

    Of much larger weights splines have bins so flat that float32 cannot invert them.
    """
    options = {"num_couplings": 2, **KINDS[kind], **options}
    flow = jax.eval_shape(lambda: Flow(shape, rngs=nnx.Rngs(0), **options))
    draw = np.random.default_rng(seed).normal
    scale = lambda leaf: 0.4 / np.sqrt(np.prod(leaf.shape[:-1]))
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=scale(leaf), size=leaf.shape).astype(dtype)), flow)


_forward = jax.jit(lambda flow, x: flow.forward(x))
_inverse = jax.jit(lambda flow, z: flow.inverse(z))


@pytest.mark.parametrize(
    ("kind", "shape", "alpha"),
    [pytest.param("spline, dense", (2, 2, 2), 1e-6, marks=pytest.mark.slow), ("affine, convolutional", (2, 2, 2), 1e-6)]
    + [pytest.param(kind, (4, 2, 1), None, marks=pytest.mark.slow) for kind in KINDS],
)
def test_density_is_that_of_the_jacobian(kind, shape, alpha):
    x = np.random.default_rng(1).uniform(0.02, 0.98, (5, *shape))
    x.flat[:2] = 0, 1
    x = np.float32(x if alpha is not None else 8 * x - 4)  # inside and outside of the spline's interval
    with jax.enable_x64(True):
        flow = _make(shape, kind, dtype=jnp.float64, alpha=alpha)

        @jax.jit
        def run(flow, x):
            z, log_det = flow.forward(x)
            jacobians = jax.vmap(jax.jacfwd(lambda x: flow.forward(x[None])[0][0]))(x).reshape(len(x), 8, 8)
            return flow.inverse(z), log_det, jacobians

        inverse, log_det, jacobians = run(flow, np.float64(x))
        expected = np.linalg.slogdet(jacobians)[1]
        assert inverse.dtype == log_det.dtype == jnp.float64
        # Rounding, of images of order 1 and of determinants of 1e-4 to 1e8.
        np.testing.assert_allclose(inverse, x, atol=1e-10)
        np.testing.assert_allclose(log_det, expected, atol=1e-10)
        assert np.abs(np.asarray(jacobians) - np.eye(8)).max() > 0.1
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), flow)
    z, log_det = _forward(single, x)
    inverse = _inverse(single, z)
    assert inverse.dtype == log_det.dtype == jnp.float32
    # The bars of the project.
    np.testing.assert_allclose(inverse, x, atol=1e-4)
    np.testing.assert_allclose(log_det, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("affine, convolutional", (5, 3, 1)),
        ("affine, convolutional", (3, 6, 3)),
        ("affine, dense", (1, 1, 2)),
    ],
)
def test_inverse_for_any_size(kind, shape):
    with jax.enable_x64(True):
        flow = _make(shape, kind, dtype=jnp.float64, num_couplings=4, alpha=None)
        z = 4 * np.random.default_rng(3).uniform(-1, 1, (3, np.prod(shape)))
        x = _inverse(flow, z)
        assert x.shape == (3, *shape)
        back, _ = _forward(flow, x)
        np.testing.assert_allclose(back, z, atol=1e-10)
        assert np.abs(x.reshape(z.shape) - z).min() > 0


@pytest.mark.parametrize("kind", ["affine, dense", "spline, dense"])
def test_density_integrates_to_one(kind):
    with jax.enable_x64(True):
        flow = _make((2, 1, 1), kind, dtype=jnp.float64, alpha=None)
        line = np.linspace(-16, 16, 641)
        x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2, 1, 1)
        z, log_det = _forward(flow, x)
        density = jnp.exp(log_det - 0.5 * jnp.sum(z**2, axis=1)) / (2 * np.pi)
        # The density has kinks at the knots of a spline: the error is of the order of the squared distance .05.
        np.testing.assert_allclose(jnp.sum(density) * (line[1] - line[0]) ** 2, 1, atol=2e-3)


@pytest.mark.parametrize(
    "kind",
    ["affine, convolutional", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if "spline" in kind)],
)
def test_vmap_over_weights_and_images_is_a_loop(kind):
    shape = (4, 3, 1)
    with jax.enable_x64(True):
        flows = [_make(shape, kind, seed, jnp.float64) for seed in range(2)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *flows)
        x = np.random.default_rng(4).uniform(size=(2, 3, *shape))

        @jax.jit
        def both(flow, x):
            z, log_det = flow.forward(x)
            return z, log_det, flow.inverse(z + 1)

        mapped = jax.jit(jax.vmap(both))(stacked, x)
        for i, flow in enumerate(flows):
            for j in range(3):
                alone = both(flow, x[i, j : j + 1])
                for m, a in zip(mapped, alone, strict=True):
                    np.testing.assert_allclose(m[i, j : j + 1], a, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("trunk", [Convolutional((2,)), pytest.param(Dense((3,)), marks=pytest.mark.slow)])
def test_starts_as_the_logit(trunk):
    shape = (4, 5, 2)
    flow = jax.jit(lambda: Flow(shape, trunk=trunk, coupling=SPLINE, num_couplings=2, rngs=nnx.Rngs(0)))()
    x = np.random.default_rng(5).uniform(0.01, 0.99, (3, *shape)).astype(np.float32)
    z, log_det = _forward(flow, x)
    # In the order of the pixels; the logit is divided by 4, and alpha is 1e-6.
    np.testing.assert_allclose(z, (np.log(x / (1 - x)) / 4).reshape(3, -1), atol=1e-4)
    np.testing.assert_allclose(log_det, -np.log(4 * x * (1 - x)).sum(axis=(1, 2, 3)), rtol=1e-3)


def test_size():
    count = lambda **options: sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: Flow((28, 28, 1), rngs=nnx.Rngs(0), **options)))
    )
    assert 2.9e6 < count() < 3.0e6
    assert count(trunk=Convolutional((32,))) < 0.2e6


def test_outside_the_unit_interval():
    flow = _make((2, 2, 1), "affine, dense")
    x = np.full((4, 2, 2, 1), 0.5, np.float32)
    x[1, 0, 0, 0], x[2, 1, 0, 0], x[3] = -0.2, 1.1, 1.0
    z, log_det = _forward(flow, x)
    np.testing.assert_array_equal(log_det[1:3], -np.inf)
    assert np.all(np.isfinite(log_det[::3]))
    moved = np.where((x < 0) | (x > 1), np.clip(x, 1 / 512, 1 - 1 / 512), x)
    np.testing.assert_allclose(z, _forward(flow, moved)[0], atol=1e-5)
    gradient = jax.jit(jax.grad(lambda flow: jnp.sum(flow.forward(x)[0] ** 2)))(flow)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def _durkan(x, parameters, bins, bound):
    """Section 3.1 of the paper, one number at a time: the value and the slope."""
    if abs(x) >= bound:
        return x, 1.0
    softmax = lambda v: np.exp(v) / np.exp(v).sum()
    sizes = [2 * bound * (1e-3 + (1 - 1e-3 * bins) * softmax(parameters[i : i + bins])) for i in (0, bins)]
    xs, ys = (np.concatenate([[-bound], -bound + np.cumsum(size)]) for size in sizes)
    shift = np.log(np.exp(1 - 1e-3) - 1)
    slopes = np.concatenate([[1], 1e-3 + np.log1p(np.exp(parameters[2 * bins :] + shift)), [1]])
    k = np.searchsorted(xs[1:-1], x, side="right")
    s = (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    xi = (x - xs[k]) / (xs[k + 1] - xs[k])
    below = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
    value = ys[k] + (ys[k + 1] - ys[k]) * (s * xi**2 + slopes[k] * xi * (1 - xi)) / below
    slope = s**2 * (slopes[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[k] * (1 - xi) ** 2) / below**2
    return value, slope


def test_spline_is_that_of_durkan():
    spline, generator = RationalQuadratic(bins=5, bound=2.0), np.random.default_rng(6)
    with jax.enable_x64(True):
        # From almost flat to almost vertical bins; points inside, outside, at the ends and in the middle.
        parameters = 3 * generator.normal(size=(7, spline.num_parameters, 40))
        x = generator.uniform(-2.5, 2.5, size=(7, 40))
        x[:, :4] = -2, 2, 0, 2 - 1e-9
        y, log_slopes = jax.jit(spline.forward)(x, parameters)
        expected = [[_durkan(x[i, j], parameters[i, :, j], 5, 2.0) for j in range(40)] for i in range(7)]
        values, slopes = np.moveaxis(np.array(expected), -1, 0)
        # Bins may be 1e-3 of the interval: an error of rounding there is a thousand times larger.
        np.testing.assert_allclose(y, values, atol=1e-11)
        np.testing.assert_allclose(log_slopes, np.log(slopes), atol=1e-8)
        # A spline whose slope is s at a point loses 1/s in its inverse.
        error = np.abs(jax.jit(spline.inverse)(y, parameters) - x)
        assert np.max(error * np.minimum(slopes, 1)) < 1e-11
        assert np.ptp(np.log(slopes)) > 5
    y, log_slopes = spline.forward(jnp.asarray(x, jnp.float32), jnp.zeros(parameters.shape, jnp.float32))
    np.testing.assert_allclose(y, x, atol=1e-6)
    np.testing.assert_allclose(log_slopes, 0, atol=1e-6)


def test_spline_has_finite_gradients():
    # Beyond the interval, at its ends and at knots: of equal bins, 0 is one.
    spline = RationalQuadratic(bins=4, bound=2.0)
    x, parameters = jnp.array([[-1e3, -2.0, 0.0, 2.0, 1e6]]), jnp.zeros((1, spline.num_parameters, 5))
    for run in (lambda x, p: sum(map(jnp.sum, spline.forward(x, p))), lambda y, p: jnp.sum(spline.inverse(y, p))):
        for gradient in jax.jit(jax.grad(run, (0, 1)))(x, parameters):
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("shape", [(5, 3, 1), (6, 4, 3), (1, 1, 2)])
def test_partitions_cut_an_image_in_two(shape):
    x = jnp.arange(2.0 * np.prod(shape)).reshape(2, *shape)
    np.testing.assert_array_equal(jax.jit(lambda x: join(cut(x), shape))(x), x)
    every = sorted(cut(x))
    for first, second in zip(*[iter(partitions(shape, 8))] * 2, strict=True):
        # All parts, once each; and the other half the next time.
        assert sorted(first.kept + first.changed) == every
        assert (first.kept, first.changed) == (second.changed, second.kept)
        assert first.num_kept > 0
        assert first.num_changed > 0
        assert first.num_kept + first.num_changed == np.prod(shape)
    assert all(part.shape[1:] == extent(name, shape) for name, part in cut(x).items())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Flow((1, 1, 1), rngs=nnx.Rngs(0)), "at least two entries"),
        (lambda: Flow((4, 4), rngs=nnx.Rngs(0)), "channels"),
        (lambda: Flow((4, 4, 1), rngs=0), r"nnx\.Rngs"),
        (lambda: Flow((4, 4, 1), num_couplings=1, rngs=nnx.Rngs(0)), "num_couplings"),
        (lambda: Flow((4, 4, 1), num_couplings=2.0, rngs=nnx.Rngs(0)), "num_couplings"),
        (lambda: Flow((4, 4, 1), alpha=0.5, rngs=nnx.Rngs(0)), "`alpha`"),
        (lambda: Flow((4, 4, 1), alpha=0.0, rngs=nnx.Rngs(0)), "`alpha`"),
        (lambda: Flow((4, 4, 1), coupling="affine", rngs=nnx.Rngs(0)), "RationalQuadratic"),
        (lambda: Flow((4, 4, 1), trunk=(3, 3), rngs=nnx.Rngs(0)), "Convolutional"),
        (lambda: Affine(bound=0.0), "`bound`"),
        (lambda: RationalQuadratic(bins=1), "`bins`"),
        (lambda: RationalQuadratic(bins=8.0), "`bins`"),
        (lambda: RationalQuadratic(bound=np.inf), "`bound`"),
        (lambda: _make((2, 2, 1), "affine, dense").forward(jnp.ones((2, 2, 1))), r"x\[None\]"),
        (lambda: _make((2, 2, 1), "affine, dense").forward(jnp.ones((3, 2, 2, 1), int)), "floating"),
        (lambda: _make((2, 2, 1), "affine, dense").inverse(jnp.ones((3, 5))), r"\(n, 4\); got \(3, 5\)"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
