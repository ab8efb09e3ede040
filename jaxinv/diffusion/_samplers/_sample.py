"""Images drawn from a score."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import check_count, check_key, check_shape
from ..._differentiation import Unrolled
from ..._jit import verb
from ..._score import AbstractScore
from ..._solution import Solution
from ..._types import Key, ProgressMeter
from .._scores._score import cast_process, takes_score
from ._reverse_sde import ReverseSDE
from ._sampler import AbstractSampler, Options


def check_method(method: Any) -> None:
    """Raise unless this is a method of `sample`."""
    if not isinstance(method, AbstractSampler):
        raise ValueError(
            "`method` must be `ReverseSDE()`, `ProbabilityFlow()`, `PredictorCorrector()`, `Ancestral()`, `DDIM()`, "
            f"`Heun()` or `DPMSolver()`, of `jaxinv.diffusion`; got {method!r}."
        )


def _check_num_samples(num_samples: Any) -> None:
    if num_samples is not None:
        check_count(num_samples, "num_samples")


def _check_differentiate(differentiate: Any) -> None:
    if not (differentiate is None or isinstance(differentiate, Unrolled)):
        raise ValueError(f"`differentiate` must be None or `jaxinv.Unrolled()`; got {differentiate!r}.")


def _check_shape(shape: Any) -> None:
    if isinstance(shape, jax.ShapeDtypeStruct):
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            raise ValueError(
                f"Samples are of a real floating dtype; `shape` asks for {jnp.dtype(shape.dtype).name}. The real and "
                "imaginary part of an image are two channels."
            )
        shape = shape.shape
    check_shape(shape, "shape")


@takes_score(
    shape=_check_shape,
    key=check_key,
    method=check_method,
    num_samples=_check_num_samples,
    differentiate=_check_differentiate,
)
@verb
def sample(
    score: AbstractScore,
    shape: Sequence[int] | jax.ShapeDtypeStruct,
    *,
    key: Key,
    method: AbstractSampler = ReverseSDE(),
    num_samples: int | None = None,
    denoise: bool = True,
    num_saved: int = 0,
    differentiate: Unrolled | None = None,
    progress: ProgressMeter | None = None,
) -> Solution:
    """Images drawn by running a noising process backwards, from noise at `t_max` to `t_min`.

    **Arguments:**

    - `score`: a `diffusion.AbstractScore`, which carries the process: that of a network,
        `score_from(network, process)`, of an oracle, `oracles.Gaussian(...).score(process)`, or of a function,
        `diffusion.Score(function, process)`.
    - `shape`: the shape of one image, `(h, w, c)` or any other; a `jax.ShapeDtypeStruct` also gives the dtype.
    - `key`: the random key. Sample `i` depends on the key and on `i`, never on the number of samples.
    - `method`: `ReverseSDE()`, `ProbabilityFlow()`, `PredictorCorrector()`, `Ancestral()`, `DDIM()`, `Heun()` or
        `DPMSolver()`, each with its number of steps.
    - `num_samples`: the number of samples, static; the value is then `(num_samples, *shape)`. With `None` it is one
        image, of the shape `shape`.
    - `denoise`: whether to return `E[x_0 | x_{t_min}]` in place of `x_{t_min}`. That costs one evaluation more, or with
        a solver of diffrax as many as it has stages; none if the last stage of the solver is the first one of its next
        step, which is so for `Tsit5`.
    - `num_saved`: the number of states on the way that are returned, static.
    - `differentiate`: `jaxinv.Unrolled()` for derivatives in reverse mode through the steps; with `None` derivatives
        exist in forward mode. `ProbabilityFlow()` has both in either case, `ReverseSDE()` those in forward mode only.
    - `progress`: a diffrax progress meter.

    **Returns:** a `Solution`. Each sample has its own `result`. It is `nonfinite` if the score became NaN or infinite;
    the sample is then its last finite state, and `stats["num_steps"]` the number of the step that failed.
    `stats["network_evaluations"]` counts evaluations of the score. With `num_saved`, `aux` is
    `{"times": (num_saved,), "states": (num_saved, *shape)}`.

    **Raises:** `ValueError` if a score returns another shape than it is given, for sizes that are not positive
    integers, and for anything but one typed key.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, oracles
        prior = oracles.Gaussian(jnp.ones((8, 8, 1)), 0.1 * jnp.eye(64))
        solution = diffusion.sample(
            prior.score(diffusion.VP()), (8, 8, 1), key=jax.random.key(0), num_samples=4, method=diffusion.DDIM(50)
        )
        images = solution.check().value  # (4, 8, 8, 1)
        ```
    """
    if isinstance(shape, jax.ShapeDtypeStruct):
        size, dtype = shape.shape, shape.dtype
    else:
        size, dtype = check_shape(shape, "shape"), jnp.result_type(float)
    score = cast_process(score, dtype)

    def draw(index: Array | int) -> Solution:
        start_key, path_key = jax.random.split(jax.random.fold_in(key, index))
        x = score.process.prior_sample(tuple(size), key=start_key, dtype=dtype)
        path = method.run(score, x, key=path_key, options=Options(denoise, num_saved, differentiate, progress))
        stats = {"num_steps": path.num_steps, "network_evaluations": path.network_evaluations}
        aux = None if path.states is None else {"times": path.times, "states": path.states}
        return Solution(path.end, path.result, stats, aux)

    return draw(0) if num_samples is None else jax.vmap(draw)(jnp.arange(num_samples))
