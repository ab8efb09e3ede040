"""The command `jaxinv`.

What a command does is imported when it runs, so that help, the version and every error in what was typed come at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from ._commands import _own_parsers
from ._commands._arguments import above_zero, add_command, angles, distances, not_negative, number, positive, seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    **Arguments:**

    - `arguments`: what follows `jaxinv` on the command line; by default `sys.argv[1:]`.
    """
    options = _parser().parse_args(arguments)
    try:
        options.check(options)
        _compute(options)
    # JAX raises a RuntimeError where a device has too little memory, and so does a `Solution` that failed.
    # A number too large for what takes it is an ArithmeticError.
    except (ValueError, ArithmeticError, OSError, RuntimeError, MemoryError, ModuleNotFoundError) as error:
        print(f"jaxinv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxinv: interrupted.", file=sys.stderr)
        return 130
    return 0


def _compute(options: argparse.Namespace) -> None:
    if options.no_cache:
        options.run(options)
        return
    from ._commands._cache import kept_programs

    with kept_programs():
        options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxinv",
        description="Imaging inverse problems in JAX, with priors learned without paired data.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxinv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_train(commands)
    _own_parsers.add_reconstruct(commands)
    _own_parsers.add_simulate(commands)
    _own_parsers.add_calibrate(commands)
    _add_evaluate(commands)
    _add_sample(commands)
    _add_dip(commands)
    _add_info(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--no-cache",
            action="store_true",
            help="compile everything again; by default compiled programs are kept for the next run, in the folder "
            "$JAXINV_CACHE, or else in jaxinv/xla of the user's cache folder (~/.cache or $XDG_CACHE_HOME)",
        )
    return parser


def _add_demo(commands) -> None:
    demo = add_command(
        commands,
        "demo",
        run=_run_demo,
        help="train small priors on real images, and reconstruct other images with them, beside the usual baselines",
        description=(
            "The demo trains a variational autoencoder and a small score network on handwritten digits, without paired "
            "data, and reconstructs other digits from blurred, noisy measurements and from ten X-ray projections, "
            "by filtered back-projection, Tikhonov, total variation, a Gaussian prior, the latent space of the "
            "autoencoder and samples of the posterior under the score. Then it draws images from the priors alone. It "
            "prints tables, and writes three figures and a JSON file."
        ),
    )
    demo.add_argument(
        "--data",
        choices=("digits", "mnist"),
        default="digits",
        help="digits, which come with scikit-learn, or mnist, which is read from the folder $JAXINV_DATA or the user's "
        "cache folder, or downloaded",
    )
    effort = demo.add_mutually_exclusive_group()
    effort.add_argument(
        "--quick",
        action="store_true",
        help="train for a shorter time on fewer images; the reconstructions are then worse",
    )
    effort.add_argument(
        "--full", action="store_true", help="train longer, and draw samples in more steps, which takes many minutes"
    )
    demo.add_argument(
        "--images", type=positive, default=16, help="the number of images to reconstruct, none of which was trained on"
    )
    demo.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    demo.add_argument(
        "--pretrained",
        action="store_true",
        help="use the priors of MNIST that come with the package, and train only those that it lacks; with --data "
        "mnist only",
    )
    demo.add_argument(
        "--output", type=Path, default=Path("jaxinv_demo"), help="the folder for the figures and results.json"
    )


def _run_demo(options: argparse.Namespace) -> None:
    from ._commands._demo import run

    effort = "quick" if options.quick else "full" if options.full else "default"
    run(
        data=options.data,
        effort=effort,
        images=options.images,
        seed=options.seed,
        output=options.output,
        pretrained=options.pretrained,
    )


def _add_train(commands) -> None:
    train = add_command(
        commands,
        "train",
        run=_run_train,
        check=_check_train,
        help="train a generative prior on images, and write it to a file",
        description=(
            "This command trains a network on images alone, and writes it to a safetensors file for `jaxinv "
            "reconstruct`, `jaxinv evaluate` and `jaxinv sample`. It keeps the weights with the lowest validation "
            "loss. If it is interrupted, the same command continues where it stopped."
        ),
    )
    kinds = ("autoencoder", "vae", "gan", "flow", "score")
    train.add_argument("kind", metavar="MODEL", choices=kinds, help="the kind of prior: %(choices)s")
    train.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="a folder of pictures of one size, in place of --data"
    )
    _add_data(train)
    train.add_argument(
        "--latents", type=positive, default=8, help="the number of latent variables; a flow has one for each pixel"
    )
    train.add_argument("--network", choices=("unet", "mixer"), default="unet", help="the network of a score")
    train.add_argument(
        "--process", choices=("vp", "subvp", "ve", "flow"), default="vp", help="the noising process of a score"
    )
    train.add_argument("--steps", type=positive, default=6000, help="the number of steps of the optimiser")
    train.add_argument(
        "--batch",
        type=positive,
        default=argparse.SUPPRESS,
        help="the number of images in each step (default: 128, or 32 for a score)",
    )
    train.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    train.add_argument("--output", type=Path, default=Path("prior.safetensors"), help="the file to write the prior to")


