"""Images drawn from a score."""

from typing import Any

import jax
import jax.numpy as jnp

from ..._checks import check_count
from ..._differentiation import Unrolled
from ..._keys import check_key
from ..._score import AbstractScore
from ..._solution import Solution
from ..._types import Key
from ..._verb import verb
from ...operators._base import check_shape
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


@takes_score(method=check_method)
@verb
def sample(
    score: AbstractScore,
    shape: Any,
    *,
    key: Key,
    method: AbstractSampler = ReverseSDE(),
    num_samples: Any = None,
    denoise: bool = True,
    num_saved: int = 0,
    differentiate: Any = None,
    progress: Any = None,
) -> Solution:
    """Images drawn by running a noising process backwards, from noise at `t_max` to `t_min`.

    **Arguments:**

    - `score`: a `diffusion.AbstractScore`: that of a network, `score_from(network, process)`, of an oracle,
        `oracles.Gaussian(...).score(process)`, or of a function, `diffusion.Score(function, process)`.
    - `shape`: of one image, `(h, w, c)` or any; or a `jax.ShapeDtypeStruct`, for the dtype.
    - `key`: sample `i` depends on the key and `i`, never on their number.
    - `method`: `ReverseSDE()` (default), `ProbabilityFlow()`, `PredictorCorrector()`, `Ancestral()`, `DDIM()`,
        `Heun()` or `DPMSolver()`, each with its number of steps.
    - `num_samples`: static; the value then is `(num_samples, *shape)`. By default one image, of `shape`.
    - `denoise`: whether to return `E[x_0 | x_{t_min}]` in place of `x_{t_min}`: one evaluation more, or as many as a
        solver of diffrax has stages; none where its last stage is the first of the next step, as of `Tsit5`.
    - `num_saved`: how many states on the way to return, static.
    - `differentiate`: `jaxinv.Unrolled()` for derivatives in reverse mode through the steps; with `None` they exist in
        forward mode. `ProbabilityFlow()` has both either way, `ReverseSDE()` those in forward mode only.
    - `progress`: a diffrax progress meter.

    **Returns:** a `Solution`. Each sample has its own `result`: `nonfinite` if the score became NaN or infinite, upon
    which the sample is its last finite state and `stats["num_steps"]` the number of that step. `stats` further has
    `network_evaluations`, of scores. With `num_saved`, `aux` is `{"times": (num_saved,), "states": (num_saved,
    *shape)}`.

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
    check_key(key)
    struct = shape if isinstance(shape, jax.ShapeDtypeStruct) else None
    dtype = jnp.result_type(float) if struct is None else struct.dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Samples are of a real floating dtype; `shape` asks for {jnp.dtype(dtype).name}. The real and imaginary "
            "part of an image are two channels."
        )
    shape = check_shape(shape if struct is None else struct.shape, "shape")
    score = cast_process(score, dtype)
    if not (differentiate is None or isinstance(differentiate, Unrolled)):
        raise ValueError(f"`differentiate` must be None or `jaxinv.Unrolled()`; got {differentiate!r}.")
    if num_samples is not None:
        check_count(num_samples, "num_samples")

    def draw(index: Any) -> Solution:
        start_key, path_key = jax.random.split(jax.random.fold_in(key, index))
        x = score.process.prior_sample(shape, key=start_key, dtype=dtype)
        path = method.run(score, x, key=path_key, options=Options(denoise, num_saved, differentiate, progress))
        stats = {"num_steps": path.num_steps, "network_evaluations": path.network_evaluations}
        aux = None if path.states is None else {"times": path.times, "states": path.states}
        return Solution(path.end, path.result, stats, aux)

    return draw(0) if num_samples is None else jax.vmap(draw)(jnp.arange(num_samples))
