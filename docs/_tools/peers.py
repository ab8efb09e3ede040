"""Runs the pairs of `docs/coming-from.md` on one picture, where the peer is installed, and prints the quality of both.

    python docs/_tools/peers.py --deepinv PYTHON --scico PYTHON --odl PYTHON

Each PYTHON is the interpreter of an environment that has that peer (`pip install deepinv`, `scico`, or `odl
scikit-image`); ours runs in this one. A peer's block finds the phantom of 64 x 64 pixels as the array `picture`, and
leaves its reconstruction in `x_hat`; ours leaves it in `solution`. A block that fails is printed with its error.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

PAGE = Path(__file__).parent.parent / "coming-from.md"
BLOCK = re.compile(r'^=== "(.+?)"\n\n    ```(\w+)\n(.*?)^    ```$', re.DOTALL | re.MULTILINE)
LOAD = "import numpy as np\npicture = np.load({picture!r})\n"
# The first picture of what a peer or this library returns, whatever its container and its further axes.
REPORT = """
found = {result}
for name in ("detach", "asarray"):
    found = getattr(found, name)() if hasattr(found, name) else found
found = np.asarray(found, dtype=float).reshape(-1, *picture.shape)[0]
print(f"PSNR {{-10 * np.log10(np.mean((found - picture) ** 2)):.1f}} dB")
"""


def pairs() -> dict[str, tuple[str, str]]:
    """The blocks of a peer and of this library, by the name of the peer."""
    blocks = [(name, textwrap.dedent(code)) for name, _, code in BLOCK.findall(PAGE.read_text())]
    return {name.lower(): (theirs, ours) for (name, theirs), (_, ours) in zip(blocks[::2], blocks[1::2], strict=True)}


def run(interpreter: str, code: str, result: str, picture: Path) -> str:
    script = LOAD.format(picture=str(picture)) + code + REPORT.format(result=result)
    try:
        done = subprocess.run([interpreter, "-c", script], capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "failed: it takes longer than ten minutes"
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"failed:\n{done.stderr[-2000:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for peer in ("deepinv", "scico", "odl"):
        parser.add_argument(f"--{peer}", help="an interpreter that has it")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.npy"
        save = f"import numpy, jaxinv; numpy.save({str(picture)!r}, jaxinv.data.shepp_logan(64)[..., 0])"
        subprocess.run([sys.executable, "-c", save], check=True)
        for peer, (theirs, ours) in pairs().items():
            if interpreter := getattr(options, peer, None):
                for name, answer in {
                    peer: run(interpreter, theirs, "x_hat", picture),
                    "jaxinv": run(sys.executable, ours, "solution.value", picture),
                }.items():
                    print(f"{name}: {answer}", flush=True)
                    failed += answer.startswith("failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
