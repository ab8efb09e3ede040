"""Training loops. A loss lives with its chapter."""

from ._fit import fit as fit
