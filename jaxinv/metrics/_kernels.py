"""Radial kernels for `kernel_stein_discrepancy` and `stein_test`."""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf
from .._module import Module
from .._types import Abstract, Scalar
from ..requirements import Requirement, positive, requirement


def _as_bandwidth(bandwidth: Any) -> Any:
    return None if bandwidth is None else as_leaf(bandwidth)


class AbstractRadialKernel(Module):
    """A kernel `k(x, y) = f(|x - y|^2 / h^2)` with the bandwidth `h`; a kernel of your own implements `derivatives`.

    - `bandwidth`: `h`, in the unit of the samples, or `None` for the median heuristic.
    """

    if TYPE_CHECKING:
        bandwidth = Abstract[Scalar | None]()
    else:
        bandwidth: eqx.AbstractVar[Scalar | None]

    @abc.abstractmethod
    def derivatives(self, ratio: Array) -> tuple[Array, Array, Array]:
        """`f` and its first and second derivative.

        **Arguments:**

        - `ratio`: `|x - y|^2 / h^2`, of any shape.

        **Returns:** three arrays of that shape.
        """


class InverseMultiquadric(AbstractRadialKernel):
    """The inverse multiquadric kernel `k(x, y) = (1 + |x - y|^2 / h^2)^exponent`.

    Its tails are heavy, so that the kernel Stein discrepancy tends to 0 only if the samples tend to their target, which
    does not hold for the Gaussian kernel in more than two dimensions.

    - `bandwidth`: `h`, in the unit of the samples, positive. With `None` it is the root of the median of the squared
        distances of pairs.
    - `exponent`: between -1 and 0, both excluded.

    **Reference:** Gorham, Mackey, Measuring Sample Quality with Kernels, 2017.

    !!! example
        ```python
        from jaxinv import metrics
        kernel = metrics.InverseMultiquadric(bandwidth=0.5)
        ```
    """

    bandwidth: Scalar | None = eqx.field(default=None, converter=_as_bandwidth)
    exponent: Scalar = eqx.field(default=-0.5, converter=as_leaf)

    def requirements(self) -> tuple[Requirement, ...]:
        between = requirement(_BETWEEN, self.exponent, lambda value: (value > -1) & (value < 0))
        return (between, *_of_bandwidth(self.bandwidth))

    def derivatives(self, ratio: Array) -> tuple[Array, Array, Array]:
        power = jnp.asarray(self.exponent).astype(ratio.dtype)
        base = 1 + ratio
        value = base**power
        first = power * value / base
        return value, first, (power - 1) * first / base


class GaussianKernel(AbstractRadialKernel):
    """The Gaussian kernel `k(x, y) = exp(-|x - y|^2 / (2 h^2))`.

    - `bandwidth`: `h`, in the unit of the samples, positive. With `None` it is the root of the median of the squared
        distances of pairs.

    !!! example
        ```python
        from jaxinv import metrics
        kernel = metrics.GaussianKernel(bandwidth=0.5)
        ```
    """

    bandwidth: Scalar | None = eqx.field(default=None, converter=_as_bandwidth)

    def requirements(self) -> tuple[Requirement, ...]:
        return _of_bandwidth(self.bandwidth)

    def derivatives(self, ratio: Array) -> tuple[Array, Array, Array]:
        value = jnp.exp(-ratio / 2)
        return value, -value / 2, value / 4


_BETWEEN = "`exponent` must lie between -1 and 0"


def _of_bandwidth(bandwidth: Scalar | None) -> tuple[Requirement, ...]:
    return () if bandwidth is None else (positive("bandwidth", bandwidth),)
