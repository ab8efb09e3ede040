"""The command lines for files of the user, `jaxinv reconstruct`, `simulate` and `calibrate`, and their checks."""

import argparse
from pathlib import Path

from ._arguments import above_zero, add_command, not_negative, number, positive, seed

_OPERATORS = (
    "the operator: identity (denoise), mask:FILE (white where the picture is known), blur:WIDTH (a Gaussian of this "
    "standard deviation in pixels) or blur:KERNEL, downsample:FACTOR (enlarge), parallel:START:STOP or "
    "fan:SOURCE:DETECTOR:START:STOP (a scan; angles in degrees, distances from the axis in detector bins; the angles "
    "may be in the file), fourier:MASK (k-space), matrix:FILE, or a .toml file that describes all this by name"
)


def add_reconstruct(commands) -> None:
    """The parser of `jaxinv reconstruct`."""
    command = add_command(
        commands,
        "reconstruct",
        run=_run_reconstruct,
        check=_check_reconstruct,
        help="reconstruct an image from your own measurement, with any operator and any prior, and with error bars",
        description=(
            "This command reads a measurement (a picture, a TIFF stack, DICOM, NIfTI, HDF5, MATLAB, NumPy, Zarr or a "
            "folder of slices), and reconstructs the image that it is a measurement of. It writes the image and a "
            "figure, and, for priors that know it, the standard deviation of each pixel and samples. `jaxinv "
            "simulate` makes such a measurement, and `jaxinv train` makes a prior of a folder of pictures."
        ),
    )
    command.add_argument("file", type=Path, metavar="MEASUREMENT", help="the file, or the folder of slices")
    command.add_argument("--operator", metavar="SPEC", help=_OPERATORS + " (default: parallel, if the file has angles)")
    command.add_argument(
        "--prior",
        metavar="PRIOR",
        default="tv",
        help="what is known of the image: tv (total variation), tikhonov (neighbours differ little), fbp (nothing: "
        "filtered back-projection of a scan), dip (a network that needs no training), gaussian:FOLDER (mean and "
        "covariance of pictures), or a file that `jaxinv train` wrote",
    )
    command.add_argument(
        "--noise",
        dest="level",
        type=above_zero,
        help="the standard deviation of the noise, in the unit of the measurement (8-bit and 16-bit values are "
        "scaled to [0, 1]), or of the line integrals of a scan (default: estimated from the finest differences)",
    )
    command.add_argument(
        "--weight", type=not_negative, help="the weight of tv or tikhonov (default: chosen by the noise)"
    )
    command.add_argument(
        "--samples",
        type=positive,
        default=argparse.SUPPRESS,
        help="the number of samples of the posterior to draw and to write, for gaussian and for a trained score; the "
        "image and the deviation of a score are the mean and the standard deviation of the samples (default: 8 for a "
        "score)",
    )
    command.add_argument("--dataset", metavar="NAME", help="the name of the array, in a file that holds several")
    command.add_argument(
        "--slice",
        type=_index,
        help="the slice of a stack, from 0; for projections, the row of the detector (default: the middle one)",
    )
    _add_scan(command)
    command.add_argument(
        "--flat",
        type=Path,
        help="a file of frames without the object, with which counts are converted to line integrals",
    )
    command.add_argument("--dark", type=Path, help="a file of frames with the beam off")
    command.add_argument(
        "--white",
        type=above_zero,
        default=1.0,
        help="the value of the image that corresponds to 1 in the images of a trained prior, such as the largest "
        "value of a scan",
    )
    command.add_argument(
        "--restarts", type=positive, default=8, help="for priors with latent variables, the number of starts"
    )
    command.add_argument(
        "--steps",
        type=positive,
        help="for dip, the largest number of steps of the optimiser (default: 2500, and 2000 for scans)",
    )
    command.add_argument("--reference", type=Path, help="the true image, to print the PSNR")
    command.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("reconstruction.npy"),
        help="the image to write: .npy, .tif, .nii, .nii.gz, .h5 or .png; the command also writes NAME_figure.png, "
        "and NAME_std and NAME_samples.npy if the prior has them",
    )
    # These options belonged to this command before it took measurements of the user.
    for name in ("--task", "--data", "--images"):
        command.add_argument(name, help=argparse.SUPPRESS)


