"""The conformance table of the verbs: everything that reconstructs, simulates or measures, on tiny problems.

Adding a verb means adding a row. `problem(i, dtype)` is problem number `i` as a dict, whose leaves (data, key, operator
and prior parameters, noise level, weight) differ from problem to problem; `solve` takes such a dict. `test_promises.py`
runs the promises of the design over all rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxinv import (
    RESULTS,
    Likelihood,
    Solution,
    classical,
    diffusion,
    dip,
    generative,
    lsvd,
    models,
    noise,
    operators,
    oracles,
    pnp,
    regularisers,
    unrolled,
)

SHAPE = (6, 5, 1)
SIZE = 30
CODES = (
    "successful",
    "max_steps_reached",
    "nonfinite_measurement",
    "invalid_parameter",
    "nonfinite",
    "diverged",
    "breakdown",
    "weight_collapse",
    "implausible",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One verb.

    - `likelihood`: whether the problem holds a `likelihood` with a noise level and data `y`, so that a lane can be bad.
    - `check_vma`: false where another library's loop, inside the verb, carries literals.
    - `precision`: false where another library multiplies matrices inside the verb.
    - `sharded`: whether it is among the rows that run on two devices.
    - `slow`: whether it takes long to compile, or repeats another row's loop, and is left to the slow tests.
    - `discrete`: whether it takes decisions that rounding in float32 may turn: compared in float64 only.
    """

    name: str
    problem: Callable[[int, Any], dict]
    solve: Callable[[dict], Any]
    likelihood: bool = True
    check_vma: bool = True
    precision: bool = True
    sharded: bool = False
    slow: bool = False
    discrete: bool = False

    def __repr__(self):
        return self.name


def codes(result):
    """The names of the codes of a solution or of a batch of them, as an array of strings."""
    names = np.full(np.shape(result == RESULTS.successful), "", dtype=object)
    for name in CODES:
        names[np.asarray(result == getattr(RESULTS, name))] = name
    return names


def stacked(row, dtype, lanes=4):
    """The first problems of a row as one batch: every array leaf with a leading axis."""
    return jax.tree.map(_stack, *(row.problem(i, dtype) for i in range(lanes)))


# By numpy, except for keys: jax would compile a program for each shape and dtype.
def _stack(*leaves):
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    stacked = np.stack(leaves)
    return jnp.asarray(stacked, stacked.dtype)


def _lane(leaf, i):
    return leaf[i] if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.asarray(np.asarray(leaf)[i], leaf.dtype)


@functools.cache
def batched(row):
    """All problems of a batch in one call."""
    return jax.jit(jax.vmap(row.solve))


def alone(row, batch, i):
    """Problem `i` of a batch by itself, the way a user calls it: with a Python number for the weight."""
    problem = jax.tree.map(lambda leaf: _lane(leaf, i), batch)
    if "weight" in problem:
        problem["weight"] = float(problem["weight"])
    return row.solve(problem)


def spoilt_inputs(batch):
    """The batch with NaN, or infinity, for one of its inputs in problem 1: the data, a parameter, weights."""
    leaves, treedef = jax.tree.flatten(batch)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(batch)[0]]
    for place, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            for value in (jnp.nan, jnp.inf):
                yield (
                    f"{name}={value}",
                    treedef.unflatten([*leaves[:place], leaf.at[1].set(value), *leaves[place + 1 :]]),
                )


def same(one, other):
    """Whether two outcomes are the same, bit for bit: what was spoilt was not read, as an encoder where one decodes."""
    return all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def rng_of(i):
    return np.random.default_rng(100 + i)


def _image(i, dtype, shape=SHAPE):
    return jnp.asarray(rng_of(i).uniform(size=shape), dtype)


