"""The training of LISTA."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from .._arrays import check_key, shapes
from .._checks import checked
from .._types import ArrayLike, Checked, IntLike, Key, Scalar, Stats
from ..likelihood import Likelihood
from ..models import LISTA
from ..training import fit
from ._loss import SimulatedLoss, supervised_loss

# The first learning rate of Adam, by whether the weights are tied (untied ones diverge at the rate of tied ones), and
# the share of it at the end.
_RATES = {True: 6e-3, False: 6e-4}
_FINAL_SHARE = 0.01


@checked()
def train_lista(
    model: Checked[LISTA],
    images: ArrayLike,
    measurements: Checked[Array | np.ndarray | Likelihood],
    *,
    key: Key,
    num_steps: IntLike,
    batch_size: IntLike,
    optimiser: Checked[optax.GradientTransformation | None] = None,
    learning_rate: Checked[Scalar | Callable[[Array], Array] | None] = None,
    validation: Checked[Array | np.ndarray | tuple[ArrayLike, ArrayLike] | None] = None,
    **options: Any,
) -> tuple[LISTA, Stats]:
    """Train LISTA to recover sparse images: minimise `||model(y) - x||^2`, the mean over pairs.

    It trains weights, thresholds, slopes and momenta of all layers at once, from the values that the model has: those
    of ISTA, if it is new. It runs on the host, on `training.fit`. Train untied weights from tied ones that have been
    trained, `model.untied()`.

    **Arguments:**

    - `model`: a `models.LISTA`, which is not changed.
    - `images`: `(n, *domain)`, sparse, of a floating dtype.
    - `measurements`: `(n, *codomain)`, one of each image; or a `Likelihood`, by which they are simulated, anew at every
        step. Without noise: `Likelihood(operator, noise.Gaussian(0.0))`.
    - `key`: a typed key.
    - `num_steps`, `batch_size`: as in `training.fit`.
    - `optimiser`, `learning_rate`: as in `training.fit`. Default: Adam, with a rate that falls from .006, or .0006 if
        weights are not tied, to a hundredth of it, by a cosine. It suits images whose entries are of order 1.
    - `validation`: `(images, measurements)`, or with a likelihood images; the weights of the lowest loss are returned.
    - `options`: options of `training.fit`: `ema`, `checkpoint`, `progress`, `chunk_size`, `mesh`.

    **Returns:** the trained model, and the history of `training.fit`.

    **Raises:** `ValueError` for data that do not fit the model or are not pairs, and as `training.fit`.

    **Reference:** Gregor, LeCun, Learning fast approximations of sparse coding, 2010; Chen, Liu, Wang, Yin, Theoretical
    linear convergence of unfolded ISTA and its practical weights and thresholds, 2018.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import models, noise, operators, unrolled
        matrix = jax.random.normal(jax.random.key(0), (20, 40)) / 20**0.5
        operator = operators.Matrix(matrix, (40,))
        values, where = jax.random.normal(jax.random.key(1), (2, 500, 40))
        images = jax.numpy.where(where > 1.5, values, 0)
        model, history = unrolled.train_lista(
            models.LISTA(operator, 8, tied=True),
            images,
            jaxinv.Likelihood(operator, noise.Gaussian(0.01)),
            key=jax.random.key(2),
            num_steps=200,
            batch_size=50,
        )
        assert history["loss"][-1] < history["loss"][0]
        ```
    """
    check_key(key)
    if not isinstance(model, LISTA):
        raise ValueError(
            f"`model` must be a `models.LISTA(operator)`; got {type(model).__name__}. Other networks are trained by "
            "`training.fit` with `unrolled.supervised_loss`."
        )
    operator = model.operator.get_value()
    _check(images, operator.domain.shape, "images")
    if isinstance(measurements, Likelihood):
        other = measurements.operator
        if (shapes(other.domain), shapes(other.codomain)) != (shapes(operator.domain), shapes(operator.codomain)):
            raise ValueError(
                f"The operator of the likelihood takes {shapes(other.domain)} to {shapes(other.codomain)}; that of "
                f"the model {shapes(operator.domain)} to {shapes(operator.codomain)}."
            )
        data, loss = images, SimulatedLoss(measurements)
    else:
        _check(measurements, operator.codomain.shape, "measurements")
        if len(images) != len(measurements):
            raise ValueError(f"There are {len(images)} images and {len(measurements)} measurements: they are no pairs.")
        data, loss = (images, measurements), supervised_loss
    if learning_rate is not None or optimiser is None:
        tied = bool(model.tied)
        options["learning_rate"] = _Decay(num_steps, _RATES[tied]) if learning_rate is None else learning_rate
    return fit(
        model,
        loss,
        data,
        key=key,
        optimiser=optimiser,
        num_steps=num_steps,
        batch_size=batch_size,
        validation=validation,
        **options,
    )


class _Decay(eqx.Module):
    """A learning rate that falls by a cosine. It is a module, so that a checkpoint recognises it."""

    num_steps: int = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __call__(self, count: Array) -> Array:
        return jnp.asarray(optax.cosine_decay_schedule(self.rate, self.num_steps, _FINAL_SHARE)(count))


def _check(data: Any, shape: tuple[int, ...], name: str) -> None:
    if not isinstance(data, jax.Array | np.ndarray) or data.shape[1:] != tuple(shape):
        got = getattr(data, "shape", type(data).__name__)
        raise ValueError(
            f"The model takes `{name}` as an array of shape (n, {', '.join(map(str, shape))}); got {got}."
            + (" Or give a `Likelihood`, which makes them." if name == "measurements" else "")
        )
