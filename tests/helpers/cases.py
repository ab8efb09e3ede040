"""The conformance table of linear operators: a new operator is a new row, and every test of the table runs on it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv import operators

SHAPE = (6, 7, 2)  # even and odd, not square, more than one channel
BATCH = 3


@dataclasses.dataclass(frozen=True)
class Row:
    """An operator `build(*parameters)`; `parameters(random)` draws them, in float64 or complex128.

    - `over_reals`: linear over the reals only (it holds `Real`), so the dot test compares real parts.
    - `twin`: a variant, or made, of other rows; the tests that compile for seconds mark it as slow.
    """

    name: str
    build: Callable[..., operators.AbstractLinearOperator]
    parameters: Callable[[np.random.Generator], tuple[Any, ...]] = lambda random: ()
    over_reals: bool = False
    twin: bool = False

    def draw(self, dtype: Any, seed: int = 0) -> tuple[jax.Array, ...]:
        parameters = self.parameters(np.random.default_rng(seed))
        return tuple(jnp.asarray(p, jnp.result_type(dtype, 1j) if np.iscomplexobj(p) else dtype) for p in parameters)

    def operator(self, dtype: Any = "float32", seed: int = 0) -> operators.AbstractLinearOperator:
        return self.build(*self.draw(dtype, seed))


def normal(*shape: int) -> Callable:
    return lambda random: (random.normal(size=shape),)


def mask(*shape: int) -> Callable:
    return lambda random: (random.integers(0, 2, size=shape).astype(float),)


def weights(*shape: int) -> Callable:
    # Positive, so that a finite difference does not cross zero, where `measured` jumps.
    return lambda random: (random.uniform(0.5, 2.0, size=shape),)


def gaussian_complex(random: np.random.Generator, *shape: int) -> np.ndarray:
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def angles(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    # Away from ties of rows and columns, where the derivative in the angle jumps.
    return random.uniform(0.1, 0.6, size=4) + np.arange(4) * np.pi / 2, random.uniform(-0.3, 0.3)


def convolution(shape: tuple[int, ...], boundary: str) -> Callable:
    return lambda kernel: operators.Convolution(kernel, shape, boundary)


def function(f: Callable, domain: Any) -> Callable:
    return lambda *parameters: operators.FunctionOperator(jax.tree_util.Partial(f, *parameters), domain)


def complex_domain(shape: tuple[int, ...], parameter: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.result_type(parameter, 1j))


def real_fourier(m: jax.Array) -> operators.AbstractLinearOperator:
    return operators.MaskedFourier(m) @ operators.Real(m.shape)


def parallel(a: jax.Array, offset: jax.Array) -> operators.ParallelBeam:
    return operators.ParallelBeam((5, 6, 2), a, detector_spacing=0.7, pixel_size=0.9, centre_offset=offset)


def fan(a: jax.Array, offset: jax.Array) -> operators.FanBeam:
    return operators.FanBeam((6, 5, 1), a, 9, 1.3, source_origin=9.0, origin_detector=6.0, centre_offset=offset)


def two_masks(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    return random.uniform(0.5, 2, size=SHAPE), random.uniform(0.5, 2, size=SHAPE)


def mask_and_kernel(random: np.random.Generator) -> tuple[np.ndarray, ...]:
    return random.uniform(0.5, 2, size=SHAPE), random.normal(size=(3, 2))


def blurred(m: jax.Array, kernel: jax.Array) -> operators.AbstractLinearOperator:
    return operators.Mask(m) @ operators.Convolution(kernel, SHAPE)


def difference(weight: jax.Array, x: jax.Array) -> jax.Array:
    return weight * (x[1:] - x[:-1])


def coil(weight: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.fft.fft(weight * x, axis=0)


def low_and_high(weight: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[::2] + x[1::2], weight * (x[::2] - x[1::2])


# With rules of its own, which JAX cannot transpose.
@jax.custom_vjp
def unknown_difference(weight: jax.Array, x: jax.Array) -> jax.Array:
    return difference(weight, x)


unknown_difference.defvjp(lambda weight, x: (difference(weight, x), None), lambda _, y: (y, y))


def difference_adjoint(weight: jax.Array, y: jax.Array) -> jax.Array:
    y = jnp.pad(jnp.conj(weight) * y, [(1, 1), (0, 0), (0, 0)])
    return y[:-1] - y[1:]


def with_adjoint(forward: Callable, adjoint: Callable, domain: Any) -> Callable:
    partial = jax.tree_util.Partial
    return lambda *parameters: operators.FunctionOperator(
        partial(forward, *parameters), domain, adjoint=partial(adjoint, *parameters)
    )


ROWS = [
    Row("Identity", lambda: operators.Identity(SHAPE), twin=True),
    Row("Identity (d,)", lambda: operators.Identity((5,)), twin=True),
    Row("Real", lambda: operators.Real((5, 4, 1)), over_reals=True),
    Row("RealAndImaginary", lambda: operators.RealAndImaginary((5, 4, 2)), over_reals=True),
    Row("Mask", operators.Mask, mask(*SHAPE)),
    Row("Mask of weights (d,)", operators.Mask, weights(9), twin=True),
    *[
        Row(
            f"Convolution {boundary} {'x'.join(map(str, k))}",
            convolution(SHAPE, boundary),
            normal(*k),
            twin=k != (2, 4),
        )
        for boundary in ("zero", "circular", "reflect")
        for k in ((3, 3), (2, 4), SHAPE[:2])
    ],
    Row("Convolution per channel", convolution(SHAPE, "reflect"), normal(1, 3, 2), twin=True),
    Row("Wavelets", lambda: operators.Wavelets((4, 8, 2), 2, 2)),
    Row("Wavelets undecimated", lambda: operators.Wavelets((3, 4, 1), 1, 2, undecimated=True), twin=True),
    Row("Downsample", lambda: operators.Downsample((6, 4, 2), 2), twin=True),
    Row("Downsample by 1", lambda: operators.Downsample((3, 4, 1), 1), twin=True),
    Row("Downsample blurred", lambda k: operators.Downsample((6, 9, 2), 3, k, "reflect"), normal(4, 3)),
    Row(
        "Downsample per channel",
        lambda k: operators.Downsample((6, 4, 2), 2, k, "circular"),
        normal(3, 2, 2),
        twin=True,
    ),
    Row("Matrix", lambda m: operators.Matrix(m, (3, 4, 1)), normal(15, 12)),
    Row("Matrix (d,)", lambda m: operators.Matrix(m, (7,)), normal(4, 7), twin=True),
    Row("Matrix complex", lambda m: operators.Matrix(m, (3, 2, 1)), lambda r: (gaussian_complex(r, 5, 6),)),
    Row("ParallelBeam", parallel, angles),
    Row("FanBeam", fan, angles),
    Row("MaskedFourier", operators.MaskedFourier, mask(*SHAPE)),
    Row("MaskedFourier odd", operators.MaskedFourier, weights(5, 3, 1), twin=True),
    Row(
        "MultiCoilFourier",
        operators.MultiCoilFourier,
        lambda r: (r.uniform(0.5, 2, size=(4, 5, 1)), gaussian_complex(r, 3, 4, 5, 1)),
    ),
    Row("MaskedFourier @ Real", real_fourier, mask(*SHAPE), over_reals=True),
    Row("FunctionOperator", function(difference, (4, 3, 2)), weights(3, 3, 2)),
    Row(
        "FunctionOperator complex",
        lambda w: function(coil, complex_domain((4, 3, 1), w))(w),
        lambda r: (gaussian_complex(r, 4, 3, 1),),
        twin=True,
    ),
    Row("FunctionOperator tuple", function(low_and_high, (6, 3, 1)), weights(3, 3, 1), twin=True),
    Row(
        "FunctionOperator real to complex",
        function(lambda w, x: jnp.fft.rfft(w * x, axis=0), (6, 3, 1)),
        weights(6, 3, 1),
        over_reals=True,
    ),
    Row(
        "FunctionOperator custom_vjp",
        lambda w: with_adjoint(unknown_difference, difference_adjoint, (4, 3, 2))(w),
        weights(3, 3, 2),
    ),
    Row(
        "materialise",
        jax.jit(lambda k: operators.materialise(operators.Convolution(k, (4, 3, 1), "reflect"))),
        normal(2, 3),
        twin=True,
    ),
    Row("materialise (d,)", jax.jit(lambda w: operators.materialise(operators.Mask(w))), weights(6), twin=True),
    Row(
        "materialise real to complex and real",
        jax.jit(lambda w: operators.materialise(operators.stack([real_fourier(w), operators.Mask(w)]))),
        weights(3, 4, 1),
        over_reals=True,
    ),
    Row("A @ B", blurred, mask_and_kernel),
    Row("Mask @ MaskedFourier", lambda a, b: operators.Mask(a) @ operators.MaskedFourier(b), two_masks, twin=True),
    Row(
        "MaskedFourier @ Convolution",
        lambda m, k: operators.MaskedFourier(m) @ operators.Convolution(k, SHAPE),
        mask_and_kernel,
        twin=True,
    ),
    Row("A + B", lambda m, k: operators.Mask(m) + operators.Convolution(k, SHAPE), mask_and_kernel, twin=True),
    Row("A - B", lambda m, k: operators.Mask(m) - operators.Convolution(k, SHAPE), mask_and_kernel, twin=True),
    Row("Mask + MaskedFourier", lambda a, b: operators.Mask(a) + operators.MaskedFourier(b), two_masks, twin=True),
    Row(
        "Mask + Real", lambda m: operators.Mask(m) + operators.Real(SHAPE), weights(*SHAPE), over_reals=True, twin=True
    ),
    Row("2 A", lambda m: 2 * operators.Mask(m), weights(*SHAPE), twin=True),
    Row("factor A", lambda f: f * operators.Identity((4,)), lambda r: (r.normal(),), twin=True),
    Row("i A", lambda m: 1j * operators.Mask(m), weights(*SHAPE), twin=True),
    Row("i A @ Real", lambda m: 1j * real_fourier(m), weights(4, 3, 1), over_reals=True, twin=True),
    Row("-A / 3", lambda k: -operators.Convolution(k, SHAPE) / 3, normal(3, 2), twin=True),
    Row("A.H", lambda m: operators.Matrix(m, (3, 2, 1)).H, lambda r: (gaussian_complex(r, 5, 6),), twin=True),
    Row(
        "stack",
        lambda m, k: operators.stack([operators.Mask(m), operators.Convolution(k, SHAPE)]),
        mask_and_kernel,
        twin=True,
    ),
    Row(
        "stack real and complex",
        lambda a, b: operators.stack([operators.Mask(a), real_fourier(b)]),
        two_masks,
        over_reals=True,
        twin=True,
    ),
    Row(
        "stack into complex",
        lambda a, b: operators.stack([operators.Mask(a), operators.MaskedFourier(b)]),
        two_masks,
        twin=True,
    ),
    Row(
        "nested",
        lambda m, k: operators.stack(
            [2 * blurred(m, k) - operators.Identity(SHAPE), operators.stack([operators.Mask(m), blurred(m, k)])]
        ),
        mask_and_kernel,
    ),
    Row(
        "stack.H @ stack",
        lambda m, k: (lambda A: A.H @ A)(operators.stack([operators.Mask(m), operators.Convolution(k, SHAPE)])),
        mask_and_kernel,
    ),
]
