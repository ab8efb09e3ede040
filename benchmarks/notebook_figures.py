"""The figures of the notebooks, small enough for the pages of the site that show them.

    python benchmarks/notebook_figures.py [--only 02_generative_models ...] [--from FOLDER]

It runs the notebooks as scripts, with their small settings, and writes those figures that `docs/lecture.md` names to
`docs/figures/NOTEBOOK-FIGURE.png`, at most 1000 pixels wide and 60 kB large. `--from` takes them from a folder in which
the notebooks have run already. Figures of benchmarks, `docs/figures/NAME.png`, come from `results/`.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import RESULTS
from PIL import Image

ROOT = Path(__file__).parents[1]
FIGURES, PAGE = ROOT / "docs" / "figures", ROOT / "docs" / "lecture.md"
WIDTH, BYTES = 1000, 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="the notebooks, without their suffix")
    parser.add_argument("--from", dest="folder", type=Path, help="a folder in which the notebooks have run")
    options = parser.parse_args()
    wanted: dict[str, list[str]] = {}
    for notebook, figure in re.findall(r"figures/(\d\d_\w+)-(\w+)\.png", PAGE.read_text()):
        wanted.setdefault(notebook, []).append(figure)
    FIGURES.mkdir(exist_ok=True)
    if options.only is None:
        for name in re.findall(r"figures/([a-z][\w-]+)\.png", PAGE.read_text()):
            write(name, RESULTS / f"{name}.png")
    for notebook in options.only or wanted:
        with tempfile.TemporaryDirectory() as folder:
            if options.folder is None:
                script = ROOT / "notebooks" / f"{notebook}.py"
                subprocess.run(
                    [sys.executable, script], cwd=folder, check=True, env={**os.environ, "MPLBACKEND": "Agg"}
                )
            for figure in wanted[notebook]:
                write(f"{notebook}-{figure}", (options.folder or Path(folder)) / f"{figure}.png")


def write(name: str, file: Path) -> None:
    data = small(Image.open(file).convert("RGB"))
    (FIGURES / f"{name}.png").write_bytes(data)
    print(f"{name}.png: {len(data) / 1000:.0f} kB")


def small(picture: Image.Image) -> bytes:
    """A PNG of fewer and fewer colours and pixels, until it is small enough."""
    width = min(WIDTH, picture.width)
    while True:
        resized = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        for colours in (128, 48):
            file = io.BytesIO()
            resized.quantize(colours).save(file, format="png", optimize=True)
            if file.tell() <= BYTES:
                return file.getvalue()
        width = round(0.9 * width)


if __name__ == "__main__":
    main()
