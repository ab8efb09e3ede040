"""What holds for the package as a whole: import order, forbidden names, sizes, docstrings, runnable examples."""

import ast
import functools
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import pytest

import jaxinv
from jaxinv._jit import verb

ROOT = Path(jaxinv.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Each part imports from those before it only.
FIRST = [
    "_version",
    "_types",
    "_arrays",
    "_checks",
    "requirements",
    "_module",
    "_report",
    "_solution",
    "_differentiation",
    "_forward_only",
    "_program",
    "_network_state",
    "_networks",
    "_mesh",
    "_reading",
    "_sources",
    "_writing",
    "_formats",
    "_optimisers",
    "_jit",
    "_method",
    "_workarounds",
    "_loop",
    "_krylov",
    "_sums",
    "_conjugate_gradients",
    "_prior",
    "_score",
    "_proximal_map",
    "_kernels",
]
ASIDE = ["metrics", "data", "io"]  # these import from the first group only
ORDER = [
    *FIRST,
    *ASIDE,
    *["operators", "noise", "regularisers", "likelihood"],
    *["_linear_gaussian", "oracles", "classical", "calibration", "mri", "models", "training", "subspace"],
    *["generative", "lsvd", "diffusion", "unrolled", "dip", "pnp"],
    *["testing", "scale", "plotting", "_commands", "cli"],
]

# The modules with verbs, each of which has an example.
MODULES = (
    "operators",
    "classical",
    "calibration",
    "generative",
    "training",
    "subspace",
    "lsvd",
    "diffusion",
    "unrolled",
    "dip",
    "testing",
    "scale",
)
# A solver's loop belongs in `_loop.py`, which freezes finished lanes. These are no solvers:
LOOPS = {
    "_commands/_user_file.py": "the fifty steps that find how bright an image may be",
    "_loop.py": "the solvers' loop itself",
    "training/_chunk.py": "a chunk of training steps, all of one length; nothing is mapped over it",
    "_kernels/_linear_map.py": "sums of fixed length, over lines or views",
    "operators/_norm.py": "powers of a matrix of order three, of fixed number",
    "data/_phantoms.py": "phantoms, a sum over ellipses of fixed length",
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
    assert {"_arrays", "noise", "operators"} <= found  # the walk sees relative imports


def test_nothing_is_computed_at_import():
    # An array that is made at import, or is among the fields of a default, starts the backend, after which these
    # settings and `jax.distributed` raise.
    rooms = ", ".join(sorted(f"jaxinv.{module.name}" for module in pkgutil.iter_modules(jaxinv.__path__)))
    program = f"import {rooms}, jax\njax.config.update('jax_num_cpu_devices', 3)\nassert jax.device_count() == 3"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment | {"PYTHONPATH": str(ROOT.parent)})


def none_of(wrong):
    """Fail with all of these, a line for each."""
    assert not wrong, "\n".join(wrong)


def in_files(check):
    """What `check` finds wrong in the files of the package, each with the name of its file."""
    return [f"{path.relative_to(ROOT)}: {wrong}" for path in FILES for wrong in check(path)]


def wrong_imports(path):
    part = part_of(path)
    if part == "__init__":
        return
    for other in sorted(set(imported_parts(path)) - {part}):
        allowed = FIRST if part in ASIDE else ORDER[: ORDER.index(part)]
        # Within the first group only the order of imports at run time matters, which Python itself checks.
        allowed = FIRST if part in FIRST else allowed
        # Only the command line stands above the whole package.
        allowed = [*allowed, "__init__"] if part in ("_commands", "cli") else allowed
        if other not in allowed:
            yield f"imports {other}"


def test_imports_go_one_way():
    none_of(in_files(wrong_imports))


# Private files of a room that others use; what everybody uses lives on the ground floor, in `jaxinv/_*.py`.
SHARED = {
    "operators._matrix": "the result of `materialise`, which LISTA makes by rows",
    "operators._norm": "the check that an operator is linear, a bound of its norm, and the start of an estimate of it",
    "operators._restricted": "an operator with measurements held out, for a choice of weights and a stopping rule",
    "training._checkpoint": "the file of a run, which `dip.resume` has too",
    "training._chunk": "the weights of a network as arrays, which `dip` trains too",
    "training._data": "the check and the checksum of data",
    "training._options": "the checks of the options that every training takes",
}


def private_imports(path):
    """What a file imports from the private files of another room, without those that are shared."""
    part = part_of(path)
    package = path.relative_to(ROOT.parent).parts[:-1]
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ImportFrom) or not node.level or part in ("__init__", "_commands", "cli"):
            continue
        names = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")][1:]
        room, private = names[0], any(name.startswith("_") for name in names[1:])
        if private and room not in (part, *FIRST):
            yield ".".join(names)


def test_private_files_are_used_in_their_own_room():
    found = {(str(path.relative_to(ROOT)), name) for path in FILES for name in private_imports(path)}
    none_of([f"{path} imports {name}" for path, name in sorted(found) if name not in SHARED])
    assert SHARED.keys() == {name for _, name in found}, "no longer shared"


def forbidden(path):
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
            if caught in ("everything", "Exception", "BaseException"):
                yield f"line {node.lineno} catches {caught}"
    names = r"jax\._src|equinox\.internal|eqx\.internal|pickle|torch\.load|(eqx|equinox)\.error_if"
    # A library leaves the settings of JAX to its user; the command line is that user.
    if path != ROOT / "_commands" / "_cache.py":
        names += r"|jax\.config\.update"
    yield from sorted(name for name in dotted if re.match(rf"({names})(\.|$)", name))
    # Unfinished work has no place in a release.
    yield from re.findall(r"\b(?:TODO|FIXME|XXX)\b|NotImplementedError\(", path.read_text())


