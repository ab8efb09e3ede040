"""What holds for the package as a whole: import order, forbidden names, sizes, docstrings, runnable examples."""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest

import jaxinv

ROOT = Path(jaxinv.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in FILES]
files = pytest.mark.parametrize("path", FILES, ids=IDS)

# Each part imports from those before it only.
FIRST = [
    "_version",
    "_checks",
    "_types",
    "_keys",
    "_solution",
    "_differentiation",
    "_linen",
    "_verb",
    "_loop",
    "_conjugate_gradients",
    "_prior",
    "_kernels",
]
ASIDE = ["metrics", "data", "io"]  # these import from the first group only
ORDER = [
    *FIRST,
    *ASIDE,
    *["operators", "noise", "regularisers", "likelihood"],
    *["oracles", "classical", "models", "training", "subspace"],
    *["generative", "lsvd", "diffusion", "unrolled", "dip"],
    *["scale", "plotting", "_commands", "cli"],
]

# A solver's loop belongs in `_loop.py`, which freezes finished lanes. These are no solvers:
# Of verbs, each of which has an example.
ROOMS = (
    "operators",
    "classical",
    "generative",
    "training",
    "subspace",
    "lsvd",
    "diffusion",
    "unrolled",
    "dip",
    "scale",
)
LOOPS = {
    "_loop.py": "the solvers' loop itself",
    "training/_chunk.py": "a chunk of training steps, all of one length; nothing is mapped over it",
    "_kernels/_linear_map.py": "sums of fixed length, over lines or views",
    "operators/_norm.py": "powers of a matrix of order three, of fixed number",
    "data/_raster.py": "phantoms, a sum over ellipses of fixed length",
}


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_parts(path):
    """The parts of the package that a file imports from, wherever in the file."""
    package = path.relative_to(ROOT.parent).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = list(package[: len(package) - node.level + 1]) if node.level else []
            module = start + (node.module.split(".") if node.module else [])
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "jaxinv":
                known = len(name) > 1 and ((ROOT / name[1]).is_dir() or (ROOT / f"{name[1]}.py").is_file())
                yield name[1] if known else "__init__"  # the whole package, or a name that it re-exports


def test_every_part_has_a_place_in_the_order():
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts <= set(ORDER)
    found = set(imported_parts(ROOT / "likelihood.py"))
    assert {"_keys", "noise", "operators"} <= found  # the walk sees relative imports


@files
def test_imports_go_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    for other in set(imported_parts(path)) - {part}:
        allowed = FIRST if part in ASIDE else ORDER[: ORDER.index(part)]
        # Within the first group only the order of imports at run time matters, which Python itself checks.
        allowed = FIRST if part in FIRST else allowed
        # Only the command line stands above the whole package.
        allowed = [*allowed, "__init__"] if part in ("_commands", "cli") else allowed
        assert other in allowed, f"{part} imports {other}"


@files
def test_nothing_forbidden(path):
    tree = tree_of(path)
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            dotted |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            if ast.unparse(node.body[-1]) == "raise":
                continue  # it tidies up and lets the exception pass
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno} catches {caught}"
    forbidden = (
        r"jax\._src|equinox\.internal|eqx\.internal|pickle|torch\.load|jax\.config\.update|(eqx|equinox)\.error_if"
    )
    assert not [name for name in dotted if re.match(rf"({forbidden})(\.|$)", name)]
    # Unfinished work has no place in a release.
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError\(", path.read_text())


@files
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 450


@files
def test_loops_are_in_the_loop_file(path):
    names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    loops = names & {"while_loop", "fori_loop", "scan"}
    assert bool(loops) == (str(path.relative_to(ROOT)) in LOOPS), f"{path.name} uses {loops}"


def public():
    """Every public name: `(where, name, object)`."""
    modules = [jaxinv, *(importlib.import_module(f"jaxinv.{m.name}") for m in pkgutil.iter_modules([str(ROOT)]))]
    for module in modules:
        if module.__name__.rpartition(".")[2].startswith("_"):
            continue
        for name, value in sorted(vars(module).items()):
            mine = getattr(value, "__module__", "") or ""
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            if mine.startswith(module.__name__):
                yield module.__name__, name, value


PUBLIC = {f"{where}.{name}": value for where, name, value in public()}


def members():
    """Public names, and the public methods that public classes define themselves."""
    for name, value in PUBLIC.items():
        yield name, value
        if inspect.isclass(value):
            for key, member in vars(value).items():
                if not key.startswith("_") and inspect.isfunction(member):
                    yield f"{name}.{key}", member


def test_the_walk_finds_the_public_names():
    expected = {"jaxinv.Likelihood", "jaxinv.noise.Gaussian", "jaxinv.operators.Mask", "jaxinv.classical.tikhonov"}
    assert expected <= PUBLIC.keys()
    assert "jaxinv.noise.Array" not in PUBLIC


@pytest.mark.parametrize("module", sorted({name.rpartition(".")[0] for name in PUBLIC}))
def test_modules_have_docstrings(module):
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_have_docstrings_of_their_own(name):
    value = PUBLIC[name]
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc
    assert not doc.startswith(f"{value.__name__}(")  # what a dataclass writes by itself


def examples():
    for name, member in members():
        blocks = re.findall(r"!!! example\n((?:[ ]+.*\n|\n)+)", inspect.cleandoc(member.__doc__ or "") + "\n")
        for block in blocks:
            (code,) = re.findall(r"```python\n(.*?)```", textwrap.dedent(block), re.DOTALL)
            yield pytest.param(textwrap.dedent(code), id=name)


@pytest.mark.slow
@pytest.mark.parametrize("code", list(examples()))
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    exec(compile(code, "example", "exec"), {"__name__": "example"})


def test_every_operator_noise_and_verb_has_an_example():
    found = {parameter.id for parameter in examples()}
    for name, value in PUBLIC.items():
        module = name.split(".")[1]
        verb = inspect.isfunction(value) and module in ROOMS
        noun = (
            inspect.isclass(value) and not inspect.isabstract(value) and module in ("operators", "noise", "Likelihood")
        )
        if verb or (noun and name not in ("jaxinv.operators.Certificate",)):
            assert name in found, name
