"""Every number of every public module, out of its range: a `ValueError` where it is known, a code where it is traced.

The table finds the classes by itself: a public module with numbers needs a row here, or a reason why it has none.
"""

import dataclasses
import importlib
import inspect
import math
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import codes

import jaxinv
from jaxinv import (
    Likelihood,
    Solution,
    calibration,
    classical,
    diffusion,
    dip,
    generative,
    lsvd,
    metrics,
    mri,
    noise,
    operators,
    oracles,
    pnp,
    regularisers,
    requirements,
    subspace,
)

SHAPE = (4, 4, 1)
ONES = jnp.ones(SHAPE)
KEY = jax.random.key(0)
IDENTITY = operators.Identity(SHAPE)
NAN, INF = math.nan, math.inf
# What is bad for a number of each kind.
SHARE, POSITIVE, NOT_NEGATIVE, FINITE = (-0.1, 1.5, NAN), (0.0, -1.0, NAN, INF), (-1.0, NAN, INF), (NAN, INF)
BETWEEN, STEP = (0.0, 1.0, -1.0, NAN), (0.0, 2.0, -1.0, NAN)


class Row:
    """A number of a public class: how a module is made of it, a good value, and bad ones."""

    def __init__(self, owner, number, make, good, bad):
        self.owner, self.number, self.make, self.good, self.bad = owner, number, make, good, bad

    def __repr__(self):
        return f"{self.owner.__module__.split('.')[1]}.{self.owner.__name__}.{self.number}"


def keyword(owner, number, good, bad, *args, **options):
    return Row(owner, number, lambda v: owner(*args, **options, **{number: v}), good, bad)


def components(weights=(0.5, 0.5), covariances=1.0, means=1.0):
    return oracles.GaussianMixture(jnp.asarray(weights), means * jnp.stack([ONES, -ONES]), covariances)


REGRESSION = {"image_mean": ONES, "measurement_mean": jnp.ones(3), "encoder": jnp.ones((3, 2))}
REGRESSION |= {"spectrum": jnp.ones(2), "decoder": jnp.ones((2, *SHAPE))}


def regression(**spoilt):
    return lsvd.ReducedRankRegression(**REGRESSION | spoilt, rank=2, image_shape=SHAPE, measurement_shape=(3,))


def pca(std, mean=ONES, components=ONES[None] / 4):
    return generative.PCAPrior(subspace.PCA(mean, components, jnp.ones(1), jnp.ones(1) * std))


class Spectrum:
    """What a Gaussian penalty reads of a prior."""

    def __init__(self, mean=1.0, basis=1.0, std=1.0):
        self.mean, self._parts = mean * ONES, (basis * jnp.eye(16)[:, :2], std * jnp.ones(2))

    def spectrum(self):
        return self._parts


def penalty(**spoilt):
    return regularisers.Gaussian(Spectrum(**spoilt))


class Halves:
    """An autoencoder of four numbers, without weights."""

    def decode(self, z):
        return jnp.tile(z, (1, 4)).reshape(-1, *SHAPE)

    def encode(self, x):
        return x.reshape(-1, 16)[:, :4]


BASIS = jnp.eye(16)[:, :2]
LATENTS = np.random.default_rng(0).normal(size=(20, 4))

