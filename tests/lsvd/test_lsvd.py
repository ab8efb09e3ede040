import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import RESULTS, Likelihood, lsvd, models, noise, operators
from jaxinv.lsvd import LSVD, Full, Joint, Linear, Nonlinear, Separate, Spectrum, Tikhonov, Truncation

SHAPE = (5, 4, 1)
KEY = jax.random.key(3)
# As a matrix it compiles faster.
ANGLES = np.linspace(0, np.pi, 4, endpoint=False)
OPERATOR = jax.jit(lambda: operators.materialise(operators.ParallelBeam(SHAPE, ANGLES)))()
LIKELIHOOD = Likelihood(OPERATOR, noise.Gaussian(0.2))
SINOGRAM = OPERATOR.codomain.shape


def images(n=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 20)) / 2 + 0.1 * rng.normal(size=(n, 20)) + 0.5
    return jnp.asarray(x.reshape(n, *SHAPE).astype(np.float32))


@functools.partial(jax.jit, static_argnames="seed")
def measured(x, seed=0):
    return jax.vmap(lambda x, k: LIKELIHOOD.simulate(x, key=k))(x, jax.random.split(jax.random.key(seed), len(x)))


X = images()
Y = measured(X)
TRUNKS = {"linear": Linear(), "dense": models.Dense((8,)), "convolutional": models.Convolutional((3, 4))}


def make(trunk="linear", seed=0, size=3, **options):
    return LSVD(SHAPE, SINOGRAM, size, rngs=nnx.Rngs(seed), trunk=TRUNKS[trunk], **options)


def trained(model, y=Y, x=X, **options):
    options = {"key": KEY, "num_steps": 10, "batch_size": 20, **options}
    return lsvd.train(model, x, y, **options)


@jax.jit
def parts(model, x=X, y=Y):
    """The three functions that the loss looks at."""
    sides = model.image, model.measurement
    return model(y), *(side.decode(side.encode(data)) for side, data in zip(sides, (x, y), strict=True))


def test_loss():
    model = make("dense")
    reconstruction, image, measurement = parts(model, X[:7], Y[:7])
    assert reconstruction.shape == (7, *SHAPE)
    square = lambda a, b: np.sum((np.asarray(a) - np.asarray(b)) ** 2) / 7
    expected = square(reconstruction, X[:7]), square(image, X[:7]), square(measurement, Y[:7])
    weighted = jax.jit(
        lambda *w: lsvd.joint_loss(model, (X[:7], Y[:7]), key=KEY, image_weight=w[0], measurement_weight=w[1])
    )
    np.testing.assert_allclose(weighted(1.0, 1.0), sum(expected), rtol=1e-5)
    np.testing.assert_allclose(weighted(0.5, 2.0), expected[0] + 0.5 * expected[1] + 2 * expected[2], rtol=1e-5)


@pytest.mark.slow
def test_linear_training_comes_to_the_reduced_rank_regression():
    # Without the terms of the autoencoders, with as many draws of the noise as there are steps. What is compared is the
    # error in excess of the best; with the covariances of these images, that of the best itself is known exactly.
    exact = lsvd.reduced_rank_regression(X, jax.vmap(OPERATOR)(X), 3, noise=LIKELIHOOD.noise)
    error = lambda images: np.mean((np.asarray(images) - X) ** 2)
    best = error(exact(Y))
    assert error(exact(Y, Truncation(2))) > 1.2 * best
    model, history = trained(
        make("linear"), LIKELIHOOD, method=Joint(0.0, 0.0), num_steps=1500, learning_rate=0.01, ema=0.99, batch_size=50
    )
    assert history["result"] == RESULTS.successful
    assert error(model(Y)) < 1.02 * best


