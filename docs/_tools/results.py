"""Tables of the committed results, for the pages of benchmarks.

A page says `[[headline: NAME]]` where one of the small tables of this file goes, `[[details: FILE FILE ...]]` where all
rows of `benchmarks/results/FILE.jsonl` go, folded.
"""

import json
import math
import re
from collections import defaultdict
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def with_tables(markdown: str) -> str:
    markdown = re.sub(r"\[\[headline: (\w+)\]\]", lambda found: HEADLINES[found[1]](), markdown)
    markdown = re.sub(r"\[\[measured: (\w+)\]\]", lambda found: _measured(found[1]), markdown)
    return re.sub(r"\[\[details: ([\w ]+)\]\]", lambda found: "\n".join(map(_details, found[1].split())), markdown)


def files_without_page(pages: list[str]) -> list[str]:
    """The files of results that no page shows in detail."""
    shown = {
        name for page in pages for found in re.findall(r"\[\[details: ([\w ]+)\]\]", page) for name in found.split()
    }
    return sorted({path.stem for path in (BENCHMARKS / "results").glob("*.jsonl") if "_quick" not in path.stem} - shown)


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (BENCHMARKS / "results" / f"{name}.jsonl").read_text().splitlines()][1:]


def _table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] * len(header), *[[_text(value) for value in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        digits = f"{value:.3g}"
        return f"{value:.0f}" if abs(value) >= 100 else digits
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value).replace("|", "\\|")


def _pivot(rows: list[dict], row: str, column: str, value: str, corner: str) -> str:
    names = list(dict.fromkeys(case[row] for case in rows))
    columns = list(dict.fromkeys(case[column] for case in rows))
    cells = {(case[row], case[column]): case.get(value) for case in rows}
    return _table([corner, *columns], [[name, *(cells.get((name, c)) for c in columns)] for name in names])


def _details(name: str) -> str:
    environment, *cases = [
        json.loads(line) for line in (BENCHMARKS / "results" / f"{name}.jsonl").read_text().splitlines()
    ]
    # One table for each set of columns, so that none has empty cells.
    groups = defaultdict(list)
    for case in cases:
        groups[tuple(key for key, value in case.items() if value is not None)].append(case)
    tables = [
        _table([key.replace("_", " ") for key in columns], [[case[key] for key in columns] for case in group])
        for columns, group in groups.items()
    ]
    text = [_purpose(name), _run(environment), *tables]
    indented = "\n".join(f"    {line}" if line else "" for line in "\n\n".join(text).splitlines())
    return f'??? note "{name.replace("_", " ")}: all rows"\n\n{indented}\n'


def _run(environment: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    commit, dirty = re.subn("-dirty$", "", environment["commit"])
    notes = [f"Commit {commit}" + (", with changes that were not committed" if dirty else "")]
    if environment.get("load", 0) > 1:
        notes.append(f"the machine had other work (load {environment['load']}), so seconds are too long")
    return f"{'; '.join(notes)}. {environment['machine']}, Python {environment['python']}, {versions}."


def _purpose(name: str) -> str:
    # The docstring of the script that made the file, without its command line; it may have made several, whose names
    # begin with its own.
    scripts = [path for path in BENCHMARKS.rglob("*.py") if f"{name}_".startswith(f"{path.stem}_")]
    paragraphs = max(scripts, key=lambda path: len(path.stem)).read_text().split('"""')[1].strip().split("\n\n")
    return "\n\n".join(p for p in paragraphs if not p.startswith("    "))


# What the results call a method, where its class has another name.
_CLASSES = {"TDS, moment matching": "TDS", "moment matching": "MomentMatching"}


def _mixture() -> dict:
    return {
        (_CLASSES.get(r["method"], r["method"]), r["measurements"]): r
        for r in _rows("posterior_mixture")
        if r["d"] == 8
    }


def _bumps() -> dict:
    return {(r["method"], r["problem"]): r["w2"] for r in _rows("posterior_gaussian")}


def _measured(name: str) -> str:
    """Three cells for a posterior method: its cost, its error where there are several modes, and where there is one."""
    mixture, bumps = _mixture(), _bumps()
    row = mixture[name, 4]
    cost = str(row["evaluations"]) + (f" + {row['vjps']}" if row["vjps"] else "")
    modes = ", ".join(f"{100 * mixture[name, m]['tv']:.2g} %" for m in (1, 4))
    return f"{cost} | {modes} | " + ", ".join(f"{bumps[name, p]:.2g}" for p in ("blur", "every fourth"))


def _deep_image_priors() -> str:
    rows = [case for case in _rows("dip_ct_64") if "psnr" in case]
    name = lambda case: f"{case['case']}, {case['window']}" if "window" in case else case["case"]
    peak = lambda case: f"{case['peak']:.1f}" if "peak" in case else "no run"
    cells = [[name(case), f"{case['psnr']:.1f}", peak(case)] for case in rows]
    return _table(["ellipses, 30 angles", "PSNR (dB)", "best of the run (dB)"], cells)


def _dip_dose() -> str:
    rows = [case for case in _rows("dip_dose") if "photons" in case]
    both = [case | {"both": f"{case['psnr']:.1f}, {case['ssim']:.2f}"} for case in rows]
    return _pivot(both, "method", "case", "both", "two slices")


def _posterior_methods() -> str:
    def cost(row):
        return "" if row is None else f"{row['evaluations']} e" + (f" + {row['vjps']} v" if row["vjps"] else "")

    mixture, bumps = _mixture(), _bumps()
    names = [name for name in dict.fromkeys(name for name, _ in mixture) if (name, "blur") in bumps]
    rows = [
        [
            f"`diffusion.{name}`",
            *(f"{100 * mixture[name, m]['tv']:.2g} %" if (name, m) in mixture else None for m in (1, 4)),
            bumps[name, "blur"],
            bumps[name, "every fourth"],
            cost(mixture.get((name, 4))),
        ]
        for name in names
    ]
    header = ["method", "mass in the wrong mode, 1 measurement", "4 measurements"]
    header += ["distance / size of one bump, blurred", "every fourth pixel", "cost of a sample"]
    return _table(header, sorted(rows, key=lambda row: float(row[1].split()[0])))


def _posterior_mnist() -> str:
    rows = [case for case in _rows("posterior_mnist") if "psnr_mean" in case]
    return _pivot(rows, "method", "task", "psnr_mean", "PSNR of the mean (dB)")


def _projectors() -> str:
    peers = ["deepinv", "astra", "skimage", "mbirjax", "scico"]
    rows = [case for case in _rows("projectors") if f"{peers[0]} over ours" in case]
    cells = [[f"{c['size']}, {c['direction']}", *(c.get(f"{p} over ours", "not there") for p in peers)] for c in rows]
    return _table(["images, direction", *(f"{peer} (time / ours)" for peer in peers)], cells)


def _sampling_speed() -> str:
    rows = [case for case in _rows("posterior_speed") if "over deepinv" in case]
    cells = [
        [c["method"], c["over deepinv"], f"{c['least']:.2g} to {c['most']:.2g}", c["image"], c["samples"]] for c in rows
    ]
    cells += [
        [
            "deep image prior",
            c["deepinv over ours"],
            f"{c['least']:.2g} to {c['most']:.2g}",
            f"({c['size']}, {c['size']}, 1)",
            1,
        ]
        for c in _rows("dip_speed")
        if "deepinv over ours" in c
    ]
    return _table(["method", "speed / that of deepinv", "rounds", "image", "at once"], cells)


def _training() -> str:
    rows = [
        [
            f"score, {c['process']}, seed {c['seed']}",
            c["bits_per_dim"],
            c["training_seconds"] / 60,
            c["steps"],
            c["weights"],
        ]
        for c in _rows("score_mnist")
        if "bits_per_dim" in c
    ]
    rows += [
        [f"flow, {c['flow']}", c["bits_per_dim"], c["training_seconds"] / 60, c["steps"], c["weights"]]
        for c in _rows("flow_mnist")
    ]
    return _table(["model of MNIST", "bits per pixel", "training (min)", "steps", "weights"], rows)


def _scale() -> str:
    rows = [[c["case"], c["ratio"], c["cpu_ratio"], c["problems_per_second"]] for c in _rows("solve_many")]
    return _table(["256 problems", "time, 8 devices / their parts", "processor time", "problems a second"], rows)


def _torch_networks() -> str:
    rows = _rows("torch_networks")
    worst = lambda cases, *names: f"{max(case[name] for case in cases for name in names):.0e}"
    table = []
    for kind in dict.fromkeys(case["architecture"] for case in rows):
        cases = [case for case in rows if case["architecture"] == kind]
        errors = [worst(cases, f"y_{dtype}", f"gradient_{dtype}") for dtype in ("float32", "float64")]
        table.append([f"`models.{kind}`", len(cases), *errors])
    return _table(["network", "configurations", "error in float32", "error in float64"], table)


HEADLINES = {
    "deep_image_priors": _deep_image_priors,
    "dip_dose": _dip_dose,
    "posterior_methods": _posterior_methods,
    "posterior_mnist": _posterior_mnist,
    "projectors": _projectors,
    "sampling_speed": _sampling_speed,
    "training": _training,
    "scale": _scale,
    "torch_networks": _torch_networks,
}