def _check_train(options: argparse.Namespace) -> None:
    from ._writing import check_writable

    if options.folder is not None:
        if not options.folder.is_dir():
            raise ValueError(f"There is no folder {options.folder}.")
        options.data = str(options.folder)
    _check_data(options.data)
    if Path(options.data).resolve() == options.output.resolve():
        raise ValueError(f"--output would overwrite {options.output}, which is read; choose another name.")
    check_writable(options.output)


def _check_data(name: str) -> None:
    from ._formats import peek, slices_of

    if name in ("digits", "mnist", "ellipses"):
        return
    if Path(name).is_dir():
        peek(slices_of(Path(name))[0])
    elif not name.endswith(".npy") or not Path(name).is_file():
        raise ValueError(
            f"--data {name}: give `digits`, `mnist`, `ellipses`, or a file of images, (n, h, w, c), made by "
            "`numpy.save`, or a folder of pictures."
        )


def _run_train(options: argparse.Namespace) -> None:
    from ._commands._train import run, run_score

    common = {name: getattr(options, name) for name in ("data", "steps", "seed", "output")}
    if options.kind == "score":
        run_score(network=options.network, process=options.process, batch=getattr(options, "batch", 32), **common)
    else:
        run(kind=options.kind, latents=options.latents, batch=getattr(options, "batch", 128), **common)


def _add_evaluate(commands) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        run=_run_evaluate,
        check=_check_evaluate,
        help="simulate measurements of held-out images, and measure how well a trained prior reconstructs them",
        description=(
            "This command simulates noisy measurements of images that were not trained on, and reconstructs them in "
            "the latent space of a trained prior, or, for a score, by samples of the posterior; for comparison it "
            "uses a Gaussian prior of the same training images. It prints the errors, and writes figures, "
            "results.json and "
            "the images or samples as a .npy file."
        ),
    )
    evaluate.add_argument("network", type=Path, metavar="FILE", help="the file that `jaxinv train` wrote")
    evaluate.add_argument(
        "--prior",
        choices=("autoencoder", "vae", "gan", "flow", "score"),
        help="the kind of prior that FILE must hold; by default any",
    )
    evaluate.add_argument(
        "--task",
        choices=("deblurring", "tomography", "compressed-sensing", "inpainting"),
        default="deblurring",
        help="the kind of measurement",
    )
    _add_data(evaluate)
    evaluate.add_argument(
        "--images", type=positive, default=16, help="the number of images to reconstruct, none of which was trained on"
    )
    evaluate.add_argument(
        "--noise",
        dest="level",
        type=above_zero,
        default=0.1,
        help="the standard deviation of the noise, divided by the norm of the operator",
    )
    evaluate.add_argument(
        "--restarts", type=positive, default=8, help="the number of starts for each image, the best of which is kept"
    )
    evaluate.add_argument(
        "--samples", type=positive, default=8, help="the number of samples of each posterior, for a score"
    )
    evaluate.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    evaluate.add_argument(
        "--output", type=Path, default=Path("jaxinv_evaluation"), help="the folder for figures, numbers and arrays"
    )


def _check_evaluate(options: argparse.Namespace) -> None:
    _check_network(options.network)
    _check_data(options.data)


def _run_evaluate(options: argparse.Namespace) -> None:
    from ._commands._evaluate import run

    names = ("network", "prior", "task", "data", "images", "level", "restarts", "samples", "seed", "output")
    run(**{name: getattr(options, name) for name in names})


def _add_sample(commands) -> None:
    sample = add_command(
        commands,
        "sample",
        run=_run_sample,
        check=_check_sample,
        help="draw images from a prior that `jaxinv train` wrote",
        description=(
            "This command draws images from a trained prior (from a score by running its noising process backwards), "
            "and writes them as one picture and, beside it, as a .npy file of shape (n, h, w, c)."
        ),
    )
    sample.add_argument("network", type=Path, metavar="FILE", help="the file that `jaxinv train` wrote")
    sample.add_argument("--images", type=positive, default=64, help="the number of images to draw")
    sample.add_argument("--steps", type=positive, default=50, help="the number of steps of DPM-Solver++, for a score")
    sample.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    sample.add_argument("--output", type=Path, default=Path("samples.png"), help="the picture to write")


def _check_sample(options: argparse.Namespace) -> None:
    if options.output.suffix == ".npy":
        raise ValueError(f"--output {options.output}: name a picture, such as samples.png; the arrays go beside it.")
    _check_network(options.network)


def _run_sample(options: argparse.Namespace) -> None:
    from ._commands._sample import run

    run(**{name: getattr(options, name) for name in ("network", "images", "steps", "seed", "output")})


