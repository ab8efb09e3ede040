"""Training loops; the losses are in the modules of their networks, such as `generative` and `diffusion`."""

from ._denoising import denoising_loss as denoising_loss
from ._fit import fit as fit
from ._fit_adversarial import fit_adversarial as fit_adversarial
from ._muon import muon as muon

__all__ = [
    "denoising_loss",
    "fit",
    "fit_adversarial",
    "muon",
]
