"""The network stands once in every compiled program: each further copy costs seconds of compilation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from dip_problems import KEY, SHAPE, pixels
from programs import equations

from jaxinv import Unrolled, dip, regularisers
from jaxinv.dip import _resume
from jaxinv.training import _chunk, _run_chunks


class Counted(eqx.Module):
    """A network with one `asinh`, which is not among its own derivatives: there are as many as evaluations."""

    theta: jax.Array

    def __call__(self, z0):
        return jnp.arcsinh(self.theta[None] * z0)


NETWORK = Counted(jnp.ones(SHAPE))
METHODS = {
    "plain": {"regulariser": regularisers.TV(), "weight": 0.1},
    "ADMM": {"method": dip.ADMM(1.0), "regulariser": regularisers.TV(), "weight": 0.1},
    "self-guided": {"method": dip.SelfGuided()},
}
RULES = {
    "fixed steps": dip.FixedSteps(),
    "windowed variance": dip.WindowedVariance(3, 5),
    "discrepancy": dip.Discrepancy(),
    "held out": dip.HeldOut(0.3),
}


def sites(function, *arguments):
    """How often the network is evaluated in the traced program, its gradients aside."""
    jaxpr = jax.make_jaxpr(function)(*arguments)
    return sum(equation.primitive.name == "asinh" for equation in equations(jaxpr.jaxpr))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_reconstruct(method, rule):
    options = {"key": KEY, "num_steps": 4, "jitter": 0.1, "ema": 0.5, "stopping": rule, **method}
    assert sites(lambda y: dip.reconstruct(pixels(), NETWORK, y, **options), jnp.ones(SHAPE)) == 1


@pytest.mark.parametrize("together", [True, False])
def test_reconstruct_many_and_through_its_steps(together):
    options = {"key": KEY, "num_steps": 4, "together": together, "differentiate": Unrolled()}
    assert sites(lambda y: dip.reconstruct_many(pixels(), NETWORK, y, **options), jnp.ones((3, *SHAPE))) == 1


class Traced(Exception):
    """A compiled call that is counted, not made."""


def test_resume(monkeypatch, tmp_path):
    def advance(run, problem, state, key):
        found.append(sites(lambda state: _resume.advance(run, problem, state, key=key, first=state.num_done), state))
        found.append(sites(lambda state: _resume.solution(run, problem, state), state))
        raise Traced

    found = []
    monkeypatch.setattr(_resume, "_advance", advance)
    with pytest.raises(Traced):
        dip.resume(pixels(), NETWORK, jnp.ones(SHAPE), key=KEY, num_steps=4, checkpoint=tmp_path / "run")
    assert found == [1, 0]


def test_pretrain(monkeypatch):
    def run_chunk(spec, carry, num_steps, chunk_size):
        found.append(sites(lambda carry: _chunk.run_chunk(spec, carry, num_steps, chunk_size), carry))
        raise Traced

    found = []
    monkeypatch.setattr(_run_chunks, "run_chunk", run_chunk)
    with pytest.raises(Traced):
        dip.pretrain(pixels(), NETWORK, key=KEY, num_steps=4)
    assert found == [1]
