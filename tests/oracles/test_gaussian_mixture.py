"""Gaussian mixtures against brute force with dense matrices, automatic differentiation and simulation."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.scipy.stats import multivariate_normal

from jaxinv import Likelihood, noise, operators, oracles

RNG = np.random.default_rng(0)
K, SHAPE, D, T = 4, (2, 3), 6, 0.6
WEIGHTS = RNG.uniform(size=K) / 2
WEIGHTS[-1] = 1 - WEIGHTS[:-1].sum()
MEANS = 2 * RNG.normal(size=(K, *SHAPE))
FACTORS = RNG.normal(size=(K, D, D)) / D**0.5
FULL = FACTORS @ FACTORS.transpose(0, 2, 1)
LOW = np.stack([f[:, :2] @ f[:, :2].T + 0.3 * np.eye(D) for f in FACTORS])
SINGULAR = np.stack([f[:, : 1 + i % 2] @ f[:, : 1 + i % 2].T for i, f in enumerate(FACTORS)])
BASES = np.linalg.qr(RNG.normal(size=(K, D, 2)))[0]
VARIANCES, REST = RNG.uniform(0.5, 2, size=(K, 2)), RNG.uniform(0.1, 0.4, size=K)
IN_BASES = np.einsum("kdr,kr,ker->kde", BASES, VARIANCES - REST[:, None], BASES) + REST[:, None, None] * np.eye(D)
ISOTROPIC = np.array([0.5, 1.0, 0.7, 1.6])
EYES = np.broadcast_to(np.eye(D), (K, D, D))

# What a user passes, the same dense, and the number of directions that are kept of it.
PRIORS = {
    "full": (FULL, FULL, 6),
    "flat tail": (LOW, LOW, 2),
    "singular": (SINGULAR, SINGULAR, 2),
    "one for all": (FULL[0], np.stack([FULL[0]] * K), 6),
    "variances": (ISOTROPIC, ISOTROPIC[:, None, None] * EYES, 0),
    "one variance": (0.7, 0.7 * EYES, 0),
    "low rank": (lambda: oracles.LowRank(BASES, VARIANCES, REST), IN_BASES, 2),
    "low rank, one for all": (
        lambda: oracles.LowRank(BASES[0], VARIANCES[0], REST[0]),
        np.stack([IN_BASES[0]] * K),
        2,
    ),
}
MATRICES = {"few rows": RNG.normal(size=(2, D)), "many rows": RNG.normal(size=(9, D))}
x64 = pytest.mark.usefixtures("in_float64")


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


class Cosine(eqx.Module):
    """`x_t = cos(t) x_0 + sin(t) n`."""

    def marginal(self, t):
        return jnp.cos(t), jnp.sin(t)


def make(name, dtype=np.float64):
    given, _, rank = PRIORS[name]
    given = given() if callable(given) else given if np.ndim(given) == 0 else given.astype(dtype)
    prior = oracles.GaussianMixture(WEIGHTS.astype(dtype), MEANS.astype(dtype), given)
    assert prior.covariances.basis.shape[2] == rank
    return prior


@jax.jit
def reference(covariances, x):
    """The log-density, its gradient by automatic differentiation, and the responsibilities, from dense matrices."""

    def logs(x):
        density = lambda m, c: multivariate_normal.logpdf(x.ravel(), m, c)
        return jnp.log(WEIGHTS) + jax.vmap(density)(np.cos(T) * MEANS.reshape(K, D), covariances)

    return *jax.value_and_grad(lambda x: jax.nn.logsumexp(logs(x)))(x), jax.nn.softmax(logs(x))


@jax.jit
def computed(prior, x, v):
    score, denoise = prior.score(Cosine()), prior.denoiser(Cosine())
    law, conditional = prior.noised(Cosine(), T), denoise.conditional(T, x)
    return {
        "score": score(T, x),
        "log density": law.log_prob(x),
        "its gradient": jax.grad(law.log_prob)(x),
        "responsibilities": law.responsibilities(x),
        "denoised": denoise(T, x),
        "jacobian": jax.jacfwd(denoise, argnums=1)(T, x).reshape(D, D),
        "covariance": denoise.covariance(T, x),
        "product": denoise.covariance_product(T, x, v),
        "conditional mean": conditional.mean,
        "without noise": denoise(0.0, x),
        "only noise": score(np.pi / 2, x),
    }


def cases(every, *fast):
    """Parameters, of which all but `fast` repeat these on another form of the covariances: in the slow tests only."""
    values = lambda case: case if isinstance(case, tuple) else (case,)
    return [pytest.param(*values(case), marks=[] if case in fast else pytest.mark.slow) for case in every]


def each_covariance(mixture):
    one = jax.jit(lambda covariances: [covariances.component(i).weighted_sum(jnp.ones(1)) for i in range(K)])
    return np.stack(one(mixture.covariances))


@x64
@pytest.mark.parametrize("name", cases(PRIORS, "flat tail", "variances"))
def test_score_and_denoiser(name):
    scale, std = np.cos(T), np.sin(T)
    x, v = (jnp.asarray(RNG.normal(size=SHAPE)) for _ in range(2))
    got = computed(make(name), x, v)
    log_density, gradient, shares = reference(scale**2 * PRIORS[name][1] + std**2 * np.eye(D), x)
    # Tweedie, first and second order.
    denoised, covariance = (x + std**2 * gradient) / scale, std**2 / scale * got["jacobian"]
    expected = {
        "score": gradient,
        "log density": log_density,
        "its gradient": gradient,
        "responsibilities": shares,
        "denoised": denoised,
        "conditional mean": denoised,
        "covariance": covariance,
        "product": (covariance @ v.ravel()).reshape(SHAPE),
        "without noise": x,
        "only noise": -x,
    }
    for what, value in expected.items():
        np.testing.assert_allclose(got[what], value, atol=1e-10, err_msg=what)


@x64
def test_one_component_is_the_gaussian():
    gaussian = oracles.Gaussian(MEANS[0], SINGULAR[0])
    x, v = RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)
    draw = jax.jit(lambda: gaussian.sample(1, key=jax.random.key(0))[0])()

    @jax.jit
    def answers(prior):
        score, denoise = prior.score(Cosine()), prior.denoiser(Cosine())
        of_the_denoiser = denoise(T, x), denoise.covariance(T, x), denoise.covariance_product(T, x, v)
        return score(T, x), *of_the_denoiser, prior.log_prob(draw), prior.log_prob(draw + 0.1)

    mixed = answers(oracles.GaussianMixture([1.0], MEANS[:1], SINGULAR[:1]))
    for a, b in zip(mixed, answers(gaussian), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    assert mixed[-1] == -np.inf


def dense_posterior(covariances, matrix, y, noise_covariance):
    flat = MEANS.reshape(K, D)
    total = matrix @ covariances @ matrix.T + noise_covariance
    gain = np.stack([np.linalg.solve(s, matrix @ c).T for s, c in zip(total, covariances, strict=True)])
    laws = [scipy.stats.multivariate_normal(matrix @ m, s) for m, s in zip(flat, total, strict=True)]
    evidences = np.log(WEIGHTS) + np.array([law.logpdf(y) for law in laws])
    means = flat + np.einsum("kdm,km->kd", gain, y - flat @ matrix.T)
    return evidences, means, covariances - gain @ matrix @ covariances


@jax.jit
def solved(prior, likelihood, y):
    x, posterior = prior.sample(1, key=jax.random.key(0))[0], prior.posterior(likelihood, y)
    densities = posterior.log_prob(x), prior.log_prob(x), likelihood.negative_log_likelihood(x, y)
    return x, posterior, prior.evidence(likelihood, y), *densities


def assert_posterior(prior, likelihood, y, expected):
    x, posterior, got, log_density, log_prior, misfit = solved(prior, likelihood, y)
    evidences, means, covariances = expected
    log_evidence = scipy.special.logsumexp(evidences)
    np.testing.assert_allclose(got, log_evidence, rtol=1e-10)
    np.testing.assert_allclose(posterior.log_weights, evidences - log_evidence, atol=1e-9)
    np.testing.assert_allclose(posterior.means.reshape(K, D), means, atol=1e-10)
    np.testing.assert_allclose(each_covariance(posterior), covariances, atol=1e-10)
    basis = np.asarray(posterior.covariances.basis)
    np.testing.assert_allclose(np.linalg.norm(basis, 2, axis=(1, 2)), 1, atol=1e-12)
    if np.linalg.matrix_rank(covariances).min() == D:
        # Bayes: prior times likelihood over evidence is the posterior.
        bayes = log_prior - misfit - got
        np.testing.assert_allclose(log_density, bayes, rtol=1e-9)
    return posterior


SOLVED = [(name, "few rows") for name in PRIORS] + [(name, "many rows") for name in ("full", "singular", "variances")]
FAST = [("singular", "few rows"), ("full", "many rows")]


@x64
@pytest.mark.parametrize(("name", "rows"), cases(SOLVED, *FAST))
def test_posterior_and_evidence(name, rows):
    prior, covariances, rank = make(name), PRIORS[name][1], PRIORS[name][2]
    matrix = MATRICES[rows]
    y = 3 * RNG.normal(size=len(matrix))
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(0.3))
    expected = dense_posterior(covariances, matrix, y, 0.09 * np.eye(len(y)))
    posterior = assert_posterior(prior, likelihood, y, expected)
    assert posterior.covariances.basis.shape[2] == min(D, rank + len(matrix))
    assert len(posterior.covariances.basis) == (1 if "one" in name or name == "variances" else K)


@x64
@pytest.mark.parametrize(
    ("name", "correlated"), cases([("full", 0), ("low rank", 1), ("one variance", 1)], ("one variance", 1))
)
def test_masks_and_correlated_noise(name, correlated):
    prior, covariances = make(name), PRIORS[name][1]
    mask = np.array([[1, 0, 1], [0, 0, 1]], bool)
    kept = np.eye(D)[mask.ravel()]
    factor = np.tril(RNG.normal(size=(D, D))) / 5 + np.eye(D) if correlated else 0.4 * np.eye(D)
    model = noise.CorrelatedGaussian(factor) if correlated else noise.Gaussian(0.4)
    y = RNG.normal(size=SHAPE)
    expected = dense_posterior(covariances, kept, y[mask], kept @ factor @ factor.T @ kept.T)
    # What is not measured may hold anything.
    assert_posterior(prior, Likelihood(operators.Mask(mask), model), np.where(mask, y, np.nan), expected)


@x64
@pytest.mark.slow
def test_a_complex_measurement_of_a_real_image():
    mask = np.array([[1, 0, 1], [1, 1, 0]], bool)[..., None]
    prior = oracles.GaussianMixture(WEIGHTS, MEANS[..., None], ISOTROPIC)
    operator = operators.MaskedFourier(mask) @ operators.Real((*SHAPE, 1))
    matrix = np.stack([np.asarray(operator(e.reshape(*SHAPE, 1))).ravel() for e in np.eye(D)], axis=1)[mask.ravel()]
    y = RNG.normal(size=mask.shape) + 1j * RNG.normal(size=mask.shape)
    rows, b = np.concatenate([matrix.real, matrix.imag]), np.concatenate([y[mask].real, y[mask].imag])
    expected = dense_posterior(PRIORS["variances"][1], rows, b, 0.09 * np.eye(len(b)))
    assert_posterior(prior, Likelihood(operator, noise.Gaussian(0.3)), y, expected)


@x64
@pytest.mark.slow
def test_two_measurements_one_after_the_other():
    for name in ("singular", "variances"):
        prior = make(name)
        parts = [Likelihood(operators.Matrix(m, SHAPE), noise.Gaussian(0.3)) for m in MATRICES.values()]
        data = [RNG.normal(size=2), RNG.normal(size=9)]
        first = prior.posterior(parts[0], data[0])
        in_turn = first.posterior(parts[1], data[1])
        both = Likelihood(operators.stack([part.operator for part in parts]), noise.Gaussian(0.3))
        at_once = prior.posterior(both, tuple(data))
        np.testing.assert_allclose(in_turn.log_weights, at_once.log_weights, atol=1e-8)
        np.testing.assert_allclose(in_turn.means, at_once.means, atol=1e-9)
        np.testing.assert_allclose(each_covariance(in_turn), each_covariance(at_once), atol=1e-9)
        chain = prior.evidence(parts[0], data[0]) + first.evidence(parts[1], data[1])
        np.testing.assert_allclose(chain, prior.evidence(both, tuple(data)), rtol=1e-9)


def mixture_problem(d, rows, dtype):
    """A problem of the protocol of MCGdiff."""
    rng = np.random.default_rng(1000 * d + 10 * rows)
    centres = np.asarray(list(itertools.product((-16.0, -8.0, 0.0, 8.0, 16.0), repeat=2)))
    means = np.tile(centres, (1, d // 2))
    weights = rng.normal(size=25) ** 2
    turns = np.linalg.svd(rng.normal(size=(rows, rows)))[0], np.linalg.qr(rng.normal(size=(d, rows)))[0]
    matrix = turns[0] @ (np.sort(rng.uniform(size=rows))[::-1][:, None] * turns[1].T)
    std = rng.uniform() * np.linalg.norm(matrix, 2)
    y = matrix @ (means[rng.choice(25, p=weights / weights.sum())] + rng.normal(size=d)) + std * rng.normal(size=rows)
    cast = lambda v: np.asarray(v, dtype)
    prior = oracles.GaussianMixture(cast(weights / weights.sum()), cast(means), 1.0)
    likelihood = Likelihood(operators.Matrix(cast(matrix), (d,)), noise.Gaussian(cast(std)))
    return prior, likelihood, cast(y), (weights / weights.sum(), means, matrix, std)


@x64
@pytest.mark.parametrize("rows", cases([1, 4], 4))
def test_the_protocol_of_the_reference(rows):
    prior, likelihood, y, (weights, means, matrix, std) = mixture_problem(80, rows, np.float64)
    posterior = jax.jit(lambda prior, y: prior.posterior(likelihood, y))(prior, y)
    total = matrix @ matrix.T + std**2 * np.eye(rows)
    residuals = y - means @ matrix.T
    np.testing.assert_allclose(posterior.means, means + residuals @ np.linalg.solve(total, matrix), atol=1e-10)
    logs = np.log(weights) - 0.5 * np.einsum("ki,ij,kj->k", residuals, np.linalg.inv(total), residuals)
    np.testing.assert_allclose(posterior.weights, scipy.special.softmax(logs), atol=1e-10)
    within = np.linalg.inv(np.eye(80) + matrix.T @ matrix / std**2)
    np.testing.assert_allclose(posterior.covariances.weighted_sum(posterior.weights), within, atol=1e-10)
    assert posterior.covariances.basis.shape == (1, 80, rows)


def test_float32_in_many_dimensions():
    def answers(dtype):
        prior, likelihood, y, (_, means, _, _) = mixture_problem(800, 4, dtype)
        ts = np.array([0.05, 0.5, 1.5], dtype)
        x = np.cos(ts)[:, None] * means[[3, 12, 20]]
        x = (x + np.sin(ts)[:, None] * np.random.default_rng(0).normal(size=(3, 800))).astype(dtype)

        @jax.jit
        def solve(ts, x):
            posterior = prior.posterior(likelihood, y)
            functions = posterior.score(Cosine()), posterior.denoiser(Cosine())
            return posterior, [jax.vmap(f)(ts, x) for f in functions]

        return solve(ts, x)

    with jax.enable_x64(True):
        exact, expected = answers(np.float64)
    rough, got = answers(np.float32)
    assert rough.means.dtype == got[0].dtype == np.float32
    np.testing.assert_allclose(rough.means, exact.means, atol=1e-4)
    # Weights are of squared residuals of some hundred over a variance, of 6e-8 each.
    np.testing.assert_allclose(rough.weights, exact.weights, atol=2e-3)
    for a, b in zip(got, expected, strict=True):
        # Entries of 16 are rounded to 1e-6, and noise of .05 divides the score's by .0025.
        np.testing.assert_allclose(a, b, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", cases(["full", "variances", "low rank, one for all"], "low rank, one for all"))
def test_samples(name, key):
    with jax.enable_x64(True):
        law = jax.jit(lambda prior: (prior.mean, prior.covariance, prior.variance))
        mean, covariance, variance = (np.asarray(v) for v in law(make(name)))
    flat = MEANS.reshape(K, D) - WEIGHTS @ MEANS.reshape(K, D)
    dense = np.einsum("k,kde->de", WEIGHTS, PRIORS[name][1]) + flat.T @ (WEIGHTS[:, None] * flat)
    np.testing.assert_allclose(covariance, dense, atol=1e-12)
    np.testing.assert_allclose(variance.ravel(), np.diag(dense), atol=1e-12)
    prior = make(name, np.float32)
    n = 10_000
    draws = np.asarray(jax.jit(lambda prior: prior.sample(n, key=key))(prior))
    # The same numbers, but for rounding: another program makes them.
    np.testing.assert_allclose(jax.jit(lambda prior: prior.sample(3, key=key))(prior), draws[:3], rtol=1e-6)
    draws = draws.reshape(n, D) - mean.ravel()
    squares = (draws[:, :, None] * draws[:, None, :]).reshape(n, -1)
    # 6 means and 21 covariances, each within 4.5 standard errors, as the draws estimate them.
    assert np.all(np.abs(draws.mean(0)) < 4.5 * draws.std(0) / n**0.5)
    assert np.all(np.abs(squares.mean(0) - covariance.ravel()) < 4.5 * squares.std(0) / n**0.5)


@pytest.mark.slow
def test_log_prob_of_draws_of_a_singular_mixture_is_finite_in_float32(key):
    prior = make("singular", np.float32)
    assert np.isfinite(jax.vmap(prior.log_prob)(prior.sample(50, key=key))).all()


def test_samples_share_out_by_the_weights(key):
    prior = oracles.GaussianMixture(WEIGHTS, 100 * MEANS, 0.01)
    draws = np.asarray(jax.jit(lambda prior: prior.sample(4000, key=key))(prior)).reshape(4000, 1, D)
    counts = np.bincount(np.sum((draws - 100 * MEANS.reshape(1, K, D)) ** 2, axis=2).argmin(1), minlength=K)
    assert scipy.stats.chisquare(counts, 4000 * WEIGHTS).pvalue > 1e-4


@pytest.mark.parametrize("name", cases(["flat tail", "variances"], "variances"))
def test_far_away_and_without_weight(name):
    given, covariances, _ = PRIORS[name]
    weights = np.array([0.5, 0.0, 0.2, 0.3], np.float32)
    prior = oracles.GaussianMixture(weights, MEANS.astype(np.float32), np.asarray(given, np.float32))

    def answers(x):
        functions = [f(0.5, x) for f in (score, denoise)], prior.noised(Cosine(), 0.5).responsibilities(x)
        direct = lambda f: jax.jvp(lambda x: f(0.5, x), (x,), (x / x[0, 0],))[1]
        return functions, direct(score), direct(denoise)

    score, denoise = prior.score(Cosine()), prior.denoiser(Cosine())
    direction = np.linspace(-1, 1, D).reshape(SHAPE)
    sizes = np.array([1e2, 1e4, 1e10, 1e30], np.float32)
    x = sizes[:, None, None] * direction.astype(np.float32)[None]
    slope = jax.grad(lambda x: jnp.sum(score(0.5, x)))
    finite, log_densities = jax.jit(jax.vmap(lambda x: ((answers(x), slope(x)), prior.log_prob(x))))(x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(finite))
    assert not np.isnan(log_densities).any()
    if name == "variances":
        # The component that is left: which one, is told by differences that are small beside the distance.
        x = (1e4 * direction).astype(np.float32)
        scale, std = np.cos(0.5), np.sin(0.5)
        totals = scale**2 * np.array([c[0, 0] for c in covariances]) + std**2
        steps = x.astype(float) - scale * MEANS
        with np.errstate(divide="ignore"):
            logs = np.log(weights) - 0.5 * D * np.log(totals) - 0.5 * np.sum(steps**2, axis=(1, 2)) / totals
        shares = scipy.special.softmax(logs) / totals
        np.testing.assert_allclose(finite[0][0][0][0][1], -np.einsum("k,kij->ij", shares, steps), rtol=1e-4)
    loss = lambda w: jnp.sum(oracles.GaussianMixture(w, prior.means, prior.covariances).score(Cosine())(0.5, MEANS[1]))
    assert np.isfinite(jax.jit(jax.grad(loss))(weights)).all()


@x64
@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "one variance"])
def test_vmap_equals_loop_in_one_trace(name):
    prior = make(name)
    matrices = RNG.normal(size=(3, 2, D))
    data, stds = RNG.normal(size=(3, 2)), np.array([0.2, 0.5, 1.0])
    traces = []

    def solve(prior, matrix, y, std):
        traces.append(None)
        posterior = prior.posterior(Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std)), y)
        x = posterior.sample(2, key=jax.random.key(0))
        return posterior.weights, posterior.means, x, posterior.score(Cosine())(0.4, x[0])

    priors = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.9, leaf * 0.8]), prior)
    together = jax.jit(jax.vmap(solve))(priors, matrices, data, stds)
    single = jax.jit(solve)
    for i in range(3):
        alone = single(jax.tree.map(lambda leaf, i=i: leaf[i], priors), matrices[i], data[i], stds[i])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-10)
    assert len(traces) == 2


def test_a_measurement_that_is_not_finite():
    prior = make("one variance", np.float32)
    likelihood = Likelihood(operators.Matrix(MATRICES["few rows"].astype(np.float32), SHAPE), noise.Gaussian(0.3))
    y = np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32)
    both = lambda y: (prior.posterior(likelihood, y), prior.evidence(likelihood, y))
    posterior, evidence = jax.jit(jax.vmap(both))(y)
    assert np.isfinite(posterior.mean[0]).all()
    assert np.isnan(posterior.mean[1]).all()
    assert np.isnan(posterior.weights[1]).all()
    np.testing.assert_array_equal(np.isnan(evidence), [False, True])


@x64
def test_the_evidence_has_a_gradient():
    # Also where a row is not measured, or there twice: a basis of the rows has no derivative there.
    matrix = np.stack([MATRICES["few rows"][0]] * 2 + [np.zeros(D)])
    prior = make("variances")
    loss = lambda log_std: prior.evidence(
        Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(jnp.exp(log_std))), np.array([0.3, 0.1, 0.2])
    )
    both = jax.jit(jax.value_and_grad(loss))
    difference = (both(0.1 + 1e-5)[0] - both(0.1 - 1e-5)[0]) / 2e-5
    np.testing.assert_allclose(both(0.1)[1], difference, rtol=1e-7)


def bad(match, weights=WEIGHTS, means=MEANS, covariances=1.0):
    return pytest.param(weights, means, covariances, match, id=match)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "match"),
    [
        bad(r"sum to 0\.9\.", weights=0.9 * WEIGHTS),
        bad("not negative; the least is -0.5", weights=[0.5, 0.5, 0.5, -0.5]),
        bad("not negative; the least is nan", weights=[0.5, 0.5, 0.5, np.nan]),
        bad(r"\(3,\) and \(4, 2, 3\), with covariances of shape \(\)", weights=np.ones(3) / 3),
        bad(r"\(4,\) and \(4,\)", means=np.ones(4)),
        bad(r"\(4, 6, 6\).*shape \(4, 2, 3\)", covariances=MEANS),
        bad(r"`covariances\[2\]` is not symmetric", covariances=FULL + np.eye(4)[2][:, None, None] * np.triu(FULL)),
        bad(r"`covariances\[1\]` is not positive", covariances=FULL - 9 * np.eye(4)[1][:, None, None] * np.eye(D)),
        bad("`covariances` is not positive", covariances=-np.eye(D)),
        bad("negative or not finite", covariances=-1.0),
        bad("4 components", covariances=lambda: oracles.LowRank(BASES[:3], VARIANCES[:3], REST[:3])),
        bad("real images", means=1j * MEANS),
    ],
)
def test_bad_input(weights, means, covariances, match):
    with pytest.raises(ValueError, match=match):
        oracles.GaussianMixture(weights, means, covariances() if callable(covariances) else covariances)


def test_bad_low_rank():
    with pytest.raises(ValueError, match="orthonormal"):
        oracles.LowRank(2 * BASES, VARIANCES, REST)
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        oracles.LowRank(BASES, np.ones((4, 3)), REST)
    with pytest.raises(ValueError, match="`variances` must be"):
        oracles.LowRank(BASES, -VARIANCES, REST)


def test_bad_calls(key):
    prior = make("one variance", np.float32)
    with pytest.raises(ValueError, match=r"images of shape \(2, 3\); got an image of shape \(6,\)"):
        prior.score(Cosine())(0.5, np.ones(6, np.float32))
    with pytest.raises(ValueError, match="vmap"):
        prior.log_prob(np.ones((5, *SHAPE), np.float32))
    with pytest.raises(ValueError, match="`n`"):
        prior.sample(0, key=key)
    with pytest.raises(ValueError, match="Gaussian noise only; got Poisson"):
        prior.posterior(Likelihood(operators.Identity(SHAPE), noise.Poisson()), np.ones(SHAPE, np.float32))
    magnitude = Likelihood(operators.Magnitude(operators.Identity(SHAPE)), noise.Gaussian(1.0))
    with pytest.raises(ValueError, match="linear operator"):
        prior.evidence(magnitude, np.ones(SHAPE, np.float32))
    with pytest.raises(ValueError, match=r"takes images of shape \(6,\)"):
        prior.posterior(Likelihood(operators.Identity((6,)), noise.Gaussian(1.0)), np.ones(6, np.float32))