@pytest.mark.slow
def test_separate_training():
    model, history = trained(make("dense"), method=Separate(), num_steps=30)
    assert set(history) == {"image", "measurement", "seconds", "result"}
    assert history["result"] == RESULTS.successful
    # The latent map is the least-squares one, and its spectrum the canonical correlations.
    zx, zy = model.image.encode(X), model.measurement.encode(Y)
    for z in (zx, zy):
        np.testing.assert_allclose(np.cov(z.T), np.eye(3), atol=1e-4)
    best = np.linalg.lstsq(np.c_[zy, np.ones(len(zy))], np.asarray(zx), rcond=None)[0]
    np.testing.assert_allclose(model.latent_map.affine()[0], best[:-1], atol=1e-4)
    np.testing.assert_allclose(model.latent_map.affine()[1], best[-1], atol=1e-4)
    cross = np.linalg.svd(np.cov(zx.T, zy.T)[:3, 3:])[1]
    np.testing.assert_allclose(model.latent_map.values[...], cross, atol=1e-4)
    # A full map leaves the autoencoders in their bases, and is the same function.
    full, _ = trained(make("dense", diagonal=False), method=Separate(), num_steps=30)
    assert isinstance(full.latent_map, Full)
    for a, b in zip(parts(model), parts(full), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_separate_training_needs_pairs_for_the_map_only():
    model, _ = trained(make(), Y[:90][::-1], method=Separate(), pairs=(X[:40], Y[:40]))
    again, _ = trained(make(), Y[:90][::-1], method=Separate(), pairs=(X[:40][::-1], Y[:40][::-1]))
    wrong, _ = trained(make(), Y[:90][::-1], method=Separate(), pairs=(X[:40], Y[40:80]))
    np.testing.assert_allclose(model(Y[:5]), again(Y[:5]), atol=1e-4)
    assert jnp.max(jnp.abs(model(Y[:5]) - wrong(Y[:5]))) > 1e-2


@pytest.mark.slow
def test_the_map_fitted_by_the_loss_of_images():
    # Where the decoder is linear, the best map is a least-squares fit too, but in the metric of the images.
    options = {"num_steps": 20, "learning_rate": 0.03, "batch_size": 200}
    codes, _ = trained(make(), method=Separate(), **options)
    model, history = trained(make(), method=Separate(map_steps=400), **options)
    assert set(history) == {"image", "measurement", "map", "seconds", "result"}
    np.testing.assert_allclose(
        codes.image.decode(codes.image.encode(X)), model.image.decode(model.image.encode(X)), atol=1e-4
    )
    layer = model.image.decoder.layers[0]
    kernel, bias = (np.asarray(leaf[...]) for leaf in (layer.kernel, layer.bias))
    z = np.c_[model.measurement.encode(Y), np.ones(len(Y))]
    target = (np.asarray(X).reshape(len(X), -1) - bias) @ np.linalg.pinv(kernel)
    best = model.image.decode(jnp.asarray(z @ np.linalg.lstsq(z, target, rcond=None)[0]))
    error = lambda images: float(np.sum((np.asarray(images) - X) ** 2) / len(X))
    assert error(codes(Y)) > 1.02 * error(best)
    assert error(model(Y)) < 1.002 * error(best)
    # It is a spectrum again, in white bases.
    values = np.asarray(model.latent_map.values[...])
    assert np.all(values >= 0)
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_allclose(np.cov(model.image.encode(X).T), np.eye(3), atol=1e-3)


@pytest.mark.slow
def test_a_map_that_is_not_linear():
    # It begins as the affine fit of the codes, to which the loss of images adds.
    make_map = lambda: make("dense", map_widths=(8,))
    error = lambda model: float(np.sum((np.asarray(model(Y)) - X) ** 2) / len(X))
    affine, _ = trained(make("dense", diagonal=False), method=Separate(), num_steps=20)
    start, _ = trained(make_map(), method=Separate(), num_steps=20)
    assert isinstance(start.latent_map, Nonlinear)
    np.testing.assert_allclose(affine(Y), start(Y), atol=1e-5)
    end, _ = trained(make_map(), method=Separate(map_steps=60), num_steps=20, learning_rate=0.01)
    before = trained(make_map(), method=Separate(), num_steps=20, learning_rate=0.01)[0]
    assert error(end) < 0.98 * error(before)
    joint, _ = trained(make_map(), num_steps=20)
    assert isinstance(joint.latent_map, Nonlinear)
    with pytest.raises(ValueError, match="no bases make it a spectrum"):
        lsvd.diagonalise(end, X, Y)


@pytest.mark.parametrize(("trunk", "diagonal"), [("linear", False), ("convolutional", True)])
def test_diagonalise_changes_bases_only(trunk, diagonal):
    model = make(trunk, diagonal=diagonal)
    before = parts(model)
    new = lsvd.diagonalise(model, X, Y[:150])
    for a, b, c in zip(parts(new), before, parts(model), strict=True):
        # float32, values of order 1, after two changes of basis.
        np.testing.assert_allclose(a, b, atol=2e-5)
        np.testing.assert_array_equal(b, c)  # the model that was given is as it was
    values = np.asarray(new.latent_map.values[...])
    assert np.all(values >= 0)
    assert np.all(np.diff(values) <= 0)
    np.testing.assert_allclose(np.cov(new.image.encode(X).T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(np.cov(new.measurement.encode(Y[:150]).T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(np.mean(new.measurement.encode(Y[:150]), axis=0), 0, atol=1e-4)


def test_dead_latents():
    model = make("linear")
    kernel = model.measurement.encoder.layers[-1].kernel
    model.measurement.encoder.layers[-1].kernel = nnx.Param(kernel[...].at[:, 1].set(0))
    new = lsvd.diagonalise(model, X, Y)
    for a, b in zip(parts(new), parts(model), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
def test_training_options(tmp_path):
    class Meter(diffrax.NoProgressMeter):
        pass

    options = {"ema": 0.9, "validation": (X[:30], Y[:30]), "chunk_size": 5, "progress": Meter()}
    path = tmp_path / "run"
    whole, history = trained(make(), **options)
    trained(make(), checkpoint=path, **options)
    resumed, other = trained(make(), checkpoint=path, **options)
    assert other["resumed_from"] == 10
    assert len(history["validation"]) == 2
    jax.tree.map(
        np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(whole)), nnx.to_pure_dict(nnx.state(resumed))
    )
    for _ in range(2):
        _, history = trained(make(), method=Separate(), checkpoint=path.with_name("two"), **options)
    assert [history[side]["resumed_from"] for side in ("image", "measurement")] == [10, 10]
    simulated, _ = trained(make(), LIKELIHOOD, method=Separate(), validation=X[:50])
    assert simulated(Y[:5]).shape == (5, *SHAPE)
    # Where bases cannot be changed, the spectrum stays as it was trained.
    assert isinstance(trained(odd())[0].latent_map, Spectrum)


def test_filters():
    s = jnp.array([2.0, -1.0, 0.5, 0.0])
    np.testing.assert_allclose(Tikhonov(1.0)(s), [2 * 4 / 5, -1 / 2, 0.5 * 0.25 / 1.25, 0])
    np.testing.assert_array_equal(Tikhonov(0)(s), s)
    np.testing.assert_array_equal(Truncation(2)(s), [2, -1, 0, 0])
    np.testing.assert_array_equal(Truncation(9)(s), s)
    assert jnp.all(jnp.isfinite(jax.jacobian(Tikhonov(0.0))(s)))
    model = lsvd.diagonalise(make(), X, Y)
    # Without any component, the image of the offset; with all, the reconstruction.
    nothing = model.image.decode(model.latent_map.offset[...][None])[0]
    np.testing.assert_allclose(lsvd.reconstruct(model, Y[0], filter=jnp.zeros_like).value, nothing, atol=1e-6)
    np.testing.assert_allclose(lsvd.reconstruct(model, Y[0], filter=Truncation(3)).value, model(Y[:1])[0], atol=1e-6)
    ranks = jax.vmap(lambda r: lsvd.reconstruct(model, Y[0], filter=Truncation(r)).value)(jnp.arange(1, 4))
    assert float(jnp.min(jnp.max(jnp.abs(jnp.diff(ranks, axis=0)), axis=(1, 2, 3)))) > 1e-4


@pytest.mark.parametrize(
    ("trunk", "dtype"),
    [
        ("dense", "float32"),
        pytest.param("convolutional", "float64", marks=pytest.mark.slow),
        pytest.param("linear", "float64", marks=pytest.mark.slow),
    ],
)
def test_vmap_is_a_loop(trunk, dtype):
    with jax.enable_x64(dtype == "float64"):
        cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
        stack = cast(jax.vmap(lambda key: make(trunk, key))(jax.random.split(KEY, 3)))
        weights = jnp.array([0.0, 0.1, -1.0], dtype)
        y = jnp.asarray(Y[:3], dtype).at[1, 2, 3].set(jnp.nan)
        solve = lambda model, y, weight: lsvd.reconstruct(model, y, filter=Tikhonov(weight))
        together = jax.jit(jax.vmap(solve))(stack, y, weights)
        assert together.value.dtype == dtype
        assert list(together.result == RESULTS.nonfinite_measurement) == [False, True, False]
        assert list(together.result == RESULTS.invalid_parameter) == [False, False, True]
        np.testing.assert_array_equal(together.value[1:], 0)
        alone = lsvd.reconstruct(jax.tree.map(lambda leaf: leaf[0], stack), y[0], filter=Tikhonov(0.0)).check()
        atol = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(together.lane(0).value, alone.value, atol=atol)
        np.testing.assert_allclose(together.lane(0).aux["latent"], alone.aux["latent"], atol=atol)


def test_gradients_and_dtypes():
    model = lsvd.diagonalise(make("dense"), X, Y)
    with jax.enable_x64(True):
        # A measurement in double precision does not promote the model's.
        assert lsvd.reconstruct(model, np.asarray(Y[0], np.float64)).value.dtype == jnp.float32
        double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model)
        y, v = jnp.asarray(np.random.default_rng(1).normal(size=(2, *SINOGRAM)))
        value = lambda y, w: jnp.sum(lsvd.reconstruct(double, y, filter=Tikhonov(w)).value ** 2)
        gradient, slope = jax.grad(value, (0, 1))(y, 0.1)
        # Central differences: error of order step^2.
        step = 1e-5
        expected = (value(y + step * v, 0.1) - value(y - step * v, 0.1)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * v), expected, rtol=1e-7)
        expected = (value(y, 0.1 + step) - value(y, 0.1 - step)) / (2 * step)
        np.testing.assert_allclose(slope, expected, rtol=1e-7)


def test_other_networks():
    network = eqx.nn.Linear(6, 4, key=KEY)
    y = jnp.arange(6.0)
    images = lambda y: jax.vmap(network)(y).reshape(-1, 2, 2, 1)
    solution = lsvd.reconstruct(images, y)
    np.testing.assert_allclose(solution.value.ravel(), network(y), rtol=1e-6)
    assert solution.aux is None
    # Measurements of any shape, beside convolutions on the images.
    mixed = LSVD(
        SHAPE, (7,), 2, rngs=nnx.Rngs(0), trunk=models.Convolutional((3,)), measurement_trunk=models.Dense((4,))
    )
    assert lsvd.reconstruct(mixed, jnp.ones(7)).value.shape == SHAPE


class Odd(nnx.Module):
    """A network whose dense layer is somewhere inside."""

    def __init__(self, sizes, rngs):
        self.inner = nnx.Linear(*sizes, rngs=rngs)

    def __call__(self, x):
        return self.inner(x.reshape(len(x), -1))


class OddTrunk(models.AbstractTrunk):
    def encoder(self, image_shape, size, *, activation, rngs):
        return Odd((int(np.prod(image_shape)), size), rngs)

    def decoder(self, size, image_shape, *, activation, rngs):
        return Odd((size, int(np.prod(image_shape))), rngs)


def odd():
    return LSVD(SHAPE, SINOGRAM, 3, rngs=nnx.Rngs(0), trunk=OddTrunk())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LSVD(SHAPE, (7,), 2, rngs=nnx.Rngs(0), trunk=models.Convolutional()), "measurement_trunk"),
        (lambda: LSVD(SHAPE, (7,), 2, rngs=nnx.Rngs(0), trunk="linear"), "`trunk` must be"),
        (lambda: LSVD(SHAPE, (7, 0), 2, rngs=nnx.Rngs(0)), "measurement_shape"),
        (lambda: LSVD(SHAPE, (7,), 0, rngs=nnx.Rngs(0)), "latent_size"),
        (lambda: LSVD(SHAPE[:2], (7,), 2, rngs=nnx.Rngs(0)), "channels"),
        (lambda: make()(Y[0]), "add the batch axis"),
        (lambda: lsvd.joint_loss(make(), X, key=KEY), "batch of pairs"),
        (lambda: lsvd.joint_loss(make(), (X, Y[:5]), key=KEY), "batch of pairs"),
        (lambda: lsvd.reconstruct(make(), Y), "map with `jax.vmap`"),
        (lambda: lsvd.reconstruct(make(), Y[0, ..., 0]), "channel axis"),
        (lambda: lsvd.reconstruct(make(), Y[0] + 1j), "complex"),
        (lambda: lsvd.reconstruct(make(), (Y[0], Y[0])), "one array"),
        (lambda: lsvd.reconstruct(make(), Y[0], filter=3), "`filter` must be"),
        (lambda: lsvd.reconstruct(make(), Y[0], filter=lambda s: s[:2]), r"spectrum of shape \(3,\)"),
        (lambda: lsvd.reconstruct(make(diagonal=False), Y[0], filter=Truncation(2)), "lsvd.diagonalise"),
        (lambda: lsvd.reconstruct(lambda y: y, Y[0], filter=Truncation(2)), "spectrum of an `LSVD`"),
        (lambda: make(map_widths=(0,)), "`map_widths`"),
        (lambda: lsvd.reconstruct(make(map_widths=(4,)), Y[0], filter=Truncation(2)), "without `map_widths`"),
        (lambda: Separate(-1), "`map_steps`"),
        (lambda: Separate(1.5), "`map_steps`"),
        (lambda: trained(odd(), method=Separate()), "dense layers that could absorb"),
        (lambda: Tikhonov(-1.0), "not negative"),
        (lambda: Tikhonov(jnp.ones(2)), "scalar"),
        (lambda: Truncation(0), "at least 1"),
        (lambda: Truncation(1.5), "integer"),
        (lambda: Joint(-1.0), "`image_weight`"),
        (lambda: trained(make(), Y[:7]), "not pairs"),
        (lambda: trained(make(), Y[:7], method=Separate()), "`pairs`"),
        (lambda: trained(make(), method=Separate(), pairs=(X, Y[:3])), "as many measurements as images"),
        (lambda: trained(make(), pairs=(X, Y)), "`pairs` is for `Separate"),
        (lambda: trained(make(), method="joint"), "`method` must be"),
        (lambda: trained(make(), Y[..., 0]), r"`measurements` of shape"),
        (lambda: trained(make(), x=X[:, :4]), r"`images` of shape"),
        (lambda: trained(make(), [1.0, 2.0]), "must be arrays"),
        (lambda: trained(make(), validation=X), "`validation` must be a tuple"),
        (lambda: trained(make(), Y.at[4].set(jnp.inf)), "example 4"),
        (lambda: trained(make(), Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))), "the model is for"),
        (lambda: trained(lambda y: y), "`model` must be a `lsvd.LSVD`"),
        (lambda: trained(make(), key=jax.random.PRNGKey(0)), "typed key"),
        (lambda: lsvd.diagonalise(make(), X[:1], Y), "at least two"),
        (lambda: lsvd.diagonalise(odd(), X, Y), "dense layers that could absorb"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
