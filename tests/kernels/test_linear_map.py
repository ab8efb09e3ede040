"""The primitive of the projectors, in every transformation; its values are tested with the operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

from jaxinv import classical, operators
from jaxinv._kernels import _joseph_reference

ANGLES = np.linspace(0.1, 3.0, 5)
SHAPE = (6, 7, 1)


def parallel(angles=ANGLES):
    return operators.ParallelBeam(SHAPE, angles, 9)


def fan(angles=ANGLES):
    return operators.FanBeam(SHAPE, angles, 9, 1.5, 20.0, 10.0)


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(jnp.result_type(float)))


@pytest.mark.parametrize("beam", [parallel, fan])
def test_nested_maps(beam):
    operator = beam()
    xs = draw(0, 2, 3, *SHAPE)

    @jax.jit
    def computed(operator, xs):
        flat = jax.vmap(operator)(xs.reshape(6, *SHAPE)).reshape(2, 3, *operator.codomain.shape)
        # Mapped axes behind and between the others.
        twice = jax.vmap(jax.vmap(operator, in_axes=1, out_axes=2), in_axes=3, out_axes=3)
        mapped = twice(jnp.moveaxis(xs, (0, 1), (3, 1)))
        return flat, jax.vmap(jax.vmap(operator))(xs), jnp.moveaxis(mapped, (3, 2), (0, 1))

    flat, *others = computed(operator, xs)
    for other in others:
        np.testing.assert_allclose(other, flat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beam", [pytest.param(parallel, marks=pytest.mark.slow), fan])
def test_second_derivatives(beam):
    with jax.enable_x64(True):
        operator = beam()
        loss = lambda x: jnp.sum(operator(x) ** 4)
        x, v = draw(0, *SHAPE), draw(1, *SHAPE)
        product_with = lambda v: jax.jvp(jax.grad(loss), (x,), (v,))[1]
        # Mapped over tangents: a Hessian.
        product, expected, rows = jax.jit(
            lambda v: (
                product_with(v),
                operator.adjoint(12 * operator(x) ** 2 * operator(v)),
                jax.vmap(product_with)(jnp.stack([v, 2 * v])),
            )
        )(v)
        np.testing.assert_allclose(product, expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(rows, jnp.stack([product, 2 * product]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("beam", [pytest.param(parallel, marks=pytest.mark.slow), fan])
def test_mixed_derivative(beam):
    """In image and angles: the fast form in the one, the reference in the other."""
    with jax.enable_x64(True):
        x, v, y = draw(0, *SHAPE), draw(1, *SHAPE), draw(2, 5, 9, 1)
        of = lambda t: jnp.vdot(beam(t)(v), y)
        in_image = lambda t: jax.grad(lambda x: jnp.vdot(beam(t)(x), y))(x)
        both = jax.jit(lambda t: (jax.grad(lambda t: jnp.vdot(in_image(t), v))(t), *jax.value_and_grad(of)(t)))
        in_image_first, _, slope = both(ANGLES)
        np.testing.assert_allclose(in_image_first, slope, rtol=1e-9, atol=1e-9)
        step = 1e-6
        difference = (both(ANGLES + step)[1] - both(ANGLES - step)[1]) / (2 * step)
        assert float(jnp.sum(in_image_first)) == pytest.approx(float(difference), rel=1e-6)


@pytest.mark.parametrize("beam", [parallel, fan])
def test_as_a_carry_on_two_devices(beam):
    mesh = jax.make_mesh((2,), ("problems",), axis_types=(AxisType.Auto,))
    operator = beam()
    xs = draw(0, 2, *SHAPE)

    def landweber(operator, x):
        y = operator(x)
        body = lambda x, _: (x + 0.01 * operator.adjoint(y - operator(x)), None)
        return jax.lax.scan(body, jnp.zeros_like(x), None, length=3)[0]

    solve = lambda operator, xs: jax.vmap(landweber, (None, 0))(operator, xs)
    # The geometry is the same on all devices, the images are not.
    sharded = jax.shard_map(solve, mesh=mesh, in_specs=(P(), P("problems")), out_specs=P("problems"), check_vma=True)
    np.testing.assert_allclose(jax.jit(sharded)(operator, xs), jax.jit(solve)(operator, xs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beam", [parallel, fan])
def test_not_finite_geometry_is_harmless(beam):
    @jax.jit
    def there_and_back(angles):
        operator = beam(angles)
        sinogram = operator(jnp.ones(SHAPE))
        return sinogram, operator.adjoint(sinogram)

    for bad in (np.nan, np.inf, 1e30):
        sinogram, back = there_and_back(np.where(np.arange(5) == 2, bad, ANGLES))
        assert np.all(np.isfinite(sinogram[np.array([0, 1, 3, 4])]))
        assert back.shape == SHAPE


def test_smear_in_every_transformation():
    with jax.enable_x64(True):
        operator = fan()
        y, v, x = draw(0, 5, 9, 1), draw(1, 5, 9, 1), draw(2, *SHAPE)
        solve = lambda y: classical.fbp(operator, y).value

        @jax.jit
        def transformed(v, y):
            mapped = jax.vmap(solve)(jnp.stack([v, y]))[1]
            return solve(y), mapped, jax.jvp(solve, (v,), (y,))[1], jax.vjp(solve, v)[1](x)[0]

        one, mapped, tangent, back = transformed(v, y)
        np.testing.assert_allclose(mapped, one, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(tangent, one, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(np.vdot(back, y), np.vdot(x, one), rtol=1e-10)


@pytest.mark.slow
def test_filtered_back_projection_in_the_angles():
    with jax.enable_x64(True):
        y, x = draw(0, 5, 9, 1), draw(2, *SHAPE)
        of = lambda t: jnp.vdot(classical.fbp(fan(t), y).value, x)
        both, step = jax.jit(jax.value_and_grad(of)), 1e-6
        difference = (both(ANGLES + step)[0] - both(ANGLES - step)[0]) / (2 * step)
        assert float(jnp.sum(both(ANGLES)[1])) == pytest.approx(float(difference), rel=1e-5)


def test_reference_is_used_for_geometry_alone(monkeypatch):
    calls = []
    for name in ("project", "back_project"):
        real = getattr(_joseph_reference, name)
        monkeypatch.setattr(_joseph_reference, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))
    operator = parallel()
    jax.make_jaxpr(jax.grad(lambda x: jnp.sum(operator(x) ** 2)))(jnp.ones(SHAPE))
    assert calls == []
    jax.make_jaxpr(jax.grad(lambda t: jnp.sum(parallel(t)(jnp.ones(SHAPE)))))(ANGLES)
    assert calls == ["project"]
