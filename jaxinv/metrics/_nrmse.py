"""The normalised root-mean-square error."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import State
from ._check import check_images, squared_modulus


@eqx.filter_jit
def nrmse(x: State, reference: State) -> Float[Array, ""]:
    """The normalised root-mean-square error of one image, `||x - reference|| / ||reference||` in Euclidean norms.

    **Arguments:**

    - `x`: the image, of any shape, real or complex.
    - `reference`: the true image, of the same shape.

    **Returns:** a scalar. Of identical images it is 0, with gradient zero, even if they are zero; of any other image
    with a reference of zero it is infinite.

    **Raises:** `ValueError` if the shapes differ, or if an image holds integers.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        reference = jnp.ones((28, 28, 1))
        assert abs(metrics.nrmse(1.1 * reference, reference) - 0.1) < 1e-6
        ```
    """
    x, reference = check_images(x, reference, "nrmse")
    error, size = jnp.mean(squared_modulus(x - reference)), jnp.mean(squared_modulus(reference))
    identical, empty = error == 0, size == 0
    # Both roots and the quotient see 1 where they would see 0: a `where` around them alone leaves gradients of NaN.
    ratio = jnp.sqrt(jnp.where(identical, 1, error)) / jnp.sqrt(jnp.where(empty, 1, size))
    return jnp.where(identical, 0, jnp.where(empty, jnp.inf, ratio))
