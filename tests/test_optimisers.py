"""Every optimiser of optax: it lowers the loss, or a `ValueError` says why it cannot; in every verb that takes one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dip_problems import SHAPE, Wave, pixels
from optax import contrib
from verbs import rng_of

from jaxinv import dip, generative, training
from jaxinv._optimisers import check_optimiser, init_optimiser, step_optimiser

KEY = jax.random.key(0)
RATE = 0.1
# What needs more than a gradient: the value, the function, or the gradient elsewhere; and what wraps such.
_ASCENT = optax.chain(contrib.normalize(), optax.sgd(0.01))
NEEDY = {
    "lbfgs": optax.lbfgs(),
    "polyak_sgd": optax.polyak_sgd(1.0),
    "reduce_on_plateau": optax.chain(optax.adam(RATE), contrib.reduce_on_plateau(patience=3)),
    "sam": contrib.sam(optax.sgd(RATE), _ASCENT, sync_period=2),
    "sam, opaque": optax.chain(optax.clip(1e3), contrib.sam(optax.sgd(RATE), _ASCENT, opaque_mode=True)),
    "MultiSteps": optax.MultiSteps(optax.chain(optax.adam(RATE), contrib.reduce_on_plateau()), 2),
}
MORE = NEEDY | {
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(10)),
    "momo": contrib.momo(RATE),
    "momo_adam": contrib.momo_adam(RATE),
    "sophia": contrib.sophia(RATE),
    "cocob": contrib.cocob(),
    "schedule": optax.adam(optax.cosine_decay_schedule(RATE, 100)),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(optax.constant_schedule(RATE)),
    "masked": optax.masked(optax.adam(RATE), lambda p: jax.tree.map(lambda x: True, p)),
    "partition": optax.partition({"a": optax.lbfgs()}, lambda p: jax.tree.map(lambda x: "a", p)),
    "apply_if_finite": optax.apply_if_finite(optax.adam(RATE), 3),
    "apply_every": optax.chain(optax.adam(RATE), optax.apply_every(2)),
    "named_chain": optax.named_chain(("a", optax.adam(RATE)), ("b", contrib.reduce_on_plateau())),
    "flatten": optax.flatten(optax.adam(RATE)),
    "mechanize": contrib.mechanize(optax.adam(RATE)),
    "schedule_free": contrib.schedule_free(optax.sgd(RATE), RATE),
    "add_noise": optax.chain(optax.add_noise(1e-3, 0.5, KEY), optax.adam(RATE)),
    "jaxinv's muon": training.muon(RATE),
}
_NAMES = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw "
    "novograd optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd sm3 yogi"
)
MORE |= {name: getattr(optax, name)(RATE) for name in _NAMES.split()}
_NAMES = "acprop ademamix dadapt_adamw galore madgrad muon prodigy schedule_free_adamw"
MORE |= {name: getattr(contrib, name)(RATE) for name in _NAMES.split()}
# These need another kind of weights, or of gradients.
UNUSABLE = {
    "lookahead": (optax.lookahead(optax.sgd(RATE), 5, 0.5), "fast"),
    "dpsgd": (contrib.differentially_private_aggregate(1.0, 1.0, key=KEY), "batch dimension|updates change"),
    "another structure": (
        optax.stateless(lambda updates, params: jax.tree.leaves(updates)[0][0]),
        "its updates change",
    ),
    "a growing state": (
        optax.GradientTransformation(lambda p: jnp.zeros(1), lambda u, s, p=None: (u, jnp.append(s, 1.0))),
        "its state change",
    ),
}
TARGET = jnp.asarray(rng_of(0).normal(size=(3, 4)), jnp.float32)


def _quadratic(weights):
    return jnp.sum((weights["w"] - TARGET) ** 2) + jnp.sum((weights["b"] - 1) ** 2)


def _weights():
    return {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}


def _minimised(optimiser, steps):
    optimiser = check_optimiser(optimiser)

    def body(index, carry):
        weights, state = carry
        value, gradient = jax.value_and_grad(_quadratic)(weights)
        return step_optimiser(optimiser, _quadratic, value, gradient, state, weights)[:2]

    weights = _weights()
    weights, _ = jax.lax.fori_loop(0, steps, body, (weights, init_optimiser(optimiser, weights)))
    return _quadratic(weights)


@pytest.mark.filterwarnings("ignore:Specifying a key")
@pytest.mark.parametrize("name", MORE)
def test_steps_of_every_optimiser_fit_a_loop(name):
    jax.eval_shape(lambda: _minimised(MORE[name], 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_optimiser_lowers_a_quadratic(name):
    assert float(jax.jit(lambda: _minimised(MORE[name], 30))()) < float(_quadratic(_weights()))


def _fit(optimiser):
    loss = lambda model, batch, *, key: _quadratic(model) + 0 * jnp.sum(batch)
    _, history = training.fit(
        _weights(), loss, np.ones((4, 1)), key=KEY, optimiser=optimiser, num_steps=8, batch_size=2, chunk_size=8
    )
    return history["loss"]


def _game(generator, critic, images, latents, *, key):
    return _quadratic(generator), _quadratic(critic) + 0 * jnp.sum(images)


class _Player(dict):
    """Weights that can be called, as `fit_adversarial` requires of a generator."""

    def __call__(self, z):
        return jnp.sum(self["w"]) * z


jax.tree_util.register_pytree_with_keys(
    _Player,
    lambda player: ([(jax.tree_util.DictKey(k), player[k]) for k in sorted(player)], tuple(sorted(player))),
    lambda names, leaves: _Player(zip(names, leaves, strict=True)),
)


def _fit_adversarial(optimiser):
    players = _Player(_weights()), _Player(_weights())
    options = {"optimisers": optimiser, "num_steps": 8, "batch_size": 2, "chunk_size": 8, "latent_shape": (1,)}
    _, history = training.fit_adversarial(*players, _game, np.ones((4, 1)), key=KEY, **options)
    return history["generator_loss"] + history["critic_loss"]


def _latent(optimiser):
    prior = generative.FunctionPrior(jnp.tanh, jnp.sum, SHAPE)
    start, y = generative.From(jnp.full(SHAPE, 2.0)), jnp.full(SHAPE, 0.5)
    solution = generative.reconstruct(
        pixels(), prior, y, key=KEY, max_steps=8, optimiser=optimiser, start=start, weight=0.0
    )
    first = pixels().negative_log_likelihood(jnp.tanh(2.0) * jnp.ones(SHAPE), y)
    return np.array([first, solution.stats["objective"]])


def _dip(optimiser):
    y = jnp.full(SHAPE, 0.5)
    solution = dip.reconstruct(pixels(), Wave(jnp.ones(SHAPE)), y, key=KEY, num_steps=8, optimiser=optimiser, stride=1)
    return np.asarray(solution.stats["history"]["objective"])


VERBS = {"fit": _fit, "fit_adversarial": _fit_adversarial, "generative": _latent, "dip": _dip}


FAST = {"fit": "lbfgs", "fit_adversarial": "reduce_on_plateau", "generative": "sam", "dip": "MultiSteps"}


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        pytest.param(verb, name, marks=() if FAST[verb] == name else pytest.mark.slow)
        for verb in VERBS
        for name in NEEDY
    ],
)
def test_needy_optimisers_in_every_verb(verb, name):
    losses = VERBS[verb](NEEDY[name])
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_used_is_refused(verb, name):
    optimiser, match = UNUSABLE[name]
    with pytest.raises(ValueError, match=rf"`optimiser` cannot be used here .*({match})"):
        VERBS[verb](optimiser)