ROWS = [
    keyword(classical.DiscrepancyPrinciple, "factor", 1.0, POSITIVE),
    keyword(classical.HeldOutMeasurements, "fraction", 0.1, BETWEEN),
    keyword(diffusion.AnnealedLangevin, "step_size", 1.0, STEP, 2, 2),
    keyword(diffusion.DDIM, "eta", 0.5, SHARE, 2),
    keyword(diffusion.DDRM, "eta", 0.5, SHARE, 2),
    keyword(diffusion.DDRM, "eta_b", 0.5, SHARE, 2),
    keyword(diffusion.DFlow, "weight", 1.0, NOT_NEGATIVE, 2),
    Row(diffusion.DiscreteVP, "betas", lambda v: diffusion.DiscreteVP(jnp.stack([jnp.asarray(v)] * 9)), 0.5, BETWEEN),
    keyword(diffusion.DPS, "zeta", 1.0, NOT_NEGATIVE, 2),
    keyword(diffusion.DPS, "eta", 0.5, SHARE, 2),
    keyword(diffusion.DiffPIR, "weight", 1.0, POSITIVE, 2),
    keyword(diffusion.DiffPIR, "zeta", 0.5, SHARE, 2),
    keyword(diffusion.DiffPIR, "rtol", 1e-4, NOT_NEGATIVE, 2),
    keyword(diffusion.EDM, "sigma_min", 0.1, (0.0, 80.0, NAN)),
    keyword(diffusion.EDM, "sigma_max", 10.0, (0.002, np.inf, NAN)),
    keyword(diffusion.Exact, "rtol", 1e-4, NOT_NEGATIVE),
    keyword(diffusion.FlowMatching, "t_min", 0.1, (-0.1, 0.9995, NAN)),
    keyword(diffusion.FlowMatching, "t_max", 0.9, (0.0, 1.0, NAN)),
    keyword(diffusion.Heun, "churn", 1.0, NOT_NEGATIVE, 2),
    keyword(diffusion.Karras, "rho", 7.0, POSITIVE),
    keyword(diffusion.Langevin, "step_size", 0.2, STEP, 2),
    keyword(diffusion.MomentMatching, "rtol", 1e-2, NOT_NEGATIVE, 2),
    keyword(diffusion.OTODE, "start", 0.8, BETWEEN, 2),
    keyword(diffusion.OTODE, "gamma", 1.0, NOT_NEGATIVE, 2),
    keyword(diffusion.PiGDM, "eta", 0.5, SHARE, 2),
    keyword(diffusion.PnPDM, "first", 10.0, (0.01, NAN, INF), 2, 2),
    keyword(diffusion.PnPDM, "last", 0.1, (0.0, -1.0, 20.0, NAN), 2, 2),
    keyword(diffusion.PnPFlow, "step_size", 1.0, STEP, 2),
    keyword(diffusion.PnPFlow, "alpha", 0.5, NOT_NEGATIVE, 2),
    keyword(diffusion.Preconditioned, "mean", 0.5, FINITE, std=1.0),
    Row(
        diffusion.Preconditioned,
        "basis",
        lambda v: diffusion.Preconditioned(jnp.zeros(SHAPE), jnp.ones(2), v * BASIS),
        1.0,
        FINITE,
    ),
    keyword(diffusion.Preconditioned, "std", 0.5, POSITIVE, mean=1.0),
    keyword(diffusion.PredictorCorrector, "snr", 0.2, POSITIVE, 2),
    keyword(diffusion.ProbabilityFlow, "rtol", 1e-3, POSITIVE),
    keyword(diffusion.ProbabilityFlow, "atol", 1e-3, NOT_NEGATIVE),
    keyword(diffusion.REDDiff, "weight", 0.25, NOT_NEGATIVE, 2),
    keyword(diffusion.REDDiff, "learning_rate", 0.1, POSITIVE, 2),
    keyword(diffusion.Replacement, "strength", 0.5, SHARE, 2),
    keyword(diffusion.Replacement, "eta", 0.5, SHARE, 2),
    keyword(diffusion.Replacement, "rtol", 1e-5, NOT_NEGATIVE, 2),
    keyword(diffusion.ReverseSDE, "tolerance", 1e-4, POSITIVE, 2),
    *(
        row
        for process in (diffusion.VP, diffusion.SubVP)
        for row in (
            keyword(process, "beta_min", 0.1, (-1.0, 30.0, NAN)),
            keyword(process, "beta_max", 20.0, (0.01, NAN, INF)),
            keyword(process, "t_min", 0.01, (-0.1, 2.0, NAN)),
            keyword(process, "t_max", 1.0, (0.0, NAN, INF)),
        )
    ),
    keyword(diffusion.VE, "sigma_min", 0.1, (0.0, -1.0, 60.0, NAN)),
    keyword(diffusion.VE, "sigma_max", 10.0, (0.001, NAN, INF)),
    keyword(diffusion.VE, "t_max", 1.0, (0.01, NAN, INF)),
    keyword(diffusion.TDS, "resample_below", 0.5, SHARE, diffusion.TMPD(2), particles=4),
    keyword(diffusion.TDS, "temper_below", 0.5, SHARE, diffusion.TMPD(2), particles=4),
    Row(
        diffusion.TDS,
        "proposal",
        lambda v: diffusion.TDS(diffusion.TMPD(2, eta=v), particles=4),
        0.5,
        (0.0, 1.5, NAN),
    ),
    keyword(diffusion.TMPD, "eta", 0.5, SHARE, 2),
    keyword(diffusion.TMPD, "rtol", 1e-3, NOT_NEGATIVE, 2),
    keyword(dip.ADMM, "penalty", 1.0, POSITIVE, every=2),
    keyword(dip.Discrepancy, "factor", 1.0, POSITIVE),
    keyword(dip.From, "image", 1.0, FINITE),
    keyword(dip.FromNoise, "std", 0.1, NOT_NEGATIVE),
    keyword(dip.HeldOut, "fraction", 0.1, BETWEEN, patience=5),
    keyword(dip.Recipe, "ema", 0.5, [*NOT_NEGATIVE, 1.0]),
    keyword(dip.Recipe, "jitter", 0.1, NOT_NEGATIVE),
    keyword(dip.Recipe, "learning_rate", 0.1, POSITIVE),
    keyword(dip.Recipe, "weight", 0.1, NOT_NEGATIVE),
    keyword(dip.Recipe, "weight_by_noise", 0.1, NOT_NEGATIVE),
    keyword(dip.SelfGuided, "weight", 1.0, NOT_NEGATIVE),
    keyword(dip.SelfGuided, "level", 0.2, NOT_NEGATIVE),
    keyword(generative.Alternating, "step_size", 1.0, POSITIVE),
    keyword(generative.Alternating, "growth", 1.2, (0.5, NAN, INF)),
    Row(
        generative.AutoencoderPrior,
        "factor",
        lambda v: generative.AutoencoderPrior(Halves(), v * LATENTS),
        1.0,
        FINITE,
    ),
    Row(generative.From, "z", lambda v: generative.From(v * jnp.ones(1)), 1.0, FINITE),
    Row(generative.PCAPrior, "standard_deviations", pca, 1.0, NOT_NEGATIVE),
    Row(generative.PCAPrior, "mean", lambda v: pca(1.0, mean=v * ONES), 1.0, FINITE),
    Row(generative.PCAPrior, "components", lambda v: pca(1.0, components=v * ONES[None] / 4), 1.0, FINITE),
    keyword(generative.Relaxed, "weight", 1.0, POSITIVE),
    keyword(generative.Soft, "weight", 1.0, POSITIVE),
    keyword(lsvd.Joint, "image_weight", 1.0, NOT_NEGATIVE),
    keyword(lsvd.Joint, "measurement_weight", 1.0, NOT_NEGATIVE),
    *(
        Row(
            lsvd.ReducedRankRegression,
            name,
            lambda v, name=name, good=good: regression(**{name: v * good}),
            1.0,
            FINITE,
        )
        for name, good in REGRESSION.items()
    ),
    keyword(lsvd.Tikhonov, "weight", 1.0, NOT_NEGATIVE),
    keyword(lsvd.Truncation, "rank", 2, (0, -1)),
    keyword(metrics.GaussianKernel, "bandwidth", 1.0, POSITIVE),
    keyword(metrics.InverseMultiquadric, "bandwidth", 1.0, POSITIVE),
    keyword(metrics.InverseMultiquadric, "exponent", -0.5, (0.0, -1.0, NAN)),
    keyword(metrics.GaussianWindow, "sigma", 1.5, POSITIVE),
    keyword(mri.ESPIRiT, "threshold", 0.1, SHARE, 4, 2),
    keyword(mri.ESPIRiT, "crop", 0.5, SHARE, 4, 2),
    keyword(mri.LowResolution, "crop", 0.5, SHARE, 4),
    Row(noise.CorrelatedGaussian, "factor", lambda v: noise.CorrelatedGaussian(v * jnp.eye(16)), 1.0, FINITE),
    keyword(noise.Gaussian, "std", 1.0, NOT_NEGATIVE),
    Row(noise.Gaussian, "std", lambda v: noise.Gaussian(ONES.at[1, 2].set(v)), 1.0, NOT_NEGATIVE),
    keyword(noise.Poisson, "gain", 1.0, POSITIVE),
    keyword(noise.Poisson, "background", 1.0, NOT_NEGATIVE),
    keyword(noise.TransmissionPoisson, "photons", 1.0, POSITIVE),
    keyword(noise.TransmissionPoisson, "background", 1.0, NOT_NEGATIVE, 10.0),
    Row(operators.Convolution, "kernel", lambda v: operators.Convolution(v * jnp.ones((2, 2)), SHAPE), 1.0, FINITE),
    Row(operators.Mask, "mask", lambda v: operators.Mask(ONES.at[1, 2].set(v)), 1.0, NOT_NEGATIVE),
    Row(operators.MaskedFourier, "mask", lambda v: operators.MaskedFourier(ONES.at[1, 2].set(v)), 1.0, NOT_NEGATIVE),
    Row(
        operators.MultiCoilFourier,
        "mask",
        lambda v: operators.MultiCoilFourier(ONES.at[1, 2].set(v), jnp.ones((2, *SHAPE), complex)),
        1.0,
        NOT_NEGATIVE,
    ),
    *(
        row
        for beam in (
            lambda angles, offset: operators.ParallelBeam(SHAPE, angles, centre_offset=offset),
            lambda angles, offset: operators.FanBeam(SHAPE, angles, 8, 1.0, 20.0, 10.0, centre_offset=offset),
        )
        for owner in [type(beam(jnp.ones(3), 0.0))]
        for row in (
            Row(owner, "angles", lambda v, beam=beam: beam(jnp.array([0.1, 1.0, 1.0]) * v, 0.0), 1.0, FINITE),
            Row(owner, "centre_offset", lambda v, beam=beam: beam(jnp.array([0.1, 1.0]), v), 1.0, FINITE),
        )
    ),
    Row(oracles.Gaussian, "mean", lambda v: oracles.Gaussian(v * ONES, jnp.eye(16)), 1.0, FINITE),
    Row(oracles.Gaussian, "covariance", lambda v: oracles.Gaussian(ONES, v * jnp.eye(16)), 1.0, NOT_NEGATIVE),
    Row(oracles.Gaussian, "factor", lambda v: oracles.Gaussian(ONES, factor=v * jnp.ones((16, 1))), 1.0, FINITE),
    Row(
        oracles.Gaussian,
        "diagonal",
        lambda v: oracles.Gaussian.from_factor(ONES, jnp.ones((16, 1)), v),
        1.0,
        NOT_NEGATIVE,
    ),
    Row(oracles.GaussianLatent, "factor", lambda v: oracles.GaussianLatent(ONES, v * jnp.ones((16, 1))), 1.0, FINITE),
    Row(
        oracles.GaussianMixture,
        "log_weights",
        lambda v: components(weights=jnp.stack([jnp.asarray(v), jnp.asarray(0.5)])),
        0.5,
        (-0.5, 2.0, NAN),
    ),
    Row(oracles.GaussianLatent, "mean", lambda v: oracles.GaussianLatent(v * ONES, jnp.ones((16, 1))), 1.0, FINITE),
    Row(oracles.GaussianMixture, "means", lambda v: components(means=v), 1.0, FINITE),
    Row(oracles.GaussianMixture, "variances", lambda v: components(covariances=v), 1.0, NOT_NEGATIVE),
    Row(oracles.GaussianMixture, "matrices", lambda v: components(covariances=v * jnp.eye(16)), 1.0, NOT_NEGATIVE),
    Row(oracles.LowRank, "basis", lambda v: oracles.LowRank(v * BASIS, jnp.ones(2)), 1.0, FINITE),
    Row(oracles.LowRank, "variances", lambda v: oracles.LowRank(BASIS, v * jnp.ones(2)), 1.0, NOT_NEGATIVE),
    Row(oracles.LowRank, "rest", lambda v: oracles.LowRank(BASIS, jnp.ones(2), v), 1.0, NOT_NEGATIVE),
    *(
        row
        for method in (pnp.PGD, pnp.ADMM, pnp.RED, pnp.GradientStep)
        for row in (
            keyword(method, "sigma", 0.5, POSITIVE, max_steps=3),
            keyword(method, "rtol", 1e-3, NOT_NEGATIVE, 0.5, max_steps=3),
        )
    ),
    *(keyword(method, "weight", 1.0, POSITIVE, 0.5, max_steps=3) for method in (pnp.ADMM, pnp.GradientStep)),
    *(keyword(method, "solver_rtol", 1e-3, NOT_NEGATIVE, 0.5, max_steps=3) for method in (pnp.ADMM, pnp.GradientStep)),
    *(keyword(method, "step_size", 1.0, STEP, 0.5, max_steps=3) for method in (pnp.PGD, pnp.RED)),
    keyword(pnp.RED, "weight", 1.0, NOT_NEGATIVE, 0.5, max_steps=3),
    keyword(pnp.HQS, "sigma_max", 0.5, POSITIVE, 2),
    keyword(pnp.HQS, "sigma_min", 0.1, (0.0, -1.0, 1.0, NAN), 2),
    keyword(pnp.HQS, "weight", 0.2, POSITIVE, 2),
    keyword(pnp.HQS, "rtol", 1e-3, NOT_NEGATIVE, 2),
    keyword(calibration.PenalisedMisfit, "weight", 1.0, NOT_NEGATIVE),
    Row(regularisers.Scaled, "factor", lambda v: v * regularisers.L1(), 1.0, NOT_NEGATIVE),
    keyword(regularisers.Box, "low", 0.1, (2.0, NAN, INF), high=1.0),
    keyword(regularisers.Box, "high", 1.0, (-1.0, NAN, INF), low=0.0),
    keyword(regularisers.Huber, "width", 0.1, POSITIVE),
    *(
        Row(regularisers.Gaussian, name, lambda v, name=name: penalty(**{name: v}), 1.0, FINITE)
        for name in ("mean", "basis", "std")
    ),
    keyword(regularisers.Smoothed, "eps", 0.1, POSITIVE),
    keyword(regularisers.TGV, "ratio", 2.0, POSITIVE),
    Row(subspace.From, "initial", lambda v: subspace.From(v * jnp.ones((2, *SHAPE))), 1.0, FINITE),
]
ROWS_ = pytest.mark.parametrize("row", ROWS, ids=repr)

