"""The objective of `classical.primal_dual` beside that of CVXPY, for every two regularisers, on 16 x 16 images.

`python benchmarks/primal_dual_optima.py optima` computes the optima by CVXPY (`pip install cvxpy pywavelets`) and keeps
them in `results/primal_dual_optima.json`; without an argument the script compares with these, and adds lines to
`results/primal_dual_optima.txt`; delete that file to compare again. The problem is a blurred image of two channels, of
which every fourth pixel is missing; objectives are without the constants of the likelihood.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
OPTIMA = RESULTS / "primal_dual_optima.json"
SHAPE, STD, WEIGHT = (16, 16, 2), 0.1, 4.0
HEADER = "objective of classical.primal_dual over the optimum by CVXPY, minus 1; steps"
NAMES = (
    "TV",
    "TV anisotropic",
    "TGV",
    "Haar",
    "Daubechies 4",
    "Haar undecimated",
    "L1",
    "group L1",
    "nuclear",
    "Huber",
    "Tikhonov",
    "NonNegative",
    "Box",
)


def problem():
    """The image, the kernel, the mask and the measurement, by numpy."""
    random = np.random.default_rng(0)
    image = np.zeros(SHAPE)
    image[4:12, 5:13] = (1.0, 0.6)
    image[..., 0] += np.linspace(-0.5, 0.5, 16)
    kernel = random.uniform(size=(3, 3))
    kernel /= kernel.sum()
    mask = (random.uniform(size=SHAPE) > 0.25).astype(float)
    noise = STD * random.normal(size=SHAPE)
    return image, kernel, mask, noise


def matrix_of(function, shape=SHAPE):
    """The matrix of a linear function of arrays of a shape."""
    basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return np.stack([np.ravel(function(x)) for x in basis], axis=1)


def blurred(x, kernel):
    """True convolution with zeros outside, by sums of shifts."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return sum(kernel[i, j] * padded[2 - i : 18 - i, 2 - j : 18 - j] for i in range(3) for j in range(3))


def optimum(names):
    """The optimum by CVXPY.

    As a semidefinite programme the nuclear norm of 256 rows takes minutes. Of two columns it is the least sum of the
    norms of two orthogonal combinations of them, so the optimum is the least over the angle of these.
    """
    if "nuclear" not in names:
        return optimum_at(names, 0.0)
    from scipy.optimize import minimize_scalar

    angles = np.linspace(0, np.pi / 2, 6, endpoint=False)
    best = angles[np.argmin([optimum_at(names, angle) for angle in angles])]
    around = (best - np.pi / 12, best + np.pi / 12)
    return float(minimize_scalar(lambda a: optimum_at(names, a), bounds=around, options={"xatol": 1e-5}).fun)


def optimum_at(names, angle):
    """The optimum by CVXPY, with matrices that are made by numpy and PyWavelets alone."""
    import cvxpy as cp
    import pywt

    image, kernel, mask, noise = problem()
    operator = mask.ravel()[:, None] * matrix_of(lambda x: blurred(x, kernel))
    y = operator @ image.ravel() + (mask * noise).ravel()
    x = cp.Variable(image.size)
    objective, constraints = cp.sum_squares((operator @ x - y) / STD) / 2, []

    def down(u):
        return np.pad(np.diff(u, axis=0), ((0, 1), (0, 0), (0, 0)))

    def right(u):
        return np.pad(np.diff(u, axis=1), ((0, 0), (0, 1), (0, 0)))

    def fields(*parts):
        return cp.vstack([cp.reshape(part, (1, part.size), order="C") for part in parts])

    def haar(u, order, levels):
        bands = []
        for c in range(SHAPE[2]):
            coefficients = pywt.wavedec2(u[..., c], f"db{order}", mode="periodization", level=levels)
            bands += [np.ravel(band) for details in coefficients[1:] for band in details]
        return np.concatenate(bands)

    def undecimated(u):
        bands = []
        for c in range(SHAPE[2]):
            coefficients = pywt.swt2(u[..., c], "db1", level=1, norm=True)
            bands += [np.ravel(band) for band in coefficients[0][1]]
        return np.concatenate(bands)

    def term(name):
        d_down, d_right = matrix_of(down), matrix_of(right)
        if name == "TV":
            return cp.sum(cp.norm(fields(d_down @ x, d_right @ x), 2, axis=0))
        if name == "TV anisotropic":
            return cp.norm1(d_down @ x) + cp.norm1(d_right @ x)
        if name == "TGV":
            # The field lives where there are differences.
            w_down, w_right = cp.Variable(15 * 16 * 2), cp.Variable(16 * 15 * 2)
            keep_down = matrix_of(lambda u: u[:-1])
            keep_right = matrix_of(lambda u: u[:, :-1])
            gradient = fields(
                d_down @ x - keep_down.T @ w_down,
                d_right @ x - keep_right.T @ w_right,
            )
            hh = np.zeros((*SHAPE, 15 * 16 * 2))
            hh[1:-1] = matrix_of(lambda u: np.diff(u, axis=0), (15, 16, 2)).reshape(14, 16, 2, -1)
            ww = np.zeros((*SHAPE, 16 * 15 * 2))
            ww[:, 1:-1] = matrix_of(lambda u: np.diff(u, axis=1), (16, 15, 2)).reshape(16, 14, 2, -1)
            hw, wh = np.zeros((*SHAPE, 15 * 16 * 2)), np.zeros((*SHAPE, 16 * 15 * 2))
            hw[:-1, :-1] = matrix_of(lambda u: np.diff(u, axis=1), (15, 16, 2)).reshape(15, 15, 2, -1)
            wh[:-1, :-1] = matrix_of(lambda u: np.diff(u, axis=0), (16, 15, 2)).reshape(15, 15, 2, -1)
            flat = lambda m: m.reshape(image.size, -1)
            second = fields(flat(hh) @ w_down, flat(ww) @ w_right, (flat(hw) @ w_down + flat(wh) @ w_right) * 0.5**0.5)
            return cp.sum(cp.norm(gradient, 2, axis=0)) + 2 * cp.sum(cp.norm(second, 2, axis=0))
        if name == "Haar":
            return cp.norm1(matrix_of(lambda u: haar(u, 1, 2)) @ x)
        if name == "Daubechies 4":
            return cp.norm1(matrix_of(lambda u: haar(u, 4, 2)) @ x)
        if name == "Haar undecimated":
            return cp.norm1(matrix_of(undecimated) @ x)
        if name == "L1":
            return cp.norm1(x)
        if name == "group L1":
            return cp.sum(cp.norm(cp.reshape(x, (256, 2), order="C"), 2, axis=1))
        if name == "nuclear":
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            return cp.sum(cp.norm(cp.reshape(x, (256, 2), order="C") @ turn, 2, axis=0))
        if name == "Huber":
            return cp.sum(cp.huber(x, 0.3)) / 2
        if name == "Tikhonov":
            return cp.sum_squares(d_down @ x) / 2
        constraints.extend([x >= 0] if name == "NonNegative" else [x >= -0.1, x <= 0.7])
        return 0

    for name in names:
        objective = objective + WEIGHT * term(name)
    found = cp.Problem(cp.Minimize(objective), constraints)
    for tolerance in (1e-9, 1e-8, 1e-7):
        tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tolerance)
        try:
            found.solve(solver=cp.CLARABEL, **tight)
        except cp.SolverError:
            continue  # it makes no progress so near to the optimum
        return float(found.value)
    raise RuntimeError(f"No solution of {names}.")


