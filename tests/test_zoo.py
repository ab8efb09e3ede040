"""The weights of the package: they load, are small, and reach the figures of their cards."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import cli, data, metrics, pnp, zoo


@pytest.fixture(scope="module")
def digits():
    try:
        images, _ = data.mnist("test")
    except ValueError as error:
        pytest.skip(str(error))
    return jnp.asarray(images[:16], jnp.float32) / 255


def figure(prior, what, images):
    """A figure of a card, measured again."""
    if what.endswith("encoded and decoded"):
        again, given = lambda x: prior.decode(prior.encode(x)), images
    else:
        sigma, denoiser = float(what.split()[-1]), prior
        if not isinstance(prior, pnp.AbstractDenoiser):
            denoiser = pnp.FromScore(prior)
        again = lambda x: denoiser(x, sigma)
        given = images + sigma * np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    made = jax.jit(jax.vmap(again))(given)
    return float(jax.vmap(metrics.psnr)(made, images).mean())


@pytest.mark.parametrize("name", [name for name in zoo.names() if name.startswith("mnist")])
def test_weights_reach_the_figures_of_their_card(name, digits):
    card, prior = zoo.card(name), zoo.load(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(prior) if leaf.ndim) == pytest.approx(card.weights, abs=10)
    what, expected = next(iter(card.figures.items()))
    # The card has three digits after the point, and processors round otherwise.
    assert figure(prior, what, digits) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", zoo.names())
def test_files_are_small_and_say_what_they_are(name):
    from jaxinv.zoo._card import file_of

    assert file_of(name).stat().st_size < 1e6
    card = zoo.card(name)
    assert card.name == name
    assert "Apache-2.0" in card.licence
    assert json.dumps(card.versions)


def test_other_names_are_refused(capsys):
    with pytest.raises(ValueError, match="no weights 'imagenet'.*mnist-vae"):
        zoo.load("imagenet")
    assert cli.main(["demo", "--pretrained"]) == 1
    assert "--data mnist" in capsys.readouterr().err
