"""Writes benchmarks/README.md from the committed results: `python benchmarks/table.py`."""

import json
from pathlib import Path

from harness import RESULTS

INTRODUCTION = """# Benchmarks

Each script here prints one JSON line per case and writes them to `results/`; this page is made from those files by
`python benchmarks/table.py`. Times on shared machines are noisy: compare within one file, which is one run, and not at
all where the line above a table says that the machine had other work.
"""


def main() -> None:
    from jaxinv import io

    parts = [INTRODUCTION]
    for path in sorted(RESULTS.glob("*.jsonl")):
        environment, *cases = map(json.loads, path.read_text().splitlines())
        columns = list(dict.fromkeys(name for case in cases for name in case))
        show = lambda value: "" if value is None else str(value)
        parts.append(f"## {path.stem.replace('_', ' ')}\n")
        parts.append(_purpose(path.stem) + "\n")
        versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
        parts.append(
            f"{environment['machine']}, Python {environment['python']}, {versions}; {environment['commit']}"
            f"{_busy(environment.get('load', 0))}.\n"
        )
        parts.append("| " + " | ".join(name.replace("_", " ") for name in columns) + " |")
        parts.append("|" + " --- |" * len(columns))
        parts += ["| " + " | ".join(show(case.get(name)) for name in columns) + " |" for case in cases]
        parts.append("")
    page = Path(__file__).parent / "README.md"
    io.write_bytes(page, "\n".join(parts).encode())


def _busy(load: float) -> str:
    return f"; the machine had other work (load {load}), so seconds are too long" if load > 1 else ""


def _purpose(name: str) -> str:
    # The docstring of the script that made the file, without its command line; it may have made several, whose names
    # begin with its own.
    scripts = [path for path in Path(__file__).parent.rglob("*.py") if f"{name}_".startswith(f"{path.stem}_")]
    script = max(scripts, key=lambda path: len(path.stem))
    paragraphs = script.read_text().split('"""')[1].strip().split("\n\n")
    return "\n\n".join(p for p in paragraphs if not p.startswith("    "))


if __name__ == "__main__":
    main()
