"""Makes the figures of notebooks and of the gallery anew, and puts them where the site looks for them.

    python docs/_tools/figures.py notebooks/03_learned_svd.py docs/gallery/*.py

Look at each of them before you commit it.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DOCS = Path(__file__).parent.parent


def main(scripts: list[str]) -> int:
    failed = 0
    for script in map(Path, scripts):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            finished = subprocess.run([sys.executable, script.resolve()], cwd=folder)
            for figure in sorted(Path(folder).glob("*.png")):
                target = DOCS / "figures" / f"{script.stem}-{figure.name}"
                if script.resolve().parent == DOCS.resolve() / "gallery":
                    target = DOCS / "gallery" / figure.name
                target.parent.mkdir(exist_ok=True)
                shutil.copy(figure, target)
        failed += finished.returncode != 0
        print(f"{script}: {'failed' if finished.returncode else 'done'}, {time.perf_counter() - began:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