# Public modules with numbers that have no row.
DATA = {
    "generative.AutoencoderPrior": {"mean"},  # made of the latents, as its factor is
    # An operator of the user has such numbers too, which nobody checks: they show in what is computed.
    "operators.Matrix": {"matrix"},
    "operators.MultiCoilFourier": {"coils"},
}
# Public modules that a verb returns, or makes for a method.
MADE = {
    "Solution",
    "classical.Problem",
    "diffusion.PosteriorCheck",
    "diffusion.PriorCheck",
    "diffusion.extend.CurvedProblem",
    "diffusion.extend.DenseProblem",
    "diffusion.extend.ExactProblem",
    "diffusion.extend.LinearProblem",
    "diffusion.extend.Path",
    "diffusion.extend.Problem",
    "diffusion.extend.ShiftView",
    "dip.Problem",
    "generative.RangeCheck",
    "metrics.Calibration",
    "metrics.EnergyTest",
    "metrics.SteinTest",
    "operators.Certificate",
    "pnp.DenoiserCertificate",
    "pnp.Problem",
    "pnp.QuadraticData",
    "pnp.SmoothData",
    "subspace.KMeans",
    "subspace.PCA",
    "subspace.RobustPCA",
}


def public_classes():
    """The concrete modules of the public rooms by their names, such as `diffusion.VP`."""
    rooms = [m.name for m in pkgutil.iter_modules(jaxinv.__path__) if not m.name.startswith("_") and m.name != "cli"]
    found = {}
    for room in ["", *rooms, "diffusion.extend"]:
        module = importlib.import_module(f"jaxinv.{room}".rstrip("."))
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, eqx.Module) and not name.startswith("Abstract"):
                found.setdefault(value, f"{room}.{name}".lstrip("."))
    return {name: value for value, name in found.items()}


