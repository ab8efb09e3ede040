"""What is of a wrong type is refused by a `ValueError` that names the argument, before JAX sees it."""

import inspect
import pathlib
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Implicit, Likelihood, Unrolled, classical, diffusion, noise, operators, oracles
from jaxinv._arrays import are_numbers
from jaxinv._checks import check_types
from jaxinv._types import Checked, IntLike, Scalar, State

SCRIPT = pathlib.Path(__file__).parent / "helpers" / "wrong_types.py"


@pytest.mark.slow
@pytest.mark.parametrize("table", ["verbs", "modules"])
def test_every_argument_of_every_verb_and_module_is_named(table):
    # In a process of its own, without the type checker of the tests, as users have it.
    finished = subprocess.run([sys.executable, str(SCRIPT), table], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""


def takes(
    y: State,
    weight: Scalar = 1.0,
    norm: Scalar | None = None,
    max_steps: IntLike = 3,
    exact: bool = False,
    progress: diffrax.AbstractProgressMeter | None = None,
    names: Checked[tuple[str, ...]] = (),
):
    del y, weight, norm, max_steps, exact, progress, names


Y = {"y": np.ones(3)}


@pytest.mark.parametrize(
    "given",
    [
        Y,
        {"y": [1.0, 2.0]},
        {"y": (np.ones(2), jnp.ones(2, complex))},
        Y | {"weight": 2, "norm": None, "max_steps": np.int64(3), "exact": True, "names": ["a"]},
        Y | {"weight": np.float32(2), "norm": jnp.ones(()), "progress": diffrax.TextProgressMeter()},
        {"y": np.array([True, False])},
        {"unknown": 3},
    ],
)
def test_what_is_right_passes(given):
    check_types(takes, inspect.signature(takes), (), given)
    jax.jit(lambda y: check_types(takes, inspect.signature(takes), (), given | {"y": y}))(jnp.ones(3))


@pytest.mark.parametrize(
    "given",
    [
        {"y": None},
        {"y": "text"},
        {"y": jax.random.key(0)},
        {"y": (np.ones(2), None, object())},
        {"weight": None},
        {"weight": True},
        {"norm": "text"},
        {"max_steps": 3.0},
        {"max_steps": True},
        {"exact": 1},
        {"progress": "tqdm"},
        {"names": "text"},
        {"names": None},
    ],
)
def test_what_is_wrong_is_named(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        check_types(takes, inspect.signature(takes), (), Y | given)


def test_booleans_are_numbers_in_arrays_only():
    assert are_numbers(np.array([True]))
    assert are_numbers([[1, 2.0], [True, 3]])
    assert not are_numbers(np.True_)
    assert not are_numbers(np.array(["a"]))
    assert not are_numbers(np.array([None]))


@pytest.mark.parametrize("bad", [None, "text", True, jax.random.key(0)], ids=str)
def test_a_module_names_its_argument(bad):
    for make in (noise.Gaussian, noise.TransmissionPoisson, diffusion.DDIM):
        name = list(inspect.signature(make).parameters)[-1 if make is diffusion.DDIM else 0]
        if make is diffusion.DDIM:
            name = "eta"
        with pytest.raises(ValueError, match=f"{make.__name__}: `{name}` must be a number"):
            make(**{name: bad})


OPERATOR = operators.Convolution(np.ones((3, 3)) / 9, (4, 4, 1))
LIKELIHOOD = Likelihood(OPERATOR, noise.Gaussian(0.1))
IMAGE = jnp.arange(16.0).reshape(4, 4, 1) / 16
REVERSE = {
    "tikhonov": lambda y, **options: classical.tikhonov(LIKELIHOOD, y, weight=1.0, **options).value,
    "tv": lambda y, **options: classical.tv(LIKELIHOOD, y, weight=1.0, max_steps=20, **options).value,
    "sample": lambda y: (
        diffusion.sample(
            oracles.Gaussian.from_factor(y, np.ones((16, 1))).score(diffusion.VP()),
            y.shape,
            key=jax.random.key(0),
            method=diffusion.DDIM(3),
        ).value
    ),
}


@pytest.mark.parametrize("name", [pytest.param("tikhonov", marks=pytest.mark.slow), "tv", "sample"])
def test_reverse_mode_says_what_to_do_and_forward_mode_works(name):
    total = lambda y: jnp.sum(REVERSE[name](y))
    for gradient in (jax.grad(total), jax.jit(jax.grad(total))):
        with pytest.raises(
            ValueError, match=rf"`{name}` cannot be differentiated in reverse mode.*Unrolled.*Implicit.*jvp"
        ):
            gradient(IMAGE)
    direction = jax.jvp(total, (IMAGE,), (jnp.ones_like(IMAGE),))[1]
    mapped = jax.vmap(lambda d: jax.jvp(total, (IMAGE,), (d,))[1])(jnp.ones((2, *IMAGE.shape)))
    np.testing.assert_allclose(mapped, direction, rtol=1e-5)
    if name == "tikhonov":
        for way in (Unrolled(), Implicit()):
            gradient = jax.grad(lambda y, way=way: jnp.sum(REVERSE[name](y, differentiate=way)))(IMAGE)
            np.testing.assert_allclose(jnp.sum(gradient), direction, rtol=1e-3)
