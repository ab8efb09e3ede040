"""Somebody else's package: one thing of each kind that jaxinv lets others define, by its public names only."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

import jaxinv
from jaxinv import classical, diffusion, dip, generative, noise, operators, regularisers, requirements
from jaxinv.diffusion import extend


def require_shape(x, shape, what):
    """What every noun of the package does first."""
    if jnp.shape(x) != tuple(shape):
        raise ValueError(f"{what} of shape {tuple(shape)} is expected; got {jnp.shape(x)}. Map over batches by vmap.")
    return jnp.asarray(x)


class WeightedColumns(operators.AbstractLinearOperator):
    """The weighted sum over each column of an image; where a column has no weight nothing is measured.

    - `weights`: `(h, w, c)`, real.
    """

    weights: jax.Array = eqx.field(converter=jnp.asarray)

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.weights.shape, self.weights.dtype)

    @property
    def codomain(self):
        return jax.ShapeDtypeStruct(self.weights.shape[1:], self.weights.dtype)

    @property
    def measured(self):
        return jnp.any(self.weights != 0, axis=0).astype(self.weights.dtype)

    def __call__(self, x):
        return jnp.sum(self.weights * require_shape(x, self.domain.shape, "an image"), axis=0)

    def adjoint(self, y):
        return self.weights * require_shape(y, self.codomain.shape, "a measurement")[None]


class Saturation(operators.AbstractOperator):
    """A detector that saturates: `tanh(gain x)`."""

    gain: jax.Array = eqx.field(converter=jnp.asarray)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def domain(self):
        return jax.ShapeDtypeStruct(self.shape, self.gain.dtype)

    codomain = domain

    def __call__(self, x):
        return jnp.tanh(self.gain * require_shape(x, self.shape, "an image"))

    def linearise(self, x):
        return operators.Mask(self.gain * (1 - self(x) ** 2))


class StudentNoise(noise.AbstractNoise):
    """`y = A x + scale * n` with `n` from Student's distribution with five degrees of freedom: noise with outliers."""

    scale: jax.Array = eqx.field(converter=jnp.asarray)

    def negative_log_likelihood(self, prediction, y, measured):
        scale = self.scale.astype(prediction.dtype)
        residual = jnp.where(measured > 0, y - prediction, 0) / scale
        constant = gammaln(2.5) - gammaln(3.0) + 0.5 * jnp.log(5 * jnp.pi) + jnp.log(scale)
        entries = jnp.broadcast_to(measured, y.shape) > 0
        return jnp.sum(jnp.where(entries, 3 * jnp.log1p(residual**2 / 5) + constant, 0))

    def simulate(self, prediction, *, key):
        draw = jax.random.t(key, 5.0, prediction.shape, prediction.dtype)
        return prediction + self.scale.astype(prediction.dtype) * draw

    def linearise(self, y):
        # The variance of Student's distribution is 5 / 3.
        return y, jnp.full_like(y, jnp.sqrt(5 / 3)) * self.scale.astype(y.dtype)

    def invalid(self, measured):
        return ~(jnp.isfinite(self.scale) & (self.scale > 0))

    def unit(self):
        return jax.tree.map(jnp.ones_like, self)


class GroupSparsity(regularisers.AbstractRegulariser):
    """The sum over pixels of the Euclidean norm over channels; its prox shrinks the norms."""

    def __call__(self, x):
        return jnp.sum(self._norms(x))

    def prox(self, x, step):
        norms = self._norms(x)
        step = jnp.asarray(step).astype(norms.dtype)
        return x * (jnp.maximum(norms - step, 0) / jnp.where(norms > 0, norms, 1))

    def _norms(self, x):
        squares = jnp.sum(jnp.abs(x) ** 2, axis=-1, keepdims=True)
        # The input of the root is selected: at 0 its derivative is infinite.
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class Descent(classical.AbstractSolver):
    """Gradient steps for a regulariser that is smooth, with the constraint after each of them.

    - `curvature`: a bound of the second derivative of the regulariser.
    """

    curvature: jax.Array = eqx.field(converter=jnp.asarray)

    def init(self, problem, *, key=None):
        x, prediction = problem.zero()
        return x, prediction, problem.value(x, prediction)

    def step(self, problem, state, index, *, key=None):
        x, prediction, value = state
        slope = problem.operator.adjoint(problem.residual(prediction))
        slope = slope + problem.weight * problem.regulariser.gradient(x)
        new = x - slope / (problem.norm**2 + problem.weight * self.curvature.astype(x.dtype))
        new = new if problem.constraint is None else problem.constraint.prox(new, 1.0)
        prediction = problem.operator.operator(new)
        new_value = problem.value(new, prediction)
        return (new, prediction, new_value), *problem.stop(new, x, new_value, value)

    def finish(self, problem, state, *, key=None):
        x, prediction, _ = state
        return x, {"objective": problem.objective(x, prediction)}


