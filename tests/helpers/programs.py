"""What tests look at in programs and in their outcomes: compilations, equations, equality."""

import contextlib
import logging

import jax
import numpy as np

from jaxinv import Solution


@contextlib.contextmanager
def compilations():
    """A list that receives a message for each program that is compiled."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles(True):
            yield messages
    finally:
        logger.removeHandler(handler)
    messages[:] = [message for message in messages if message.startswith("Compiling")]


def answers(outcome):
    """What must agree: floating-point answers, and integers (steps, codes)."""
    if isinstance(outcome, Solution):
        stats = {k: v for k, v in outcome.stats.items() if k != "residual"}
        outcome = (outcome.value, outcome.result, stats, outcome.aux)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(outcome)]
    is_float = lambda leaf: leaf.dtype.kind in "fc"
    return [leaf for leaf in leaves if is_float(leaf)], [leaf for leaf in leaves if not is_float(leaf)]


def assert_same(got, expected, tolerance):
    for a, b in zip(answers(got)[0], answers(expected)[0], strict=True):
        # Relative to the largest entry, or to 1: log-likelihoods are sums of larger terms, which may cancel.
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(b), initial=1.0))
    for a, b in zip(answers(got)[1], answers(expected)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for leaf in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            inner = getattr(leaf, "jaxpr", leaf)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