def test_nothing_forbidden():
    none_of(in_files(forbidden))


def test_no_file_is_long():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    none_of([f"{name}: {number} lines" for name, number in lines.items() if number > 450])


def test_loops_are_in_the_loop_file():
    found = set()
    for path in FILES:
        names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        if names & {"while_loop", "fori_loop", "scan"}:
            found.add(str(path.relative_to(ROOT)))
    none_of([f"{name}: a loop, or none of those it is listed for" for name in sorted(found ^ LOOPS.keys())])


def public():
    """Every public name: `(where, name, object)`."""
    modules = [jaxinv, *(importlib.import_module(f"jaxinv.{m.name}") for m in pkgutil.iter_modules([str(ROOT)]))]
    modules.append(jaxinv.diffusion.extend)
    for module in modules:
        if module.__name__.rpartition(".")[2].startswith("_"):
            continue
        for name in dir(module):  # `vars` has of the package what has been used so far
            value = getattr(module, name)
            mine = getattr(value, "__module__", "") or ""
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            # What a package re-exports is public in it, wherever in `jaxinv` it is defined.
            re_exports = hasattr(module, "__path__") or module is jaxinv.diffusion.extend
            if mine.startswith("jaxinv." if re_exports else module.__name__):
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


def test_modules_have_docstrings():
    modules = sorted({name.rpartition(".")[0] for name in PUBLIC})
    none_of([module for module in modules if not importlib.import_module(module).__doc__])


def has_a_docstring_of_its_own(value):
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return bool(doc) and not doc.startswith(f"{value.__name__}(")  # what a dataclass writes by itself


def test_public_names_have_docstrings_of_their_own():
    none_of([name for name, value in sorted(PUBLIC.items()) if not has_a_docstring_of_its_own(value)])


def documented(value):
    """The parameters that the bullets of a docstring name; or those of the function that it refers to: "as `ista`"."""
    doc = inspect.cleandoc(value.__doc__ or "")
    if inspect.isclass(value) and "__init__" in vars(value):
        doc += "\n" + inspect.cleandoc(value.__init__.__doc__ or "")
    lines = re.findall(r"(?:^ *-|;) ((?:`[^`]+`(?:, | and )?)+):\s*\S", doc, re.MULTILINE)
    names = {name for line in lines for name in re.findall(r"`\*{0,2}(\w+)`", line)}
    for other in re.findall(r"\*\*Arguments[^*]*:\*\* (?:as|those of) `(\w+)`", doc):
        module = next(name.rpartition(".")[0] for name, it in PUBLIC.items() if it is value)
        names |= documented(PUBLIC[f"{module}.{other}"])
    return names


def constructor_of(value):
    # The metaclass of a network hides its signature, and a named tuple has no `__init__`.
    return value.__init__ if inspect.isclass(value) and value.__init__ is not object.__init__ else value


def undocumented():
    for name, value in sorted(PUBLIC.items()):
        exempt = inspect.isabstract(value) or value is jaxinv.RESULTS
        if exempt or (inspect.isclass(value) and issubclass(value, BaseException)):
            continue
        parameters = inspect.signature(constructor_of(value)).parameters
        missing = parameters.keys() - {"self"} - documented(value)
        if missing:
            yield f"{name}: {', '.join(sorted(missing))}"


def test_parameters_are_documented():
    none_of(list(undocumented()))


def examples():
    for name, member in members():
        examples = re.findall(r"!!! example\n((?:[ ]+.*\n|\n)+)", inspect.cleandoc(member.__doc__ or "") + "\n")
        for block in examples:
            # Later blocks of an example go on from the first.
            blocks = re.findall(r"```python\n(.*?)```", textwrap.dedent(block), re.DOTALL)
            assert blocks, name
            yield pytest.param("\n".join(map(textwrap.dedent, blocks)), id=name)


@pytest.mark.slow
@pytest.mark.parametrize("code", list(examples()))
def test_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    exec(compile(code, "example", "exec"), {"__name__": "example"})


def test_verb_names_its_numbers():
    compiled = []

    @verb(traced=("weight",))
    def scale(x, *, weight=1.0, count=2):
        compiled.append((weight, count))
        return weight * count * x

    for weight in (2, 3, 4.0):
        assert float(scale(jnp.ones(()), weight=weight)) == 2 * weight
    assert len(compiled) == 1
    scale(jnp.ones(()), weight=2, count=3)
    assert [count for _, count in compiled] == [2, 3]
    with pytest.raises(ValueError, match=r"`traced` names \['weigth'\]"):
        verb(traced=("weigth",))(scale)


def test_every_operator_noise_and_verb_has_an_example():
    found, missing = {parameter.id for parameter in examples()}, []
    for name, value in PUBLIC.items():
        module = ".".join(name.split(".")[1:-1]) or name.split(".")[1]
        verb = inspect.isfunction(value) and module in MODULES
        noun = (
            inspect.isclass(value) and not inspect.isabstract(value) and module in ("operators", "noise", "Likelihood")
        )
        if verb or (noun and name not in ("jaxinv.operators.Certificate",)):
            missing += {name} - found
    none_of(missing)
