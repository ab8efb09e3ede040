"""Deep image priors on real data: X-rays of the Helsinki challenge and of a tooth, photographs.

    python benchmarks/dip_real.py [--size 128] [--steps 1500] [--only htc2022 tooth kodak kate] [--quick]

Helsinki: phantom `ta`, 60 of 720 angles, and the 180 of the first 90 degrees; PSNR and SSIM against the challenge's own
reconstruction from all of them, averaged over blocks of its 512 x 512 pixels, data range its maximum. TV's weight is
chosen on phantom `solid_disc`, which is not judged. Tooth: 30 of 181 angles, against our FBP of all of them; the
weight is chosen on its other slice. Kodak: the middle of image 23, noise of 25/255, the weight chosen on the middle
of image 5. Kate: half of the pixels of her middle, drawn at random, the weight chosen on F16. DIP+TV has the weight of
TV, and returns the average of the images (.99) after `--steps`, of Muon as in `dip_ct`, and of Adam for photographs;
DIP, without TV, that at which it predicts held-out pixels best. Figures go to `results/`.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.io
from dip_ct import falling, make_network, muon
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import classical, data, dip, metrics, noise, operators, plotting, regularisers

PIXEL = 0.1483224173873
FOLDERS = (os.environ.get("JAXINV_DATA"), Path(__file__).parents[2] / "shared" / "data")
TV_GRID = np.geomspace(3e-5, 3e-3, 5)
# The deep image prior's own regulariser, and the classical one, are the same.
KIND = regularisers.Isotropic()


def main() -> None:
    cases = {"htc2022": htc2022, "tooth": tooth, "kodak": kodak, "kate": kate}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.03, help="of Muon, at first; Adam's is .01")
    parser.add_argument("--only", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--quick", action="store_true", help="small images, few steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.steps, options.channels = 64, 30, 8
    folder = next(Path(f) for f in FOLDERS if f and (Path(f) / "natural").is_dir())
    recorder = Recorder("dip_real_quick" if options.quick else "dip_real")
    recorder.add(case="setting", **{name: getattr(options, name) for name in ("size", "steps", "channels", "rate")})
    for name in options.only:
        cases[name](folder, options, recorder)
        recorder.write()


def htc2022(folder, options, recorder):
    chosen, judged = (disc(folder / "ct" / "htc2022", options.size, name) for name in ("solid_disc", "ta"))
    for case, pick in {"60 of 720 angles": slice(None, None, 12), "90 degrees": slice(0, 180)}.items():
        compare_ct(recorder, options, f"htc2022, {case}", chosen, judged, pick)


def tooth(folder, options, recorder):
    sinograms, geometry = data.tooth(folder / "ct" / "tooth.h5")
    size = options.size

    def make(pick):
        return operators.ParallelBeam(
            (size, size, 1), pixel_size=640 / size, **{**geometry, "angles": geometry["angles"][pick]}
        )

    cases = []
    for sinogram in sinograms[::-1]:
        whole = classical.fbp(make(slice(None)), jnp.asarray(sinogram), window=classical.Hann()).value
        unit = float(whole.max())
        cases.append((make, jnp.asarray(sinogram) / unit, jnp.clip(whole / unit, 0)))
    compare_ct(recorder, options, "tooth, 30 of 181 angles", *cases, slice(None, 180, 6))


def disc(folder, size, phantom):
    """How to make the operator, the data, and the reference, in units of its maximum."""
    sinogram, geometry = data.htc2022(folder / f"htc2022_{phantom}_full.mat")
    # Our row 0 is the top of the image, theirs the bottom.
    reference = scipy.io.loadmat(folder / f"htc2022_{phantom}_full_recon_fbp.mat")["reconFullFbp"].T[::-1] / PIXEL
    block = 512 // size
    reference = reference.reshape(size, block, size, block).mean((1, 3))[..., None]

    def make(pick):
        own = {**geometry, "angles": geometry["angles"][pick]}
        return operators.FanBeam((size, size, 1), pixel_size=PIXEL * block, **own)

    unit = float(reference.max())
    return make, jnp.asarray(sinogram, jnp.float32) / unit, jnp.asarray(reference / unit, jnp.float32)


def compare_ct(recorder, options, case, chosen, judged, pick):
    """FBP, TV and DIP+TV of one part of the angles; weights by the case that is not judged."""
    (make, other, other_truth), (_, y, truth) = chosen, judged
    operator = make(pick)
    y, other = y[pick], other[pick]
    # Lengths in units of half the image's width, as in `dip_ct`, so that weights mean the same.
    half = operator.pixel_size * operator.domain.shape[1] / 2
    operator, y, other = operator * (1 / half), y / half, other / half
    # The objective is divided by this variance; the weights are given before.
    std = 0.025 * float(jnp.mean(jnp.abs(y)))
    likelihood = jaxinv.Likelihood(operator, noise.Gaussian(std))
    images = {"FBP": classical.fbp(make(pick), half * y, window=classical.Hann()).value}
    solve_tv = jax.jit(lambda y, weight: classical.tv(likelihood, y, weight=weight, kind=KIND).value)
    weight = best(TV_GRID, lambda w: solve_tv(other, w / std**2), other_truth)
    images["TV"] = solve_tv(y, weight / std**2)
    optimiser = muon(options.rate, options.steps)
    images["DIP+TV"], seconds = fit(likelihood, y, weight / std**2, options, optimiser)
    rest = {"TV": {"weight": weight}, "DIP+TV": {"weight": weight, "seconds": seconds}}
    report(recorder, case, images, truth, rest)


def kodak(folder, options, recorder):
    std = 25 / 255
    pictures = [middle(folder / "natural" / "kodak" / f"kodim{n}.png", options.size) for n in ("05", "23")]
    likelihood = jaxinv.Likelihood(operators.Identity(pictures[0].shape), noise.Gaussian(std))
    ys = [likelihood.simulate(x, key=jax.random.key(i)) for i, x in enumerate(pictures)]
    compare_pictures(recorder, options, "kodak, noise 25/255", [likelihood] * 2, ys, pictures)


def kate(folder, options, recorder):
    pictures = [middle(folder / "natural" / "dip" / name, options.size) for name in ("F16_GT.png", "kate.png")]
    key = jax.random.key(3)
    likelihoods, ys = [], []
    for x in pictures:
        mask = jax.random.bernoulli(key, 0.5, (*x.shape[:2], 1)) * jnp.ones(x.shape)
        likelihoods.append(jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.01)))
        ys.append(mask * x)
    compare_pictures(recorder, options, "kate, half of the pixels", likelihoods, ys, pictures)


def compare_pictures(recorder, options, case, likelihoods, ys, truths):
    """What was measured, TV, DIP and DIP+TV of a picture; weights by the other."""
    std = float(likelihoods[0].noise.std)
    images = {"measured": ys[1]}
    solve_tv = jax.jit(lambda likelihood, y, weight: classical.tv(likelihood, y, weight=weight, kind=KIND).value)
    # Where noise is all there is, and not missing pixels, it takes much more.
    grid = TV_GRID * (100 if std > 0.05 else 1)
    weight = best(grid, lambda w: solve_tv(likelihoods[0], ys[0], w / std**2), truths[0])
    images["TV"] = solve_tv(likelihoods[1], ys[1], weight / std**2)
    stopping = dip.HeldOut(0.05, options.steps)
    adam = optax.adam(falling(0.01, options.steps))
    images["DIP"], seconds = fit(likelihoods[1], ys[1], 0.0, options, adam, stopping)
    images["DIP+TV"], with_tv = fit(likelihoods[1], ys[1], weight / std**2, options, adam)
    rest = {"TV": {"weight": weight}, "DIP": {"seconds": seconds}, "DIP+TV": {"weight": weight, "seconds": with_tv}}
    report(recorder, case, images, truths[1], rest)


def fit(likelihood, y, weight, options, optimiser, stopping=None):
    shape = likelihood.operator.domain.shape
    began = time.perf_counter()
    solution = dip.reconstruct(
        likelihood,
        make_network(shape, options.channels),
        y,
        key=jax.random.key(0),
        num_steps=options.steps,
        regulariser=regularisers.TV(KIND),
        weight=weight,
        optimiser=optimiser,
        stopping=stopping,
        ema=0.99,
    )
    image = jax.block_until_ready(solution.value)
    return image, time.perf_counter() - began


def best(grid, solve, truth):
    return float(grid[int(np.argmax([metrics.psnr(solve(weight), truth) for weight in grid]))])


def middle(path, size):
    picture = data.picture(path)
    top, left = ((n - size) // 2 for n in picture.shape[:2])
    return jnp.asarray(picture[top : top + size, left : left + size])


def report(recorder, case, images, truth, rest):
    for name, image in images.items():
        clipped = jnp.clip(image, 0, 1)
        recorder.add(
            case=case,
            method=name,
            psnr=float(metrics.psnr(clipped, jnp.clip(truth, 0, 1))),
            ssim=float(metrics.ssim(clipped, jnp.clip(truth, 0, 1))),
            **rest.get(name, {}),
        )
    stacks = {name: np.asarray(image)[None] for name, image in images.items()}
    figure = plotting.compare(stacks, reference=np.asarray(truth)[None], heading=case, limits=(0, 1))
    plotting.save(figure, RESULTS / f"{recorder.path.stem}_{case.split(',')[0].replace(' ', '_')}{_suffix(case)}.png")


def _suffix(case):
    return "_limited" if "90 degrees" in case else ""


if __name__ == "__main__":
    main()