def numbers_of(owner):
    """The fields of a class that hold numbers, by their annotations."""
    for field in dataclasses.fields(owner):
        kind = str(field.type)
        if not field.metadata.get("static") and ("Array" in kind or "float" in kind or "Scalar" in kind):
            yield field.name


def test_every_public_number_has_a_row():
    rows = {}
    for row in ROWS:
        rows.setdefault(row.owner, set()).add(row.number)
    classes = public_classes()
    assert len(classes) > 90
    missing = {}
    for name, owner in classes.items():
        lacking = set(numbers_of(owner)) - rows.get(owner, set()) - DATA.get(name, set())
        if lacking and name not in MADE:
            missing[name] = lacking
    assert missing == {}
    assert set(DATA) | MADE <= set(classes)


@ROWS_
def test_a_known_number_out_of_range_raises(row):
    row.make(row.good)
    for bad in row.bad:
        with pytest.raises(ValueError, match="(?s)must|needs|not finite|negative|semi-definite|growth|orthonormal"):
            row.make(bad)


@ROWS_
def test_a_traced_number_out_of_range_is_found(row):
    # Alone, and as one of many.
    numbers = jnp.array([row.good, *row.bad, row.good])
    found = jax.vmap(lambda v: requirements.valid({"inside": (row.make(v),)}))(numbers)
    assert list(found) == [True, *(False for _ in row.bad), True]