def _gaussian(i, dtype, operator, **rest):
    """A problem with Gaussian noise, whose level differs from problem to problem."""
    likelihood = Likelihood(operator, noise.Gaussian(jnp.asarray(0.1 + 0.02 * i, dtype)))
    y = likelihood.simulate(_image(i, dtype, operator.domain.shape), key=jax.random.key(i))
    return {"likelihood": likelihood, "y": y, "weight": jnp.asarray(1.0 + 0.5 * i, dtype), **rest}


def _matrix(i, dtype, rows=20, shape=SHAPE):
    columns = int(np.prod(shape))
    return operators.Matrix(jnp.asarray(rng_of(i).normal(size=(rows, columns)) / columns**0.5, dtype), shape)


def _mask(i, dtype):
    return operators.Mask(jnp.asarray(rng_of(i).uniform(size=SHAPE) < 0.7, dtype))


def _blur(i, dtype):
    return operators.Convolution(jnp.asarray(rng_of(i).uniform(size=(3, 3)) / 5, dtype), SHAPE)


def _fourier(i, dtype):
    mask = jnp.asarray(rng_of(i).uniform(size=SHAPE) < 0.7, dtype)
    real = operators.Real(SHAPE)
    return operators.MaskedFourier(mask) @ real


def _prior(i, dtype, rank=90):
    factor = rng_of(i).normal(size=(SIZE, rank)) / rank**0.5
    return oracles.Gaussian(jnp.full(SHAPE, 0.5, dtype), jnp.asarray(0.1 * factor @ factor.T, dtype))


def _angles(i, dtype, turn):
    return jnp.asarray((np.arange(8) + 0.1 * i) * turn / 8, dtype)


def _parallel(i, dtype):
    operator = operators.ParallelBeam(SHAPE, _angles(i, dtype, np.pi))
    return {"operator": operator, "y": operator(_image(i, dtype))}


def _fan(i, dtype):
    operator = operators.FanBeam(SHAPE, _angles(i, dtype, 2 * np.pi), 16, 1.0, 20.0, 10.0)
    return {"operator": operator, "y": operator(_image(i, dtype))}


def _transmission(i, dtype):
    likelihood = Likelihood(_matrix(i, dtype), noise.TransmissionPoisson(jnp.asarray(1e3 * (i + 1), dtype)))
    y = likelihood.simulate(_image(i, dtype), key=jax.random.key(i))
    return {"likelihood": likelihood, "y": y, "weight": jnp.asarray(1000.0 + i, dtype)}


def _differences(i, dtype):
    operator = operators.Matrix(jnp.asarray((1 + 0.1 * i) * (np.eye(SIZE) - np.eye(SIZE, k=1)), dtype), SHAPE)
    return _gaussian(i, dtype, _mask(i, dtype), regulariser=regularisers.Tikhonov(operator))


def _sum(i, dtype):
    factors = (jnp.asarray(1.0 + 0.2 * i, dtype), jnp.asarray(0.1 + 0.1 * i, dtype))
    return factors[0] * regularisers.TGV() + factors[1] * regularisers.L1()


def _box(i, dtype):
    return regularisers.Box(jnp.asarray(0.1 + 0.02 * i, dtype), jnp.asarray(0.6, dtype))


def _emission(i, dtype):
    matrix = jnp.asarray(rng_of(i).uniform(size=(20, SIZE)), dtype)
    model = noise.Poisson(jnp.asarray(2.0 + i, dtype), background=jnp.asarray(0.5, dtype))
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), model)
    y = likelihood.simulate(_image(i, dtype), key=jax.random.key(i))
    return {"likelihood": likelihood, "y": y, "weight": jnp.asarray(1.0 + i, dtype), "regulariser": regularisers.L1()}


def _sparse(i, dtype):
    return _gaussian(i, dtype, _matrix(i, dtype, 12, (20,)))


def tanh_decode(weights, z):
    return jnp.tanh(jnp.matmul(weights, z, precision=jax.lax.Precision.HIGHEST)).reshape(SHAPE)


def square(z):
    return 0.5 * jnp.sum(z**2)


