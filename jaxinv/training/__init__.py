"""Training loops. A loss lives with its chapter."""

from ._fit import fit as fit
from ._fit_adversarial import fit_adversarial as fit_adversarial
from ._muon import muon as muon
