"""How checks print: a table of what was found beside what was expected, and a verdict in words."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax.core
import numpy as np

# A batch of checks, or one inside a trace, prints as a module does.
Row = Sequence[str]


def is_readable(*values: Any) -> bool:
    """Whether these are known numbers of one problem, of which a table can be made."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def table(title: str, header: Row, rows: Iterable[Row], verdict: str) -> str:
    """Columns under a header, the first one to the left, and the verdict below.

    **Arguments:**

    - `title`: the first line.
    - `header`: the names of the columns.
    - `rows`: the cells of each row.
    - `verdict`: the last line.

    **Returns:** the text.
    """
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    # The last column has words, which are aligned to the left like the first one.
    last = len(header) - 1
    cell = lambda text, i: text.ljust(widths[i]) if i in (0, last) else text.rjust(widths[i])
    body = ["  ".join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines]
    return "\n".join([title, *body, f"verdict: {verdict}"])


def number(value: Any) -> str:
    """A number with three digits."""
    value = float(np.asarray(value))
    return f"{value:.3f}" if 0.01 <= abs(value) < 10 or value == 0 else f"{value:.3g}"
