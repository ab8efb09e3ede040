"""What is wrong at trace time is a `ValueError` that says what came and what is expected; what is wrong in a value is a
code of the lane."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import SHAPE, codes, square, tanh_prior

from jaxinv import (
    Implicit,
    Likelihood,
    classical,
    generative,
    noise,
    operators,
    oracles,
    regularisers,
)

Y = np.zeros(SHAPE, np.float32)
KEY = jax.random.key(0)
VERBS = ("tikhonov", "tv", "ista", "fista", "tsvd", "gaussian", "reconstruct")


def likelihood(operator=None):
    return Likelihood(operator or operators.Identity(SHAPE), noise.Gaussian(0.1))


def standard(shape=SHAPE):
    size = int(np.prod(shape))
    return oracles.Gaussian(np.zeros(shape, np.float32), np.eye(size, dtype=np.float32))


def run(name, problem=None, y=Y, **options):
    problem = likelihood() if problem is None else problem
    if name == "gaussian":
        return classical.gaussian(problem, options.pop("prior", standard()), y, **options)
    if name == "reconstruct":
        options = {"key": KEY, "max_steps": 2} | options
        return generative.reconstruct(problem, options.pop("prior", tanh_prior(0, jnp.float32)), y, **options)
    default = {"rank": 2} if name == "tsvd" else {"weight": 1.0}
    return getattr(classical, name)(problem, y, **default | options)


def curved():
    return likelihood(operators.NonlinearFunction(jnp.sin, SHAPE))


def wrong_decoder():
    return generative.FunctionPrior(lambda z: jnp.zeros((4, 4, 1)) + z[0], square, (3,))


def covariance(value):
    return lambda: oracles.Gaussian(np.zeros((2, 1, 1)), np.asarray(value))


ROWS = {
    **{f"{n}: non-linear operator": (functools.partial(run, n), {"problem": curved}, r"linear") for n in VERBS[:-1]},
    **{
        f"{n}: measurement of another operator": (
            functools.partial(run, n),
            {"y": np.zeros((3, 3, 1))},
            r"\(6, 5, 1\).*\(3, 3, 1\)",
        )
        for n in VERBS
    },
    **{
        f"{n}: complex measurement": (
            functools.partial(run, n),
            {"y": Y + 1j},
            r"measurement is complex.*codomain is real",
        )
        for n in VERBS
    },
    **{
        f"{n}: max_steps 0": (functools.partial(run, n), {"max_steps": 0}, r"`max_steps` must be .* at least 1; got 0")
        for n in VERBS
        if n not in ("tsvd", "gaussian")
    },
    **{
        f"{n}: a weight for each": (functools.partial(run, n), {"weight": np.ones(3)}, r"scalar.*\(3,\).*`jax.vmap`")
        for n in VERBS
        if n not in ("tsvd", "gaussian")
    },
    "tikhonov: L1": (functools.partial(run, "tikhonov"), {"regulariser": regularisers.L1}, r"quadratic.*L1.*fista"),
    "tikhonov: a string": (functools.partial(run, "tikhonov"), {"regulariser": "tv"}, r"quadratic"),
    "ista: TV": (functools.partial(run, "ista"), {"regulariser": regularisers.TV}, r"prox of TV.*classical.tv"),
    "fista: a sum": (
        functools.partial(run, "fista"),
        {"regulariser": lambda: regularisers.L1() + regularisers.L1()},
        r"prox of a sum",
    ),
    "tv: not an image": (
        functools.partial(run, "tv"),
        {"problem": lambda: likelihood(operators.Identity((30,))), "y": np.zeros(30)},
        r"\(height, width, channels\)",
    ),
    "tv: implicit": (functools.partial(run, "tv"), {"differentiate": Implicit()}, r"smooth"),
    "tsvd: rank 0": (functools.partial(run, "tsvd"), {"rank": 0}, r"between 1 and .* 30; got 0"),
    "tsvd: rank too large": (functools.partial(run, "tsvd"), {"rank": 31}, r"between 1 and .* 30; got 31"),
    "gaussian: another shape": (
        functools.partial(run, "gaussian"),
        {"prior": lambda: standard((4, 4, 1))},
        r"\(4, 4, 1\).*\(6, 5, 1\)",
    ),
    "gaussian: not a prior": (functools.partial(run, "gaussian"), {"prior": 3.0}, r"oracles.Gaussian"),
    "reconstruct: decoder of another shape": (
        functools.partial(run, "reconstruct"),
        {"prior": wrong_decoder},
        r"\(4, 4, 1\).*\(6, 5, 1\)",
    ),
    "reconstruct: restarts 0": (functools.partial(run, "reconstruct"), {"restarts": 0}, r"`restarts` .* got 0"),
    "reconstruct: old key": (
        functools.partial(run, "reconstruct"),
        {"key": lambda: jax.random.PRNGKey(0)},
        r"one typed key.*uint32",
    ),
    "reconstruct: rbg key": (
        functools.partial(run, "reconstruct"),
        {"key": lambda: jax.random.key(0, impl="rbg")},
        r"threefry",
    ),
    "reconstruct: two keys": (
        functools.partial(run, "reconstruct"),
        {"key": lambda: jax.random.split(KEY)},
        r"shape \(\); got.*\(2,\)",
    ),
    "sample: old key": (
        lambda key: standard().sample(2, key=key),
        {"key": lambda: jax.random.PRNGKey(0)},
        r"typed key",
    ),
    "evidence: photons": (
        lambda: standard().evidence(Likelihood(operators.Identity(SHAPE), noise.Poisson()), Y),
        {},
        r"Gaussian noise only; got Poisson",
    ),
    "log_prob: another shape": (lambda: standard().log_prob(np.zeros((2, 2, 1))), {}, r"\(6, 5, 1\).*\(2, 2, 1\)"),
    "covariance: shape": (covariance(np.eye(3)), {}, r"\(2, 2\) .*got \(3, 3\)"),
    "covariance: not symmetric": (covariance([[1.0, 0.5], [0.0, 1.0]]), {}, r"not symmetric.*0\.5"),
    "covariance: indefinite": (covariance([[1.0, 2.0], [2.0, 1.0]]), {}, r"not positive semi-definite.*-1"),
    "covariance: NaN": (covariance([[1.0, np.nan], [np.nan, 1.0]]), {}, r"not finite"),
    "covariance: missing": (lambda: oracles.Gaussian(np.zeros((2, 1, 1))), {}, r"`covariance`"),
    "from_factor: shape": (
        lambda: oracles.Gaussian.from_factor(np.zeros((2, 1, 1)), np.zeros((3, 2))),
        {},
        r"\(2, rank\).*\(3, 2\)",
    ),
    "from_factor: negative": (
        lambda: oracles.Gaussian.from_factor(np.zeros((2, 1, 1)), np.zeros((2, 1)), -1.0),
        {},
        r"`diagonal` must be finite and not negative",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_value_error_that_says_what_to_do(row):
    call, options, message = ROWS[row]
    options = {k: v() if callable(v) and not isinstance(v, Implicit) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        call(**options)


def test_the_key_has_no_default():
    with pytest.raises(TypeError, match="key"):
        generative.reconstruct(likelihood(), tanh_prior(0, jnp.float32), Y)
    with pytest.raises(TypeError, match="key"):
        standard().sample(2)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["tikhonov", "tv", "fista", "reconstruct"])
def test_a_bad_weight_is_a_code(name, weight):
    solution = run(name, y=Y + 1, weight=weight)
    assert str(codes(solution.result)) == "invalid_parameter"
    np.testing.assert_array_equal(solution.value, 0)


@pytest.mark.parametrize("name", VERBS)
def test_a_bad_noise_level_is_a_code(name):
    solution = run(name, Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.0)), Y + 1)
    assert str(codes(solution.result)) == "invalid_parameter"
    with pytest.raises(RuntimeError, match="invalid_parameter: A parameter"):
        solution.check()


def test_check_is_for_the_host():
    with pytest.raises(ValueError, match="cannot run inside `jax.jit`"):
        jax.jit(lambda y: run("tsvd", y=y).check().value)(Y)
    with pytest.raises(ValueError, match="no lanes"):
        run("tsvd").lane(0)


def test_a_mismatched_batch_is_named():
    with pytest.raises(ValueError, match=r"looks like a batch.*jax.vmap"):
        run("tsvd", y=np.zeros((4, *SHAPE)))


@pytest.mark.parametrize("key", [None, 0, "key"])
def test_what_is_not_a_key_is_named(key):
    with pytest.raises(ValueError, match="one typed key"):
        operators.norm(operators.Identity((2,)), key=key)