def prior():
    return oracles.Gaussian(ONES, jnp.eye(16))


def scored(process):
    return prior().score(process)


def sampled(method, score=None):
    return diffusion.sample(scored(diffusion.VP()) if score is None else score, SHAPE, key=KEY, method=method)


def posterior(method):
    likelihood = Likelihood(operators.Downsample(SHAPE, 2), noise.Gaussian(1.0))
    return diffusion.posterior_sample(likelihood, scored(diffusion.VP()), jnp.ones((2, 2, 1)), key=KEY, method=method)


def measured(likelihood):
    y = jnp.ones(likelihood.operator.codomain.shape, likelihood.operator.codomain.dtype)
    return classical.tikhonov(likelihood, y, weight=1.0, max_steps=3)


def regularised(penalty):
    return classical.fista(Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, regulariser=penalty, weight=1.0)


def calibrated(criterion):
    build = lambda gain: Likelihood(gain * IDENTITY, noise.Gaussian(1.0))
    return calibration.calibrate(build, 1.0, ONES, widths=0.5, criterion=criterion, grid=3, max_steps=1)


def latent(prior, **options):
    likelihood = Likelihood(IDENTITY, noise.Gaussian(1.0))
    return generative.reconstruct(likelihood, prior, ONES, key=KEY, max_steps=3, **options)


