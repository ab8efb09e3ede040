"""Clustering and linear reduction: principal components, robust principal components, k-means."""

from ._decomposition import Gram as Gram, Randomised as Randomised, Thin as Thin
from ._kmeans import KMeans as KMeans, kmeans as kmeans
from ._pca import PCA as PCA, pca as pca
from ._rank import Frobenius as Frobenius, Nuclear as Nuclear, choose_rank as choose_rank
from ._robust_pca import RobustPCA as RobustPCA, robust_pca as robust_pca
from ._seeding import From as From, Greedy as Greedy, PlusPlus as PlusPlus

__all__ = [
    "Frobenius",
    "From",
    "Gram",
    "Greedy",
    "KMeans",
    "Nuclear",
    "PCA",
    "PlusPlus",
    "Randomised",
    "RobustPCA",
    "Thin",
    "choose_rank",
    "kmeans",
    "pca",
    "robust_pca",
]
