"""What is no number, or no array of the right size, in place of each argument of the functions around the verbs.

The table makes itself: the example in the docstring of each public function is a good call, of which one argument at a
time is replaced. Nothing may end in an error from inside JAX or another library.
"""

import contextlib
import importlib
import inspect
import re
import textwrap
import traceback
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxinv
from jaxinv._checks import _kinds

PACKAGE = Path(jaxinv.__file__).parent
ROOMS = (
    "calibration",
    "data",
    "io",
    "lsvd",
    "metrics",
    "mri",
    "plotting",
    "pnp",
    "scale",
    "subspace",
    "training",
    "unrolled",
)
# What is wrong for every number and every array, and what is an array, of the wrong shape for most.
TYPES = {"None": None, "str": "text", "object": object(), "key": jax.random.key(0), "bool": True}
ARRAYS = {
    "rank": np.ones((2, 3, 2, 3, 2), np.float32),
    "empty": np.zeros(0, np.float32),
    "size": np.ones(13, np.float32),
}
# Arguments of any type, or of several, which the function itself tells apart; and those that a call does not read.
ANY = {"heading", "key", "learning_rate", "adam_learning_rate"}
# Functions whose example needs files, or which take anything, or hand it to functions of the user.
LEFT_OUT = {"data.htc2022", "data.tooth", "data.picture", "data.mnist", "io.load", "io.save", "plotting.save"}
LEFT_OUT |= {"unrolled.adjoint_states", "pnp.quadratic_problem", "pnp.smooth_problem"}
SLOW = ("calibration", "lsvd", "mri", "pnp", "scale", "training", "unrolled", "plotting")


class Stop(Exception):
    pass


def functions():
    for room in ROOMS:
        module = importlib.import_module(f"jaxinv.{room}")
        for name in module.__all__:
            if inspect.isfunction(getattr(module, name)) and f"{room}.{name}" not in LEFT_OUT:
                yield f"{room}.{name}"


def good_call(name, monkeypatch):
    """The function, and the arguments that it has in its example."""
    room, name = name.split(".")
    module = importlib.import_module(f"jaxinv.{room}")
    function = getattr(module, name)
    example = re.search(r"!!! example\n(.*?)(?=\n\S|\Z)", inspect.getdoc(function), re.DOTALL).group(1)
    code = "\n".join(line for line in textwrap.dedent(example).splitlines() if not line.startswith("```"))
    calls = []

    def record(*args, **kwargs):
        calls.append(inspect.signature(function).bind(*args, **kwargs).arguments)
        raise Stop

    with monkeypatch.context() as patch, contextlib.suppress(Stop):
        patch.setattr(module, name, record)
        exec(code, {"__name__": "example"})
    return function, calls[0]


def call(function, given):
    """The function with these arguments, some of which are positional only or many."""
    bound = inspect.signature(function).bind_partial()
    bound.arguments.update(given)
    return function(*bound.args, **bound.kwargs)


def is_ours(error):
    """Whether this library raised the error, of a kind that says that an argument is wrong."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, ValueError | TypeError) and PACKAGE in Path(last).parents


def wrong_values(parameter, numbers, is_given):
    """What is wrong for an argument, by its label."""
    # An array where the example has none may be a good one.
    for label, value in (TYPES | ARRAYS if numbers and is_given else TYPES if numbers else {}).items():
        if value is not parameter.default and not (label == "bool" and isinstance(parameter.default, bool)):
            yield label, value


def fault_of(function, given, argument, label, value):
    """What is wrong with the answer to a wrong argument, or nothing."""
    try:
        call(function, {**given, argument: value})
    except Exception as error:  # noqa: BLE001
        if not is_ours(error):
            return f"{argument}={label} is not refused by us: {type(error).__name__}: {error}"
        if label in TYPES and argument not in str(error):
            return f"{argument}={label} is not named: {error}"
        return None
    return f"{argument}={label} passes" if label in TYPES else None


NAMES = [pytest.param(n, marks=pytest.mark.slow if n.startswith(SLOW) else ()) for n in functions()]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_argument_is_named(name, monkeypatch):
    function, given = good_call(name, monkeypatch)
    kinds = _kinds(inspect.unwrap(function))
    faults = [
        fault_of(function, given, argument, label, value)
        for argument, parameter in inspect.signature(function).parameters.items()
        if argument not in ANY and parameter.kind is not parameter.VAR_KEYWORD
        for label, value in wrong_values(parameter, argument in kinds, argument in given)
    ]
    assert not any(faults), "\n".join(filter(None, faults))
