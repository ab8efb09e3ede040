"""The command `jaxinv`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    **Arguments:**

    - `arguments`: what follows `jaxinv` on the command line; by default `sys.argv[1:]`.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"jaxinv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxinv: interrupted.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxinv",
        description="Imaging inverse problems in JAX, with priors learned without paired data.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"jaxinv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    return parser


def _add_demo(commands) -> None:
    demo = commands.add_parser(
        "demo",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        help="train a small prior on real images, then deblur and CT-reconstruct held-out ones beside the baselines",
        description=(
            "Trains a variational autoencoder on handwritten digits (no paired data), then reconstructs held-out "
            "images from blurred, noisy measurements and from ten noisy X-ray projections, by filtered "
            "back-projection, Tikhonov, total variation, a Gaussian prior and the latent space of the autoencoder. "
            "Prints a table and writes two figures and a JSON file."
        ),
    )
    demo.add_argument(
        "--data",
        choices=("digits", "mnist"),
        default="digits",
        help="digits come with scikit-learn; MNIST is looked up in $JAXINV_DATA, ../shared/data and the user's cache, "
        "or downloaded",
    )
    demo.add_argument("--quick", action="store_true", help="a short training and fewer images: seconds, worse pictures")
    demo.add_argument("--images", type=_positive, default=16, help="how many held-out images to reconstruct")
    demo.add_argument("--seed", type=int, default=0, help="of everything that is random")
    demo.add_argument(
        "--output", type=Path, default=Path("jaxinv_demo"), help="folder for the figures and results.json"
    )
    demo.set_defaults(run=_run_demo)


def _run_demo(options: argparse.Namespace) -> None:
    # Here, so that `jaxinv --help` does not wait for jax.
    from ._demo import run

    run(data=options.data, quick=options.quick, images=options.images, seed=options.seed, output=options.output)


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


if __name__ == "__main__":
    sys.exit(main())