class Scaling(eqx.Module):
    """A network of one weight."""

    weight: jax.Array

    def __call__(self, z):
        return jnp.tanh(self.weight * z)


def fitted(**options):
    likelihood = Likelihood(IDENTITY, noise.Gaussian(1.0))
    return dip.reconstruct(likelihood, Scaling(jnp.ones(())), ONES, key=KEY, num_steps=3, **options)


# How a verb comes to see a module of each kind.
USES = {
    regularisers.TGV: lambda m: classical.primal_dual(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), m, ONES, weight=1.0, max_steps=3
    ),
    lsvd.ReducedRankRegression: lambda m: lsvd.reconstruct(m, jnp.ones(3)),
    classical.AbstractCriterion: lambda m: classical.choose_weight(
        Likelihood(IDENTITY, noise.Gaussian(1.0)),
        classical.tikhonov,
        jnp.arange(16.0).reshape(SHAPE),
        weights=jnp.ones(2),
        criterion=m,
        key=KEY,
    ),
    diffusion.AbstractSampler: sampled,
    diffusion.AbstractPosteriorMethod: posterior,
    diffusion.AbstractProcess: lambda m: sampled(diffusion.DDIM(2), scored(m)),
    diffusion.AbstractSchedule: lambda m: sampled(diffusion.DDIM(2, schedule=m)),
    diffusion.AbstractLikelihoodDraw: lambda m: posterior(diffusion.DAPS(2, ode_steps=1, inner=m)),
    diffusion.AbstractParametrisation: lambda m: sampled(
        diffusion.DDIM(2), diffusion.score_from(lambda x, t: x, diffusion.VP(), m)
    ),
    operators.AbstractOperator: lambda m: measured(Likelihood(m, noise.Gaussian(1.0))),
    noise.AbstractNoise: lambda m: measured(Likelihood(IDENTITY, m)),
    calibration.AbstractCriterion: calibrated,
    regularisers.AbstractRegulariser: regularised,
    regularisers.Smoothed: lambda m: classical.tv(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, weight=1.0, kind=m, max_steps=3
    ),
    oracles.Gaussian: lambda m: classical.gaussian(Likelihood(IDENTITY, noise.Gaussian(1.0)), m, ONES),
    oracles.GaussianMixture: lambda m: sampled(diffusion.DDIM(2), m.score(diffusion.VP())),
    oracles.LowRank: lambda m: sampled(diffusion.DDIM(2), components(covariances=m).score(diffusion.VP())),
    generative.AbstractGenerativePrior: latent,
    generative.AbstractStart: lambda m: latent(prior().as_latent(), start=generative.From(m.z * jnp.ones(16))),
    generative.AbstractLatentMethod: lambda m: latent(pca(1.0), method=m),
    generative.Alternating: lambda m: latent(pca(1.0), optimiser=m),
    lsvd.AbstractFilter: lambda m: lsvd.reconstruct(regression(), jnp.ones(3), filter=m),
    dip.AbstractStopping: lambda m: fitted(stopping=m),
    dip.AbstractStart: lambda m: fitted(start=dip.From(m.image * ONES) if isinstance(m, dip.From) else m),
    dip.ADMM: lambda m: fitted(method=m, regulariser=regularisers.L1(), weight=1.0),
    dip.AbstractMethod: lambda m: fitted(method=m),
    dip.Recipe: lambda m: fitted(recipe=m),
    metrics.AbstractRadialKernel: lambda m: metrics.kernel_stein_discrepancy(ONES, -ONES, kernel=m),
    metrics.GaussianWindow: lambda m: metrics.ssim(jnp.ones((16, 16, 1)), jnp.zeros((16, 16, 1)), window=m),
    pnp.AbstractPlugAndPlay: lambda m: pnp.reconstruct(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), pnp.Denoiser(lambda x, sigma: x / 2), ONES, method=m
    ),
    mri.AbstractCoilMaps: lambda m: jnp.sum(mri.coil_maps(jnp.ones((2, *SHAPE), complex), method=m).real),
    subspace.From: lambda m: subspace.kmeans(jnp.arange(48.0).reshape(3, *SHAPE), 2, key=KEY, start=m),
}