def _add_dip(commands) -> None:
    command = add_command(
        commands,
        "dip",
        run=_run_dip,
        check=_check_dip,
        help="reconstruct a picture or a sinogram of your own by a deep image prior, which needs no training",
        description=(
            "This command fits a network to one measurement: of a scan with a total-variation penalty, of a picture "
            "with one if --tv is given. A picture is denoised, or inpainted with --mask, or enlarged with --factor. "
            "A sinogram (.mat of the "
            "Helsinki Tomography Challenge 2022, .h5 of the Data Exchange layout, or .npy with --angles) is "
            "reconstructed. It writes the picture and, beside it, the array in the unit of FILE as .npy. If it is "
            "interrupted, the same command continues where it stopped."
        ),
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a .png, .npy, .mat or .h5 file")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument(
        "--mask", type=Path, help="a picture that is white where FILE is known; everything else is inpainted"
    )
    kind.add_argument("--factor", type=positive, help="the factor by which to enlarge FILE")
    kind.add_argument(
        "--angles",
        type=angles,
        metavar="START:STOP",
        help="the first and the last angle in degrees, such as --angles=-90:90, if FILE is a sinogram (angles, "
        "detectors) of parallel rays",
    )
    command.add_argument(
        "--fan",
        type=distances,
        metavar="SOURCE:DETECTOR",
        help="for a sinogram of a fan beam, the distances of source and detector from the axis of rotation, in "
        "detector bins",
    )
    command.add_argument(
        "--offset",
        type=number,
        help="the position of the middle of the detector, in detector bins (default: 0, or what an .h5 file shows of "
        "the axis of rotation)",
    )
    command.add_argument("--every", type=positive, default=1, metavar="N", help="use every N-th angle of a sinogram")
    command.add_argument(
        "--size",
        type=positive,
        default=128,
        help="the number of pixels on each side of an image reconstructed from a sinogram",
    )
    command.add_argument(
        "--crop", type=positive, help="use only this many pixels on each side, in the middle of a picture"
    )
    command.add_argument(
        "--noise",
        dest="level",
        type=above_zero,
        default=argparse.SUPPRESS,
        help="the standard deviation of the noise, in the unit of FILE, where 8-bit and 16-bit values lie in [0, 1] "
        "(default: .1 to denoise, .01 to inpaint and enlarge, both times the range of a picture that is not in [0, 1], "
        "and .025 times the mean of a sinogram)",
    )
    command.add_argument(
        "--reference", type=Path, help="the true picture, against which the PSNR is then computed on the way"
    )
    command.add_argument(
        "--network", choices=("skip", "conv", "deep"), default="skip", help="the network whose images are the prior"
    )
    command.add_argument(
        "--tv",
        type=not_negative,
        help="the weight of total variation, divided by the variance of the noise (default: none for pictures, and "
        ".001 times the square of half the width of the image for scans)",
    )
    command.add_argument(
        "--steps", type=positive, help="the most steps of the optimiser (default: 2500 for pictures, 2000 for scans)"
    )
    command.add_argument(
        "--rate", type=above_zero, help="the learning rate (default: .01 of Adam for pictures, .03 of Muon for scans)"
    )
    command.add_argument(
        "--stopping",
        choices=("fixed", "variance", "discrepancy", "held-out"),
        help="the rule that says when to stop, and which image to keep (default: held-out for pictures, and fixed, "
        "all steps, for scans)",
    )
    command.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    command.add_argument("--output", type=Path, default=Path("reconstruction.png"), help="the picture to write")


def _check_dip(options: argparse.Namespace) -> None:
    if options.output.suffix != ".png":
        raise ValueError(
            f"--output {options.output}: name a picture, such as reconstruction.png; the array goes beside it."
        )
    if options.stopping == "discrepancy" and not hasattr(options, "level"):
        raise ValueError("--stopping discrepancy needs to know the noise: give its standard deviation by --noise.")
    for path in (options.file, options.mask, options.reference):
        if path is not None and not path.is_file():
            raise ValueError(f"FILE, --mask and --reference are read; there is no file {path}.")


def _run_dip(options: argparse.Namespace) -> None:
    from ._commands._dip import run
    from ._commands._user_file import Request

    request = Request(*(getattr(options, name) for name in Request._fields))
    names = ("reference", "network", "tv", "steps", "rate", "stopping", "seed", "output")
    run(request=request, level=getattr(options, "level", None), **{name: getattr(options, name) for name in names})


def _add_info(commands) -> None:
    add_command(
        commands,
        "info",
        run=_run_info,
        help="print the versions, devices and precision that a bug report needs",
        description="This command prints the versions of jaxinv and its dependencies, the devices, and the precision.",
    )


def _run_info(options: argparse.Namespace) -> None:
    from ._commands._info import run

    run()


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        default="digits",
        help="digits (which come with scikit-learn), mnist (which is read from the folder $JAXINV_DATA or the user's "
        "cache folder, or downloaded), ellipses (random phantoms), a folder of pictures of one size, or a .npy file of "
        "images (n, h, w, c), in [0, 1] or 8-bit",
    )


def _check_network(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"There is no file {path}; `jaxinv train` writes one.")


if __name__ == "__main__":
    sys.exit(main())