def optima():
    """All of them, kept one by one."""
    pairs = sorted(itertools.combinations(NAMES, 2), key=lambda pair: "nuclear" in pair)
    known = json.loads(OPTIMA.read_text()) if OPTIMA.exists() else {}
    for pair in pairs:
        name = " + ".join(pair)
        if name not in known:
            start = time.perf_counter()
            known[name] = optimum(pair)
            print(name, known[name], f"{time.perf_counter() - start:.1f} s", flush=True)
            OPTIMA.write_text(json.dumps(known, indent=1) + "\n")


def regularisers_by_name():
    """The same terms of jaxinv."""
    from jaxinv import operators, regularisers

    rows = operators.Matrix(matrix_of(lambda u: np.pad(np.diff(u, axis=0), ((0, 1), (0, 0), (0, 0)))), SHAPE)
    makes = (
        regularisers.TV(),
        regularisers.TV(regularisers.Anisotropic()),
        regularisers.TGV(),
        regularisers.Wavelets(1, 2),
        regularisers.Wavelets(4, 2),
        regularisers.Wavelets(1, 1, True),
        regularisers.L1(),
        regularisers.GroupL1(),
        regularisers.NuclearNorm(),
        regularisers.Huber(0.3),
        regularisers.Tikhonov(rows),
        regularisers.NonNegative(),
        regularisers.Box(-0.1, 0.7),
    )
    return dict(zip(NAMES, makes, strict=True))


def measurement():
    """The likelihood of jaxinv and the same measurement."""
    from jaxinv import Likelihood, noise, operators

    image, kernel, mask, draw = problem()
    operator = operators.Mask(mask) @ operators.Convolution(kernel, SHAPE)
    return Likelihood(operator, noise.Gaussian(STD)), mask * (blurred(image, kernel) + draw), mask


def solved(names, **options):
    """The solution, and its objective without the constants of the likelihood."""
    from jaxinv import classical

    likelihood, y, mask = measurement()
    terms = regularisers_by_name()
    solution = classical.primal_dual(likelihood, terms[names[0]] + terms[names[1]], y, weight=WEIGHT, **options)
    constant = np.sum(mask) * np.log(STD * np.sqrt(2 * np.pi))
    return solution, float(solution.stats["objective"]) - constant


def main():
    if sys.argv[1:] == ["optima"]:
        optima()
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    known = json.loads(OPTIMA.read_text())
    table = RESULTS / "primal_dual_optima.txt"
    lines = table.read_text().splitlines() if table.exists() else [HEADER]
    for name, best in known.items():
        if any(line.startswith(f"{name:40s}") for line in lines):
            continue  # known from an earlier run
        solution, objective = solved(name.split(" + "), rtol=1e-8, max_steps=30_000)
        lines.append(f"{name:40s} {objective / best - 1:+.1e} {int(solution.stats['num_steps']):6d}")
        print(lines[-1], flush=True)
        table.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
