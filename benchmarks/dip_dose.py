"""Deep image priors in low-dose tomography, plain and educated, beside FBP and TV: quality against the dose.

    python benchmarks/dip_dose.py [--size 128] [--slices 3] [--steps 1000] [--lessons 1500] [--quick]

Real chest and abdomen slices (TCGA-LUAD, `ct/tcga_luad_ct_256_hu_int16.npz` in a data folder; without it the script
says so and ends), split by patient: 5 to choose weights on, one for every slice that is judged, the rest to learn from.
An image is the attenuation in units of .04 per mm, twice that of water, in a field of 350 mm. Counts of 120 parallel
views are drawn for the slice of 256 x 256, and reconstructed at `--size`, so that no method sees its own
discretisation; the reference is the mean over blocks.

At each dose, in photons per ray: FBP of the logarithms with Hann's window; TV, the weight from a grid, by the PSNR on
the slices to choose on; DIP, from noise, which keeps the image that predicts held-out counts best; DIP+TV with the
weight of TV; and the educated one, the same after `--lessons` steps on slices of other patients at the middle dose,
whose input is the adjoint of the data, and which takes a quarter of the steps. All deep image priors have the exact
likelihood of the counts, Muon, and an average over the steps (.99). PSNR and SSIM are means over the judged slices,
clipped to [0, 1]; `spread` is the standard deviation of the PSNR over them. `seconds` is one slice, after compilation.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from dip_ct import CHANNELS, SKIPS, muon
from flax import nnx
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import classical, dip, metrics, models, noise, operators, plotting, regularisers, training

FILE = Path("ct") / "tcga_luad_ct_256_hu_int16.npz"
FOLDERS = (os.environ.get("JAXINV_DATA"), Path(__file__).parents[2] / "shared" / "data")
FINE, FIELD, UNIT = 256, 350.0, 0.04  # pixels a side, mm, attenuation per mm of the value 1
BINS = 128  # of the detector over the field, for every discretisation of the image
DOSES = (1_000.0, 4_000.0, 20_000.0)
CHOOSERS = 5
TV_GRID = np.geomspace(1, 100, 7)
KIND = regularisers.Isotropic()
TUNING = 1e-3  # the rate of the educated network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="divides 256")
    parser.add_argument("--slices", type=int, default=3, help="that are judged, each of another patient")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--lessons", type=int, default=1500, help="steps of the pretraining, on 4 slices each")
    parser.add_argument("--channels", type=int, default=32, help="of the skip network")
    parser.add_argument("--scales", type=int, default=4, help="of the skip network")
    parser.add_argument("--quick", action="store_true", help="one small slice, few steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.slices, options.steps, options.lessons, options.channels, options.scales = (
            64,
            1,
            40,
            20,
            8,
            2,
        )
    file = next((Path(f) / FILE for f in FOLDERS if f and (Path(f) / FILE).is_file()), None)
    if file is None:
        print(f"skipped: no {FILE} in $JAXINV_DATA or in ../shared/data beside the checkout")
        return
    recorder = Recorder("dip_dose_quick" if options.quick else "dip_dose", also=("matplotlib",))
    names = ("size", "slices", "steps", "lessons", "channels", "scales")
    lessons, choosers, judged = patients(file, options.slices, 1 if options.quick else CHOOSERS)
    scanner = make_scanner(options.size)
    recorder.add(
        case="setting",
        **{name: getattr(options, name) for name in names},
        learnt_from=len(lessons),
        chosen_on=len(choosers),
    )
    # Networks and optimisers, made once: optimisers compare by identity.
    drawn = make_network((*scanner.domain.shape[:2], CHANNELS), options), muon(0.03, options.steps)
    educated = educate(scanner, lessons, options, recorder), training.muon(TUNING, adam_learning_rate=TUNING)
    pictures = {}
    for dose in DOSES:
        likelihood = jaxinv.Likelihood(scanner, noise.TransmissionPoisson(dose))
        pictures[dose], truth = compare(likelihood, choosers, judged, drawn, educated, options, recorder)
        recorder.write()
    draw(recorder, pictures, truth, "_quick" if options.quick else "")


def patients(file, count, tuning):
    """Slices to learn from, to choose weights on and to judge by, `(n, 256, 256, 1)`, no patient in two of them."""
    with np.load(file) as stored:
        patient, hounsfield = stored["patient"], stored["hu"]
    names = np.random.default_rng(0).permutation(np.unique(patient))
    # Water has 0 Hounsfield units, air -1000; the value 1 is twice water.
    images = np.clip((hounsfield[..., None].astype(np.float32) + 1000) / 2000, 0, 1)
    first = lambda some: np.stack([images[np.argmax(patient == name)] for name in some])
    judged, choosers, rest = names[:count], names[count : count + tuning], names[count + tuning :]
    return images[np.isin(patient, rest)], first(choosers), first(judged)


def make_scanner(size):
    """120 views of an image of `size`; lengths are in units in which the value 1 attenuates by 1 / e."""
    views, bins = np.linspace(0, np.pi, 120, endpoint=False), int(np.ceil(2**0.5 * BINS))
    width = FIELD * UNIT
    return operators.ParallelBeam((size, size, 1), views, bins, width / BINS, width / size)


def coarse(images, size):
    block = FINE // size
    return images.reshape(-1, size, block, size, block, 1).mean((2, 4))


def make_network(input_shape, options):
    """A network to images of the size of its input."""
    return models.SkipUNet(
        (*input_shape[:2], 1),
        input_shape=input_shape,
        scales=options.scales,
        channels=options.channels,
        skip_channels=SKIPS,
        rngs=nnx.Rngs(0),
    )


def educate(scanner, lessons, options, recorder):
    """A network that has learned to clean up adjoints of the counts of other patients at the middle dose."""
    images = jnp.asarray(coarse(lessons, options.size))

    def pick(n, *, key):
        which, turn = jax.random.split(key)
        chosen = images[jax.random.randint(which, (n,), 0, len(images))]
        return jnp.where(jax.random.bernoulli(turn, 0.5, (n, 1, 1, 1)), chosen, chosen[:, :, ::-1])

    taught, history = dip.pretrain(
        jaxinv.Likelihood(scanner, noise.TransmissionPoisson(DOSES[1])),
        make_network(scanner.domain.shape, options),
        key=jax.random.key(3),
        num_steps=options.lessons,
        start=dip.FromAdjoint(),
        images=pick,
        optimiser=muon(0.02, options.lessons),
    )
    recorder.add(case="pretraining", loss=float(history["loss"][-20:].mean()), seconds=history["seconds"])
    return taught


def compare(likelihood, choosers, judged, drawn, educated, options, recorder):
    """Reconstructions of the judged slices at one dose, by method, and the slices."""
    fine = jaxinv.Likelihood(make_scanner(FINE), likelihood.noise)
    count = jax.jit(lambda x, i: fine.simulate(x, key=jax.random.fold_in(jax.random.key(1), i)))
    measure = lambda images: [count(jnp.asarray(x), i) for i, x in enumerate(images)]
    tuning, ys = measure(choosers), measure(judged)
    dose, truth = float(likelihood.noise.photons), jnp.asarray(coarse(judged, options.size))
    aims = jnp.asarray(coarse(choosers, options.size))

    solve_tv = jax.jit(lambda y, weight: classical.tv(likelihood, y, weight=weight, kind=KIND).value)
    # Noise of log counts has a standard deviation that falls with the root of the dose, and misfits grow with it.
    grid = TV_GRID * dose**0.5 / 100
    score = lambda weight: np.mean([psnr(solve_tv(y, weight), x) for y, x in zip(tuning, aims, strict=True)])
    weight = float(grid[int(np.argmax([score(weight) for weight in grid]))])

    def fit(prior, steps, start, **given):
        network, optimiser = prior
        return lambda y: (
            dip.reconstruct(
                likelihood,
                network,
                y,
                key=jax.random.key(0),
                num_steps=steps,
                start=start,
                optimiser=optimiser,
                regulariser=regularisers.TV(KIND),
                ema=0.99,
                **given,
            ).value
        )

    held_out = dip.HeldOut(0.05, options.steps)
    methods = {
        "FBP": lambda y: (
            classical.fbp(likelihood.operator, likelihood.noise.linearise(y)[0], window=classical.Hann()).value
        ),
        "TV": lambda y: solve_tv(y, weight),
        "DIP": fit(drawn, options.steps, dip.FromNoise(), stopping=held_out),
        "DIP+TV": fit(drawn, options.steps, dip.FromNoise(), weight=weight),
        "educated DIP+TV": fit(educated, options.steps // 4, dip.FromAdjoint(), weight=weight),
    }
    images = {}
    for name, method in methods.items():
        first = jax.block_until_ready(method(ys[0]))
        began = time.perf_counter()
        # With one slice only there is nothing else to time.
        rest = jax.block_until_ready([method(y) for y in (ys[1:] or ys)])
        seconds = (time.perf_counter() - began) / len(rest)
        images[name] = jnp.clip(jnp.stack([first, *rest][: len(ys)]), 0, 1)
        values = [psnr(image, x) for image, x in zip(images[name], truth, strict=True)]
        recorder.add(
            case=f"{dose:.0f} photons",
            photons=dose,
            method=name,
            psnr=float(np.mean(values)),
            spread=float(np.std(values)),
            ssim=float(np.mean([metrics.ssim(image, x) for image, x in zip(images[name], truth, strict=True)])),
            weight=weight if "TV" in name else 0.0,
            seconds=seconds,
        )
    return images, truth


def psnr(image, truth):
    return float(metrics.psnr(jnp.clip(image, 0, 1), truth))


def draw(recorder, pictures, truth, suffix):
    """PSNR and SSIM against the dose, and one slice at all doses."""
    figure = matplotlib.figure.Figure(figsize=(7, 2.8), layout="constrained")
    for axes, (name, metric) in zip(
        figure.subplots(1, 2), {"PSNR (dB)": psnr, "SSIM": metrics.ssim}.items(), strict=True
    ):
        for method in next(iter(pictures.values())):
            line = [np.mean([metric(x, t) for x, t in zip(p[method], truth, strict=True)]) for p in pictures.values()]
            axes.semilogx(list(pictures), line, marker="o", markersize=3, label=method)
        axes.set(xlabel="photons per ray", ylabel=name)
        axes.set_xticks(list(pictures), [f"{dose:.0f}" for dose in pictures])
        axes.minorticks_off()
    axes.legend(fontsize=7)
    plotting.save(figure, RESULTS / f"dip_dose{suffix}.png")
    columns = list(next(iter(pictures.values())))
    figure = plotting.compare(
        {name: jnp.stack([pictures[dose][name][0] for dose in pictures]) for name in columns},
        reference=jnp.broadcast_to(truth[:1], (len(pictures), *truth.shape[1:])),
        titles=[f"{dose:.0f} photons" for dose in pictures],
        limits=(0, 0.75),
        errors=False,
    )
    plotting.save(figure, RESULTS / f"dip_dose_images{suffix}.png", dpi=120)


if __name__ == "__main__":
    main()
