"""Scripts in the percent format (`# %%`), which the notebooks and the gallery are, as Markdown."""

import re
from pathlib import Path


def page_of(source: Path, figures: dict[str, Path]) -> str:
    """The page of a script: its Markdown cells as text, its code, and its figures after the cells that draw them.

    A figure `NAME-FIGURE.png` or `NAME.png` belongs to the script `NAME.py`.
    """
    text = source.read_text()
    text = re.sub(r"\A# ---\n.*?\n# ---\n", "", text, flags=re.DOTALL)
    parts = []
    left = dict(figures)
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE):
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append("\n".join(line.removeprefix("# ").removeprefix("#") for line in body.strip().splitlines()))
        elif body.strip():
            parts.append(_code(body.strip("\n")))
            parts += [_figure(name) for name in list(left) if _drawn(name, source.stem, body) and left.pop(name)]
    parts += [_figure(name) for name in left]
    link = f"The script is `{source.parent.name}/{source.name}`; run it, or open it as a notebook with jupytext."
    return "\n\n".join([*parts, "---", link, ""])


def _drawn(figure: str, stem: str, body: str) -> bool:
    return figure.removeprefix(stem + "-") in body or (figure == f"{stem}.png" and "plotting.s" in body)


def _code(body: str) -> str:
    return f"```python\n{body}\n```"


def _figure(name: str) -> str:
    return f"![{Path(name).stem.replace('_', ' ').replace('-', ': ')}]({name})"
