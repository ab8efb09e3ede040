"""The texts of a figure: how much room they take, and how numbers are written."""

import math
import textwrap
from collections.abc import Sequence

from ._figure import POINTS


def characters(inches: float, points: float) -> int:
    # 0.56 em is the mean width of a character of matplotlib's own font, DejaVu Sans.
    return max(int(inches * POINTS / (0.56 * points)), 4)


def wrap(texts: Sequence[str], inches: float, points: float) -> list[str]:
    return ["\n".join(textwrap.wrap(str(text), characters(inches, points))) for text in texts]


def count_lines(texts: Sequence[str]) -> int:
    return max((text.count("\n") + 1 for text in texts), default=1)


def number(value: float) -> str:
    # Three digits, but no more than three decimals unless all of them are 0.
    return f"{value:.3f}" if 0.01 <= abs(value) < 0.1 else f"{value:#.3g}".rstrip(".")


def ticks(limits: tuple[float, float]) -> list[tuple[float, str]]:
    """Both ends of a colour bar and its middle, with as many digits as the larger end needs for three."""
    low, high = limits
    exponent = math.floor(math.log10(max(abs(low), abs(high))))
    values = [low, (low + high) / 2, high]
    if not -3 <= exponent <= 4:
        return [(value, f"{value:.1e}" if value else "0") for value in values]
    labels = [f"{value:.{max(0, 2 - exponent)}f}" for value in values]
    labels = [label.rstrip("0").rstrip(".") if "." in label else label for label in labels]
    return [(value, "0" if label == "-0" else label) for value, label in zip(values, labels, strict=True)]
