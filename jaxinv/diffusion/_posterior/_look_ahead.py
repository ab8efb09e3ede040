"""Looking ahead by draws of the image, a guidance for `TDS` on any operator and any noise."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import HIGHEST, check_count, safe_sqrt, subkeys
from ..._krylov import flatten
from ..._method import advance
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, State
from ...likelihood import Likelihood, whitened_residual
from .._processes._process import is_data
from .._processes._schedule import AbstractSchedule, UniformTime
from .._samplers._sampler import check_steps
from ._guidance import AbstractGuidance, AbstractTwist, AbstractTwistView, Guided, check_view
from ._moment_matching import bridge, bridge_log_densities
from ._moments import moments
from ._problem import Problem, any_problem
from ._tds import tempered

# The share of the draws that stay effective in the choice among them, and the share of a choice that ignores the data.
_EFFECTIVE, _BLIND = 0.25, 0.1


class LookAhead(AbstractGuidance[Problem]):
    """Draw images from `N(E[x_0 | x_t], Cov[x_0 | x_t])`, choose one by its likelihood, then `x_s` from
    `p(x_s | x_t, x_0)`.

    It uses values of the likelihood alone, neither derivatives nor an approximation of it: so it accepts any operator,
    also where several images explain a measurement, and any noise, photon noise too. `TDS(LookAhead())` weights what it
    proposes by the exact ratio, and its final images by the exact likelihood. Its twist is
    `N(y; mean of A x_0, covariance of A x_0 + S)` of the draws, with `S` the covariance of the noise. Alone it is no
    sampler of the posterior, since its choice keeps a quarter of the draws effective and, for a tenth of its
    probability, ignores the measurement.

    A step takes one evaluation, one vector-Jacobian product for each pixel, and `draws` values of the likelihood: it is
    for small images. It is the default for operators that are not linear, and for photon noise, of images of up to 16
    pixels: it finds images among its draws, which hardly any explains in many dimensions with little noise, and then
    the weights collapse.

    - `num_steps`: the number of steps, static.
    - `draws`: the number of images that a particle draws in each step, static. Raise it for many measurements.
    - `schedule`: the times of the steps.

    Measured against quadrature, by eight clouds of 1024 particles of `TDS(LookAhead())` (a slow test): phase retrieval
    of two pixels, a mixture of two modes behind a cube, and photons behind an exponential. Means are within 6 % of a
    standard deviation, covariances within 6 %, of which most is the error of the clouds, and the log-evidence within
    three of its reported errors and .02. For phase retrieval 62 to 73 % of 2048 particles stayed effective.

    **Reference:** none that we know of for the draws of images; proposals that are mixtures, with weights by the whole
    mixture, are those of Klaas, de Freitas, Doucet, Toward practical N^2 Monte Carlo: the marginal particle filter,
    2005.
    """

    num_steps: IntLike = eqx.field(default=50, static=True)
    draws: IntLike = eqx.field(default=32, static=True)
    schedule: Checked[AbstractSchedule] = UniformTime()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)
        check_count(self.draws, "draws")

    @property
    def weighs_the_measurement(self) -> bool:
        # Its tempered and partly blind choice belongs to no posterior before `TDS` weighs it.
        return False

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
        return any_problem(likelihood, score, y)

    def step(
        self, problem: Problem, state: Guided, t: Array, t_next: Array, *, key: Key
    ) -> tuple[Guided, Array, RESULTS]:
        draw_key, move_key = subkeys(key, 2)
        view = self.twist().evaluate(problem, t, t_next, state.x, key=draw_key)
        moved, _ = self.propose(problem.process, t, t_next, state.x, view, key=move_key)
        # The choice among NaN, or where no draw is possible, is one of them, as if nothing was measured.
        possible = jnp.isfinite(jnp.max(view.log_likelihoods))
        code = RESULTS.where(possible, RESULTS.successful, RESULTS.nonfinite)
        return advance(Guided(moved, state.num_vjps + view.num_vjps), state, code)

    def twist(self) -> "DrawnTwist":
        return DrawnTwist(self.draws)

    def propose(
        self, process: AbstractProcess, t: Array, t_next: Array, x: Array, view: "DrawnView", *, key: Key
    ) -> tuple[Array, Array]:
        check_view(view, DrawnView, "LookAhead")
        choice_key, move_key = subkeys(key, 2)
        count = len(view.images)
        log_choice = jnp.logaddexp(
            math.log1p(-_BLIND) + jax.nn.log_softmax(tempered(view.log_likelihoods, jnp.asarray(_EFFECTIVE * count))),
            jnp.asarray(math.log(_BLIND / count), x.dtype),
        )
        chosen = jax.random.categorical(choice_key, log_choice)
        moved, _ = bridge(process, t, t_next, x, view.images[chosen], key=move_key)
        # Both densities are mixtures over all draws, which have less variance than those of the draw that was chosen.
        log_densities = bridge_log_densities(process, t, t_next, x, view.images, moved)
        log_ratio = jax.nn.logsumexp(log_densities) - jax.nn.logsumexp(log_densities + log_choice) - math.log(count)
        # The last image is one of the draws, and its weight has the exact likelihood in place of the twist.
        last = view.log_likelihoods[chosen] - view.log_twist - log_choice[chosen] - math.log(count)
        return moved, jnp.where(is_data(t_next), last, log_ratio)


class DrawnView(AbstractTwistView):
    """The evaluation of a twist with the images that it was computed from.

    - `images`: draws from `N(E[x_0 | x_t], Cov[x_0 | x_t])`, `(draws, *shape)`.
    - `log_likelihoods`: `log p(y | x_0)` of each.
    """

    images: Array
    log_likelihoods: Array
    log_twist: Array
    num_vjps: Array


class DrawnTwist(AbstractTwist[Problem, DrawnView]):
    """`N(y; mean of A x_0, covariance of A x_0 + S)` of draws `x_0` from `N(E[x_0 | x_t], Cov[x_0 | x_t])`.

    - `draws`: the number of draws, static.
    """

    draws: int = eqx.field(static=True)

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
        return any_problem(likelihood, score, y)

    def evaluate(self, problem: Problem, t: Array, t_next: Array, x: Array, *, key: Key) -> DrawnView:
        del t_next
        at = moments(problem.score, t, x)
        basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        covariance = jax.vmap(at.covariance_product)(basis).reshape(x.size, x.size)
        values, vectors = jnp.linalg.eigh(0.5 * (covariance + covariance.T))
        z = jax.random.normal(key, (self.draws, x.size), x.dtype)
        # Negative eigenvalues, as the derivative of a network has, count as zero.
        z = jnp.matmul(z * safe_sqrt(jnp.maximum(values, 0))[None], vectors.T, precision=HIGHEST)
        images = at.image[None] + z.reshape(self.draws, *x.shape)
        log_likelihoods = -jax.vmap(problem.negative_log_likelihood)(images)
        residuals = jax.vmap(lambda x: flatten(whitened_residual(problem.likelihood, problem.y, x))[0])(images)
        # Constants of the noise cancel, since the weights of the last images contain the likelihood itself.
        return DrawnView(images, log_likelihoods, _log_normal(residuals), jnp.int32(x.size))


def _log_normal(residuals: Array) -> Array:
    """`log N(0; m, C + I)` but for a constant, with mean and covariance of residuals `(n, m)`."""
    mean = jnp.mean(residuals, axis=0)
    spread = (residuals - mean[None]) / math.sqrt(max(len(residuals) - 1, 1))
    # This is the smaller of the two matrices with the same determinant.
    few = mean.size <= len(residuals)
    product = (
        jnp.matmul(spread.T, spread, precision=HIGHEST) if few else jnp.matmul(spread, spread.T, precision=HIGHEST)
    )
    factor = jnp.linalg.cholesky(jnp.eye(len(product), dtype=mean.dtype) + product)
    right = mean if few else jnp.matmul(spread, mean, precision=HIGHEST)
    square = jnp.sum(jax.scipy.linalg.solve_triangular(factor, right, lower=True) ** 2)
    quadratic = square if few else jnp.sum(mean**2) - square
    return -0.5 * quadratic - jnp.sum(jnp.log(jnp.diag(factor)))
