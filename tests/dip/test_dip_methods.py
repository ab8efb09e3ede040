"""Splitting, self-guidance, pretraining, many problems at once, and uncertainty."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dip_problems import BASIS, KEY, MATRIX, SHAPE, STD, Wave, Y, compressed, linear, pixels
from flax import nnx

from jaxinv import Likelihood, dip, models, noise, operators, regularisers
from jaxinv.dip._pretrain import _Ellipses


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
def test_admm_minimises_the_objective():
    """With a network that makes any image the problem is convex, and soft thresholding solves it."""
    y = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE))
    weight = 0.4
    solution = dip.reconstruct(
        pixels(),
        Wave(jnp.zeros(SHAPE)),
        y,
        key=KEY,
        start=dip.From(jnp.full(SHAPE, jnp.pi / 2)),
        method=dip.ADMM(1.0, every=20),
        regulariser=regularisers.L1(),
        weight=weight,
        optimiser=optax.sgd(0.4),
        num_steps=1200,
    ).check()
    # 60 updates, each of which contracts by about 1/2.
    np.testing.assert_allclose(solution.value, np.sign(y) * np.maximum(np.abs(y) - weight, 0), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_self_guided_step_by_hand():
    """One step of gradient descent, on weights and input, of the loss written out."""
    z, theta, y, rate, alpha, level = 0.7, 1.3, 2.0, 0.05, 3.0, 0.5
    shape = (1, 1, 1)
    method = dip.SelfGuided(alpha, level, num_samples=3)
    likelihood = Likelihood(operators.Identity(shape), noise.Gaussian(1.0))
    solution = dip.reconstruct(
        likelihood,
        Wave(jnp.full(shape, theta)),
        jnp.full(shape, y),
        key=KEY,
        start=dip.From(jnp.full(shape, z)),
        method=method,
        optimiser=optax.sgd(rate),
        num_steps=1,
    ).check()
    draws = lambda k: jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, 2), k), (3, *shape))

    def image(theta, z, k):
        return jnp.mean(theta * jnp.sin(z + level * jax.lax.stop_gradient(jnp.abs(z)) * draws(k)))

    loss = lambda theta, z: 0.5 * (image(theta, z, 0) - y) ** 2 + 0.5 * alpha * (image(theta, z, 0) - z) ** 2
    by_theta, by_z = jax.grad(loss, (0, 1))(theta, z)
    expected = image(theta - rate * by_theta, z - rate * by_z, 1)
    np.testing.assert_allclose(solution.value.ravel(), [expected], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_linearised_posterior_of_a_linear_network_is_exact():
    std, count = 0.7, 4000
    solution = dip.linearised_posterior(
        compressed(),
        linear(0.3),
        Y,
        key=KEY,
        z0=jnp.zeros(SHAPE),
        prior_std=std,
        num_samples=count,
        exact_std=True,
        frozen=("basis",),
        rtol=1e-10,
    ).check()
    prior = std**2 * BASIS @ BASIS.T
    gain = prior @ MATRIX.T @ np.linalg.inv(MATRIX @ prior @ MATRIX.T + STD**2 * np.eye(8))
    covariance = prior - gain @ MATRIX @ prior
    np.testing.assert_allclose(solution.aux["mean"].ravel(), gain @ Y, atol=1e-8)
    np.testing.assert_allclose(solution.stats["std"].ravel(), np.sqrt(np.diag(covariance)), atol=1e-8)
    np.testing.assert_allclose(solution.aux["image"].ravel(), BASIS @ np.full(5, 0.3), atol=1e-12)
    draws = np.asarray(solution.value).reshape(count, -1) - BASIS @ np.full(5, 0.3)
    # 4000 draws: entries of a sample covariance are known to sqrt(2 / 4000), 2.2 %, of the largest variance.
    error = np.abs(draws.T @ draws / count - covariance).max() / np.diag(covariance).max()
    assert error < 5 * np.sqrt(2 / count)
    few = dip.linearised_posterior(
        compressed(), linear(0.3), Y, key=KEY, z0=jnp.zeros(SHAPE), prior_std=std, num_samples=3, frozen=("basis",)
    )
    np.testing.assert_allclose(few.value, solution.value[:3], atol=1e-3)


@pytest.mark.usefixtures("x64")
def test_many_together_and_one_after_the_other():
    likelihood, network = pixels(0.2), Wave(jnp.ones(SHAPE))
    y = jnp.asarray(np.random.default_rng(0).uniform(size=(3, *SHAPE)))
    start = dip.From(jnp.ones(SHAPE))
    options = {"num_steps": 30, "stopping": dip.Discrepancy(), "jitter": 0.1, "learning_rate": 0.05, "start": start}
    many = lambda **how: dip.reconstruct_many(likelihood, network, y, key=KEY, **options, **how)
    together, apart, chosen = many(together=True), many(together=False), many()
    for i in range(3):
        alone = dip.reconstruct(likelihood, network, y[i], key=jax.random.fold_in(KEY, i), **options)
        for solution in (together, apart):
            np.testing.assert_allclose(solution.value[i], alone.value, atol=1e-10)
            assert int(solution.stats["num_steps"][i]) == int(alone.stats["num_steps"])
    assert len(set(np.asarray(together.stats["num_steps"]).tolist())) > 1
    np.testing.assert_allclose(chosen.value, together.value, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"in_axes": (0, None)}, "in_axes"),
        ({"in_axes": (None, None, None)}, "num_problems"),
        ({"num_problems": 3}, r"\[2, 3\]"),
    ],
)
def test_bad_numbers_of_problems(options, match):
    with pytest.raises(ValueError, match=match):
        dip.reconstruct_many(pixels(), Wave(jnp.ones(SHAPE)), jnp.ones((2, *SHAPE)), key=KEY, num_steps=1, **options)


@pytest.mark.slow
def test_pretraining_saves_steps():
    """A network that has seen ellipses fits another phantom in fewer steps; the file of a run is the run."""
    shape = (16, 14, 1)
    operator = operators.ParallelBeam(shape, jnp.linspace(0, jnp.pi, 10, endpoint=False))
    likelihood = Likelihood(operator, noise.Gaussian(0.1))
    network = models.SkipUNet(shape, scales=1, channels=8, rngs=nnx.Rngs(0))
    trained, history = dip.pretrain(likelihood, network, key=KEY, num_steps=100, batch_size=4)
    assert history["loss"][-20:].mean() < 0.6 * history["loss"][:5].mean()
    x = _Ellipses(shape)(1, key=jax.random.key(9))[0]
    y = likelihood.simulate(x, key=jax.random.key(1))
    options = {"key": KEY, "num_steps": 5, "start": dip.FromFBP(), "learning_rate": 1e-4, "reference": x}
    quality = [
        float(dip.reconstruct(likelihood, each, y, **options).stats["history"]["psnr"][-1])
        for each in (network, trained)
    ]
    assert quality[1] > quality[0] + 3


def test_pretraining_checks_its_images():
    likelihood = Likelihood(operators.Identity((4, 4, 1)), noise.Gaussian(0.1))
    network = models.SkipUNet((4, 4, 1), scales=1, channels=2, rngs=nnx.Rngs(0))
    options = {"key": KEY, "num_steps": 1}
    with pytest.raises(ValueError, match=r"\(4, 4, 4, 1\).*\(4, 5, 5, 1\)"):
        dip.pretrain(likelihood, network, images=lambda n, *, key: jnp.ones((n, 5, 5, 1)), **options)
    with pytest.raises(ValueError, match=r"FromFBP\(\)"):
        dip.pretrain(likelihood, network, start="fbp", **options)


class Killed(diffrax.AbstractProgressMeter):
    """Kills the run at a tick."""

    ticks: list = eqx.field(static=True)
    last: int = eqx.field(static=True)

    def init(self):
        return jnp.zeros(())

    def step(self, state, progress):
        self.ticks.append(float(progress))
        if len(self.ticks) == self.last:
            raise KeyboardInterrupt
        return state

    def close(self, state):
        del state


def test_a_full_disk_does_not_lose_the_image(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    options = {"key": KEY, "num_steps": 4, "chunk_size": 2, "checkpoint": tmp_path / "run"}
    with pytest.warns(UserWarning, match=r"cannot write .*run: No space left.*goes on"):
        found = dip.resume(pixels(), Wave(jnp.ones(SHAPE)), jnp.ones(SHAPE), **options)
    assert int(found.stats["num_steps"]) == 4
    assert np.isfinite(found.check().value).all()
    assert not list(tmp_path.iterdir())


RESUMED = {
    "plain": {"jitter": 0.3, "ema": 0.5, "stopping": dip.WindowedVariance(3, 50)},
    "ADMM": {"method": dip.ADMM(1.0, every=2), "regulariser": regularisers.TV(), "weight": 0.1, "ema": 0.1},
    "held out": {"stopping": dip.HeldOut(0.3, 50), "jitter": 0.1, "ema": 0.1},
    "self-guided": {"method": dip.SelfGuided(), "ema": 0.1},
}


@pytest.mark.parametrize("case", ["plain", *(pytest.param(c, marks=pytest.mark.slow) for c in list(RESUMED)[1:])])
def test_a_killed_run_resumes_bit_for_bit(case, tmp_path):
    network, y = Wave(jnp.ones(SHAPE)), jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32)

    def run(name, likelihood=None, **options):
        options = {**RESUMED[case], **options}
        given = {"key": KEY, "num_steps": 11, "chunk_size": 3, "checkpoint": tmp_path / name}
        return dip.resume(likelihood or pixels(), network, y, **given, **options)

    whole = run("whole")
    for last in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(f"killed{last}", progress=Killed([], last))
        meter = Killed([], 99)
        resumed = run(f"killed{last}", progress=meter)
        # It went on from where the file was: after 3 or 9 of 11 steps at the latest.
        assert meter.ticks[0] > 3 / 11 + 1e-6
        jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    # And again, from the end.
    jax.tree.map(np.testing.assert_array_equal, run("whole"), whole)
    once = dip.reconstruct(pixels(), network, y, key=KEY, num_steps=11, **RESUMED[case])
    # Another program: to rounding in float32.
    np.testing.assert_allclose(whole.value, once.value, atol=1e-5)
    assert int(whole.stats["num_steps"]) == int(once.stats["num_steps"]) == 11
    with pytest.raises(ValueError, match="another run: its ema is"):
        run("whole", ema=0.6)
    with pytest.raises(ValueError, match="another run: its problem is"):
        run("whole", pixels(2.0))
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(ValueError, match="text"):
        run("text")
