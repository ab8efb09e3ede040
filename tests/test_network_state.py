"""Networks with layers that have a state, wherever a user's network enters: refused by name, or constant."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import Likelihood, diffusion, dip, generative, lsvd, noise, operators, training, unrolled

SHAPE = (3, 2, 4)
KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(4, *SHAPE)).astype(np.float32)


class _Methods:
    """The calls of all kinds of networks, each from images to images, or to one number."""

    def encode(self, x):
        return self(x)

    def decode(self, z):
        return self(z)


class Layered(nnx.Module, _Methods):
    def __init__(self, norm):
        self.scale, self.norm, self.embedding = nnx.Param(jnp.ones(())), norm, nnx.Variable(jnp.full((), 2.0))

    def __call__(self, x, t=None):
        return self.norm(self.scale[...] * x) * self.embedding[...]


class Counting(nnx.Module):
    def __init__(self, counts):
        self.calls, self.counts = nnx.Variable(jnp.zeros((), int)), counts

    def __call__(self, x):
        if self.counts:
            self.calls[...] += 1
        return x


class Equinox(eqx.Module, _Methods):
    scale: jax.Array
    bn: eqx.nn.BatchNorm
    state: eqx.nn.State

    def __call__(self, x, t=None):
        call = jax.vmap(lambda x, s: self.bn(x, s), axis_name="b", in_axes=(0, None), out_axes=(0, None))
        return jnp.moveaxis(call(jnp.moveaxis(self.scale * x, -1, 1), self.state)[0], 1, -1)


class Linen(nn.Module):
    constant: bool
    dropout: bool = False

    @nn.compact
    def __call__(self, x, t=None):
        x = self.param("scale", nn.initializers.ones, ()) * x
        if self.dropout:
            return nn.Dropout(0.5, deterministic=self.constant)(x)
        return nn.BatchNorm(self.constant)(x)

    def encode(self, x):
        return self(x)

    def decode(self, z):
        return self(z)


class Spectral(nnx.Module):
    def __init__(self, constant):
        self.layer = nnx.SpectralNorm(nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
        self.constant = constant

    def __call__(self, x):
        return self.layer(x, update_stats=not self.constant)


class Flat(nnx.Module):
    """Another network, on vectors."""

    def __init__(self, network):
        self.network = network

    def encode(self, x):
        return self.network(x).reshape(len(x), -1)

    def decode(self, z):
        return self.network(z.reshape(len(z), *SHAPE))


class FlatEquinox(eqx.Module):
    network: Equinox
    encode, decode = Flat.encode, Flat.decode


class FlatLinen(nn.Module):
    network: nn.Module
    encode, decode = Flat.encode, Flat.decode


def _flat(network):
    if isinstance(network, nnx.Module):
        return Flat(network)
    if isinstance(network, eqx.Module):
        return FlatEquinox(network)
    module, variables = network.unbind()
    return FlatLinen(module).bind({name: {"network": values} for name, values in variables.items()})


def _equinox(constant):
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "b", mode="batch")
    return eqx.nn.inference_mode(Equinox(jnp.ones(()), norm, state), constant)


def _linen(constant, dropout=False):
    module = Linen(constant, dropout)
    return module.bind(Linen(True, dropout).init(KEY, X))


NETWORKS = {
    "nnx.BatchNorm": lambda c: Layered(nnx.BatchNorm(4, use_running_average=c, rngs=nnx.Rngs(0))),
    "nnx.Dropout": lambda c: Layered(nnx.Dropout(0.5, deterministic=c, rngs=nnx.Rngs(0))),
    "nnx.Variable": lambda c: Layered(Counting(not c)),
    "nnx.SpectralNorm": lambda c: Layered(Spectral(c)),
    "equinox BatchNorm": _equinox,
    "linen BatchNorm": _linen,
    "linen Dropout": lambda c: _linen(c, dropout=True),
}
NAMES = {name: "norm" for name in NETWORKS} | {
    "equinox BatchNorm": "bn",
    "linen BatchNorm": "BatchNorm_0",
    "linen Dropout": "Dropout_0",
}


def _loss(model, batch, *, key):
    return jnp.mean((model(batch) - 1) ** 2)


def _ensemble_loss(models, batch, *, key):
    return jnp.sum(jax.vmap(lambda model: _loss(model, batch, key=key))(models))


class _Critic(eqx.Module):
    slope: jax.Array

    def __call__(self, x):
        return jnp.sum(self.slope * x, (1, 2, 3))


LATENTS = np.random.default_rng(1).normal(size=(40, X[0].size)).astype(np.float32)
LIKELIHOOD = Likelihood(operators.Identity(SHAPE), noise.Gaussian(1.0))
FIT = {"key": KEY, "num_steps": 2, "batch_size": 2}


def _stacked(network):
    if isinstance(network, nn.Module):
        pytest.skip("A bound module is no pytree, so there is no stack of them.")
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, network)


def _decoder(network):
    return network if isinstance(network, nn.Module) else network.decode


def _game(generator, critic):
    return training.fit_adversarial(generator, critic, generative.nonsaturating_loss(), X, latent_shape=SHAPE, **FIT)


PLACES = {
    "fit": lambda n: training.fit(n, _loss, X, **FIT),
    "fit of an ensemble": lambda n: training.fit(_stacked(n), _ensemble_loss, X, **FIT),
    "fit_adversarial": lambda n: _game(n, _Critic(jnp.ones(()))),
    "dip.reconstruct": lambda n: dip.reconstruct(
        LIKELIHOOD, n, X[0], key=KEY, num_steps=2, start=dip.From(jnp.ones(SHAPE))
    ),
    "dip.pretrain": lambda n: dip.pretrain(
        LIKELIHOOD, n, key=KEY, num_steps=1, batch_size=2, images=lambda n, *, key: jax.random.normal(key, (n, *SHAPE))
    ),
    "GANPrior": lambda n: generative.GANPrior(n, SHAPE).decode(X[0]),
    "AutoencoderPrior": lambda n: generative.AutoencoderPrior(_flat(n), LATENTS).decode(X[0].ravel()),
    "FunctionPrior": lambda n: generative.FunctionPrior(_decoder(n), jnp.sum, (1, *SHAPE)),
    "score_from": lambda n: diffusion.score_from(n, diffusion.VP()).predict(0.5, X[0]),
    "lsvd.reconstruct": lambda n: lsvd.reconstruct(n, X[0]),
    "unrolled.reconstruct": lambda n: unrolled.reconstruct(n, X[0]),
}


def _first_tier(*where):
    return () if where[-1] == "nnx.BatchNorm" or where[0] == "fit" else pytest.mark.slow


@pytest.mark.parametrize(
    ("place", "name"),
    [pytest.param(place, name, marks=_first_tier(place, name)) for place in PLACES for name in NETWORKS],
)
def test_a_layer_that_changes_its_state_is_refused_by_name(place, name):
    with pytest.raises(ValueError, match=rf"layer.*{NAMES[name]}.*network\.eval\(\)"):
        PLACES[place](NETWORKS[name](False))


@pytest.mark.parametrize("name", [pytest.param(name, marks=_first_tier(name)) for name in NETWORKS])
def test_a_constant_state_is_welcome(name):
    network = NETWORKS[name](True)
    for place in ("FunctionPrior", "score_from"):
        PLACES[place](network)
    # A network that is returned has the variables that it came with, and statistics are not trained.
    for returned in (PLACES["fit"](network)[0], PLACES["dip.reconstruct"](network).aux["network"]):
        if name.startswith("nnx"):
            assert type(returned) is Layered
            assert type(returned.embedding) is nnx.Variable
            np.testing.assert_array_equal(returned.embedding[...], 2)
            assert not np.array_equal(returned.scale[...], network.scale[...])
            assert jax.tree.structure(returned) == jax.tree.structure(network)
    if name == "nnx.BatchNorm":
        returned.train()
        returned(X)
        assert jnp.abs(returned.norm.mean[...]).max() > 0
    if name == "linen BatchNorm":
        trained, _ = PLACES["fit"](network)
        np.testing.assert_array_equal(trained.variables["batch_stats"]["BatchNorm_0"]["mean"], 0)
        assert not np.array_equal(trained.variables["params"]["scale"], 1)
    if name == "equinox BatchNorm":
        trained, _ = PLACES["fit"](network)
        jax.tree.map(np.testing.assert_array_equal, trained.state, network.state)


def test_dropout_with_the_key_of_the_loss():
    network = Layered(jnp.tanh)
    dropout = nnx.Dropout(0.5)
    loss = lambda model, batch, *, key: jnp.mean(dropout(model(batch), rngs=nnx.Rngs(dropout=key)) ** 2)
    _, history = training.fit(network, loss, X, **FIT)
    assert np.isfinite(history["loss"]).all()