@pytest.mark.slow
@ROWS_
def test_a_verb_flags_the_problem_alone(row):
    if row.owner is lsvd.Joint:
        pytest.skip("It belongs to training, where nothing is mapped over.")
    example = row.make(row.good)
    use = next(use for kind, use in USES.items() if isinstance(example, kind))
    run = jax.jit(jax.vmap(lambda v: use(row.make(v))))
    clean = run(jnp.array([row.good] * 3))
    for bad in row.bad:
        found = run(jnp.array([row.good, bad, row.good]))
        if not hasattr(found, "result"):
            assert np.isnan(found[1])
            np.testing.assert_array_equal(good_lanes(found), good_lanes(clean))
            continue
        result = codes(found.result)
        # A method may need more steps than it has here.
        first, last = codes(clean.result)[::2]
        assert list(result) == [first, "invalid_parameter", last]
        jax.tree.map(np.testing.assert_array_equal, good_lanes(values(found)), good_lanes(values(clean)))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(values(found)))


def good_lanes(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[::2], tree)


def values(outcome):
    return outcome.value if isinstance(outcome, Solution) else outcome.centres


# The numbers of a call: those of each verb that takes any, and what is bad for them.
RANGES = dict.fromkeys(("rtol", "atol", "weight", "jitter", "ema"), NOT_NEGATIVE)
RANGES |= dict.fromkeys(("norm", "learning_rate", "factor", "prior_std"), POSITIVE)
CALLS = {
    "tikhonov": lambda weight=1.0, **t: classical.tikhonov(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, weight=weight, **t
    ),
    "tv": lambda weight=1.0, **t: classical.tv(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, weight=weight, max_steps=3, **t
    ),
    "ista": lambda weight=1.0, **t: classical.ista(Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, weight=weight, **t),
    "fista": lambda weight=1.0, **t: classical.fista(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, weight=weight, **t
    ),
    "primal_dual": lambda weight=1.0, **t: classical.primal_dual(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), regularisers.L1(), ONES, weight=weight, max_steps=3, **t
    ),
    "mlem": lambda **t: classical.mlem(Likelihood(IDENTITY, noise.Poisson(1.0)), ONES, max_steps=3, **t),
    "osem": lambda **t: classical.osem(Likelihood(IDENTITY, noise.Poisson(1.0)), ONES, subsets=2, max_steps=3, **t),
    "sirt": lambda **t: classical.sirt(Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, max_steps=3, **t),
    "solve": lambda weight=1.0, **t: classical.solve(
        Likelihood(IDENTITY, noise.Gaussian(1.0)),
        regularisers.L1(),
        ONES,
        method=classical.ISTA(),
        weight=weight,
        max_steps=3,
        **t,
    ),
    "generative.reconstruct": lambda **t: latent(pca(1.0), **t),
    "project": lambda **t: generative.project(pca(1.0), ONES, key=KEY, max_steps=3, **t),
    "encode": lambda **t: generative.encode(pca(1.0), ONES, key=KEY, max_steps=3, **t),
    "choose_weight": lambda **t: generative.choose_weight(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), pca(1.0), ONES, weights=jnp.ones(2), key=KEY, max_steps=3, **t
    ),
    "linearised_posterior": lambda **t: dip.linearised_posterior(
        Likelihood(IDENTITY, noise.Gaussian(1.0)),
        Scaling(jnp.ones(())),
        ONES,
        key=KEY,
        z0=ONES,
        num_samples=1,
        **t,
    ),
    "robust_pca": lambda **t: subspace.robust_pca(jnp.eye(4), **t),
    "dip.reconstruct": fitted,
    "sample_posterior": lambda **t: generative.sample_posterior(
        Likelihood(IDENTITY, noise.Gaussian(1.0)),
        pca(1.0),
        ONES,
        key=KEY,
        num_samples=4,
        num_warmup=2,
        num_chains=1,
        **t,
    ),
    "variational_posterior": lambda **t: generative.variational_posterior(
        Likelihood(IDENTITY, noise.Gaussian(1.0)), pca(1.0), ONES, key=KEY, num_steps=2, **t
    ),
    "norm": lambda **t: operators.norm(IDENTITY, key=KEY, **t),
}


