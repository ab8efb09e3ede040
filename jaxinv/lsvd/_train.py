"""The training of a learned SVD."""

import abc
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import as_leaf, check_key
from .._checks import checked
from .._solution import RESULTS
from .._types import ArrayLike, Checked, IntLike, Key, Stats
from ..likelihood import Likelihood, simulate_each
from ..requirements import Parametric, Requirement, not_negative
from ..training import fit
from ._diagonalise import check_ends, check_model, diagonalise, has_ends, latents_of, match
from ._latent_map import Full, Spectrum
from ._loss import OfImages, Simulated, autoencoding_loss, joint_loss
from ._model import LSVD

# Images, and the measurements that belong to them.
Pair = tuple[Array | np.ndarray, Array | np.ndarray]


class AbstractTraining(Parametric):
    """A way to train a learned SVD: the `method` of `lsvd.train`."""

    @abc.abstractmethod
    def train(
        self,
        model: LSVD,
        images: Array | np.ndarray,
        measurements: Array | np.ndarray | Likelihood,
        *,
        key: Key,
        pairs: Checked[Pair | None],
        validation: Checked[Array | np.ndarray | Pair | None],
        options: dict[str, Any],
    ) -> tuple[LSVD, Stats]:
        """Train a model.

        **Arguments:**

        - `model`, `images`, `measurements`, `pairs`, `validation`: as in `lsvd.train`; shapes fit the model.
        - `key`: a typed key.
        - `options`: options of `training.fit`, with `num_steps` and `batch_size`.

        **Returns:** the trained model, a new one, and the history.

        **Raises:** `ValueError` for data that are not paired where they must be.
        """


