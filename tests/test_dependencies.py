"""What pyproject.toml declares: all that the package imports, and nothing with a fault that is known."""

import ast
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = PROJECT["dependencies"] + [line for extra in ("demo", "mcmc", "files", "scale") for line in EXTRAS[extra]]
# The first release without the faults that the list of known vulnerabilities has, or that bundles a library without.
SOUND = {"h5py": (3, 16), "pillow": (12, 2), "tqdm": (4, 66, 3), "scikit-learn": (1, 5), "scipy": (1, 11, 1)}


# Only looked for, by code that runs in its shell.
OPTIONAL = {"IPython"}


def imported():
    found = set()
    for path in (ROOT / "jaxinv").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    return found - sys.stdlib_module_names - OPTIONAL


def test_what_is_imported_is_declared():
    sources = importlib.metadata.packages_distributions()
    names = {re.split("[<>=]", requirement)[0].lower() for requirement in DECLARED}
    missing = {module for module in imported() if not {name.lower() for name in sources[module]} & names}
    assert not missing


@pytest.mark.parametrize("name", SOUND)
def test_no_version_with_a_known_fault_is_admitted(name):
    bounds = {requirement.split(">=")[1] for requirement in DECLARED if re.split("[<>=]", requirement)[0] == name}
    assert bounds
    for bound in bounds:
        assert tuple(int(part) for part in bound.split(".")) >= SOUND[name]
