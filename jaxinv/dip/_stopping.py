"""The stopping rules: when a run stops, and which of its images is kept."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._arrays import as_parameter, check_count, is_concrete
from .._solution import RESULTS
from .._types import IntLike, Key, PyTree, State, Struct
from ..likelihood import Likelihood, discrepancy, domain_dtype, prepare_parameter
from ..operators._restricted import Restricted
from ..requirements import Parametric, Requirement, positive, requirement


class StoppingProblem(NamedTuple):
    """A measurement as a stopping rule prepared it.

    - `likelihood`: the likelihood that the run fits.
    - `parameters`: what the criterion of the rule needs; `None` for a rule whose criterion needs images alone.
    """

    likelihood: Likelihood
    parameters: PyTree = None


class AbstractStopping(Parametric):
    """A rule that assigns a criterion to every image of a run: the image with the lowest one is kept.

    A rule of your own implements these members, and is given as `reconstruct(..., stopping=...)`. All of them act on
    one problem, never on a batch.

    - `criterion_name`: the name of the criterion in the history; `None`, the default, for a rule without one.
    - `expects_all_steps`: whether a run that takes all its steps is successful. Otherwise, by default, its code is
        `max_steps_reached`.
    - `hides_measurements`: whether the network must not depend on the whole measurement, so that its input cannot be
        made of it; `False` by default.
    """

    criterion_name: ClassVar[str | None] = None
    expects_all_steps: ClassVar[bool] = False
    hides_measurements: ClassVar[bool] = False

    @abc.abstractmethod
    def prepare(
        self, likelihood: Likelihood, y: State, result: RESULTS, *, key: Key
    ) -> tuple[StoppingProblem, RESULTS]:
        """Check the options, and cast the numbers among them, once.

        **Arguments:**

        - `likelihood`, `y`: as prepared for the solve: in its dtype, and finite.
        - `result`: the code so far.
        - `key`: for a rule that is random.

        **Returns:** the likelihood that is fitted, with what the criterion needs; and the code:
        `RESULTS.invalid_parameter` for a number out of its range, where `result` was successful.
        """

    @abc.abstractmethod
    def init(self, problem: StoppingProblem, image: jax.ShapeDtypeStruct) -> PyTree[Array]:
        """The state before the first image.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `image`: the shape and dtype of the images.

        **Returns:** a pytree of arrays, or `None` for a rule without a state.
        """

    @abc.abstractmethod
    def step(self, problem: StoppingProblem, state: PyTree[Array], image: Array) -> tuple[PyTree[Array], Array]:
        """The criterion of the next image.

        **Arguments:**

        - `problem`, `state`: as `prepare`, and `init` or the step before, made them.
        - `image`: the image after one more step of the run, or the average of the images until then.

        **Returns:** the next state, and the criterion, a real scalar: the lower, the better. Among equals the latest
        image is kept.
        """

    @abc.abstractmethod
    def stops(self, problem: StoppingProblem, criterion: Array, num_since_best: Array) -> Bool[Array, ""]:
        """Whether the run is to stop.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `criterion`: the criterion of the last image.
        - `num_since_best`: the number of steps since the image with the lowest criterion.

        **Returns:** a boolean scalar.
        """


class FixedSteps(AbstractStopping):
    """Take all the steps, and keep the last image."""

    expects_all_steps: ClassVar[bool] = True

    def prepare(
        self, likelihood: Likelihood, y: State, result: RESULTS, *, key: Key
    ) -> tuple[StoppingProblem, RESULTS]:
        del y, key
        return StoppingProblem(likelihood), result

    def init(self, problem: StoppingProblem, image: jax.ShapeDtypeStruct) -> None:
        del problem, image

    def step(self, problem: StoppingProblem, state: None, image: Array) -> tuple[None, Array]:
        del problem, state
        return None, jnp.zeros((), jnp.finfo(image.dtype).dtype)

    def stops(self, problem: StoppingProblem, criterion: Array, num_since_best: Array) -> Bool[Array, ""]:
        del problem, criterion, num_since_best
        return jnp.zeros((), bool)


class WindowedVariance(AbstractStopping):
    """Keep the image at which the last `window` images vary least; stop `patience` steps after the last lowest one.

    The variance is `1/W sum_i ||x_i - mean_j x_j||^2`, over whole images. It falls while the network still fits the
    image and rises when it begins to fit noise. Before the window is full the criterion is infinite, and the latest
    image is kept. The state holds `window` images.

    Measured on tomography of ellipses (benchmarks, dip ct): .1 dB below the best of the run with Adam and a jittered
    input; with Muon, whose images settle while they fit noise, 1.3 dB.

    - `window`: static, in steps. Raise it where the criterion is noisy, as with a jittered input.
    - `patience`: static, in steps.

    **Reference:** Wang, Li, Zhuang, Chen, Liang, Sun, Early stopping for deep image prior, 2023.
    """

    window: IntLike = eqx.field(default=100, static=True)
    patience: IntLike = eqx.field(default=1000, static=True)
    criterion_name: ClassVar[str | None] = "variance"

    def __check_init__(self):
        check_count(self.window, "window")
        check_count(self.patience, "patience")

    def prepare(
        self, likelihood: Likelihood, y: State, result: RESULTS, *, key: Key
    ) -> tuple[StoppingProblem, RESULTS]:
        del y, key
        return StoppingProblem(likelihood), result

    def init(self, problem: StoppingProblem, image: jax.ShapeDtypeStruct) -> tuple[Array, Array]:
        del problem
        return jnp.zeros((self.window, *image.shape), image.dtype), jnp.int32(0)

    def step(
        self, problem: StoppingProblem, state: tuple[Array, Array], image: Array
    ) -> tuple[tuple[Array, Array], Array]:
        del problem
        images, count = state
        images = images.at[count % self.window].set(image)
        deviation = images - jnp.mean(images, axis=0, keepdims=True)
        variance = jnp.sum(jnp.abs(deviation) ** 2) / self.window
        count = count + 1
        return (images, count), jnp.where(count >= self.window, variance, jnp.finfo(variance.dtype).max)

    def stops(self, problem: StoppingProblem, criterion: Array, num_since_best: Array) -> Bool[Array, ""]:
        del problem, criterion
        return num_since_best >= self.patience


class Discrepancy(AbstractStopping):
    """Stop at the first image that fits the data as well as the noise allows: `||W (y - A x)||^2 / m <= factor^2`.

    `W` is the whitening of the noise, so its level must be right, and `m` the number of real measured values. Photon
    noise enters by its Gaussian approximation. A run that ends before keeps the image that fits best.

    - `factor`: positive, the safety factor on the noise. Raise it where the noise level is uncertain.

    **Reference:** Morozov, On the solution of functional equations by the method of regularization, 1966.
    """

    factor: Array = eqx.field(default=1.0, converter=as_parameter)
    criterion_name: ClassVar[str | None] = "discrepancy"

    def __check_init__(self):
        check_one_number("factor", self.factor)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("factor", self.factor),)

    def prepare(
        self, likelihood: Likelihood, y: State, result: RESULTS, *, key: Key
    ) -> tuple[StoppingProblem, RESULTS]:
        del key
        factor, result = prepare_parameter(self.factor, likelihood.operator, result, positive=True, name="factor")
        return StoppingProblem(likelihood, (y, factor)), result

    def init(self, problem: StoppingProblem, image: jax.ShapeDtypeStruct) -> None:
        del problem, image

    def step(self, problem: StoppingProblem, state: None, image: Array) -> tuple[None, Array]:
        del state
        y, _ = problem.parameters
        return None, discrepancy(problem.likelihood, y, image)

    def stops(self, problem: StoppingProblem, criterion: Array, num_since_best: Array) -> Bool[Array, ""]:
        del num_since_best
        _, factor = problem.parameters
        return criterion <= factor**2


class HeldOut(AbstractStopping):
    """Fit without a part of the measurement, and keep the image that predicts this part best.

    Every measured entry is held out with probability `fraction`, and at least one is. The criterion is `-log p` of
    these entries, per entry. Where no entry remains to be fitted the result is `invalid_parameter`. The input of the
    network must not depend on the measurement: start from noise.

    - `fraction`: between 0 and 1.
    - `patience`: static; the run stops so many steps after the last best image.

    **Reference:** Yaman, Hosseini, Akcakaya, Zero-shot self-supervised learning for MRI reconstruction, 2022.
    """

    fraction: Array = eqx.field(default=0.1, converter=as_parameter)
    patience: IntLike = eqx.field(default=1000, static=True)
    criterion_name: ClassVar[str | None] = "held_out"
    hides_measurements: ClassVar[bool] = True

    def __check_init__(self):
        check_count(self.patience, "patience")
        check_one_number("fraction", self.fraction)

    def requirements(self) -> tuple[Requirement, ...]:
        words = "`fraction` must be between 0 and 1, without the ends"
        return (requirement(words, self.fraction, lambda v: (v > 0) & (v < 1)),)

    def prepare(
        self, likelihood: Likelihood, y: State, result: RESULTS, *, key: Key
    ) -> tuple[StoppingProblem, RESULTS]:
        operator = likelihood.operator
        fraction, result = prepare_parameter(self.fraction, operator, result, positive=True, name="fraction")
        result = RESULTS.where((result == RESULTS.successful) & ~(fraction < 1), RESULTS.invalid_parameter, result)
        held, fitted = _split(operator.measured, operator.codomain, fraction, key)
        count = sum(jnp.sum(leaf > 0) for leaf in jax.tree.leaves(held))
        remaining = sum(jnp.sum(leaf > 0) for leaf in jax.tree.leaves(fitted))
        result = RESULTS.where(
            (result == RESULTS.successful) & ((count == 0) | (remaining == 0)), RESULTS.invalid_parameter, result
        )
        held_out = Likelihood(Restricted(operator, held), likelihood.noise)
        parameters = (held_out, y, jnp.maximum(count, 1).astype(domain_dtype(operator)))
        return StoppingProblem(Likelihood(Restricted(operator, fitted), likelihood.noise), parameters), result

    def init(self, problem: StoppingProblem, image: jax.ShapeDtypeStruct) -> None:
        del problem, image

    def step(self, problem: StoppingProblem, state: None, image: Array) -> tuple[None, Array]:
        del state
        held_out, y, count = problem.parameters
        return None, held_out.negative_log_likelihood(image, y) / count

    def stops(self, problem: StoppingProblem, criterion: Array, num_since_best: Array) -> Bool[Array, ""]:
        del problem, criterion
        return num_since_best >= self.patience


def check_one_number(name: str, value: Array) -> None:
    """Raise unless an option is one number."""
    if value.ndim != 0 and is_concrete(value):
        raise ValueError(f"`{name}` must be one number; got shape {value.shape}. Map over several with `jax.vmap`.")


def _split(measured: PyTree[Array], codomain: Struct, fraction: Array, key: Key) -> tuple[PyTree, PyTree]:
    """The weights of the entries that are held out, at least one of them, and the weights of the others."""
    leaves, treedef = jax.tree.flatten(measured)
    full = [jnp.broadcast_to(leaf, c.shape) for leaf, c in zip(leaves, jax.tree.leaves(codomain), strict=True)]
    draws = [jax.random.uniform(jax.random.fold_in(key, i), w.shape, fraction.dtype) for i, w in enumerate(full)]
    draws = [jnp.where(w > 0, u, 1) for w, u in zip(full, draws, strict=True)]
    bound = jnp.maximum(fraction, jnp.min(jnp.stack([jnp.min(u) for u in draws])))
    held = [jnp.where(u <= bound, w, 0) for w, u in zip(full, draws, strict=True)]
    fitted = [jnp.where(u <= bound, 0, w) for w, u in zip(full, draws, strict=True)]
    return treedef.unflatten(held), treedef.unflatten(fitted)