def tanh_prior(i, dtype, size=3):
    weights = jnp.asarray(rng_of(i).normal(size=(SIZE, size)), dtype)
    return generative.FunctionPrior(jax.tree_util.Partial(tanh_decode, weights), square, (size,))


def _latent(i, dtype):
    problem = _gaussian(i, dtype, _blur(i, dtype), prior=tanh_prior(i, dtype), key=jax.random.key(i))
    z = jnp.asarray(rng_of(i).normal(size=3), dtype)
    return problem | {"y": problem["likelihood"].simulate(problem["prior"].decode(z), key=jax.random.key(i))}


def _deviating(i, dtype):
    return _latent(i, dtype) | {"method": generative.Relaxed(weight=jnp.asarray(2.0 + i, dtype))}


def _encodable(i, dtype):
    return _gaussian(i, dtype, _mask(i, dtype), prior=_prior(i, dtype).as_latent(), key=jax.random.key(i))


def _near(i, dtype):
    return _latent(i, dtype) | {"method": generative.Soft(weight=jnp.asarray(2.0 + i, dtype))}


def _network(i, dtype, make):
    """What `make` makes, with other weights in every problem, and without the time that its initialisers take."""
    draw = rng_of(i).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.5, size=leaf.shape), dtype), jax.eval_shape(make))


def _decoder():
    return models.DeepDecoder(SHAPE, layers=1, channels=2, rngs=nnx.Rngs(0))


def _softened(matrix, x, sigma):
    smooth = jnp.matmul(matrix, x.ravel(), precision=jax.lax.Precision.HIGHEST).reshape(x.shape)
    return smooth + 0.1 * jnp.sin(smooth) + sigma**2


def _denoisable(i, dtype):
    basis = np.linalg.qr(rng_of(i).normal(size=(SIZE, SIZE)))[0]
    smoother = jnp.asarray(basis * rng_of(i).uniform(0.2, 0.9, SIZE) @ basis.T, dtype)
    problem = _gaussian(i, dtype, _blur(i, dtype), prior=pnp.Denoiser(jax.tree_util.Partial(_softened, smoother)))
    return problem | {"weight": jnp.asarray(0.2 + 0.05 * i, dtype)}


def _plugged(method):
    def solve(problem):
        made = method(problem["weight"])
        return pnp.reconstruct(problem["likelihood"], problem["prior"], problem["y"], method=made)

    return solve


def _fitted(i, dtype):
    problem = _gaussian(i, dtype, _mask(i, dtype), network=_network(i, dtype, _decoder), key=jax.random.key(i))
    numbers = {"jitter": 0.1 + 0.1 * i, "ema": 0.5 + 0.1 * i, "learning_rate": 0.02 + 0.01 * i}
    return problem | {name: jnp.asarray(number, dtype) for name, number in numbers.items()}


def _fitted_already(i, dtype):
    return {name: value for name, value in _fitted(i, dtype).items() if name in ("likelihood", "network", "y", "key")}


def _fit(**options):
    def solve(problem):
        problem = dict(problem)
        likelihood, network, y = (problem.pop(name) for name in ("likelihood", "network", "y"))
        return dip.reconstruct(likelihood, network, y, **problem, **options)

    return solve


def _linearised(problem):
    likelihood, network, y = (problem[name] for name in ("likelihood", "network", "y"))
    z0 = jax.random.normal(jax.random.key(0), network.input_shape)
    return dip.linearised_posterior(likelihood, network, y, key=problem["key"], z0=z0, num_samples=3, prior_std=0.05)


def _generator():
    return models.Generator(SHAPE, 3, widths=(4,), rngs=nnx.Rngs(0))


def _flow():
    return models.Flow(SHAPE, trunk=models.Dense((4,)), num_couplings=2, alpha=None, rngs=nnx.Rngs(0))


def _learned_svd():
    return lsvd.LSVD(SHAPE, (12,), 4, trunk=models.Dense((4,)), rngs=nnx.Rngs(0))


