"""Conversions between parametrisations, and the training loss, on the exact network of a Gaussian."""

import copy

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noising import COVARIANCE, MEAN, PROCESSES, VARIANCES, gaussian

from jaxinv import Likelihood, diffusion, noise, operators

PARAMETRISATIONS = {
    "Noise": diffusion.Noise(),
    "Score": diffusion.Score(),
    "Velocity": diffusion.Velocity(),
    "Denoiser": diffusion.Denoiser(),
}
WEIGHTINGS = {
    "NoiseWeighting": (diffusion.NoiseWeighting(), lambda scale, std, f, g: 1 + 0 * scale),
    "LikelihoodWeighting": (diffusion.LikelihoodWeighting(), lambda scale, std, f, g: (g / std) ** 2),
    # d std/dt - std d log scale/dt, where d std^2/dt = 2 f std^2 + g^2.
    "VelocityWeighting": (diffusion.VelocityWeighting(), lambda scale, std, f, g: (g**2 / (2 * std)) ** 2),
}
IMAGE = np.array([0.4, -1.3, 0.8])


def slow_but(*fast):
    """The names of the processes, all but a few marked slow: what is mapped or compiled costs seconds."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in PROCESSES]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def exact(scale, std, f, g, x):
    """Score, denoiser, noise, velocity at `x`, from the density of `x_t`."""
    scale, std, f, g = (np.asarray(v, np.float64) for v in (scale, std, f, g))
    covariance = scale**2 * COVARIANCE + std**2 * np.eye(3)
    score = -np.linalg.solve(covariance, x - scale * MEAN)
    # Not by Tweedie's formula, which is what the conversions use: by the law of x_0 given x_t.
    denoiser = MEAN + scale * COVARIANCE @ np.linalg.solve(covariance, x - scale * MEAN)
    return {"Score": score, "Denoiser": denoiser, "Noise": -std * score, "Velocity": f * x - g**2 / 2 * score}


def says(process, t, x):
    """`exact`, at what the process says of this time."""
    scale, std = process.marginal(t)
    return exact(scale, std, process.drift(t, jnp.ones(())), process.diffusion(t), x)


def converted(score, t, x):
    return {"Score": score(t, x), "Denoiser": score.denoiser(t, x), "Noise": score.noise(t, x)} | {
        "Velocity": score.velocity(t, x)
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", slow_but("VP", "FlowMatching"))
def test_conversions(name, dtype):
    with jax.enable_x64(True):
        process = jax.tree.map(lambda leaf: leaf.astype(dtype), PROCESSES[name].make())
        double = jax.tree.map(lambda leaf: leaf.astype("float64"), process)
        for t in (process.t_min, jnp.asarray(0.5, dtype), process.t_max):
            moment = t.astype("float64")
            scale, std = map(float, double.marginal(moment))
            # A state that the process does reach, and the truth at that state after rounding.
            x = jnp.asarray(scale * IMAGE + 0.7 * std, dtype)
            truth = says(double, moment, np.asarray(x, np.float64))
            rates = tuple(map(float, double.rates(moment)))
            for parametrisation in PARAMETRISATIONS:
                bounds = rounding(parametrisation, truth, scale, std, *rates, np.max(abs(x)))
                network = lambda x, t, output=truth[parametrisation]: jnp.asarray(output, dtype)[None]
                score = diffusion.score_from(network, process, PARAMETRISATIONS[parametrisation])
                for what, value in converted(score, t, x).items():
                    assert value.dtype == dtype
                    # A few dozen operations, rounded; `exp(17)` in VE costs that many by itself.
                    tolerance = 40 * np.finfo(dtype).eps * bounds[what]
                    np.testing.assert_allclose(
                        value, truth[what], rtol=0, atol=tolerance, err_msg=f"{parametrisation} to {what} at {t}"
                    )
                    assert dtype == "float32" or tolerance < 1e-10 * max(np.max(abs(truth[what])), bounds["floor"])


def rounding(source, truth, scale, std, scale_rate, std_rate, size):
    """How much rounding of one unit can change each quantity, given the one that the network predicts.

    Of `x = scale x_0 + std n`, what one part says of the other is amplified by one over the factor of the other; the
    velocity tells both.
    """
    largest = {what: np.max(abs(value)) for what, value in truth.items()}
    noise = {"Denoiser": size / std, "Velocity": size}.get(source, largest["Noise"])
    image = largest["Denoiser"] if source == "Denoiser" else size / scale
    # The reference takes the drift and half of `g^2` times the score, which cancel where there is only noise.
    velocity = abs(scale_rate) * (image + size / scale) + abs(std_rate) * noise
    bounds = {"Denoiser": image, "Noise": noise, "Score": noise / std, "Velocity": velocity}
    # Where less than a fiftieth of a part is left, fewer digits of it are known.
    return bounds | {"floor": np.inf if min(scale, std) < 0.02 else 0.0}


class Predicting(diffusion.AbstractScore):
    """A user's score, of which only the two members that are abstract are defined: that of the Gaussian."""

    process: diffusion.AbstractProcess

    def predict(self, t, x):
        exact = gaussian(x.dtype).score(self.process)
        return exact.denoiser(t, x), exact.noise(t, x)