class Joint(AbstractTraining):
    """Train everything at once, by `joint_loss`, on pairs of images and measurements.

    - `image_weight`, `measurement_weight`: `a_x`, `a_y`, scalars, not negative.

    **Raises:** `ValueError` for anything else, where its value is known.
    """

    image_weight: Array | float = eqx.field(converter=as_leaf, default=1.0)
    measurement_weight: Array | float = eqx.field(converter=as_leaf, default=1.0)

    def __check_init__(self):
        for name in ("image_weight", "measurement_weight"):
            value = getattr(self, name)
            if jnp.ndim(value) != 0:
                raise ValueError(f"`{name}` must be a scalar that is finite and not negative; got {value}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return tuple(not_negative(name, getattr(self, name)) for name in ("image_weight", "measurement_weight"))

    def train(
        self,
        model: LSVD,
        images: Array | np.ndarray,
        measurements: Array | np.ndarray | Likelihood,
        *,
        key: Key,
        pairs: Checked[Pair | None],
        validation: Checked[Array | np.ndarray | Pair | None],
        options: dict[str, Any],
    ) -> tuple[LSVD, Stats]:
        if pairs is not None:
            raise ValueError(
                "`Joint()` needs pairs throughout, as `images` and `measurements`; `pairs` is for `Separate()`."
            )
        weights = (jnp.asarray(self.image_weight), jnp.asarray(self.measurement_weight))
        if isinstance(measurements, Likelihood):
            data, loss = images, Simulated(measurements, *weights)
        else:
            _check_paired(images, measurements, "`Joint()`, or use `Separate()` with `pairs=(...)`")
            data = (images, measurements)
            loss = jax.tree_util.Partial(joint_loss, image_weight=weights[0], measurement_weight=weights[1])
            if validation is not None:
                _check_validation(validation)
        model, history = fit(model, loss, data, key=key, validation=validation, **options)
        return _normalised(model, images, measurements, key), history


class Separate(AbstractTraining):
    """Train each autoencoder by itself, on data that need not be paired; then fit the latent map to pairs.

    The last step is an exact least-squares fit of the latents: there is nothing to tune. Its spectrum consists of the
    canonical correlations between the latents of the two sides. It weighs an error of any latent alike, whether or not
    the decoder makes much of it. From there, `map_steps` go on with the loss of the images,
    `sum_i ||x_i - D_x S E_y(y_i)||^2` over the map `S`, while both autoencoders stay as they are; a linear map is then
    brought to a spectrum. A map that is not linear, `LSVD(..., map_widths=...)`, needs them to be more than affine.

    - `map_steps`: the number of those steps, static; 0 for the least-squares fit alone.

    **Raises:** `ValueError` for anything but an integer that is not negative.
    """

    map_steps: IntLike = eqx.field(static=True, default=0)

    def __check_init__(self):
        if isinstance(self.map_steps, bool) or not isinstance(self.map_steps, int | np.integer) or self.map_steps < 0:
            raise ValueError(f"`map_steps` must be an integer that is not negative; got {self.map_steps!r}.")

    def train(
        self,
        model: LSVD,
        images: Array | np.ndarray,
        measurements: Array | np.ndarray | Likelihood,
        *,
        key: Key,
        pairs: Checked[Pair | None],
        validation: Checked[Array | np.ndarray | Pair | None],
        options: dict[str, Any],
    ) -> tuple[LSVD, Stats]:
        likelihood = measurements if isinstance(measurements, Likelihood) else None
        draw = lambda x, i: jax.jit(simulate_each)(likelihood, jnp.asarray(x), key=jax.random.fold_in(key, i))
        if likelihood is not None:
            measurements = draw(images, 2)
        withheld: Any = validation
        if likelihood is not None and validation is not None:
            withheld = (validation, draw(validation, 3))
        if pairs is None:
            _check_paired(images, measurements, "`Separate()` without `pairs`, which takes them for pairs")
        elif len(pairs) != 2 or len(pairs[0]) != len(pairs[1]):
            raise ValueError("`pairs` must be a tuple (images, measurements) of as many measurements as images.")
        validation_data: Any = (None, None) if withheld is None else _check_validation(withheld)
        checkpoint = options.pop("checkpoint", None)
        spectral = isinstance(model.latent_map, Spectrum)
        if spectral:
            check_ends(model)
        model = jax.tree.map(lambda leaf: leaf, model)
        history: dict[str, Any] = {}
        sides = (("image", images, validation_data[0]), ("measurement", measurements, validation_data[1]))
        for i, (name, data, held_out) in enumerate(sides):
            file = None if checkpoint is None else f"{os.fspath(checkpoint)}.{name}"
            side, history[name] = fit(
                getattr(model, name),
                autoencoding_loss,
                data,
                key=jax.random.fold_in(key, i),
                validation=held_out,
                checkpoint=file,
                **options,
            )
            setattr(model, name, side)
        paired: Any = (images, measurements) if pairs is None else pairs
        x, y = paired
        model = match(model, x, y)
        if self.map_steps:
            if spectral:
                model.latent_map = Full(*model.latent_map.affine())
            more = options | {
                "num_steps": self.map_steps,
                "batch_size": min(options["batch_size"], len(x)),
                "checkpoint": None if checkpoint is None else f"{os.fspath(checkpoint)}.map",
            }
            data = (jnp.asarray(x), latents_of(model.measurement, y))
            key = jax.random.fold_in(key, len(sides))
            model.latent_map, history["map"] = fit(model.latent_map, OfImages(model.image), data, key=key, **more)
            model = diagonalise(model, x, y) if spectral else model
        parts = list(history.values())
        good = all(part["result"] == RESULTS.successful for part in parts)
        history["seconds"] = sum(part["seconds"] for part in parts)
        history["result"] = RESULTS.successful if good else RESULTS.nonfinite
        return model, history


@checked()
def train(
    model: Checked[LSVD],
    images: ArrayLike,
    measurements: Checked[Array | np.ndarray | Likelihood],
    *,
    key: Key,
    method: Checked[AbstractTraining] = Joint(),  # noqa: B008
    pairs: Checked[Pair | None] = None,
    num_steps: IntLike,
    batch_size: IntLike,
    validation: Checked[Array | np.ndarray | Pair | None] = None,
    **options: Any,
) -> tuple[LSVD, Stats]:
    """Train a learned SVD, and bring it to the bases in which its latent map is a spectrum.

    `Joint()` minimises `||x - D_x S E_y(y)||^2 + a_x ||x - D_x E_x(x)||^2 + a_y ||y - D_y E_y(y)||^2`, the loss of the
    paper, and needs pairs `(x, y)` throughout. `Separate()` trains the autoencoders `D_x E_x` and `D_y E_y` on
    images and on measurements that have nothing to do with each other, and needs pairs for the latent map only: as many
    as determine `k x k` numbers; `Separate(map_steps)` ends with that many steps on `||x - D_x S E_y(y)||^2` over `S`
    alone. It runs on the host, on `training.fit`.

    **Arguments:**

    - `model`: an `LSVD`, which is not changed.
    - `images`: `(n, h, w, c)`, of a floating dtype.
    - `measurements`: `(n, ...)`, one of each image; or a `Likelihood`, by which they are simulated, anew at every step
        of `Joint()`: no noise then comes twice.
    - `key`: a typed key.
    - `method`: `Joint(image_weight, measurement_weight)`, or `Separate(map_steps)` where few of the data are paired.
    - `pairs`: for `Separate()`, `(images, measurements)` that belong together. By default `images` and `measurements`
        do; with `pairs` they need not, and may differ in number.
    - `num_steps`, `batch_size`: as in `training.fit`; of each of the autoencoders for `Separate()`.
    - `validation`: `(images, measurements)`, or with a likelihood images; the weights of the lowest loss are returned.
    - `options`: those of `training.fit`: `optimiser`, `learning_rate`, `ema`, `checkpoint` (a file for each part of
        `Separate()`, with `.image`, `.measurement` and `.map` appended), `progress`, `chunk_size`, `mesh`.

    **Returns:** the trained model, and the history of `training.fit`; for `Separate()` a dict of several of them,
    `image`, `measurement` and, with `map_steps`, `map`, with `seconds` and `result` of the whole. If the latent map is
    diagonal, the model is in the bases of `diagonalise`.

    **Raises:** `ValueError` for data that do not fit the model or are not paired where they must be, and as
    `training.fit`.

    **Reference:** Boink, Brune, Learned SVD: solving inverse problems via hybrid autoencoding, 2019.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from flax import nnx
        from jaxinv import lsvd, models
        images = jax.random.uniform(jax.random.key(0), (200, 8, 8, 1))
        operator = jaxinv.operators.ParallelBeam((8, 8, 1), jnp.linspace(0, jnp.pi, 5, endpoint=False))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        model = lsvd.LSVD((8, 8, 1), operator.codomain.shape, 4, rngs=nnx.Rngs(0), trunk=models.Dense((32,)))
        model, history = lsvd.train(
            model, images, likelihood, key=jax.random.key(1), num_steps=50, batch_size=32
        )
        y = likelihood.simulate(images[0], key=jax.random.key(2))
        image = lsvd.reconstruct(model, y).value
        ```
    """
    check_key(key)
    check_model(model)
    method = Joint() if method is None else method
    if not isinstance(method, AbstractTraining):
        raise ValueError(f"`method` must be `Joint(...)` or `Separate()` of `jaxinv.lsvd`; got {method!r}.")
    likelihood = measurements if isinstance(measurements, Likelihood) else None
    for data in (images, *([] if likelihood is not None else [measurements]), *(pairs or ())):
        if not isinstance(data, jax.Array | np.ndarray):
            raise ValueError(
                "`images` and `measurements` must be arrays (n, ...) of n examples (or `measurements` a `Likelihood`), "
                f"`pairs` a tuple of two such arrays; got {type(data).__name__}."
            )
    if likelihood is not None:
        _check_likelihood(model, likelihood)
    else:
        _check_shape(measurements, model.measurement_shape, "measurements")
    _check_shape(images, model.image_shape, "images")
    options = {"num_steps": num_steps, "batch_size": batch_size, **options}
    return method.train(model, images, measurements, key=key, pairs=pairs, validation=validation, options=options)


def _normalised(model: LSVD, images: Any, measurements: Any, key: Key) -> LSVD:
    if not isinstance(model.latent_map, Spectrum) or not has_ends(model):
        return model
    # Covariances of latents are well known from this many.
    images = images[:10_000]
    if isinstance(measurements, Likelihood):
        measurements = jax.jit(simulate_each)(measurements, jnp.asarray(images), key=jax.random.fold_in(key, 2))
    return diagonalise(model, images, measurements[:10_000])


def _check_shape(data: Any, shape: tuple[int, ...], name: str) -> None:
    if data.shape[1:] != shape:
        raise ValueError(
            f"The model takes `{name}` of shape (n, {', '.join(map(str, shape))}); got {data.shape}. Make it with the "
            "shapes of the data: `LSVD(images.shape[1:], measurements.shape[1:], latent_size, rngs=...)`."
        )


def _check_likelihood(model: LSVD, likelihood: Likelihood) -> None:
    domain, codomain = likelihood.operator.domain, likelihood.operator.codomain
    if not isinstance(codomain, jax.ShapeDtypeStruct) or jnp.issubdtype(codomain.dtype, jnp.complexfloating):
        raise ValueError(
            "Networks take measurements as one real array; this operator makes complex ones, or a stack. Give "
            "`measurements` as arrays, real and imaginary part or the parts of the stack as channels."
        )
    if tuple(domain.shape) != model.image_shape or tuple(codomain.shape) != model.measurement_shape:
        raise ValueError(
            f"The operator takes {tuple(domain.shape)} to {tuple(codomain.shape)}; the model is for images "
            f"{model.image_shape} and measurements {model.measurement_shape}."
        )


def _check_paired(images: Any, measurements: Any, where: str) -> None:
    if len(images) != len(measurements):
        raise ValueError(
            f"There are {len(images)} images and {len(measurements)} measurements, so they are not pairs, as they must "
            f"be for {where}."
        )


def _check_validation(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise ValueError(f"`validation` must be a tuple (images, measurements); got {type(validation).__name__}.")
    return validation[0], validation[1]