class Waves(generative.AbstractGenerativePrior):
    """Images `(n, 1, 1)` that are exponentials of a few cosines, with standard normal coefficients."""

    strength: jax.Array = eqx.field(converter=jnp.asarray)
    size: int = eqx.field(static=True, default=8)
    latent_shape: tuple[int, ...] = eqx.field(static=True, default=(3,))

    def requirements(self):
        return (requirements.positive("strength", self.strength),)

    @property
    def image_shape(self):
        return (self.size, 1, 1)

    def decode(self, z):
        z = require_shape(z, self.latent_shape, "a latent")
        return jnp.exp(self.strength * (self._basis() @ z))[:, None, None]

    def energy(self, z):
        return 0.5 * jnp.sum(require_shape(z, self.latent_shape, "a latent") ** 2)

    def sample_latent(self, *, key):
        return jax.random.normal(key, self.latent_shape, self.strength.dtype)

    def encode(self, x):
        logarithm = jnp.log(require_shape(x, self.image_shape, "an image"))[:, 0, 0] / self.strength
        return 2 / self.size * (self._basis().T @ logarithm)

    def _basis(self):
        places, frequencies = jnp.arange(self.size) + 0.5, jnp.arange(1, 4)
        return jnp.cos(jnp.pi / self.size * places[:, None] * frequencies[None, :])


class IndependentPixels(diffusion.AbstractScore):
    """The exact score of images whose pixels are independent Gaussians of mean 0."""

    deviations: jax.Array
    process: diffusion.AbstractProcess

    def predict(self, t, x):
        scale, std = (jnp.asarray(v).astype(x.dtype) for v in self.process.marginal(t))
        variance = self.deviations.astype(x.dtype) ** 2
        total = scale**2 * variance + std**2
        return scale * variance / total * x, std / total * x


class NoiseAgain(diffusion.AbstractStepper):
    """Ancestral sampling, as it is written for `x / scale`, whose noise has the deviation `std / scale`."""

    num_steps: int = eqx.field(static=True, default=100)
    schedule: diffusion.AbstractSchedule = diffusion.UniformLogSNR()

    @property
    def evaluations_per_step(self) -> int:
        return 1

    def step(self, score, x, t, t_next, *, key):
        image, _ = score.predict(t, x)
        (scale, std), (scale_next, std_next) = score.process.marginal(t), score.process.marginal(t_next)
        ratio, ratio_next = std / scale, std_next / scale_next
        kept = (ratio_next / ratio) ** 2
        added = ratio_next * jnp.sqrt(1 - kept) * jax.random.normal(key, x.shape, x.dtype)
        moved = scale_next * (image + kept * (x / scale - image) + added)
        # A step to time 0 is to denoise.
        return extend.advance(jnp.where(t_next > 0, moved, image), x)