def _projected(i, dtype):
    prior = generative.GANPrior(_network(i, dtype, _generator))
    return {"prior": prior, "x": _image(i, dtype), "key": jax.random.key(i)}


def _inverted(i, dtype):
    prior = generative.FlowPrior(_network(i, dtype, _flow))
    weight = jnp.asarray(0.1 + 0.1 * i, dtype)
    return {"prior": prior, "x": _image(i, dtype), "key": jax.random.key(i), "weight": weight}


def _latents(i, dtype):
    return {"prior": tanh_prior(i, dtype), "key": jax.random.key(i)}


def _between(i, dtype):
    z0, z1 = jnp.asarray(rng_of(i).normal(size=(2, 3)), dtype)
    return {"prior": tanh_prior(i, dtype), "z0": z0, "z1": z1}


def _pairs(i, dtype):
    draw = rng_of(i).normal
    images = draw(size=(40, SIZE)) * 0.8 ** np.arange(SIZE)
    measurements = images @ draw(size=(SIZE, 12)) + 0.1 * draw(size=(40, 12))
    return {"images": jnp.asarray(images.reshape(40, *SHAPE), dtype), "measurements": jnp.asarray(measurements, dtype)}


def _regression(i, dtype):
    draw, sizes = rng_of(i).normal, (SHAPE, 12, (4, 12), 4, (4, *SHAPE), 12)
    *parts, y = (jnp.asarray(draw(size=size), dtype) for size in sizes)
    model = lsvd.ReducedRankRegression(*parts, 4, SHAPE, (12,))
    return {"model": model, "y": y, "weight": jnp.asarray(0.5 + i, dtype)}


def _learned(i, dtype):
    return _regression(i, dtype) | {"model": _network(i, dtype, _learned_svd)}


def _unrolled(i, dtype):
    draw = rng_of(i).normal
    operator = operators.Matrix(jnp.asarray(draw(size=(12, SIZE)), dtype), SHAPE)
    network = models.LISTA(operator, 3, weight=jnp.asarray(0.1 + 0.1 * i, dtype), norm=10.0)
    return {"network": network, "y": jnp.asarray(draw(size=12), dtype)}


def _filtered(problem):
    return lsvd.reconstruct(problem["model"], problem["y"], filter=lsvd.Tikhonov(problem["weight"]))


def _diffusing(i, dtype):
    process = diffusion.VP(beta_max=jnp.asarray(15.0 + i, dtype))
    factor = rng_of(i).normal(size=(4, 9)) / 3
    prior = oracles.Gaussian(
        jnp.asarray(rng_of(i).normal(size=(2, 2, 1)), dtype), jnp.asarray(factor @ factor.T, dtype)
    )
    return {"score": prior.score(process), "key": jax.random.key(i)}


def _flowing(i, dtype):
    return _diffusing(i, dtype) | {"x": _image(i, dtype, (2, 2, 1))}


def _noising(i, dtype):
    times = jnp.asarray(np.array([0.2, 0.5, 0.7]) + 0.05 * i, dtype)
    return {
        "process": _diffusing(i, dtype)["score"].process,
        "x0": _image(i, dtype),
        "key": jax.random.key(i),
        "times": times,
    }


def _draw(method, **options):
    """Draws by a method; `method` may make it from a number that differs from problem to problem."""

    def solve(problem):
        problem = dict(problem)
        made = method(problem.pop("number")) if "number" in problem else method
        return diffusion.sample(problem["score"], (2, 2, 1), key=problem["key"], method=made, **options)

    return solve


def _numbered(first, step):
    return lambda i, dtype: _diffusing(i, dtype) | {"number": jnp.asarray(first + step * i, dtype)}


def _along_the_flow(verb, **options):
    return lambda p: verb(p["score"], p["x"], **options)


def _solve(verb, **options):
    def solve(problem):
        problem = dict(problem)
        likelihood, y = problem.pop("likelihood"), problem.pop("y")
        return verb(likelihood, y, **problem, **options)

    return solve