def public_functions():
    rooms = [m.name for m in pkgutil.iter_modules(jaxinv.__path__) if not m.name.startswith("_")]
    for room in rooms:
        module = importlib.import_module(f"jaxinv.{room}")
        for name in getattr(module, "__all__", ()):
            if inspect.isfunction(getattr(module, name)) and room not in ("testing", "cli"):
                yield getattr(module, name)


def numbers_of_calls():
    """The public functions that take such a number, by the names of their rows, and these numbers."""
    for function in public_functions():
        numbers = [n for n in RANGES if n in inspect.signature(function).parameters]
        room = function.__module__.split(".")[1]
        name = function.__name__ if function.__name__ != "reconstruct" else f"{room}.reconstruct"
        if numbers and name not in OTHERS:
            yield name, numbers


# Functions with arguments of these names that solve no problem: what trains networks, a recipe, and two with another
# `norm`.
OTHERS = {
    "check_range",
    "choose_rank",
    "fit",
    "fit_adversarial",
    "muon",
    "pca",
    "pretrain",
    "tomography",
    "train_lista",
}
NUMBERS = dict(numbers_of_calls())


def test_every_number_of_a_call_has_a_row():
    assert set(NUMBERS) == set(CALLS)


TOLERANCES = ("rtol", "atol")


@pytest.mark.parametrize("verb", [v for v in CALLS if set(TOLERANCES) & set(NUMBERS[v])])
def test_a_known_tolerance_out_of_range_raises(verb):
    for name in set(TOLERANCES) & set(NUMBERS[verb]):
        for bad in NOT_NEGATIVE:
            # As Python knows it, and as an array.
            for value in (bad, jnp.asarray(bad)):
                with pytest.raises(ValueError, match=f"`{name}` must be finite and not negative; got"):
                    CALLS[verb](**{name: value})


FAST = ("tikhonov", "norm")


@pytest.mark.parametrize("verb", [pytest.param(v, marks=() if v in FAST else pytest.mark.slow) for v in CALLS])
def test_a_traced_number_of_a_call_out_of_range_is_a_code(verb):
    names = NUMBERS[verb]
    lanes = [(1e-3,) * len(names)]
    for place, number in enumerate(names):
        lanes += [tuple(bad if i == place else 1e-3 for i in range(len(names))) for bad in RANGES[number]]
    run = jax.jit(jax.vmap(lambda values: CALLS[verb](**dict(zip(names, values, strict=True)))))
    outcome = run(jnp.array(lanes))
    if verb == "norm":
        np.testing.assert_array_equal(np.isnan(outcome), np.arange(len(lanes)) > 0)
        return
    assert set(codes(outcome.result)[1:]) == {"invalid_parameter"}
    assert codes(outcome.result)[0] != "invalid_parameter"
    image = outcome.value if isinstance(outcome, Solution) else outcome.low_rank
    assert np.all(np.isfinite(image))


def test_a_norm_below_rounding():
    # Of an orthogonal matrix every direction is as good as any other, and no step improves more than its own rounding.
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    operator = operators.Matrix(jnp.asarray(matrix, jnp.float32), (30,))
    for rtol in (1e-7, 0.0):
        np.testing.assert_allclose(operators.norm(operator, key=KEY, rtol=rtol, max_steps=2000), 1, rtol=3e-6)


def test_the_options_of_a_derivative():
    for options in ({"rtol": -1.0}, {"damping": NAN}, {"rtol": INF}):
        with pytest.raises(ValueError, match="must be a static number, finite and not negative"):
            jaxinv.Implicit(**options)


@pytest.mark.parametrize("rank", [NAN, 1.5, "two", None, True])
def test_a_rank_that_is_no_integer(rank):
    with pytest.raises(ValueError, match="`rank` must be an integer"):
        classical.tsvd(Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, rank=rank)


def test_a_traced_rank():
    run = jax.vmap(lambda rank: classical.tsvd(Likelihood(IDENTITY, noise.Gaussian(1.0)), ONES, rank=rank))
    solution = run(jnp.array([2.0, NAN, 1.5, 17.0, 0.0, -1.0, INF]))
    assert list(codes(solution.result)) == ["successful"] + ["invalid_parameter"] * 6
    np.testing.assert_array_equal(solution.value[1:], 0)
