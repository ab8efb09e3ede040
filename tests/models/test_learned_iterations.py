"""The learned gradient and the learned primal-dual network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import Likelihood, noise, operators, training
from jaxinv.models import LearnedGradient, LearnedPrimalDual
from jaxinv.unrolled import SimulatedLoss, supervised_loss

KINDS = pytest.mark.parametrize("kind", [LearnedGradient, LearnedPrimalDual])
SHAPE = (6, 5, 1)
RNG = np.random.default_rng(0)
MASK = RNG.uniform(size=SHAPE) < 0.6
OPERATORS = {
    "scanner": lambda: operators.materialise(operators.ParallelBeam(SHAPE, np.linspace(0, np.pi, 4, endpoint=False))),
    "vector": lambda: operators.Matrix(RNG.normal(size=(7, 20)).astype(np.float32), (20,)),
    "fourier": lambda: operators.MaskedFourier(MASK),
    "fourier of reals": lambda: operators.MaskedFourier(MASK) @ operators.Real(SHAPE),
    "stack": lambda: operators.stack([operators.Mask(MASK), 2 * operators.Identity(SHAPE)]),
}
SIZES = {"num_layers": 2, "width": 3}


def make(kind, operator, seed=0, **options):
    """A network of drawn weights: with those that it starts from, a learned gradient is gradient descent."""
    network = kind(operator, rngs=nnx.Rngs(0), **{"norm": 3.0, **SIZES, **options})
    draw = np.random.default_rng(seed).normal
    weights, rest = training._chunk.split(network)
    return rest.merge({name: jnp.asarray(draw(scale=0.3, size=w.shape).astype(w.dtype)) for name, w in weights.items()})


def measurements(operator, n=3, seed=1):
    draw = np.random.default_rng(seed).normal

    def part(struct):
        real = draw(size=(n, *struct.shape))
        return jnp.asarray(real + 1j * draw(size=real.shape) if struct.dtype.kind == "c" else real, struct.dtype)

    return jax.tree.map(part, operator.codomain)


_call = jax.jit(lambda network, y: network(y))


@KINDS
@pytest.mark.parametrize("name", ["scanner", *(pytest.param(n, marks=pytest.mark.slow) for n in list(OPERATORS)[1:])])
def test_shapes_and_batches(kind, name):
    operator = OPERATORS[name]()
    if kind is LearnedPrimalDual and name == "stack":
        with pytest.raises(ValueError, match="LearnedGradient"):
            make(kind, operator)
        return
    network, y = make(kind, operator), measurements(operator)
    x = _call(network, y)
    assert x.shape == (3, *operator.domain.shape)
    assert x.dtype == operator.domain.dtype
    # Each measurement stands alone: float32, some hundred additions of order 1.
    others = _call(network, jax.tree.map(lambda leaf: leaf.at[1:].set(2.0), y))
    np.testing.assert_allclose(others[:1], x[:1], atol=1e-4 * float(jnp.abs(x).max()))
    # What is not measured is not seen.
    unseen = jax.tree.map(lambda leaf, m: jnp.where(m[None] > 0, leaf, 99), y, operator.measured)
    np.testing.assert_array_equal(_call(network, unseen), x)


def test_untrained_it_is_gradient_descent():
    operator = OPERATORS["scanner"]()
    network = LearnedGradient(operator, rngs=nnx.Rngs(0), num_layers=3, width=3, tied=True, norm=10.0)
    y = measurements(operator, 1)
    matrix, x = np.asarray(operator.matrix, np.float64), np.zeros(30)
    for _ in range(3):
        x = x - matrix.T @ (matrix @ x - np.ravel(y)) / 10.0**2
    np.testing.assert_allclose(np.ravel(_call(network, y)), x, atol=1e-6)


def test_an_untrained_primal_dual_network_is_zero():
    operator = OPERATORS["scanner"]()
    network = LearnedPrimalDual(operator, rngs=nnx.Rngs(0), norm=10.0, **SIZES)
    y = measurements(operator, 1)
    np.testing.assert_array_equal(_call(network, y), 0.0)
    # Not a point where it stays: then these derivatives, too, would be zero.
    slope = jax.jit(jax.grad(lambda network: jnp.sum(network(y))))(network)
    assert float(jnp.abs(slope.primal_blocks[-1].layers[-1].kernel[...]).max()) > 0


@pytest.mark.parametrize("kind", [LearnedGradient, pytest.param(LearnedPrimalDual, marks=pytest.mark.slow)])
def test_training_leaves_the_operator(kind):
    operator = OPERATORS["scanner"]()
    images = jnp.asarray(RNG.uniform(size=(40, *SHAPE)), jnp.float32)
    network = kind(operator, rngs=nnx.Rngs(0), num_layers=1, width=3, norm=10.0)
    loss = SimulatedLoss(Likelihood(operator, noise.Gaussian(0.1)))
    trained, history = training.fit(
        network, loss, images, key=jax.random.key(0), num_steps=30, batch_size=10, learning_rate=0.01
    )
    assert history["loss"][-5:].mean() < 0.95 * history["loss"][:5].mean()
    same = lambda a, b: all(jnp.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert same(trained.operator, network.operator)
    assert not same(trained, network)


@pytest.mark.slow
@KINDS
def test_vmap_over_weights_and_operators_is_a_loop(kind):
    with jax.enable_x64(True):
        masks = jnp.asarray(RNG.uniform(size=(2, *SHAPE)) < 0.6, float)
        networks = [make(kind, operators.Mask(mask), seed) for seed, mask in enumerate(masks)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
        y = jnp.asarray(RNG.normal(size=(2, 3, *SHAPE)))

        def gradient(network, y):
            weights, rest = training._chunk.split(network)
            return jax.grad(lambda weights: jnp.mean(rest.merge(weights)(y) ** 2))(weights)

        mapped = jax.jit(jax.vmap(gradient))(stacked, y)
        for i, network in enumerate(networks):
            alone = jax.jit(gradient)(network, y[i])
            jax.tree.map(lambda m, a, i=i: np.testing.assert_allclose(m[i], a, rtol=1e-8, atol=1e-10), mapped, alone)


@functools.cache
def small(kind):
    return make(kind, operators.Identity(SHAPE))


@KINDS
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda kind: kind(operators.Identity(SHAPE), rngs=0), "nnx.Rngs"),
        (lambda kind: make(kind, operators.Magnitude(operators.Identity(SHAPE))), "needs a linear operator"),
        (lambda kind: make(kind, operators.Identity(SHAPE), num_layers=0), "`num_layers`"),
        (lambda kind: make(kind, operators.Identity(SHAPE), width=1.5), "`width`"),
        (lambda kind: small(kind)(jnp.ones(SHAPE)), "Add the batch axis"),
        (lambda kind: small(kind)(jnp.ones((3, 6, 5))), "Add the channel axis"),
        (lambda kind: small(kind)(jnp.ones((3, 5, 6, 1))), "another operator"),
    ],
)
def test_wrong_input(kind, call, match):
    with pytest.raises(ValueError, match=match):
        call(kind)


def test_wrong_stacks():
    network = make(LearnedGradient, OPERATORS["stack"]())
    y = jnp.ones((2, *SHAPE))
    for wrong, match in ((y, "tuple of 2 batches"), ((y,), "tuple of 1"), ((y, y[:1]), "as many measurements")):
        with pytest.raises(ValueError, match=match):
            network(wrong)
    with pytest.raises(ValueError, match="batch of pairs"):
        supervised_loss(network, y, key=None)
    with pytest.raises(ValueError, match=r"images of shape \(2, 6, 5, 1\); those of the data are \(2, 4\)"):
        supervised_loss(lambda y: y, (jnp.ones((2, 4)), y), key=None)
    with pytest.raises(ValueError, match="`num_primal` must be at least 2"):
        make(LearnedPrimalDual, operators.Identity(SHAPE), num_primal=1)
