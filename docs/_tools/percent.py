"""Scripts in the percent format (`# %%`), which the notebooks and the gallery are, as Markdown."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent


def figures_of(source: Path) -> dict[str, str]:
    """The figures that a script has, by the name that it gives them, as links from its page.

    A script of the gallery has one, beside it; those of the notebook `NAME.py` are `docs/figures/NAME-FIGURE.png`.
    """
    if source.parent == DOCS / "gallery":
        return {f"{source.stem}.png": f"{source.stem}.png"}
    prefix = f"{source.stem}-"
    found = sorted((DOCS / "figures").glob(f"{prefix}*.png"))
    return {path.name.removeprefix(prefix): f"../figures/{path.name}" for path in found}


def code_of(source: Path) -> str:
    """The code of a script, without its text."""
    cells = re.split(r"^# %%", source.read_text(), flags=re.MULTILINE)
    code = [body.strip("\n") for head, _, body in (cell.partition("\n") for cell in cells) if "[markdown]" not in head]
    return "```python\n" + "\n\n".join(filter(None, code)) + "\n```"


def page_of(source: Path, figures: dict[str, str]) -> str:
    """The page of a script: its Markdown cells as text, its code, and its figures after the cells that draw them."""
    text = re.sub(r"\A# ---\n.*?\n# ---\n", "", source.read_text(), flags=re.DOTALL)
    parts = []
    left = dict(figures)
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE):
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            parts.append(re.sub("^# ?", "", body.strip(), flags=re.MULTILINE))
        elif body.strip():
            parts.append(f"```python\n{body.strip(chr(10))}\n```")
            parts += [_figure(name, left.pop(name)) for name in list(left) if f'"{name}"' in body]
    parts += [_figure(name, link) for name, link in left.items()]
    note = f"The script is `{source.relative_to(DOCS.parent)}`; run it, or open it as a notebook with jupytext."
    return "\n\n".join([*parts, "---", note, ""])


def _figure(name: str, link: str) -> str:
    return f"![{Path(name).stem.replace('_', ' ')}]({link})"