def _with_regulariser(verb, **options):
    def solve(problem):
        problem = dict(problem)
        likelihood, regulariser, y = (problem.pop(name) for name in ("likelihood", "regulariser", "y"))
        return verb(likelihood, regulariser, y, **problem, **options)

    return solve


def _unregularised(verb, **options):
    return lambda problem: verb(problem["likelihood"], problem["y"], **options)


def _tikhonov_chosen(likelihood, y, *, weight):
    return classical.tikhonov(likelihood, y, weight=weight, rtol=1e-6)


def _chosen(problem):
    grid = jnp.asarray(problem["weight"]) * jnp.array([0.3, 3.0, 30.0])
    solution = classical.choose_weight(
        problem["likelihood"],
        _tikhonov_chosen,
        problem["y"],
        weights=grid,
        criterion=classical.GCV(),
        key=problem["key"],
    )
    return Solution(solution.value, solution.result, solution.stats)


def _with_prior(verb, **options):
    def solve(problem):
        problem = dict(problem)
        likelihood, prior, y = (problem.pop(name) for name in ("likelihood", "prior", "y"))
        return verb(likelihood, prior, y, **problem, **options)

    return solve


def _unweighted(problem):
    return lambda i, dtype: {k: v for k, v in problem(i, dtype).items() if k != "weight"}


def _oracle(i, dtype):
    return _unweighted(lambda i, dtype: _gaussian(i, dtype, _mask(i, dtype), prior=_prior(i, dtype)))(i, dtype)


class _Cosine:
    def marginal(self, t):
        return jnp.cos(t), jnp.sin(t)


COSINE = _Cosine()


def _mixture(i, dtype):
    rng = rng_of(i)
    weights, means = rng.uniform(0.5, 1, size=3), rng.normal(size=(3, *SHAPE))
    variances = jnp.asarray(0.1 + 0.1 * rng.uniform(size=3), dtype)
    prior = oracles.GaussianMixture(jnp.asarray(weights / weights.sum(), dtype), jnp.asarray(means, dtype), variances)
    return _unweighted(lambda i, dtype: _gaussian(i, dtype, _matrix(i, dtype, 5), prior=prior))(i, dtype)


def _mixture_answers(problem):
    prior, likelihood, y = problem["prior"], problem["likelihood"], problem["y"]
    posterior = prior.posterior(likelihood, y)
    score = posterior.score(COSINE)(jnp.full((), 0.5, posterior.means.dtype), posterior.means[0])
    return posterior.log_weights, posterior.means, score, prior.evidence(likelihood, y)


def _drawing(i, dtype):
    return {"prior": _prior(i, dtype), "key": jax.random.key(i)}


def _simulation(i, dtype):
    likelihood = _gaussian(i, dtype, _fourier(i, dtype) if dtype == jnp.result_type(float) else _blur(i, dtype))[
        "likelihood"
    ]
    return {"likelihood": likelihood, "x": _image(i, dtype), "key": jax.random.key(i)}


LBFGS = optax.lbfgs()