class DrawnBetween(diffusion.AbstractPosteriorMethod):
    """At each time: the denoised image, a draw between it and the measurement, and noise of that time on the draw.

    - `num_steps`: static.
    """

    num_steps: int = eqx.field(static=True, default=40)

    def prepare(self, likelihood, score, y):
        return extend.linear_problem(likelihood, score, y, "DrawnBetween")

    def times(self, process):
        return diffusion.UniformLogSNR().times(process, self.num_steps)

    def init(self, problem, *, key):
        return problem.process.prior_sample(problem.image.shape, key=key, dtype=problem.image.dtype)

    def step(self, problem, x, t, t_next, *, key):
        draw_key, noise_key = jax.random.split(key)
        scale, std = problem.process.marginal(t)
        image = problem.score.denoiser(t, x)
        drawn, code = diffusion.Exact().draw(problem, image, (std / scale) ** 2, key=draw_key)
        scale_next, std_next = problem.process.marginal(t_next)
        return extend.advance(scale_next * drawn + std_next * jax.random.normal(noise_key, x.shape, x.dtype), x, code)

    def finish(self, problem, x, *, key):
        return problem.score.denoiser(problem.process.t_min, x), {"network_evaluations": jnp.int32(self.num_steps + 1)}


class RobustEnergy(generative.AbstractLatentMethod):
    """The image lies in the range of the generator, and the energy counts by its logarithm: latents may be far out.

    - `scale`: the energy from which on the logarithm sets in.
    """

    scale: jax.Array = eqx.field(converter=jnp.asarray, default=1.0)

    @property
    def is_smooth(self) -> bool:
        return True

    def prepare(self, likelihood, prior, y, result):
        scale = self.scale.astype(likelihood.operator.domain.dtype)
        codes = jaxinv.RESULTS
        bad = (result == codes.successful) & ~(scale > 0)
        prepared = eqx.tree_at(lambda method: method.scale, self, jnp.where(scale > 0, scale, 1))
        return prepared, codes.where(bad, codes.invalid_parameter, result)

    def init(self, prior, z):
        return z

    def objective(self, likelihood, prior, y, weight, variables):
        fit = likelihood.negative_log_likelihood(prior.decode(variables), y)
        return fit + weight * self.scale * jnp.log1p(prior.energy(variables) / self.scale), jnp.zeros_like(weight)

    def proximal_map(self):
        return None

    def image(self, prior, variables):
        return prior.decode(variables)

    def latent(self, variables):
        return variables

    def scaled(self, factor):
        return self


class SmallestChange(dip.AbstractStopping):
    """Keep the image that differs least from the one before; stop `patience` steps after it."""

    patience: int = eqx.field(static=True, default=10)
    criterion_name = "change"
    expects_all_steps = False
    hides_measurements = False

    def prepare(self, likelihood, y, result, *, key):
        return dip.StoppingProblem(likelihood), result

    def init(self, problem, image):
        return jnp.zeros(image.shape, image.dtype), jnp.zeros((), bool)

    def step(self, problem, state, image):
        before, has_one = state
        change = jnp.sum((image - before) ** 2)
        return (image, jnp.ones_like(has_one)), jnp.where(has_one, change, jnp.finfo(change.dtype).max)

    def stops(self, problem, criterion, num_since_best):
        return num_since_best >= self.patience


def least_squares(problem, rtol=1e-8, max_steps=500):
    """Gradient descent on `1/2 ||A x - y||^2 + 1/2 weight ||x||^2`, until the gradient is small."""
    matrix, weight = problem["matrix"], problem["weight"]
    good = jnp.all(jnp.isfinite(problem["y"]))
    y = jnp.where(good, problem["y"], 0)
    gradient_at = lambda x: matrix.T @ (matrix @ x - y) + weight * x
    first = jnp.linalg.norm(matrix.T @ y)
    step = 1 / (jnp.sum(matrix**2) + weight)

    def go_on(carry):
        x, count = carry
        return (jnp.linalg.norm(gradient_at(x)) > rtol * first) & (count < max_steps)

    start = (jnp.zeros(matrix.shape[1], y.dtype), jnp.int32(0))
    x, count = jax.lax.while_loop(go_on, lambda carry: (carry[0] - step * gradient_at(carry[0]), carry[1] + 1), start)
    codes = jaxinv.RESULTS
    code = codes.where(count < max_steps, codes.successful, codes.max_steps_reached)
    return jaxinv.Solution(x, codes.where(good, code, codes.nonfinite_measurement), {"num_steps": count})
