"""What is wrong with an operator, a noise model, a likelihood or a regulariser is said at once, and how to mend it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, noise, operators, oracles, regularisers

SHAPE = (4, 5, 1)
IMAGE = jnp.ones(SHAPE)
MASK = operators.Mask(jnp.ones(SHAPE))
MATRIX = operators.Matrix(jnp.ones((3, 20)), SHAPE)
NONLINEAR = operators.NonlinearFunction(jnp.sin, SHAPE)
STACK = operators.stack([MASK, MATRIX])
GAUSSIAN = noise.Gaussian(1.0)
LIKELIHOOD = Likelihood(MASK, GAUSSIAN)
KEY = jax.random.key(0)

traced = lambda build, *values: jax.jit(lambda *v: build(*v) and 0.0)(*values)

# What is called, and a part of what it must say.
ROWS = {
    # images and measurements
    "wrong image shape": (lambda: MASK(jnp.ones((4, 6, 1))), r"shape \(4, 5, 1\); got \(4, 6, 1\)"),
    "missing channel axis": (lambda: MASK(jnp.ones((4, 5))), r"Add the channel axis: `x\[..., None\]`"),
    "a batch": (lambda: MASK(jnp.ones((2, 4, 5, 1))), "map with `jax.vmap`"),
    "measurement of another operator": (lambda: MATRIX.adjoint(IMAGE), "another operator"),
    "integer image": (lambda: MASK(np.ones(SHAPE, np.uint8)), "got uint8. Convert it"),
    "boolean image": (lambda: MASK(np.ones(SHAPE, bool)), "floating or complex dtype; got bool"),
    "one array for a stack": (lambda: STACK.adjoint(IMAGE), "tuple of 2 arrays"),
    "three arrays for a stack of two": (lambda: STACK.adjoint((IMAGE, IMAGE, IMAGE)), "got tuple of 3"),
    "wrong part of a stack": (lambda: STACK.adjoint((IMAGE, IMAGE)), r"expects the measurement of shape \(3,\)"),
    "linearise at another image": (lambda: MASK.linearise(jnp.ones((2, 2, 1))), "expects the image"),
    # construction
    "shape without channels": (lambda: operators.Convolution(jnp.ones((3, 3)), (4, 5)), r"\(4, 5, 1\)"),
    "empty shape": (lambda: operators.Identity((4, 0, 1)), "positive integers"),
    "shape of one number": (lambda: operators.Identity(4), "tuple of static integers"),
    "traced shape": (lambda: traced(lambda n: operators.Identity((n,)), 3), "static integers"),
    "negative mask": (lambda: operators.Mask(-jnp.ones(SHAPE)), "negative or not finite"),
    "NaN in mask": (lambda: operators.MaskedFourier(jnp.full(SHAPE, jnp.nan)), "negative or not finite"),
    "complex mask": (lambda: operators.Mask(1j * jnp.ones(SHAPE)), "real array"),
    "mask of another shape": (lambda: operators.Mask(jnp.ones((5, 4, 1)))(IMAGE), r"shape \(5, 4, 1\); got"),
    "mask without channels": (lambda: operators.MaskedFourier(jnp.ones((4, 5))), "height, width, channels"),
    "coils of another shape": (
        lambda: operators.MultiCoilFourier(jnp.ones(SHAPE), jnp.ones((3, 5, 4, 1), complex)),
        r"`coils` must have shape \(num_coils, 4, 5, 1\)",
    ),
    "kernel larger than the image": (lambda: operators.Convolution(jnp.ones((5, 3)), SHAPE), "larger than the image"),
    "kernel of rank 1": (lambda: operators.Convolution(jnp.ones(3), SHAPE), "`kernel` must have shape"),
    "kernel of other channels": (lambda: operators.Convolution(jnp.ones((3, 3, 2)), SHAPE), r"\(kh, kw, 1\)"),
    "unknown boundary": (
        lambda: operators.Convolution(jnp.ones((3, 3)), SHAPE, "periodic"),
        "'zero', 'circular', 'reflect'; got 'periodic'",
    ),
    "factor that does not divide": (lambda: operators.Downsample(SHAPE, 2), "divides"),
    "factor that is a float": (lambda: operators.Downsample((4, 4, 1), 2.0), "static integer"),
    "traced factor": (lambda: traced(lambda f: operators.Downsample((4, 4, 1), f), 2), "static integer"),
    "matrix of other columns": (lambda: operators.Matrix(jnp.ones((3, 4)), SHAPE), r"\(m, 20\)"),
    "no angles": (lambda: operators.ParallelBeam(SHAPE, jnp.zeros(0)), "at least one angle"),
    "traced geometry": (
        lambda: traced(lambda s: operators.ParallelBeam(SHAPE, jnp.zeros(3), detector_spacing=s), 1.0),
        "`detector_spacing` is part of the static geometry",
    ),
    "no detectors": (lambda: operators.FanBeam(SHAPE, jnp.zeros(3), 0, 1.0, 9.0, 9.0), "`num_detectors` must be"),
    "source inside the image": (lambda: operators.FanBeam(SHAPE, jnp.zeros(3), 5, 1.0, 1.0, 9.0), "`source_origin`"),
    "not a function": (lambda: operators.FunctionOperator(3.0, SHAPE), "a function is expected"),
    "function that is not linear": (lambda: operators.FunctionOperator(jnp.sin, SHAPE), "NonlinearFunction"),
    "function of another shape": (
        lambda: operators.FunctionOperator(lambda x: jnp.ones((3, 7)) @ x, (4,)),
        "cannot be applied to an image",
    ),
    "function of integers": (lambda: operators.FunctionOperator(lambda x: jnp.argmax(x), (4,)), "inexact dtype"),
    "magnitude of a non-linear operator": (lambda: operators.Magnitude(NONLINEAR), "must be a linear operator"),
    # algebra
    "composition of other shapes": (lambda: MASK @ MATRIX, "is not the domain"),
    "sum of other shapes": (lambda: MASK + MATRIX, "codomain"),
    "stack of other domains": (lambda: operators.stack([MASK, operators.Identity((3,))]), "same domain"),
    "empty stack": (lambda: operators.stack([]), "at least one"),
    "stack of arrays": (lambda: operators.stack([MASK, IMAGE]), "takes operators"),
    "empty batch": (lambda: operators.batch([]), "at least one"),
    "batch of two kinds": (lambda: operators.batch([MASK, MATRIX]), "number 1 is"),
    "batch of two shapes": (lambda: operators.batch([MASK, operators.Mask(jnp.ones((3, 3, 1)))]), "number 1 is"),
    "materialise a non-linear operator": (lambda: operators.materialise(NONLINEAR), "linearise"),
    "materialise the real part": (
        lambda: operators.materialise(operators.Real(SHAPE).H),
        r"operator.H\).H",
    ),
    "norm of a non-linear operator": (lambda: operators.norm(NONLINEAR, key=KEY), "linearise"),
    "lineax of a non-linear operator": (lambda: operators.as_lineax(NONLINEAR), "linearise"),
    # noise
    "negative std": (lambda: noise.Gaussian(-0.1), "`std` must be finite and not negative; got -0.1"),
    "std that is not finite": (lambda: noise.Gaussian(np.nan), "`std` must be finite"),
    "complex std": (lambda: noise.Gaussian(1j), "`std` must be real"),
    "zero photons": (lambda: noise.TransmissionPoisson(0.0), "`photons` must be finite and positive; got 0.0"),
    "negative gain": (lambda: noise.Poisson(-1), "`gain` must be finite and positive"),
    "factor that is not square": (lambda: noise.CorrelatedGaussian(jnp.ones((3, 4))), "square"),
    "factor that is not finite": (lambda: noise.CorrelatedGaussian(jnp.full((3, 3), jnp.inf)), "not finite"),
    "std of another rank": (
        lambda: Likelihood(MASK, noise.Gaussian(jnp.ones(4))).negative_log_likelihood(IMAGE, IMAGE),
        "`std` must be a scalar or",
    ),
    "std of another shape": (
        lambda: Likelihood(MASK, noise.Gaussian(jnp.ones((3, 1, 1)))).negative_log_likelihood(IMAGE, IMAGE),
        r"`std` must be a scalar or .* \(4, 5, 1\).* \(3, 1, 1\)",
    ),
    "two stds for three measurements": (
        lambda: Likelihood(operators.stack([MASK] * 3), noise.Gaussian((1.0, 2.0))).simulate(IMAGE, key=KEY),
        "has 2 parts, the measurement 3",
    ),
    "two stds for one measurement": (
        lambda: Likelihood(MASK, noise.Gaussian((1.0, 2.0))).simulate(IMAGE, key=KEY),
        "has 2 parts, the measurement 1",
    ),
    "factor of another measurement": (
        lambda: Likelihood(MASK, noise.CorrelatedGaussian(jnp.eye(3))).negative_log_likelihood(IMAGE, IMAGE),
        r"3 rows; a measurement of shape \(4, 5, 1\) has 20",
    ),
    "draws with a factor of another measurement": (
        lambda: Likelihood(MASK, noise.CorrelatedGaussian(jnp.eye(3))).simulate(IMAGE, key=KEY),
        r"3 rows; a measurement of shape \(4, 5, 1\) has 20",
    ),
    "correlations of a stack": (
        lambda: Likelihood(STACK, noise.CorrelatedGaussian(jnp.eye(23))).simulate(IMAGE, key=KEY),
        "one array",
    ),
    # likelihood
    "noise and operator swapped": (lambda: Likelihood(GAUSSIAN, MASK), "`operator` is a Gaussian"),
    "a number for the noise": (lambda: Likelihood(MASK, 0.1), "`noise` is a float"),
    "likelihood of another measurement": (
        lambda: LIKELIHOOD.negative_log_likelihood(IMAGE, jnp.ones(3)),
        "expects the measurement",
    ),
    "likelihood of another image": (
        lambda: LIKELIHOOD.negative_log_likelihood(jnp.ones((4, 5)), IMAGE),
        "Add the channel axis",
    ),
    # regularisers
    "kind that is a string": (lambda: regularisers.TV("isotropic"), "`kind` must be"),
    "eps of zero": (lambda: regularisers.Smoothed(0.0), "take `Isotropic"),
    "operator that is a function": (lambda: regularisers.Tikhonov(jnp.sin), "`operator` must be a linear operator"),
    "prior that is an array": (lambda: regularisers.Gaussian(IMAGE), "oracles.Gaussian"),
    "negative factor": (lambda: -1.0 * regularisers.L1(), "must not be negative"),
    "complex factor": (lambda: 1j * regularisers.L1(), "must be real"),
    "prox of TV": (lambda: regularisers.TV().prox(IMAGE, 1.0), "no closed form"),
    "prox of a sum": (lambda: (regularisers.L1() + regularisers.L1()).prox(IMAGE, 1.0), "no closed form"),
    "prox of Tikhonov": (lambda: regularisers.Tikhonov(MASK).prox(IMAGE, 1.0), "no closed form"),
    "variation of a matrix": (lambda: regularisers.TV()(jnp.ones((4, 5))), r"\(h, w, c\).*got \(4, 5\)"),
    "prior on other images": (
        lambda: regularisers.Gaussian(oracles.Gaussian(jnp.zeros(3), jnp.eye(3)))(IMAGE),
        r"images of shape \(3,\); got \(4, 5, 1\)",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_bad_input(name):
    call, message = ROWS[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


KEYED = {
    "Likelihood.simulate": lambda **key: LIKELIHOOD.simulate(IMAGE, **key),
    "noise.Gaussian.simulate": lambda **key: GAUSSIAN.simulate(IMAGE, **key),
    "noise.CorrelatedGaussian.simulate": lambda **key: noise.CorrelatedGaussian(jnp.eye(20)).simulate(IMAGE, **key),
    "noise.Poisson.simulate": lambda **key: noise.Poisson(1.0).simulate(IMAGE, **key),
    "operators.norm": lambda **key: operators.norm(MASK, **key),
    "operators.certify": lambda **key: operators.certify(MASK, **key),
    "oracles.Gaussian.sample": lambda **key: oracles.Gaussian(jnp.zeros(3), jnp.eye(3)).sample(2, **key),
}
KEYS = {
    "old style": (lambda: jax.random.PRNGKey(0), "wrap_key_data"),
    "rbg": (lambda: jax.random.key(0, impl="rbg"), "threefry"),
    "batch": (lambda: jax.random.split(KEY, 2), r"got shape \(2,\). Map over several keys with `jax.vmap`"),
}


@pytest.mark.parametrize("verb", KEYED)
def test_a_key_is_one_typed_threefry_key(verb):
    for make, message in KEYS.values():
        with pytest.raises(ValueError, match=message):
            KEYED[verb](key=make())
    with pytest.raises(TypeError, match="key"):
        KEYED[verb]()


def test_angles_that_look_like_degrees_are_a_warning():
    with pytest.warns(UserWarning, match="radians"):
        operators.ParallelBeam(SHAPE, jnp.arange(0.0, 180.0, 10.0))


def test_values_that_are_not_known_yet_are_no_error():
    # Under a trace a bad value flags its own problem; an exception would end the whole batch.
    masks = jax.vmap(operators.Mask)(jnp.array([[1.0], [-1.0]]))
    assert masks.mask.shape == (2, 1)
    flags = eqx.filter_vmap(lambda std: noise.Gaussian(std).invalid(jnp.ones(())))(jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(flags, [False, True])


def test_numpy_arrays_are_arrays():
    image = np.ones(SHAPE, np.float32)
    likelihood = Likelihood(operators.Mask(np.ones(SHAPE)), noise.Gaussian(np.full(SHAPE, 0.5)))
    assert np.isfinite(likelihood.negative_log_likelihood(image, image))
    np.testing.assert_array_equal(operators.stack([MASK, MASK]).adjoint([image, image]), 2 * image)