def add_simulate(commands) -> None:
    """The parser of `jaxinv simulate`."""
    command = add_command(
        commands,
        "simulate",
        run=_run_simulate,
        check=_check_simulate,
        help="make a measurement of a picture of your own, to try `jaxinv reconstruct` on",
        description=(
            "This command measures a picture with an operator, adds noise, and writes the measurement and, beside it, "
            "a .toml file that describes the operator, for `jaxinv reconstruct`."
        ),
    )
    command.add_argument(
        "file", type=Path, metavar="PICTURE", help="the picture, in any format that `jaxinv reconstruct` reads"
    )
    command.add_argument(
        "--operator",
        metavar="SPEC",
        required=True,
        help=_OPERATORS + "; the number of angles follows the range, as in parallel:0:180:60 (default: 180)",
    )
    command.add_argument(
        "--noise",
        dest="level",
        type=not_negative,
        default=0.01,
        help="the standard deviation of the noise, in the unit of the measurement",
    )
    command.add_argument("--dataset", metavar="NAME", help="the name of the array, in a file that holds several")
    command.add_argument("--slice", type=_index, help="the slice of a stack, from 0 (default: the middle one)")
    command.add_argument("--seed", type=seed, default=0, help="the seed of all random numbers")
    command.add_argument(
        "--output",
        type=Path,
        default=Path("measurement.npz"),
        help="the measurement to write: .npy, .npz, .h5 or .tif",
    )


def add_calibrate(commands) -> None:
    """The parser of `jaxinv calibrate`."""
    command = add_command(
        commands,
        "calibrate",
        run=_run_calibrate,
        check=_check_calibrate,
        help="find the centre of rotation of a scan of your own",
        description=(
            "This command estimates the distance of the middle of the detector from the axis of rotation, for a scan "
            "with parallel rays: the one for which an image explains the measurement best. It prints this offset in "
            "detector bins, as `jaxinv reconstruct` takes it, and its standard error."
        ),
    )
    command.add_argument("file", type=Path, metavar="MEASUREMENT", help="the file, or the folder of projections")
    command.add_argument(
        "--operator",
        metavar="SPEC",
        help="parallel:START:STOP, the range of angles in degrees, or a .toml file (default: the angles in the file)",
    )
    command.add_argument(
        "--width",
        type=above_zero,
        help="the largest distance from the first guess to search, in bins (default: a tenth of the detector)",
    )
    command.add_argument("--offset", type=number, help="the first guess, in bins (default: 0)")
    command.add_argument("--every", type=positive, metavar="N", help="use every N-th angle")
    command.add_argument("--dataset", metavar="NAME", help="the name of the array, in a file that holds several")
    command.add_argument("--slice", type=_index, help="the row of the detector, from 0 (default: the middle one)")
    command.add_argument("--flat", type=Path, help="frames without the object, by which counts become line integrals")
    command.add_argument("--dark", type=Path, help="frames with the beam off")


def _check_calibrate(options: argparse.Namespace) -> None:
    from ._spec import Choice, fit, parse, with_options

    for path in (options.file, options.flat, options.dark):
        if path is not None and not path.exists():
            raise ValueError(f"There is no file {path}.")
    spec = parse(options.operator or _known_operator(options))
    if spec.kind != "parallel":
        raise ValueError(f"`jaxinv calibrate` is for scans with parallel rays; the operator is {spec.kind}.")
    spec = with_options(spec, {name: getattr(options, name) for name in ("offset", "every")})
    choice = Choice(*(getattr(options, name) for name in Choice._fields))
    fitted = fit(spec, choice)
    options.checked = spec, choice, fitted


def _run_calibrate(options: argparse.Namespace) -> None:
    from ._calibrate import run

    spec, choice, fitted = options.checked
    run(spec=spec, choice=choice, fitted=fitted, width=options.width)


def _add_scan(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--offset",
        type=number,
        help="for a scan, the distance of the middle of the detector from the axis of rotation, in detector bins",
    )
    command.add_argument("--every", type=positive, metavar="N", help="for a scan, use every N-th angle")
    command.add_argument(
        "--size",
        type=positive,
        help="for a scan, the number of pixels on each side of the image (default: that of the detector bins, at most "
        "256)",
    )


