"""Robust PCA, k-means and PCA beside scikit-learn.

    python benchmarks/subspace.py [--quick]

Robust PCA: n = 200, errors of modulus 1 at a fraction of the entries; the bar is the exact rank and a relative error of
5e-6 in float64. k-means: 2500 points of 25 equal modes in 80 dimensions; `objective` is the best inertia / n of 10
restarts, `found` the number of restarts that reach it within 1 %. PCA: 60 000 digits; `objective` is the relative
Frobenius loss of rank 8; `psnr` that of projecting test images 100 to 199, and in the row of the deconvolution that of
least squares in the range. `peer_seconds` are scikit-learn's, all from the same process.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import Recorder, timed
from sklearn.cluster import KMeans as PeerKMeans
from sklearn.decomposition import PCA as PeerPCA

import jaxinv
from jaxinv import RESULTS, generative, metrics, noise, operators, subspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer digits, one repeat: does it run?")
    quick = parser.parse_args().quick
    recorder = Recorder("subspace_quick" if quick else "subspace", also=("scikit-learn",))
    repeats = 1 if quick else 3
    _robust_pca(recorder, repeats)
    _kmeans(recorder, repeats)
    _pca(recorder, repeats, 5000 if quick else 60000)
    recorder.write()


def _robust_pca(recorder, repeats):
    for rank, fraction in ((10, 0.05), (10, 0.1), (20, 0.1)):
        rng = np.random.default_rng(0)
        low = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 200))
        errors = np.where(rng.uniform(size=(200, 200)) < fraction, rng.choice([-1.0, 1.0], size=(200, 200)), 0)
        for dtype in ("float64", "float32"):
            with jax.enable_x64(dtype == "float64"):
                matrix = jnp.asarray(low + errors, dtype)
                found, figures = timed(lambda m: subspace.robust_pca(m), matrix, repeats=repeats)
                recorder.add(
                    task=f"robust PCA, rank {rank}, {100 * fraction:.0f} % errors",
                    method=dtype,
                    relative_error=float(
                        f"{np.linalg.norm(np.asarray(found.low_rank) - low) / np.linalg.norm(low):.1e}"
                    ),
                    rank=int(found.rank),
                    steps=int(found.num_steps),
                    successful=bool(found.result == RESULTS.successful),
                    seconds=round(figures["seconds"], 3),
                )


def _kmeans(recorder, repeats):
    rng = np.random.default_rng(0)
    means = np.array([np.tile([8.0 * i, 8.0 * j], 40) for i in range(-2, 3) for j in range(-2, 3)])
    data = (means[rng.integers(25, size=2500)] + rng.normal(size=(2500, 80))).astype(np.float32)
    began = time.perf_counter()
    peer = PeerKMeans(25, n_init=10, random_state=0).fit(data)
    peer_seconds = time.perf_counter() - began
    for start in (subspace.Greedy(), subspace.PlusPlus()):
        solve = lambda x, key, start=start: subspace.kmeans(x, 25, key=key, restarts=10, start=start)
        found, figures = timed(solve, jnp.asarray(data), jax.random.key(0), repeats=repeats)
        inertias = np.asarray(found.inertias) / len(data)
        greedy = isinstance(start, subspace.Greedy)
        recorder.add(
            task="k-means, 25 modes",
            method=type(start).__name__,
            objective=round(float(found.inertia) / len(data), 2),
            found=int(np.sum(inertias <= 1.01 * peer.inertia_ / len(data))),
            peer_objective=round(peer.inertia_ / len(data), 2) if greedy else None,
            identity=float(f"{abs(float((found.within + found.between) / found.total) - 1):.0e}"),
            seconds=round(figures["seconds"], 3),
            peer_seconds=round(peer_seconds, 3) if greedy else None,
        )


def _pca(recorder, repeats, count):
    images = np.asarray(jaxinv.data.mnist("train")[0][:count], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][100:200], jnp.float32) / 255
    total = np.linalg.norm(images - images.mean(0))
    psnr = lambda x: round(float(jax.vmap(metrics.psnr)(x, test).mean()), 2)
    for method, solver in (
        (subspace.Thin(), "full"),
        (subspace.Gram(), "covariance_eigh"),
        (subspace.Randomised(), "randomized"),
    ):
        solve = lambda x, key, method=method: subspace.pca(x, rank=8, method=method, key=key)
        found, figures = timed(solve, jnp.asarray(images), jax.random.key(0), repeats=repeats)
        began = time.perf_counter()
        PeerPCA(8, svd_solver=solver, random_state=0).fit(images.reshape(count, -1))
        peer_seconds = time.perf_counter() - began
        recorder.add(
            task=f"PCA-8, {count} digits",
            method=type(method).__name__,
            objective=round(
                float(np.sqrt(1 - np.sum(np.asarray(found.singular_values, np.float64) ** 2) / total**2)), 4
            ),
            psnr=psnr(found.decode(found.encode(test))),
            seconds=round(figures["seconds"], 3),
            peer_seconds=round(peer_seconds, 3),
        )

    line = jnp.arange(5.0) - 2
    kernel = jnp.exp(-0.5 * (line[:, None] ** 2 + line[None, :] ** 2))
    matrix = operators.materialise(operators.Convolution(kernel / kernel.sum(), (28, 28, 1)))
    matrix = operators.materialise(matrix / jnp.linalg.norm(matrix.matrix, 2))
    likelihood = jaxinv.Likelihood(matrix, noise.Gaussian(0.1))
    keys = jax.random.split(jax.random.key(1), len(test))
    y = jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(test, keys)
    prior = generative.PCAPrior(found)
    for weight in (0.0, 1.0):
        solve = lambda y, k, likelihood, prior, weight=weight: (
            generative.reconstruct(
                likelihood, prior, y, key=k, weight=weight, learning_rate=0.1, max_steps=1000, rtol=1e-5
            ).value
        )
        value, figures = timed(jax.vmap(solve, (0, 0, None, None)), y, keys, likelihood, prior, repeats=1)
        recorder.add(
            task="deconvolution 0.1, PCA-8 range",
            method=f"hard, weight {weight:.0f}",
            psnr=psnr(value),
            seconds=round(figures["seconds"], 3),
        )


if __name__ == "__main__":
    main()
