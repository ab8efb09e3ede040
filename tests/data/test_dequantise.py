"""Dequantisation: what it keeps, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import data


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_the_grey_values_can_be_read_off(dtype, key):
    images = np.arange(17, dtype=dtype).reshape(1, 17, 1, 1) * np.ones((50, 1, 1, 1), dtype)
    values = data.dequantise(images, key=key, levels=17)
    assert values.shape == images.shape
    assert values.dtype == jnp.float32
    np.testing.assert_array_equal(jnp.floor(17 * values), images)
    # 850 uniform numbers: the standard error of their mean is .01.
    assert abs(float(jnp.mean(17 * values - images)) - 0.5) < 0.04
    jitted = jax.jit(lambda x: data.dequantise(x, key=key, levels=17))(images)
    np.testing.assert_allclose(jitted, values, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "levels", "message"),
    [
        (np.ones((2, 2)), 256, "integer grey values; got dtype float"),
        (np.array([3, 17]), 17, "from 0 to 16; got 3 to 17"),
        (np.array([-1, 2]), 256, "from 0 to 255; got -1 to 2"),
        (np.array([1]), 0, "`levels` must be a static integer of at least 1"),
    ],
)
def test_bad_input(images, levels, message, key):
    with pytest.raises(ValueError, match=message):
        data.dequantise(images, key=key, levels=levels)
