import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest

from jaxinv import plotting
from jaxinv.unrolled import adjoint_states

RNG = np.random.default_rng(0)


def dense(theta, z):
    return jnp.tanh(theta["w"] @ z) + theta["b"]


def widen(theta, z):
    return {"real": theta * z, "more": jnp.sin(z[:2])}


def join(theta, z):
    return jnp.concatenate([theta * z["real"] ** 2, z["more"]])


def network(dtype=np.float64):
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), dtype)
    parameters = [{"w": draw(4, 3), "b": draw(4)}, draw(4), draw(), {"w": draw(5, 6), "b": draw(5)}]
    return [dense, widen, join, dense], parameters, draw(3), draw(5)


def composition(layers):
    def compose(parameters, z):
        for layer, theta in zip(layers, parameters, strict=True):
            z = layer(theta, z)
        return z

    return compose


def test_equals_the_pullback_of_the_composition():
    with jax.enable_x64(True):
        layers, parameters, z0, residual = network()
        run = adjoint_states(layers, parameters, z0, residual)
        last, pullback = jax.vjp(composition(layers), parameters, z0)
        gradients, first = pullback(residual)
        # The same operations: rounding of a few sums of products.
        same = lambda a, b: jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-13), a, b)
        same(run.states[-1], last)
        same(run.adjoints[0], first)
        same(list(run.gradients), gradients)
        # Each adjoint state is the derivative in its state of <residual, what the rest of the network makes of it>.
        for k in range(1, 4):
            rest = lambda z, k=k: jnp.vdot(residual, composition(layers[k:])(parameters[k:], z))
            same(run.adjoints[k], jax.grad(rest)(run.states[k]))
        assert {leaf.dtype for leaf in jax.tree.leaves(run)} == {jnp.dtype("float64")}


def test_complex_states_have_the_adjoint_and_not_the_transpose():
    with jax.enable_x64(True):
        z0, residual = RNG.normal(size=(2, 3)) + 1j * RNG.normal(size=(2, 3))
        matrices = list(RNG.normal(size=(2, 3, 3)) + 1j * RNG.normal(size=(2, 3, 3)))
        layer = lambda w, z: jnp.asarray(w) @ z
        run = adjoint_states([layer] * 2, matrices, z0, residual)
        expected = matrices[1].conj().T @ residual
        np.testing.assert_allclose(run.adjoints[1], expected, rtol=1e-12)
        np.testing.assert_allclose(run.adjoints[0], matrices[0].conj().T @ expected, rtol=1e-12)
        # w -> w z has the adjoint p -> p z^*.
        np.testing.assert_allclose(run.gradients[0], np.outer(expected, z0.conj()), rtol=1e-12)


def test_a_residual_of_the_last_state_and_transforms():
    layers, parameters, z0, y = network(np.float32)
    residual = lambda z: z - y
    loss = lambda parameters, z: 0.5 * jnp.sum((composition(layers)(parameters, z) - y) ** 2)
    run = adjoint_states(layers, parameters, z0, residual)
    assert {leaf.dtype for leaf in jax.tree.leaves(run)} == {jnp.dtype("float32")}
    expected = jax.grad(loss)(parameters, z0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), list(run.gradients), expected)
    starts = jnp.stack([z0, -z0])
    batch = jax.jit(jax.vmap(lambda z: adjoint_states(layers, parameters, z, residual)))(starts)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-5),
        batch,
        adjoint_states(layers, parameters, -z0, residual),
    )


def test_a_layer_without_parameters():
    layers = [lambda theta, z: 2 * z, lambda theta, z: theta[0] * z]
    run = adjoint_states(layers, [None, (3.0, 7)], np.ones(2), np.array([1, 2]))
    assert run.gradients[0] is None
    np.testing.assert_allclose(run.adjoints[0], [6, 12])
    # A parameter that is not a floating number has no gradient.
    assert run.gradients[1][1] is None
    np.testing.assert_allclose(run.gradients[1][0], 2 * (1 + 2))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: adjoint_states([], [], jnp.ones(2), jnp.ones(2)), "`layers` must be a tuple or list"),
        (lambda: adjoint_states(dense, [], jnp.ones(2), jnp.ones(2)), "`layers` must be a tuple or list"),
        (lambda: adjoint_states([jnp.multiply], [], jnp.ones(2), jnp.ones(2)), "each of the 1 layers; got list of 0"),
        (lambda: adjoint_states([jnp.multiply], jnp.ones(1), jnp.ones(2), jnp.ones(2)), r"`list\(array\)`"),
        (lambda: adjoint_states([jnp.multiply], [2.0], jnp.arange(2), jnp.ones(2)), "int32"),
        (lambda: adjoint_states([jnp.multiply], [2.0], jnp.ones(2), jnp.ones(3)), r"\(2,\); got \(3,\)"),
        (lambda: adjoint_states([jnp.multiply], [2.0], jnp.ones(2), 1j * jnp.ones(2)), "complex"),
        (lambda: plotting.adjoint_states([jnp.ones((2, 3))] * 2, [jnp.ones(3)] * 2), r"Select one of a batch"),
        (lambda: plotting.adjoint_states([jnp.ones(3)] * 2, [jnp.ones(3)] * 3), "as many `states` as `adjoints`"),
        (
            lambda: plotting.adjoint_states([jnp.ones(3)] * 2, [jnp.ones(3)] * 2, gradients=[1.0, 2.0]),
            "1 layers; got 2",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_figures():
    states, adjoints = RNG.normal(size=(2, 4, 3, 5, 1))
    figure = plotting.adjoint_states(states, adjoints, gradients=[np.full(4, k + 1.0) for k in range(3)])
    assert isinstance(figure, matplotlib.figure.Figure)
    # A column for each state: the state above its adjoint.
    for k in range(4):
        for axes, image in zip(figure.axes[2 * k : 2 * k + 2], (states[k], adjoints[k]), strict=True):
            np.testing.assert_allclose(axes.images[0].get_array(), image[..., 0])
    low, high = figure.axes[1].images[0].get_clim()
    assert low == -high == -np.abs(adjoints[0]).max()
    assert "|g| 2.00" in figure.axes[1].get_xlabel()
    vectors = plotting.adjoint_states(states[:, :, 0, 0], adjoints[:, :, 0, 0], gradients=[1.0, 2.0, 3.0])
    np.testing.assert_allclose(vectors.axes[1].images[0].get_array(), adjoints[:, :, 0, 0])
    norms, sizes = vectors.axes[2].lines
    np.testing.assert_allclose(norms.get_ydata(), np.linalg.norm(adjoints[:, :, 0, 0], axis=1))
    np.testing.assert_allclose(sizes.get_ydata(), [1, 2, 3])