def _check_reconstruct(options: argparse.Namespace) -> None:
    moved = [f"--{name}" for name in ("task", "data", "images") if getattr(options, name) is not None]
    if moved or options.file.suffix == ".safetensors":
        what = f"{' and '.join(moved)} belong" if moved else f"{options.file}, a trained prior, belongs"
        raise ValueError(
            f"{what} to `jaxinv evaluate`, which reconstructs simulated measurements of held-out images, as this "
            "command did before. `jaxinv reconstruct` takes your own measurement, and the prior by --prior."
        )
    from . import _chosen_prior
    from ._files import IMAGES, check_output
    from ._spec import Choice, files_of, fit, parse, with_options

    for path in (options.file, options.flat, options.dark, options.reference):
        if path is not None and not path.exists():
            raise ValueError(f"There is no file {path}.")
    text = options.operator or _known_operator(options)
    given = {name: getattr(options, name) for name in ("offset", "every", "size")}
    spec = with_options(parse(text), given)
    chosen = _chosen_prior.choose(options.prior)
    choice = Choice(*(getattr(options, name) for name in Choice._fields))
    fitted = fit(spec, choice)
    samples = getattr(options, "samples", 0)
    _chosen_prior.check(chosen, fitted.domain, spec.kind, samples)
    if options.weight is not None and chosen.kind not in ("tv", "tikhonov"):
        raise ValueError(f"--weight is for tv and tikhonov; the prior is {chosen.kind}.")
    if options.steps is not None and chosen.kind != "dip":
        raise ValueError(f"--steps is for dip; the prior is {chosen.kind}.")
    read = [options.file, options.flat, options.dark, options.reference, chosen.path, *files_of(text, spec)]
    check_output(options.output, IMAGES, read)
    options.checked = spec, choice, fitted, chosen, samples


def _known_operator(options: argparse.Namespace) -> str:
    from .._formats import peek

    if "angle" in peek(options.file, dataset=options.dataset).axes:
        return "parallel"
    raise ValueError(
        f"How was {options.file} measured? Say it by --operator, such as identity, mask:FILE, blur:2 or parallel:0:180."
    )


def _run_reconstruct(options: argparse.Namespace) -> None:
    from ._reconstruct import run
    from ._solvers import Settings

    spec, choice, fitted, chosen, samples = options.checked
    run(
        spec=spec,
        choice=choice,
        fitted=fitted,
        kind=chosen.kind,
        settings=Settings(
            chosen.path, options.weight, samples, options.restarts, options.steps, options.white, options.output
        ),
        **{name: getattr(options, name) for name in ("level", "reference", "seed", "output")},
    )


def _check_simulate(options: argparse.Namespace) -> None:
    from .._formats import peek
    from ._files import MEASUREMENTS, check_output
    from ._spec import SCANS, Choice, degrees, files_of, fit, parse

    if not options.file.exists():
        raise ValueError(f"There is no file {options.file}.")
    spec = parse(options.operator)
    choice = Choice(options.file, options.dataset, options.slice, None, None)
    # The image itself has the shape that the measurement of these operators has.
    as_measured = parse("identity") if spec.kind in (*SCANS, "downsample", "matrix", "fourier") else spec
    fitted = fit(as_measured, choice)
    if isinstance(spec.get("angles"), Path):
        degrees(spec, 0)
    h, w, c = fitted.domain
    if spec.kind in SCANS and (spec.get("angles") is None or h != w or c != 1):
        raise ValueError(
            f"--operator {options.operator}: a scan needs its angles, as in {spec.kind}:0:180:60, and a grey square "
            f"image; {options.file} has {h} x {w} pixels of {c} channel(s)."
        )
    if spec.kind == "downsample" and (h % spec.values["factor"] or w % spec.values["factor"]):
        raise ValueError(f"{options.file} has {h} x {w} pixels, which {spec.values['factor']} does not divide.")
    if spec.kind == "matrix" and peek(spec.values["file"]).values.shape[-1:] != (h * w * c,):
        raise ValueError(f"The matrix {spec.values['file']} needs a column for each of the {h * w * c} pixels.")
    if spec.kind == "fourier" and peek(spec.values["file"]).values.shape[:2] != (h, w):
        raise ValueError(f"The mask {spec.values['file']} should have {h} x {w} values.")
    if spec.kind == "fourier" and options.output.suffix not in (".npy", ".npz"):
        raise ValueError(f"--output {options.output}: k-space is complex, and goes into an .npy or .npz file.")
    read = [options.file, *files_of(options.operator, spec)]
    check_output(options.output, MEASUREMENTS, read)
    check_output(options.output.with_suffix(".toml"), (".toml",), read)
    options.checked = spec, choice, fitted


def _run_simulate(options: argparse.Namespace) -> None:
    from ._simulate import run

    spec, choice, fitted = options.checked
    run(spec=spec, choice=choice, fitted=fitted, level=options.level, seed=options.seed, output=options.output)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of a slice, from 0")
    return int(text)