class Shifted(diffusion.AbstractScore):
    """A user's score around another one, whose process it finds there."""

    inner: diffusion.AbstractScore
    shift: jax.Array

    @property
    def process(self):
        return self.inner.process

    def predict(self, t, x):
        image, noise = self.inner.predict(t, x)
        scale, std = self.process.marginal(t)
        return image + self.shift.astype(x.dtype), noise - scale / std * self.shift.astype(x.dtype)


SCORES = {
    "function": lambda process: diffusion.Score(gaussian().score(process).__call__, process),
    "module": lambda process: diffusion.Score(gaussian().score(process), process),
    "partial": lambda process: diffusion.Score(jax.tree_util.Partial(gaussian().score(process)), process),
    "subclass": Predicting,
    "wrapper": lambda process: Shifted(gaussian().score(process), jnp.zeros(3)),
    "network": lambda process: diffusion.score_from(
        lambda x, t: jax.vmap(gaussian().score(process).denoiser)(t, x), process, diffusion.Denoiser()
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("process", slow_but("VP", "FlowMatching"))
@pytest.mark.parametrize("name", SCORES)
def test_scores_of_every_kind_agree(name, process):
    process = PROCESSES[process].make()
    score, own, x = SCORES[name](process), gaussian().score(process), jnp.asarray(IMAGE)
    assert isinstance(score, diffusion.AbstractScore)
    for t in (0.1, 0.9):
        truth = says(process, t, IMAGE)
        pairs = {"Score": score.score_and_image(t, x), "Velocity": score.velocity_and_image(t, x)}
        for kind in (score, own):
            for what, value in converted(kind, t, x).items():
                np.testing.assert_allclose(value, truth[what], rtol=1e-8, atol=1e-10, err_msg=what)
        for what, (value, image) in pairs.items():
            np.testing.assert_allclose(value, truth[what], rtol=1e-8, atol=1e-10, err_msg=what)
            np.testing.assert_allclose(image, truth["Denoiser"], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(jax.jit(score)(t, x), truth["Score"], rtol=1e-8, atol=1e-10)
        assert len(score.predict(t, x)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_verbs_take_scores_of_every_kind(key):
    process = diffusion.VP()
    x, likelihood = jnp.asarray(IMAGE), Likelihood(operators.Identity((3,)), noise.Gaussian(0.5))

    def answers(score):
        method = diffusion.ProbabilityFlow(num_steps=4)
        return {
            "sample": diffusion.sample(score, (3,), key=key, method=diffusion.DDIM(4), num_samples=2).check().value,
            "encode": diffusion.encode(score, x, method=method).check().value,
            "decode": diffusion.decode(score, x, method=method).check().value,
            "log_prob": diffusion.log_prob(score, x, method=method),
            "posterior_sample": diffusion.posterior_sample(
                likelihood, score, x, key=key, method=diffusion.DPS(4)
            ).value,
            "prior": diffusion.ProbabilityFlowPrior(score, (3,), method).decode(x),
        }

    expected = answers(gaussian().score(process))
    for name in ("subclass", "function", "wrapper"):
        for verb, value in answers(SCORES[name](process)).items():
            np.testing.assert_allclose(value, expected[verb], rtol=1e-8, err_msg=f"{name}, {verb}")


@pytest.mark.parametrize("name", SCORES)
def test_the_process_of_a_score_takes_the_dtype_of_the_verb(name, key):
    with jax.enable_x64(True):
        score = SCORES[name](diffusion.VP())
        assert score.process.beta_max.dtype == jnp.float64
        struct = jax.ShapeDtypeStruct((3,), jnp.float32)
        draw = lambda key: diffusion.sample(score, struct, key=key, method=diffusion.DDIM(4), num_saved=2)
        assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(draw, key).aux)} == {jnp.dtype("float32")}


def test_score_is_a_parametrisation_without_arguments():
    process, network = diffusion.VP(), lambda x, t: -x
    assert isinstance(diffusion.Score(), diffusion.AbstractParametrisation)
    score = diffusion.Score(lambda t, x: -x, process)
    assert isinstance(score, diffusion.AbstractScore)
    assert isinstance(copy.deepcopy(score), diffusion.AbstractScore)
    learned = diffusion.score_from(network, process, diffusion.Score())
    np.testing.assert_allclose(learned(0.5, jnp.ones(3)), score(0.5, jnp.ones(3)), rtol=1e-6)
    np.testing.assert_allclose(learned.denoiser(0.5, jnp.ones(3)), score.denoiser(0.5, jnp.ones(3)), rtol=1e-5)


def test_a_velocity_is_finite_where_drift_and_diffusion_are_not():
    # The prediction has the velocity of the straight path, which at its noise end is n - x_0.
    process = eqx.tree_at(lambda p: p.t_max, diffusion.FlowMatching(), jnp.asarray(1.0))
    assert not np.isfinite(process.diffusion(jnp.ones(())))
    score = diffusion.score_from(lambda x, t: 0.1 * x, process, diffusion.Velocity())
    np.testing.assert_allclose(score.velocity(1.0, jnp.ones(3)), 0.1, rtol=1e-5)
    np.testing.assert_allclose(score.velocity_and_image(1.0, jnp.ones(3))[1], 0.9, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_the_target_is_what_the_network_is_to_learn(name):
    process = PROCESSES[name].make()
    t, image0, noise = 0.3, jnp.asarray(IMAGE), jnp.array([0.1, -2.0, 0.5])
    scale, std = process.marginal(t)
    for kind in PARAMETRISATIONS.values():
        output = kind.target(process, t, image0, noise)
        image, estimate = kind.split(process, t, scale * image0 + std * noise, output)
        # In single precision.
        np.testing.assert_allclose(image, IMAGE, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(estimate, noise, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_score_is_a_pytree_that_maps(key):
    process = jax.vmap(diffusion.VP)(jnp.array([0.1, 0.2]))
    weights = jax.random.normal(key, (2, 3))
    call = lambda weights, x, t: weights[None] * x
    scores = jax.vmap(lambda w, p: diffusion.score_from(jax.tree_util.Partial(call, w), p))(weights, process)
    together = jax.vmap(lambda s: s(0.4, jnp.ones(3)))(scores)
    for i in range(2):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], scores)
        np.testing.assert_allclose(together[i], alone(0.4, jnp.ones(3)), rtol=1e-12)


class Recorder:
    """A network that keeps what it is given, and predicts 0."""

    def __call__(self, x, t):
        self.x, self.t = x, t
        return jnp.zeros_like(x)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("name", slow_but("VP"))
def test_weightings(name, weighting, key):
    row, (kind, weight) = PROCESSES[name], WEIGHTINGS[weighting]
    batch = np.random.default_rng(0).normal(size=(8, 2, 2, 1))
    network, loss = Recorder(), diffusion.score_matching_loss(row.make(), kind, t_min=1e-2)
    got = loss(network, batch, key=key)
    t = np.asarray(network.t)
    # One time in each eighth of the interval.
    np.testing.assert_array_equal(np.floor(8 * (t - 1e-2) / (row.interval[1] - 1e-2)), np.arange(8))
    scale, std, f, g = row.formula(t)
    column = lambda v: v[:, None, None, None]
    noise = (np.asarray(network.x) - column(scale) * batch) / column(std)
    expected = np.mean(weight(scale, std, f, g) * np.mean(noise**2, axis=(1, 2, 3)))
    # VE's marginal subtracts nearly equal numbers in the reference.
    np.testing.assert_allclose(got, expected, rtol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_of_single_precision_stays_single(weighting, key):
    process = diffusion.VP()
    loss = diffusion.score_matching_loss(process, WEIGHTINGS[weighting][0], parametrisation=diffusion.Velocity())
    out = jax.eval_shape(lambda x: loss(lambda x, t: x, x, key=key), jax.ShapeDtypeStruct((4, 3), jnp.float32))
    assert out.dtype == jnp.float32
    assert out.shape == ()


def exact_network(process, parametrisation, offsets):
    """The exact network of the Gaussian, plus a linear function of the state and of the time."""
    denoiser = gaussian().denoiser(process)

    def network(x, t):
        image = jax.vmap(denoiser)(t, x)
        scale, std = (v[:, None] for v in jax.vmap(process.marginal)(t))
        noise = (x - scale * image) / std
        target = jax.vmap(lambda t, x0, n: parametrisation.target(process, t, x0, n))(t, image, noise)
        return target + offsets["state"] * x + offsets["time"] * t[:, None] + offsets["constant"]

    return network


def least(row, weight, t_min):
    """The least loss: the mean over time of the weighted variance of the noise given the state."""
    t = np.linspace(t_min, row.interval[1], 20001)
    scale, std, f, g = row.formula(t)
    remaining = scale[:, None] ** 2 * VARIANCES / (scale[:, None] ** 2 * VARIANCES + std[:, None] ** 2)
    return np.trapezoid(weight(scale, std, f, g) * remaining.mean(1), t) / (t[-1] - t[0])


MINIMA = [
    pytest.param(name, weighting, parametrisation, marks=[] if fast else [pytest.mark.slow])
    for name, weighting, parametrisation, fast in [
        ("VP", "NoiseWeighting", "Noise", True),
        ("VP", "LikelihoodWeighting", "Score", False),
        ("SubVP", "NoiseWeighting", "Denoiser", False),
        ("SubVP", "LikelihoodWeighting", "Noise", False),
        ("VE", "NoiseWeighting", "Denoiser", False),
        ("VE", "LikelihoodWeighting", "Score", False),
        ("FlowMatching", "VelocityWeighting", "Velocity", False),
        ("FlowMatching", "NoiseWeighting", "Noise", False),
    ]
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "weighting", "parametrisation"), MINIMA)
def test_the_exact_network_is_the_minimum(name, weighting, parametrisation):
    row, (kind, weight) = PROCESSES[name], WEIGHTINGS[weighting]
    process, parametrisation = row.make(), PARAMETRISATIONS[parametrisation]
    # The weights grow towards time 0: away from it, so that a mean over draws tells.
    loss = diffusion.score_matching_loss(process, kind, parametrisation=parametrisation, t_min=0.05)

    @jax.jit
    @jax.vmap
    def evaluate(key):
        batch_key, loss_key = jax.random.split(key)
        z = jax.random.normal(batch_key, (200, 3))
        batch = MEAN[None] + jnp.matmul(z, np.linalg.cholesky(COVARIANCE).T, precision="highest")
        value = lambda offsets: loss(exact_network(process, parametrisation, offsets), batch, key=loss_key)
        return jax.value_and_grad(value)(dict.fromkeys(("state", "time", "constant"), jnp.zeros(())))

    values, gradients = evaluate(jax.random.split(jax.random.key(1), 100))
    error = lambda v: np.std(v) / 10
    assert abs(np.mean(values) - least(row, weight, 0.05)) < 4 * error(values)
    for gradient in gradients.values():
        assert abs(np.mean(gradient)) < 4 * error(gradient)
        # A minimum that the test could miss: the draws do vary.
        assert error(gradient) > 0
