"""Unrolled networks, their training, and back-propagation as an adjoint equation."""

from ._adjoint_states import AdjointStates as AdjointStates, adjoint_states as adjoint_states
from ._loss import SimulatedLoss as SimulatedLoss, supervised_loss as supervised_loss
from ._reconstruct import reconstruct as reconstruct
from ._train_lista import train_lista as train_lista

__all__ = [
    "adjoint_states",
    "AdjointStates",
    "reconstruct",
    "SimulatedLoss",
    "supervised_loss",
    "train_lista",
]
