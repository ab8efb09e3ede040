"""What all figures share: how matplotlib is loaded, sizes of letters, plain axes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.figure

HEADING, TITLE, CAPTION, TICK = 10.0, 8.5, 7.0, 6.5  # points
POINTS = 72  # to an inch
_MARGINS = 0.5, 0.12, 0.42, 0.12  # inches: left, right, below, above


def load_matplotlib() -> Any:
    """The package, which is an extra, with the back end that draws into memory."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which comes with the extra `demo`: python -m pip install 'jaxinv[demo]'."
        ) from error
    return matplotlib


def blank(size: tuple[float, float]) -> "matplotlib.figure.Figure":
    """An empty white figure of so many inches, which pyplot knows nothing of."""
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=size, facecolor="white")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def panels(
    titles: list[str], size: tuple[float, float], heading: str | None
) -> tuple["matplotlib.figure.Figure", list[Any]]:
    """A figure with one pair of axes for each title, of so many inches each, at most four side by side."""
    (left, right, below, above), columns = _MARGINS, min(len(titles), 4)
    rows = -(-len(titles) // columns)
    above = above + (1.4 * TITLE / POINTS if any(titles) else 0)
    top = 1.8 * HEADING / POINTS if heading else 0.0
    width, height = left + size[0] + right, below + size[1] + above
    total = columns * width, rows * height + top
    figure = blank(total)
    if heading:
        figure.text(0.5, 1 - 0.4 * top / total[1], heading, ha="center", va="center", fontsize=HEADING)
    axes = []
    for i, title in enumerate(titles):
        x, y = (i % columns) * width + left, total[1] - top - (i // columns) * height - above - size[1]
        box = (x / total[0], y / total[1], size[0] / total[0], size[1] / total[1])
        panel = figure.add_axes(box)
        panel.set_title(title, fontsize=TITLE, pad=3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[:].set(linewidth=0.5, color="0.4")
        panel.tick_params(length=2, width=0.5, color="0.4", labelsize=TICK)
        axes.append(panel)
    return figure, axes
