"""What is wrong at trace time is a `ValueError` that says what came and what is expected."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import RESULTS, diffusion, models, oracles

KEY = jax.random.key(0)
X = jnp.ones((2, 2, 1))
PROCESS = diffusion.VP()
# Compiled whole: operation by operation they take a second to compile.
ORACLE = jax.jit(lambda: oracles.Gaussian(jnp.zeros((2, 2, 1)), jnp.eye(4)))()
MIXTURE = jax.jit(lambda: oracles.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2, 2, 1)), 1.0))()
NETWORK = jax.eval_shape(lambda: models.UNet((2, 2, 1), widths=(4,), rngs=nnx.Rngs(0)))
LOSS = diffusion.score_matching_loss(PROCESS)


def function(t, x):
    return -x


SCORE = diffusion.Score(function, PROCESS)


def draw(score=SCORE, shape=(2, 2, 1), key=KEY, method=None, **options):
    method = diffusion.DDIM(2) if method is None else method
    if "function" in options:
        score = diffusion.Score(options.pop("function"), PROCESS)
    return diffusion.sample(score, shape, key=key, method=method, **options)


def struct(dtype):
    return jax.ShapeDtypeStruct((2, 2, 1), dtype)


def noised(**options):
    return diffusion.forward(PROCESS, X, **{"key": KEY} | options)


def along(times):
    return diffusion.trajectory(PROCESS, X, times, key=KEY)


def network_score(output=lambda x, t: x, process=PROCESS):
    return diffusion.score_from(output, process)


ROWS = {
    "a score of another shape": (lambda: draw(function=lambda t, x: x[..., 0]), r"\(2, 2, 1\).*\(2, 2\)"),
    "a score of another shape, SDE": (
        lambda: draw(function=lambda t, x: x[None], method=diffusion.ReverseSDE(2)),
        r"\(2, 2, 1\).*\(1, 2, 2, 1\)",
    ),
    "a score that broadcasts": (lambda: draw(function=lambda t, x: t), r"\(2, 2, 1\).*returned \(\)"),
    "a network of another shape": (
        lambda: network_score(lambda x, t: x[..., :0])(0.5, X),
        r"\(1, 2, 2, 1\).*\(1, 2, 2, 0\)",
    ),
    "a loss of another shape": (
        lambda: jax.eval_shape(lambda x: LOSS(lambda x, t: x[:1], x, key=KEY), jnp.ones((2, 2, 2, 1))),
        r"\(2, 2, 2, 1\).*\(1, 2, 2, 1\)",
    ),
    "a network without time": (lambda: network_score(lambda x: x), r"network\(x, t\).*does not take"),
    "a loss of a network without time": (
        lambda: LOSS(lambda x: x, X[None], key=KEY),
        r"network\(x, t\)",
    ),
    "no network": (lambda: network_score(3.0), r"network\(x, t\).*float cannot be called"),
    "no parametrisation": (lambda: diffusion.score_from(lambda x, t: x, PROCESS, "noise"), r"`Noise\(\)`.*'noise'"),
    "no weighting": (lambda: diffusion.score_matching_loss(PROCESS, "likelihood"), r"`NoiseWeighting\(\)`"),
    "no process, function": (lambda: diffusion.Score(function), r"Score\(function, process\).*got NoneType"),
    "no process, oracle": (lambda: draw(ORACLE.score("VP")), r"`diffusion.VP\(\)`; that of this GaussianScore is str"),
    "no process, network": (lambda: network_score(process=None), r"noising process.*NoneType"),
    "no process, loss": (lambda: diffusion.score_matching_loss(20.0), r"noising process.*float"),
    "a network for its score": (lambda: draw(NETWORK), r"network UNet.*`diffusion.score_from\(network, process\)`"),
    "a function for its score": (lambda: draw(function), r"function.*`diffusion.Score\(function, process\)`"),
    "an oracle for its score": (lambda: draw(ORACLE), r"oracle Gaussian.*`prior.score\(process\)`"),
    "no score": (lambda: draw(3), r"`diffusion.AbstractScore`.*got int"),
    "no score, prior": (lambda: diffusion.ProbabilityFlowPrior(function, (2, 2, 1)), r"`diffusion.Score\(function"),
    "the score of a network": (lambda: diffusion.Score(NETWORK, PROCESS), r"UNet is not.*`diffusion.score_from"),
    "the score of a function without time": (lambda: diffusion.Score(lambda x: -x, PROCESS), r"`function\(t, x\)`"),
    "the score of a number": (lambda: diffusion.Score(3, PROCESS), r"`function\(t, x\)`; int cannot be called"),
    "process and score": (
        lambda: diffusion.sample(PROCESS, SCORE, (2, 2, 1), key=KEY),
        r"A score carries its process: `sample\(score, shape\)`",
    ),
    "process and score, encode": (lambda: diffusion.encode(PROCESS, SCORE, X), r"process: `encode\(score, x\)`"),
    "process and score, log_prob": (lambda: diffusion.log_prob(PROCESS, SCORE, X), r"process: `log_prob\(score, x\)`"),
    "process and score, decode": (
        lambda: diffusion.decode(score=SCORE, process=PROCESS, z=X),
        r"process: `decode\(score, z\)`",
    ),
    "a time before t_min": (lambda: network_score()(0.0, X), r"\[t_min, t_max\] = \[0.001, 1\] of VP; got 0"),
    "a time after t_max": (lambda: network_score()(1.5, X), r"\[0.001, 1\] of VP; got 1.5"),
    "many times": (lambda: network_score()(jnp.array([0.5, 0.6]), X), r"one time; got shape \(2,\).*`jax.vmap`"),
    "a time is NaN": (lambda: network_score()(np.nan, X), r"t_min, t_max"),
    "an oracle: a time after t_max": (lambda: ORACLE.score(PROCESS)(2.0, X), r"between 0 and t_max=1.*got 2.0"),
    "an oracle: a negative time": (lambda: ORACLE.denoiser(PROCESS)(-0.1, X), r"between 0 and t_max=1.*got -0.1"),
    "a mixture: a time is NaN": (lambda: MIXTURE.score(PROCESS)(np.nan, X), r"between 0 and t_max=1.*got nan"),
    "a mixture: many times": (lambda: MIXTURE.score(PROCESS)(jnp.ones(2), X), r"one time; got shape \(2,\)"),
    "encode: from the end": (lambda: diffusion.encode(SCORE, X, t_min=1.0), r"`t_min`.*t_max=1.*got 1.0"),
    "decode: a negative time": (lambda: diffusion.decode(SCORE, X, t_min=-0.1), r"`t_min`.*got -0.1"),
    "log_prob: from beyond": (lambda: diffusion.log_prob(SCORE, X, t_min=2.0), r"`t_min`.*got 2.0"),
    "forward: a time after t_max": (lambda: noised(t=2.0), r"\[0.001, 1\] of VP; got 2"),
    "forward: many times": (lambda: noised(t=np.array([0.1, 0.2])), r"one time; got shape \(2,\).*`trajectory`"),
    "forward: complex": (lambda: diffusion.forward(PROCESS, X + 1j, key=KEY), r"real"),
    "trajectory: a time before t_min": (lambda: along(np.array([0.0, 0.5])), r"\[0.001, 1\] of VP; got 0 to 0.5"),
    "trajectory: times that fall": (lambda: along(np.array([0.5, 0.2])), r"increase"),
    "trajectory: one time": (lambda: along(0.5), r"vector of at least one time; got shape \(\)"),
    "complex samples": (
        lambda: draw(shape=jax.ShapeDtypeStruct((2, 2, 1), jnp.complex64)),
        r"real floating.*complex64",
    ),
    "samples of integers": (lambda: draw(shape=jax.ShapeDtypeStruct((2, 2, 1), jnp.int32)), r"real floating.*int32"),
    "an old key": (lambda: draw(key=jax.random.PRNGKey(0)), r"one typed key"),
    "two keys": (lambda: draw(key=jax.random.split(KEY)), r"shape \(\); got shape \(2,\)"),
    "an rbg key": (lambda: noised(key=jax.random.key(0, impl="rbg")), r"threefry"),
    "log_prob: an old key": (
        lambda: diffusion.log_prob(SCORE, X, key=jax.random.PRNGKey(0)),
        r"one typed key",
    ),
    "an unknown method": (lambda: draw(method="ddim"), r"`DDIM\(\)`.*'ddim'"),
    "a method that is not made": (lambda: draw(method=diffusion.DDIM), r"`DDIM\(\)`.*DDIM"),
    "encode by another method": (
        lambda: diffusion.encode(SCORE, X, method=diffusion.DDIM()),
        r"ProbabilityFlow.*DDIM",
    ),
    "log_prob by another method": (
        lambda: diffusion.log_prob(SCORE, X, method=diffusion.Heun()),
        r"ProbabilityFlow.*Heun",
    ),
    "no probes": (lambda: diffusion.log_prob(SCORE, X, key=KEY, num_probes=0), r"`num_probes`.*got 0"),
    "no samples": (lambda: draw(num_samples=0), r"`num_samples`.*at least 1; got 0"),
    "half a sample": (lambda: draw(num_samples=0.5), r"`num_samples`.*static integer"),
    "more saved than there are steps": (lambda: draw(num_saved=3), r"`num_saved`.*2; got 3"),
    "a shape that is none": (lambda: draw(shape=(2, 0)), r"`shape`.*positive.*\(2, 0\)"),
    "no number of Langevin steps": (lambda: diffusion.PredictorCorrector(corrector_steps=0), r"`corrector_steps`"),
    "eta out of range": (lambda: diffusion.DDIM(eta=1.5), r"`eta` must lie between 0 and 1; got 1.5"),
    "snr out of range": (lambda: diffusion.PredictorCorrector(snr=0.0), r"`snr` must be positive.*got 0"),
    "churn out of range": (lambda: diffusion.Heun(churn=-1.0), r"`churn` .*not negative; got -1"),
    "tolerances out of range": (lambda: diffusion.ProbabilityFlow(rtol=0.0), r"`rtol` must be positive"),
    "rho out of range": (lambda: diffusion.Karras(rho=0.0), r"`rho` must be positive.*0"),
    "no solver": (lambda: diffusion.ReverseSDE(solver="euler"), r"solver of diffrax.*'euler'"),
    "adaptive without an error estimate": (
        lambda: diffusion.ReverseSDE(controller=diffrax.PIDController(rtol=1e-2, atol=1e-2)),
        r"estimates its error; Euler does not.*SPaRK",
    ),
    "VP: negative rate": (lambda: diffusion.VP(beta_min=-1.0), r"VP needs 0 <= beta_min.*beta_min=-1"),
    "VP: rates in the wrong order": (lambda: diffusion.VP(beta_min=2.0, beta_max=1.0), r"beta_min <= beta_max"),
    "SubVP: no rate": (lambda: diffusion.SubVP(beta_min=0.0, beta_max=0.0), r"SubVP needs.*beta_max > 0"),
    "SubVP: times": (lambda: diffusion.SubVP(t_min=1.0, t_max=0.5), r"0 <= t_min < t_max"),
    "VE: levels in the wrong order": (lambda: diffusion.VE(sigma_min=2.0, sigma_max=1.0), r"sigma_min < sigma_max"),
    "VE: NaN": (lambda: diffusion.VE(sigma_min=np.nan), r"VE needs 0 < sigma_min.*nan"),
    "VE: ends before it begins": (lambda: diffusion.VE(t_max=1e-3), r"t_max beyond t_min"),
    "FlowMatching: the singular time": (lambda: diffusion.FlowMatching(t_max=1.0), r"t_max < 1"),
    "a vector of parameters": (lambda: diffusion.VP(beta_max=np.ones(3)), r"`beta_max` of VP.*\(3,\).*`jax.vmap`"),
    **{
        f"{method.__name__}: num_steps {n}": (lambda method=method, n=n: method(n), r"`num_steps` .*at least 1; got")
        for method in (diffusion.ReverseSDE, diffusion.Ancestral, diffusion.DDIM, diffusion.Heun, diffusion.DPMSolver)
        for n in (0, 1.5)
    },
    "ProbabilityFlow: num_steps 0": (lambda: diffusion.ProbabilityFlow(num_steps=0), r"`num_steps`.*got 0"),
    "PredictorCorrector: num_steps 0": (lambda: diffusion.PredictorCorrector(0), r"`num_steps`.*got 0"),
    **{
        f"{method.__name__}: schedule": (lambda method=method: method(schedule="karras"), r"`Karras\(\)`.*'karras'")
        for method in (diffusion.ReverseSDE, diffusion.ProbabilityFlow, diffusion.DDIM, diffusion.DPMSolver)
    },
}


@pytest.mark.parametrize("row", ROWS)
def test_a_value_error_that_says_what_to_do(row):
    call, message = ROWS[row]
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        call()


def test_a_key_has_no_default():
    with pytest.raises(TypeError, match="key"):
        diffusion.sample(SCORE, (2, 2, 1))
    with pytest.raises(TypeError, match="key"):
        diffusion.forward(PROCESS, X)


def test_values_that_are_not_known_are_not_checked():
    # Inside a trace the parameters have no values: nothing may be raised for them.
    made = jax.eval_shape(lambda low: diffusion.VP(beta_min=low), jax.ShapeDtypeStruct((), jnp.float32))
    assert made.beta_min.shape == ()
    assert jax.eval_shape(lambda t: noised(t=t), jax.ShapeDtypeStruct((), jnp.float32)).shape == X.shape
    # What they give is flagged.
    latent = jax.jit(lambda t: diffusion.encode(SCORE, X, t_min=t))(2.0)
    assert RESULTS[latent.result] == RESULTS[RESULTS.invalid_parameter]
    assert np.isnan(jax.jit(lambda t: diffusion.log_prob(SCORE, X, t_min=t))(2.0))
