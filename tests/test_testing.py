"""Each check of `jaxinv.testing` fails on what it is there for: one promise is broken, the others are kept."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import plugin
import pytest

import jaxinv
from jaxinv import RESULTS, Solution, diffusion, dip, generative, noise, operators, regularisers, testing
from jaxinv.generative import AbstractGenerativePrior

KEY = jax.random.key(0)
MATRIX = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
COMPLEX = MATRIX + 1j * jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)


@jax.custom_batching.custom_vmap
def _doubled(x):
    return x


@_doubled.def_vmap
def _(axis_size, in_batched, x):
    del axis_size, in_batched
    return 2 * x, True


@jax.custom_jvp
def doubled_in_batches(x):
    """The identity, but for batches: what a kernel with a wrong batching rule does."""
    return _doubled(x)


@doubled_in_batches.defjvp
def _(primals, tangents):
    return doubled_in_batches(*primals), tangents[0]


def expect(x, shape):
    if jnp.shape(x) != tuple(shape):
        raise ValueError(f"got {jnp.shape(x)}, expected {tuple(shape)}")
    return jnp.asarray(x)


class Right(operators.AbstractLinearOperator):
    matrix: jax.Array

    @property
    def domain(self):
        return jax.ShapeDtypeStruct((4,), self.matrix.dtype)

    @property
    def codomain(self):
        return jax.ShapeDtypeStruct((5,), self.matrix.dtype)

    def __call__(self, x):
        return self.matrix @ expect(x, (4,))

    def adjoint(self, y):
        return self.matrix.T.conj() @ expect(y, (5,))


class Transposed(Right):
    def adjoint(self, y):
        return self.matrix.T @ expect(y, (5,))


class SlightlyWrongAdjoint(Right):
    def adjoint(self, y):
        return 1.0001 * super().adjoint(y)


class Affine(Right):
    def __call__(self, x):
        return super().__call__(x) + 1e-2


class WrongInBatches(Right):
    def adjoint(self, y):
        return doubled_in_batches(super().adjoint(y))


class OfAnyShape(Right):
    def __call__(self, x):
        return self.matrix @ jnp.ravel(x)[:4]


class WithoutShapeCheck(Right):
    def __call__(self, x):
        return self.matrix @ x


class WrongCodomain(Right):
    @property
    def codomain(self):
        return jax.ShapeDtypeStruct((5, 1), self.matrix.dtype)


class WrongNormal(Right):
    def normal(self, x):
        return 2 * super().normal(x)


class WrongMeasured(Right):
    @property
    def measured(self):
        return jnp.ones((1, 1))


class Weighted(Right):
    @property
    def measured(self):
        return jnp.full((5,), 0.5)


class OtherDerivative(Right):
    def linearise(self, x):
        return Right(self.matrix)


class WithAFloat(Right):
    scale: float = 1.0


LINEAR = {
    Transposed: "dot test",
    SlightlyWrongAdjoint: "dot test",
    Affine: "not linear",
    WrongInBatches: "jax.vmap",
    OfAnyShape: "passed in silence",
    WithoutShapeCheck: "raised TypeError",
    WrongCodomain: "codomain",
    WrongNormal: "normal",
    WrongMeasured: "measured",
    Weighted: "values other than 0 and 1",
    OtherDerivative: "another operator",
    WithAFloat: "not arrays",
}


@pytest.mark.parametrize("wrong", LINEAR)
def test_linear_operators(wrong):
    testing.check_linear_operator(Right(COMPLEX), key=KEY, others=[Right(2 * COMPLEX)], batch_sizes=(2,))
    with pytest.raises(AssertionError, match=LINEAR[wrong]):
        testing.check_linear_operator(wrong(COMPLEX), key=KEY, batch_sizes=(2,))


class Sized(Right):
    size: int = eqx.field(static=True, default=0)


class CustomDerivative(Right):
    """Its value is right, and what JAX takes for its derivative is not."""

    def __call__(self, x):
        image = super().__call__(x)
        return image + 0.5 * (image - jax.lax.stop_gradient(image))


class RealOnly(Right):
    def __call__(self, x):
        return jnp.real(super().__call__(x))


@pytest.mark.parametrize(
    ("operator", "options", "match"),
    [
        (Sized(MATRIX, 1), {"others": [Sized(MATRIX, 2)]}, "static part"),
        (CustomDerivative(MATRIX), {}, "jax.grad"),
        (RealOnly(MATRIX), {}, "not linear over the complex numbers"),
        (operators.Magnitude(Right(COMPLEX)), {}, "AbstractLinearOperator"),
    ],
)
def test_more_linear_operators(operator, options, match):
    with pytest.raises(AssertionError, match=match):
        testing.check_linear_operator(operator, key=KEY, batch_sizes=(), **options)
    if isinstance(operator, RealOnly):
        # It is right on real images, which is all that is asked of it here.
        testing.check_linear_operator(operator, key=KEY, batch_sizes=(), complex_images=False)


class Cubed(operators.AbstractOperator):
    weight: jax.Array
    wrong: str = eqx.field(static=True, default="")
    domain = codomain = jax.ShapeDtypeStruct((4,), jnp.float32)

    def __call__(self, x):
        x = expect(x, (4,))
        image = self.weight * x**3
        return doubled_in_batches(image) if self.wrong == "vmap" else image

    def linearise(self, x):
        x = expect(x, (4,))
        if self.wrong == "kind":
            return operators.NonlinearFunction(jnp.sin, (4,))
        factor = 2.0 if self.wrong == "derivative" else 3.0
        return operators.Mask(factor * self.weight * x**2) if self.wrong != "jvp" else operators.Mask(3.001 * x**2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [("derivative", "not the derivative"), ("kind", "AbstractLinear"), ("jvp", "jax.jvp"), ("vmap", "jax.vmap")],
)
def test_operators(wrong, match):
    testing.check_operator(Cubed(jnp.float32(1.0)), key=KEY)
    with pytest.raises(AssertionError, match=match):
        testing.check_operator(Cubed(jnp.float32(1.0), wrong), key=KEY)


class Faulty(noise.Gaussian):
    wrong: str = eqx.field(static=True)

    def __init__(self, wrong):
        super().__init__(0.5)
        self.wrong = wrong

    def negative_log_likelihood(self, prediction, y, measured):
        if self.wrong == "unmeasured":
            measured = jnp.ones_like(measured)
        if self.wrong == "NaN":
            return jnp.sum(jnp.where(measured > 0, 1.0, 0.0) * (y - prediction) ** 2)
        value = super().negative_log_likelihood(prediction, y, measured)
        if self.wrong == "constant":
            value = value - jnp.sum(jnp.broadcast_to(measured, y.shape) > 0) * 0.3
        if self.wrong == "gradient":
            value = value + 0.1 * (
                jnp.sum(measured * prediction) - jax.lax.stop_gradient(jnp.sum(measured * prediction))
            )
        if self.wrong == "vmap":
            value = doubled_in_batches(value)
        return value

    def simulate(self, prediction, *, key):
        if self.wrong == "key":
            key = KEY
        draw = super().simulate(prediction, key=key)
        if self.wrong == "law":
            return prediction + 1.2 * (draw - prediction)
        if self.wrong == "correlation":
            return prediction + (draw - prediction).ravel()[0] * jnp.ones_like(prediction)
        if self.wrong == "shape":
            return draw.ravel()
        return draw

    def linearise(self, y):
        data, std = super().linearise(y)
        return (data, 0 * std) if self.wrong == "linearise" else (data, std)

    def whiten(self, residual):
        return 3 * residual if self.wrong == "whiten" else super().whiten(residual)

    def whiten_adjoint(self, residual):
        return 3 * residual if self.wrong == "adjoint" else super().whiten(residual)

    def restrict(self, measured, struct):
        return Faulty("whiten") if self.wrong == "restrict" else super().restrict(measured, struct)

    def invalid(self, measured):
        return jnp.zeros((), bool) if self.wrong == "invalid" else super().invalid(measured)


NOISE = {
    "unmeasured": "not measured",
    "NaN": "not measured",
    "constant": "integrates to",
    "gradient": "gradient",
    "vmap": "jax.vmap",
    "key": "same draw for two keys",
    "law": "do not follow its density|covariance of gradients",
    "correlation": "covariance of gradients",
    "shape": "simulate returns shapes",
    "linearise": "linearise",
    "whiten": "adjoint of `whiten`",
    "adjoint": "adjoint of `whiten`",
    "restrict": "restrict",
    "invalid": "invalid",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", NOISE)
def test_noise(wrong):
    struct = jax.ShapeDtypeStruct((3, 2, 1), jnp.float32)
    testing.check_noise(Faulty(""), struct, key=KEY)
    with pytest.raises(AssertionError, match=NOISE[wrong]):
        testing.check_noise(Faulty(wrong), struct, key=KEY)


class Bent(regularisers.L1):
    wrong: str = eqx.field(static=True)

    def __call__(self, x):
        value = jnp.sum(x**2) ** 2 if self.wrong == "quadratic" else super().__call__(x)
        if self.wrong == "nan":
            value = jnp.sqrt(jnp.sum(x**2))
        return doubled_in_batches(value) if self.wrong == "vmap" else value

    def gradient(self, x):
        return 1.01 * super().gradient(x) if self.wrong == "gradient" else super().gradient(x)

    def prox(self, x, step):
        if self.wrong == "no prox":
            raise ValueError("there is none")
        factor = {"prox": 1.001, "prox vmap": 1.0}.get(self.wrong, 1.0)
        found = super().prox(x, factor * step)
        return doubled_in_batches(found) if self.wrong == "prox vmap" else found

    @property
    def is_quadratic(self):
        return self.wrong == "quadratic"

    @property
    def is_smooth(self):
        return self.wrong == "smooth"


REGULARISER = {
    "gradient": "central difference",
    "nan": "not finite at the constant image",
    "vmap": "jax.vmap",
    "prox": "not a minimiser",
    "prox vmap": "prox under `jax.vmap`",
    "no prox": "says that there is one",
    "quadratic": "affine",
    "smooth": "jumps",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", REGULARISER)
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_regularisers(wrong, kind):
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 2, 1)).astype("f8")
        x = x + 1j * x[::-1] if kind == "complex" else x
        if kind == "complex" and wrong in ("quadratic", "nan"):
            pytest.skip("its formula is for real images")
        testing.check_regulariser(Bent(""), x, key=KEY, prox=True)
        with pytest.raises(AssertionError, match=REGULARISER[wrong]):
            testing.check_regulariser(Bent(wrong), x, key=KEY, prox=True)


class Scales(AbstractGenerativePrior):
    """`x = tanh(std z)`, `z` standard normal."""

    std: jax.Array
    wrong: str = eqx.field(static=True, default="")
    latent_shape = image_shape = (3,)

    def decode(self, z):
        image = jnp.tanh(self.std * (z if self.wrong == "shapes" else expect(z, (3,))))
        image = image + 0.3 * (z - jax.lax.stop_gradient(z)) if self.wrong == "decode" else image
        if self.wrong == "vmap":
            image = doubled_in_batches(image)
        return image[:2] if self.wrong == "image" else image

    def energy(self, z):
        return (0.6 if self.wrong == "law" else 0.5) * jnp.sum(expect(z, (3,)) ** 2)

    def sample_latent(self, *, key):
        if self.wrong == "key":
            key = KEY
        z = jax.random.normal(key, (3,))
        return jnp.full((3,), z[0]) if self.wrong == "dependent" else z

    def encode(self, x):
        if self.wrong == "encode":
            return expect(x, (3,))[:2]
        raise ValueError("There is no encoder.")


PRIOR = {
    "shapes": "passed in silence",
    "decode": "gradient of Scales.decode",
    "image": "image_shape",
    "vmap": "jax.vmap",
    "law": "standard errors",
    "dependent": "standard errors",
    "key": "same draw for two keys",
    "encode": "encode",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", PRIOR)
def test_generative_priors(wrong):
    testing.check_generative_prior(Scales(jnp.float32(0.7)), key=KEY)
    with pytest.raises(AssertionError, match=PRIOR[wrong]):
        testing.check_generative_prior(Scales(jnp.float32(0.7), wrong), key=KEY)


def problem(i, **rest):
    likelihood = jaxinv.Likelihood(operators.Identity((3,)), noise.Gaussian(0.1 + 0.1 * i))
    return {"likelihood": likelihood, "y": jax.random.normal(jax.random.key(i), (3,)), **rest}


def halved(problem):
    """The mean of measurement and zero, with a code."""
    y = problem["y"]
    good = jnp.all(jnp.isfinite(y))
    value = jnp.where(good, 0.5 * y, 0)
    code = RESULTS.where(good, RESULTS.successful, RESULTS.nonfinite_measurement)
    return Solution(value, code, {"num_steps": jnp.where(good, 1 + (y[0] > 0), 0)})


def unflagged(problem):
    solution = halved(problem)
    return Solution(solution.value, RESULTS.successful, solution.stats)


def nan(problem):
    return Solution(0.5 * problem["y"], halved(problem).result, {})


def of_the_batch(problem):
    """It looks at the whole batch, as a norm over all axes does."""
    return Solution(doubled_in_batches(halved(problem).value), halved(problem).result, {})


@jax.custom_batching.custom_vmap
def mean_of_all(x):
    return x


@mean_of_all.def_vmap
def _(axis_size, in_batched, x):
    del axis_size, in_batched
    # So small that it is lost beside the tolerance, but not where bits are compared.
    return x + 1e-7 * jnp.mean(jnp.nan_to_num(x), axis=0, keepdims=True), True


def leaking(problem):
    solution = halved(problem)
    return Solution(mean_of_all(problem["y"] / 2), solution.result, {})


@jax.custom_batching.custom_vmap
def steps_of_all(n):
    return n


@steps_of_all.def_vmap
def _(axis_size, in_batched, n):
    del in_batched
    return jnp.full((axis_size,), jnp.max(n)), True


def counting(problem):
    solution = halved(problem)
    return Solution(solution.value, solution.result, {"num_steps": steps_of_all(solution.stats["num_steps"])})


SOLVERS = {
    unflagged: "calls a problem successful",
    nan: "not finite",
    of_the_batch: "differs from what it is alone",
    leaking: "beside a problem that cannot be solved",
    counting: "steps or codes",
    (lambda problem: problem["y"]): "must return a `jaxinv.Solution`",
    (lambda problem: Solution(jnp.ones(3), halved(problem).result, {})): "same solution",
}


@pytest.mark.slow
@pytest.mark.parametrize("solve", SOLVERS)
def test_solvers(solve):
    problems = [problem(i) for i in range(3)]
    testing.check_solver(halved, problems)
    with pytest.raises(AssertionError, match=SOLVERS[solve]):
        testing.check_solver(solve, problems)


def test_solvers_compile_once():
    # The index is static: each problem is a program of its own.
    class Static(eqx.Module):
        index: int = eqx.field(static=True)

    problems = [problem(i, static=Static(i)) for i in range(2)]
    with pytest.raises(ValueError, match="one structure"):
        testing.check_solver(halved, problems)


def test_a_solver_needs_a_bad_problem():
    problems = [(p["y"],) for p in (problem(0), problem(1))]
    solve = lambda p: halved({"y": p[0]})
    with pytest.raises(ValueError, match="`bad` is needed"):
        testing.check_solver(solve, problems)
    testing.check_solver(solve, problems, bad=(jnp.full(3, jnp.nan),))


def test_a_solver_needs_two_problems():
    with pytest.raises(ValueError, match="at least two"):
        testing.check_solver(halved, [problem(0)])


def test_keys_are_keys():
    with pytest.raises(ValueError, match="typed key"):
        testing.check_linear_operator(Right(MATRIX), key=jax.random.PRNGKey(0))


class Ball(diffusion.AbstractScore):
    """The score of a standard normal, with something wrong."""

    process: diffusion.AbstractProcess
    wrong: str = eqx.field(static=True, default="")

    def predict(self, t, x):
        scale, std = self.process.marginal(t)
        total = scale**2 + std**2
        image, noise = scale / total * x, std / total * x
        if self.wrong == "parts":
            noise = 1.001 * noise
        if self.wrong == "shape":
            image = image[None]
        if self.wrong == "one":
            return image
        if self.wrong == "nan":
            image = jnp.where(x > 10, jnp.sqrt(x - 10), image)
        if self.wrong == "vmap":
            return doubled_in_batches(image), noise
        return image, noise

    def __call__(self, t, x):
        return (-1.01 if self.wrong == "score" else 1.0) * super().__call__(t, x)

    def denoiser(self, t, x):
        return (1.01 if self.wrong == "denoiser" else 1.0) * super().denoiser(t, x)

    def noise(self, t, x):
        return (1.01 if self.wrong == "noise" else 1.0) * super().noise(t, x)

    def velocity(self, t, x):
        return (1.01 if self.wrong == "velocity" else 1.0) * super().velocity(t, x)


SCORE = {
    "parts": "do not make up the state",
    "shape": "both must agree",
    "one": "a tuple of two",
    "nan": "derivative that is not finite",
    "vmap": "jax.vmap",
    "score": "not `-noise / std`",
    "denoiser": "denoiser",
    "noise": "`noise` is not",
    "velocity": "`velocity` is not",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", SCORE)
def test_scores(wrong):
    testing.check_score(Ball(diffusion.VE()), (3, 1, 1), key=KEY)
    with pytest.raises(AssertionError, match=SCORE[wrong]):
        testing.check_score(Ball(diffusion.VE(), wrong), (3, 1, 1), key=KEY)


def changed(verb, monkeypatch, change):
    """A verb of `diffusion` whose solution is changed by `change(solution, num_samples)`."""
    original = getattr(diffusion, verb)

    def wrapper(*args, num_samples=None, **kwargs):
        if num_samples is None:
            return change(original(*args, **kwargs), num_samples)
        return change(original(*args, num_samples=num_samples, **kwargs), num_samples)

    monkeypatch.setattr(diffusion, verb, wrapper)


def with_value(solution, value):
    return Solution(value, solution.result, solution.stats, solution.aux)


def narrow(solution, number):
    """Without some of the variance."""
    if not number or number < 10:
        return solution
    mean = jnp.mean(solution.value, axis=0, keepdims=True)
    return with_value(solution, mean + 0.8 * (solution.value - mean))


def of_their_number(solution, number):
    return with_value(solution, solution.value * (1.001 if number == 3 else 1))


def all_the_same(solution, number):
    first = jax.tree.map(lambda leaf: leaf[:1], solution.value) if number else solution.value
    return (
        with_value(solution, jnp.broadcast_to(first, solution.value.shape)) if number == 2 or number == 3 else solution
    )


def in_a_batch(solution, number):
    return with_value(solution, doubled_in_batches(solution.value))


def never_flagged(solution, number):
    result = jax.tree.map(lambda good, code: jnp.broadcast_to(good, code.shape), RESULTS.successful, solution.result)
    return Solution(solution.value, result, solution.stats, solution.aux)


def nan_where_flagged(solution, number):
    # The code of one sample, or of all.
    bad = ~(solution.result == RESULTS.successful)
    return with_value(solution, jnp.where(bad, jnp.nan, solution.value) if bad.ndim == 0 else solution.value)


SAMPLER = {
    narrow: "covariance of the samples",
    of_their_number: "with the number of samples",
    all_the_same: "same sample twice",
    in_a_batch: "in a batch",
    never_flagged: "whose score is NaN",
    nan_where_flagged: "not finite where the score is NaN",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", SAMPLER)
def test_samplers(wrong, monkeypatch):
    changed("sample", monkeypatch, wrong)
    with pytest.raises(AssertionError, match=SAMPLER[wrong]):
        testing.check_sampler(diffusion.DPMSolver(20), key=KEY, num_samples=1000)


@pytest.mark.slow
def test_samplers_with_too_few_steps():
    with pytest.raises(AssertionError, match="covariance of the samples|mean of the samples"):
        testing.check_sampler(diffusion.DDIM(3), key=KEY)


POSTERIOR = {
    narrow: "covariance of the samples",
    of_their_number: "with the number of samples",
    in_a_batch: "in a batch",
    never_flagged: "does not flag a measurement",
    nan_where_flagged: "not finite for a measurement",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", POSTERIOR)
def test_posterior_methods(wrong, monkeypatch):
    changed("posterior_sample", monkeypatch, wrong)
    with pytest.raises(AssertionError, match=POSTERIOR[wrong]):
        testing.check_posterior_method(diffusion.PiGDM(), key=KEY, num_samples=500)


@pytest.mark.slow
def test_posterior_methods_that_are_right_or_biased():
    testing.check_posterior_method(diffusion.PiGDM(), key=KEY, num_samples=500)
    with pytest.raises(AssertionError, match="of the samples of DPS"):
        testing.check_posterior_method(diffusion.DPS(), key=KEY, num_samples=500)


class WrongLatent(plugin.RobustEnergy):
    wrong: str = eqx.field(static=True, default="")

    def prepare(self, likelihood, prior, y, result):
        prepared, code = super().prepare(likelihood, prior, y, result)
        return (prepared, RESULTS.invalid_parameter) if self.wrong == "code" else (prepared, code)

    def objective(self, likelihood, prior, y, weight, variables):
        value, penalty = super().objective(likelihood, prior, y, weight, variables)
        if self.wrong == "gradient":
            value = value + jnp.sum(variables) - jax.lax.stop_gradient(jnp.sum(variables))
        return (value, jnp.sum(variables**2)) if self.wrong == "penalty" else (value, penalty)

    def image(self, prior, variables):
        image = super().image(prior, variables)
        return image[:-1] if self.wrong == "image" else image

    def latent(self, variables):
        return 2 * variables if self.wrong == "latent" else variables

    def scaled(self, factor):
        return generative.Hard() if self.wrong == "scaled" else self


LATENT = {
    "code": "that can be solved",
    "gradient": "central difference",
    "penalty": "no proximal map",
    "image": "image has shape",
    "latent": "the first latent",
    "scaled": "another structure",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", LATENT)
def test_latent_methods(wrong):
    with jax.enable_x64(True), pytest.raises(AssertionError, match=LATENT[wrong]):
        testing.check_latent_method(WrongLatent(0.5, wrong), key=KEY)


class WrongRule(plugin.SmallestChange):
    wrong: str = eqx.field(static=True, default="")

    def prepare(self, likelihood, y, result, *, key):
        prepared, code = super().prepare(likelihood, y, result, key=key)
        return prepared, RESULTS.invalid_parameter if self.wrong == "code" else code

    def step(self, problem, state, image):
        state, criterion = super().step(problem, state, image)
        if self.wrong == "state":
            state = (state[0], state[1].astype(jnp.int32))
        if self.wrong == "vmap":
            criterion = doubled_in_batches(criterion)
        if self.wrong == "NaN":
            criterion = jnp.where(state[1], criterion, jnp.nan) * jnp.nan
        return state, criterion[None] if self.wrong == "criterion" else criterion

    def stops(self, problem, criterion, num_since_best):
        stops = super().stops(problem, criterion, num_since_best)
        return stops.astype(float) if self.wrong == "stops" else stops


RULE = {
    "code": "that can be solved",
    "state": "other shapes or dtypes",
    "vmap": "under `jax.vmap`",
    "NaN": "is NaN",
    "criterion": "real scalar",
    "stops": "boolean scalar",
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", RULE)
def test_stopping_rules(wrong):
    with pytest.raises(AssertionError, match=RULE[wrong]):
        testing.check_stopping_rule(WrongRule(3, wrong), key=KEY)


@pytest.mark.slow
def test_the_image_that_a_run_keeps(monkeypatch):
    original = dip.reconstruct

    def forgetful(*args, **kwargs):
        solution = original(*args, **kwargs)
        return eqx.tree_at(lambda s: s.stats["step"], solution, jnp.zeros_like(solution.stats["step"]))

    monkeypatch.setattr(dip, "reconstruct", forgetful)
    with pytest.raises(AssertionError, match="the lowest is"):
        testing.check_stopping_rule(plugin.SmallestChange(3), key=KEY)
