"""What the parsers of all commands share: the kinds of values, and how a command is made. This file imports no heavy
library."""

import argparse
import math
import re


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults, but no default that says only that an option was not given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def add_command(commands, name: str, *, run, check=None, **texts: str) -> argparse.ArgumentParser:
    """A command: `check` says what is wrong with its options before `run` imports all that it needs."""
    command = commands.add_parser(name, allow_abbrev=False, formatter_class=Formatter, **texts)
    command.set_defaults(run=run, check=check or (lambda options: None))
    return command


def positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer below 2^31")
    return value


def seed(text: str) -> int:
    """A seed that both JAX and NumPy take."""
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to below 2^63")
    return value


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def above_zero(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive")
    return value


def not_negative(text: str) -> float:
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must not be negative")
    return value


def angles(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?):(-?\d+(?:\.\d+)?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP in degrees, such as 0:180")
    return float(found[1]), float(found[2])


def distances(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not SOURCE:DETECTOR, their distances from the axis of rotation, such as 800:300"
        )
    return float(found[1]), float(found[2])