TABLE = [
    Row("fbp-parallel", _parallel, lambda p: classical.fbp(**p), likelihood=False, sharded=True),
    Row("fbp-fan", _fan, lambda p: classical.fbp(**p), likelihood=False),
    # Stopping tests above rounding: in float32 the residual of conjugate gradients is known to about 1e-6 of the first.
    # Weights at which conjugate gradients converge in fewer steps than there are unknowns: near finite termination they
    # amplify rounding, which differs between a matrix-vector product alone and one of a batch, to 1e-7 in float64.
    Row(
        "tikhonov",
        lambda i, d: _gaussian(i, d, _matrix(i, d)) | {"weight": jnp.asarray(50.0 + 10 * i, d)},
        _solve(classical.tikhonov, rtol=1e-4),
        sharded=True,
    ),
    Row("tikhonov-operator", _differences, _solve(classical.tikhonov, rtol=1e-4), slow=True),
    Row(
        "tikhonov-gaussian",
        lambda i, d: (
            _gaussian(i, d, _blur(i, d), regulariser=regularisers.Gaussian(_prior(i, d)))
            | {"weight": jnp.asarray(5.0 + i, d)}
        ),
        _solve(classical.tikhonov, rtol=1e-3),
    ),
    Row("tikhonov-photons", _transmission, _solve(classical.tikhonov, rtol=1e-4), slow=True),
    Row(
        "tv-isotropic",
        lambda i, d: _gaussian(i, d, _blur(i, d)),
        _solve(classical.tv, kind=regularisers.Isotropic(), rtol=1e-4),
    ),
    Row(
        "tv-anisotropic",
        lambda i, d: _gaussian(i, d, _mask(i, d)),
        _solve(classical.tv, kind=regularisers.Anisotropic(), rtol=1e-4),
        sharded=True,
        slow=True,
    ),
    Row(
        "tv-smoothed",
        lambda i, d: _gaussian(i, d, _matrix(i, d), kind=regularisers.Smoothed(jnp.asarray(0.1 + 0.1 * i, d))),
        _solve(classical.tv, rtol=1e-4),
        slow=True,
    ),
    Row(
        "primal-dual",
        lambda i, d: _gaussian(i, d, _blur(i, d), regulariser=_sum(i, d)),
        _with_regulariser(classical.primal_dual, constraint=regularisers.NonNegative(), rtol=1e-4),
        sharded=True,
    ),
    Row(
        "primal-dual-photons",
        _emission,
        _with_regulariser(
            lambda likelihood, _, y, **rest: classical.tv(likelihood, y, exact=True, **rest), rtol=1e-4, max_steps=100
        ),
        slow=True,
    ),
    Row(
        "tikhonov-box",
        lambda i, d: _gaussian(i, d, _matrix(i, d), constraint=_box(i, d)) | {"weight": jnp.asarray(50.0 + 10 * i, d)},
        _solve(classical.tikhonov, rtol=1e-4, max_steps=2000),
        slow=True,
    ),
    Row("mlem", _unweighted(_emission), _unregularised(classical.mlem, rtol=1e-3), slow=True),
    Row("osem", _unweighted(_emission), _unregularised(classical.osem, subsets=3, max_steps=10), slow=True),
    Row("sirt", _unweighted(_emission), _unregularised(classical.sirt, rtol=1e-3), slow=True),
    Row(
        "choose-weight",
        lambda i, d: _gaussian(i, d, _mask(i, d)) | {"weight": jnp.asarray(1.0 + 0.5 * i, d), "key": jax.random.key(i)},
        _chosen,
        slow=True,
        discrete=True,
    ),
    # A fixed number of steps: its changes shrink so slowly that in float32 rounding decides where they pass `rtol`.
    Row("ista", _sparse, _solve(classical.ista, rtol=0.0, max_steps=150), sharded=True, slow=True),
    Row("fista", _sparse, _solve(classical.fista, rtol=1e-4), sharded=True),
    Row("tsvd", _unweighted(_sparse), _solve(classical.tsvd, rank=8), sharded=True),
    Row("gaussian", _oracle, _with_prior(classical.gaussian), sharded=True),
    Row("posterior", _oracle, jax.jit(lambda p: p["prior"].posterior(p["likelihood"], p["y"]))),
    Row("evidence", _oracle, jax.jit(lambda p: p["prior"].evidence(p["likelihood"], p["y"])), sharded=True),
    Row("sample", _drawing, jax.jit(lambda p: p["prior"].sample(3, key=p["key"])), likelihood=False),
    Row(
        "simulate",
        _simulation,
        jax.jit(lambda p: p["likelihood"].simulate(p["x"], key=p["key"])),
        likelihood=False,
    ),
    Row(
        "norm",
        lambda i, d: {"operator": _matrix(i, d), "key": jax.random.key(i)},
        lambda p: operators.norm(**p),
        likelihood=False,
        sharded=True,
    ),
    Row("mixture", _mixture, jax.jit(_mixture_answers), sharded=True),
    Row("reconstruct-adam", _latent, _with_prior(generative.reconstruct, max_steps=200, rtol=1e-3), sharded=True),
    Row(
        "reconstruct-lbfgs",
        _latent,
        _with_prior(generative.reconstruct, optimiser=LBFGS, max_steps=20, rtol=1e-3),
        check_vma=False,
        precision=False,
        sharded=True,
        slow=True,
    ),
    Row("reconstruct-restarts", _latent, _with_prior(generative.reconstruct, restarts=3, max_steps=100, rtol=1e-3)),
    Row(
        "reconstruct-encoder",
        _encodable,
        _with_prior(generative.reconstruct, start=generative.FromEncoder(), max_steps=100, rtol=1e-3),
        slow=True,
    ),
    # Steps are taken or taken back: a fixed number of them, few enough that rounding in single precision turns none.
    Row(
        "reconstruct-relaxed",
        _deviating,
        _with_prior(generative.reconstruct, max_steps=10, rtol=0.0),
        slow=True,
    ),
    Row("reconstruct-soft", _near, _with_prior(generative.reconstruct, max_steps=100, rtol=1e-3), slow=True),
    Row(
        "variational_posterior",
        _latent,
        _with_prior(generative.variational_posterior, num_samples=3, num_steps=20, num_draws=2, restarts=2),
        slow=True,
    ),
    Row(
        "sample-posterior",
        _latent,
        _with_prior(generative.sample_posterior, num_samples=16, num_warmup=20, num_chains=2, max_doublings=4),
        check_vma=False,
        precision=False,
        slow=True,
        discrete=True,
    ),
    Row("pnp-hqs", _denoisable, _plugged(lambda w: pnp.HQS(3, sigma_min=w / 8, weight=w)), sharded=True),
    Row("pnp-pgd", _denoisable, _plugged(lambda w: pnp.PGD(w, max_steps=60, rtol=1e-3)), slow=True),
    Row("pnp-red", _denoisable, _plugged(lambda w: pnp.RED(w, max_steps=60, rtol=1e-3)), slow=True),
    Row("pnp-admm", _denoisable, _plugged(lambda w: pnp.ADMM(w, max_steps=30, rtol=1e-3)), slow=True),
    # Steps are taken or taken back.
    Row(
        "pnp-gradient-step",
        _denoisable,
        _plugged(lambda w: pnp.GradientStep(w, max_steps=10)),
        slow=True,
        discrete=True,
    ),
    # Networks: the precision of their products is their own affair.
    Row(
        "project-gan",
        _projected,
        lambda p: generative.project(**p, restarts=2, max_steps=50, rtol=1e-3),
        likelihood=False,
        precision=False,
        slow=True,
    ),
    Row(
        "encode-flow",
        _inverted,
        lambda p: generative.encode(**p, max_steps=50, rtol=1e-3),
        likelihood=False,
        precision=False,
        slow=True,
    ),
    # Under 50 steps, after which rounding in float32 has grown beyond bounds.
    Row(
        "dip",
        _fitted,
        _fit(
            recipe=dip.Recipe(7, stopping=dip.WindowedVariance(3, 5), regulariser=regularisers.TV()),
            constraint=regularisers.Box(0.2, 0.7),
            num_steps=12,
            stride=5,
        ),
        precision=False,
        sharded=True,
        slow=True,
    ),
    Row(
        "dip-held-out",
        lambda i, d: _fitted(i, d) | {"stopping": dip.HeldOut(jnp.asarray(0.2 + 0.1 * i, d), 5)},
        _fit(num_steps=12),
        precision=False,
        slow=True,
        discrete=True,
    ),
    Row(
        "dip-discrepancy",
        lambda i, d: _fitted(i, d) | {"stopping": dip.Discrepancy(jnp.asarray(3.0 + 0.1 * i, d))},
        _fit(num_steps=12),
        precision=False,
        slow=True,
        discrete=True,
    ),
    Row(
        "dip-admm",
        lambda i, d: _fitted(i, d) | {"method": dip.ADMM(jnp.asarray(5.0 + i, d), 3)},
        _fit(regulariser=regularisers.TV(), num_steps=12),
        precision=False,
        slow=True,
    ),
    # Conjugate gradients that end before their last step amplify rounding.
    Row("dip-linearised", _fitted_already, _linearised, precision=False, slow=True, discrete=True),
    Row("sample-latent", _latents, lambda p: generative.sample(p["prior"], 3, key=p["key"]), likelihood=False),
    Row(
        "interpolate",
        _between,
        lambda p: generative.interpolate(**p, num=4, kind=generative.Spherical()),
        likelihood=False,
    ),
    Row("lsvd", _learned, _filtered, likelihood=False, precision=False, slow=True),
    Row("unrolled", _unrolled, lambda p: unrolled.reconstruct(**p), likelihood=False, slow=True),
    Row("lsvd-regression", _regression, _filtered, likelihood=False),
    Row(
        "reduced-rank-regression",
        _pairs,
        lambda p: lsvd.reduced_rank_regression(p["images"], p["measurements"], 4),
        likelihood=False,
    ),
    Row("sample-ddim", _numbered(0.2, 0.1), _draw(lambda n: diffusion.DDIM(6, eta=n)), likelihood=False),
    Row("sample-ancestral", _diffusing, _draw(diffusion.Ancestral(6)), likelihood=False, slow=True),
    Row(
        "sample-heun",
        _numbered(0.5, 0.5),
        _draw(lambda n: diffusion.Heun(6, churn=n), num_samples=2, num_saved=3),
        likelihood=False,
        slow=True,
    ),
    Row("sample-dpm-solver", _diffusing, _draw(diffusion.DPMSolver(6)), likelihood=False, sharded=True, slow=True),
    Row(
        "sample-predictor-corrector",
        _numbered(0.05, 0.05),
        _draw(lambda n: diffusion.PredictorCorrector(6, snr=n)),
        likelihood=False,
        slow=True,
    ),
    # The loops of diffrax, and its products of a few coefficients.
    *(
        Row(
            f"sample-{name}",
            _diffusing,
            _draw(method, num_samples=2, num_saved=2),
            likelihood=False,
            check_vma=False,
            precision=False,
            sharded=name == "reverse-sde",
            slow=True,
            # diffrax draws the noise of a step from the bits of its times: another last bit is other noise. In single
            # precision that befell the solver of higher order.
            discrete=name in ("flow-adaptive", "reverse-sde-shark"),
        )
        for name, method in {
            "reverse-sde": diffusion.ReverseSDE(6),
            "reverse-sde-shark": diffusion.ReverseSDE(6, solver=diffrax.ShARK()),
            "flow": diffusion.ProbabilityFlow(num_steps=6),
            "flow-adaptive": diffusion.ProbabilityFlow(rtol=1e-3, atol=1e-3),
        }.items()
    ),
    *(
        Row(
            name,
            _flowing,
            _along_the_flow(verb, **options),
            likelihood=False,
            check_vma=False,
            precision=False,
            slow=True,
            discrete=True,
        )
        for name, verb, options in [
            ("diffusion-encode", diffusion.encode, {}),
            ("diffusion-decode", diffusion.decode, {}),
            ("diffusion-log-prob", diffusion.log_prob, {}),
            ("diffusion-log-prob-estimated", diffusion.log_prob, {"key": jax.random.key(0), "num_probes": 2}),
        ]
    ),
    Row(
        "diffusion-forward",
        _noising,
        lambda p: diffusion.forward(p["process"], p["x0"], key=p["key"], t=p["times"][0]),
        likelihood=False,
        slow=True,
    ),
    Row("diffusion-trajectory", _noising, lambda p: diffusion.trajectory(**p), likelihood=False, slow=True),
]
