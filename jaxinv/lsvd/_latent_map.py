"""The map from the latents of measurements to those of images, and the filters of its spectrum."""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from .._arrays import HIGHEST
from .._types import ArrayLike, Checked
from ..models import MLP
from ..requirements import Parametric, Requirement, not_negative, requirement, valid

# An `AbstractFilter`, or any function of the spectrum.
SpectralFilter = Checked[Callable[[Array], Array]]


class AbstractFilter(Parametric):
    """A change of the spectrum before it is used, `(k,) -> (k,)`. A filter of your own implements these members."""

    @abc.abstractmethod
    def __call__(self, spectrum: Array) -> Array:
        """Filter a spectrum.

        **Arguments:**

        - `spectrum`: `(k,)`.

        **Returns:** the filtered spectrum, of the same shape and dtype.
        """

    def invalid(self) -> Bool[Array, ""]:
        """Whether a parameter is out of its range, by default whether it breaks one of the `requirements`.

        **Returns:** a boolean scalar; where it is true, the result of `lsvd.reconstruct` is `invalid_parameter`.
        """
        return ~jnp.asarray(valid(self))


class Tikhonov(AbstractFilter):
    """`s -> s * s^2 / (s^2 + weight)`, which damps components that the measurement says little about.

    - `weight`: a scalar, not negative; the square of the value below which a component counts as small.

    **Raises:** `ValueError` for anything but a scalar that is not negative, where its value is known.
    """

    weight: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if self.weight.ndim != 0:
            raise ValueError(f"`weight` must be a scalar that is finite and not negative; got {self.weight}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("weight", self.weight),)

    def __call__(self, spectrum: Array) -> Array:
        square = spectrum**2
        total = square + self.weight.astype(spectrum.dtype)
        # A NaN stays one.
        return jnp.where(total == 0, 0, spectrum * square / jnp.where(total == 0, 1, total))


class Truncation(AbstractFilter):
    """Keep the `rank` components of largest modulus, as the truncated singular value decomposition does.

    - `rank`: an integer, or an integer array, so that `jax.vmap` maps over ranks. A rank above the number of
        components keeps all of them.

    **Raises:** `ValueError` for anything but a scalar integer of at least 1, where its value is known.
    """

    rank: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        integer = self.rank.ndim == 0 and jnp.issubdtype(self.rank.dtype, jnp.integer)
        if not integer:
            raise ValueError(f"`rank` must be an integer of at least 1; got {self.rank} of dtype {self.rank.dtype}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return (requirement("`rank` must be an integer of at least 1", self.rank, lambda v: v >= 1),)

    def __call__(self, spectrum: Array) -> Array:
        order = jnp.argsort(jnp.argsort(jnp.abs(spectrum), descending=True))
        return jnp.where(order < self.rank, spectrum, 0)


def filtered(spectrum: Array, spectral_filter: SpectralFilter | None) -> Array:
    """The spectrum, filtered if there is a filter.

    **Raises:** `ValueError` if the filter is not a function, or does not give an array of the same shape.
    """
    if spectral_filter is None:
        return spectrum
    if not callable(spectral_filter):
        raise ValueError(
            "`filter` must be `Tikhonov(weight)`, `Truncation(rank)`, or a function of the spectrum; got "
            f"{type(spectral_filter).__name__}."
        )
    new = jnp.asarray(spectral_filter(spectrum))
    if new.shape != spectrum.shape or not jnp.issubdtype(new.dtype, jnp.floating):
        raise ValueError(
            f"`filter` must take a spectrum of shape {spectrum.shape} to another; it gave {new.dtype} of shape "
            f"{new.shape}."
        )
    return new.astype(spectrum.dtype)


class Spectrum(nnx.Module):
    """`z -> values * z + offset`: one number for each latent variable, as the singular values of a matrix.

    - `values`, `offset`: `(k,)`, trained.
    """

    def __init__(self, values: ArrayLike, offset: ArrayLike):
        self.values, self.offset = nnx.Param(jnp.asarray(values)), nnx.Param(jnp.asarray(offset))

    def __call__(self, z: Float[Array, "n k"], filter: SpectralFilter | None = None) -> Float[Array, "n k"]:
        """Map latents of measurements to latents of images; the filter acts on `values`."""
        values = filtered(self.values[...], filter)
        return z * values[None] + self.offset[...][None]

    def affine(self) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
        """`(matrix, offset)` of the map `z -> z matrix + offset`."""
        return jnp.diag(self.values[...]), self.offset[...]


class Full(nnx.Module):
    """`z -> z matrix + offset`.

    - `matrix`: the linear part, `(k, k)`, trained.
    - `offset`: the constant part, `(k,)`, trained.
    """

    def __init__(self, matrix: ArrayLike, offset: ArrayLike):
        self.matrix, self.offset = nnx.Param(jnp.asarray(matrix)), nnx.Param(jnp.asarray(offset))

    def __call__(self, z: Float[Array, "n k"], filter: SpectralFilter | None = None) -> Float[Array, "n k"]:
        """Map latents of measurements to latents of images.

        **Raises:** `ValueError` for a filter: a full matrix has no spectrum to filter.
        """
        if filter is not None:
            raise ValueError(
                "This model has a full latent map, `Full`, which has no spectrum to filter. Bring it to a spectrum by "
                "`lsvd.diagonalise(model, images, measurements)`."
            )
        return jnp.matmul(z, self.matrix[...], precision=HIGHEST) + self.offset[...][None]

    def affine(self) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
        """`(matrix, offset)`."""
        return self.matrix[...], self.offset[...]

    def at(self, matrix: Array, offset: Array) -> "Full":
        """The map that begins at an affine one, here that one itself."""
        return Full(matrix, offset)


class Nonlinear(nnx.Module):
    """`z -> z matrix + offset + network(z)`: an affine map, and what dense layers add to it.

    The network begins as 0, so that the map begins as the affine one, and training can only gain on that.

    - `matrix`: the linear part, `(k, k)`, trained, as is the network.
    - `offset`: the constant part, `(k,)`, trained.
    - `widths`: the widths of the hidden layers.
    - `activation`: the function between the layers.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    """

    def __init__(
        self,
        matrix: ArrayLike,
        offset: ArrayLike,
        widths: Sequence[int],
        *,
        activation: Callable[[Array], Array] = jax.nn.silu,
        rngs: nnx.Rngs,
    ):
        self.matrix, self.offset = nnx.Param(jnp.asarray(matrix)), nnx.Param(jnp.asarray(offset))
        size = self.offset[...].shape[0]
        self.network = MLP((size, *widths, size), activation=activation, rngs=rngs)
        last = self.network.layers[-1]
        last.kernel = nnx.Param(jnp.zeros_like(last.kernel[...]))

    def __call__(self, z: Float[Array, "n k"], filter: SpectralFilter | None = None) -> Float[Array, "n k"]:
        """Map latents of measurements to latents of images.

        **Raises:** `ValueError` for a filter: there is no spectrum to filter.
        """
        if filter is not None:
            raise ValueError(
                "This model has a latent map that is not linear, `Nonlinear`, which has no spectrum to filter. Make "
                "the model without `map_widths`."
            )
        affine = jnp.matmul(z, self.matrix[...], precision=HIGHEST) + self.offset[...][None]
        return affine + self.network(z)

    def affine(self) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
        """Raises a `ValueError`: the map is not affine."""
        raise ValueError(
            "The latent map of this model is `Nonlinear`: no bases make it a spectrum. Make the model without "
            "`map_widths`."
        )

    def at(self, matrix: Array, offset: Array) -> "Nonlinear":
        """The map with this affine part, and the same network."""
        new = jax.tree.map(lambda leaf: leaf, self)
        new.matrix, new.offset = nnx.Param(matrix), nnx.Param(offset)
        return new
