"""Small trained priors that come with the package, each with a card of its data, licence and figures.

`names()` lists them, `load(name)` is one of them, ready for `pnp`, `diffusion` or `generative`, and `card(name)` says
what it was trained on. They are for first steps and for tests: a prior of your own images is better for these.
"""

from ._card import Card as Card, card as card, names as names
from ._load import load as load

__all__ = ["Card", "card", "load", "names"]
