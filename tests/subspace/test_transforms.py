"""What holds for every reduction under the transforms: explicit precision, dtypes, simulated devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxinv import generative, subspace

KEY = jax.random.key(0)
VERBS = {
    "pca": lambda data, key: subspace.pca(data, rank=2),
    "pca-gram": lambda data, key: subspace.pca(data, rank=2, method=subspace.Gram()),
    "pca-randomised": lambda data, key: subspace.pca(data, rank=2, method=subspace.Randomised(), key=key),
    "pca-prior": lambda data, key: _round_trip(generative.PCAPrior(subspace.pca(data, rank=2)), data[0]),
    "robust-pca": lambda data, key: subspace.robust_pca(data, max_steps=50),
    "kmeans": lambda data, key: subspace.kmeans(data, 3, key=key, restarts=2),
    "assign": lambda data, key: subspace.kmeans(data, 3, key=key, start=subspace.From(data[:3])).assign(data),
}
verbs = pytest.mark.parametrize("name", VERBS)


def _round_trip(prior, x):
    return prior.decode(prior.encode(x))


@verbs
def test_precision_is_explicit(name):
    # The default would be bfloat16 on a TPU and TF32 on a GPU, with a CPU suite that stays green.
    text = str(jax.make_jaxpr(VERBS[name])(jnp.ones((9, 5)), KEY))
    products = re.findall(r"dot_general\[.*?\n\s*\]", text, re.DOTALL)
    assert all("HIGHEST" in product for product in products)
    assert products or name == "pca"


@verbs
def test_float32_stays_float32(name):
    with jax.enable_x64(True):
        out = jax.eval_shape(VERBS[name], jax.ShapeDtypeStruct((9, 5), jnp.float32), KEY)
    assert jnp.dtype("float64") not in {leaf.dtype for leaf in jax.tree.leaves(out)}


@pytest.mark.slow
@verbs
def test_two_devices_equal_a_loop(name):
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(4, 3, 5))
    with jax.enable_x64(True):
        data = jnp.asarray(centres[:, rng.integers(3, size=12)] + 0.1 * rng.normal(size=(4, 12, 5)))
        keys = jax.random.split(KEY, 4)
        mesh = jax.make_mesh((2,), ("problems",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("problems")
        solve = jax.shard_map(jax.vmap(VERBS[name]), mesh=mesh, in_specs=(spec, spec), out_specs=spec)
        found = jax.jit(solve)(data, keys)
        for i in range(4):
            alone = VERBS[name](data[i], keys[i])
            # The figure of the design; integers (labels, ranks, steps, codes) exactly.
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=0, atol=1e-10 * max(1, np.max(np.abs(b))))
