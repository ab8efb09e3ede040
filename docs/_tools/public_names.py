"""Every public name is on exactly one page of the reference: `python docs/_tools/public_names.py`.

The site's build asks for the same list: a name on no page or on two, or a page that shows what is not public, is an
error. An object with two public names (a protocol that two modules speak of) is on one page, under one of them.
"""

import importlib
import re
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parent.parent


def public_objects() -> dict[int, list[str]]:
    """The public names of each public object, of the package and of all its public modules."""
    names = defaultdict(list)
    _collect(importlib.import_module("jaxinv"), names)
    return names


def _collect(module: ModuleType, names: dict[int, list[str]]) -> None:
    for name in sorted(module.__all__):
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            _collect(value, names)
        elif not name.startswith("__"):
            names[id(value)].append(f"{module.__name__}.{name}")


def shown() -> dict[str, list[str]]:
    """The pages of the reference, relative to `docs/`, on which each name stands."""
    pages = defaultdict(list)
    for path in sorted(DOCS.rglob("*.md")):
        for name in re.findall(r"^::: (jaxinv\.\S+)$", path.read_text(), re.MULTILINE):
            pages[name].append(path.relative_to(DOCS).as_posix())
    return pages


def faults() -> list[str]:
    """What is wrong, one sentence each."""
    pages = shown()
    objects = public_objects()
    public = {name for names in objects.values() for name in names}
    wrong = [f"{name} is on {', '.join(pages[name])}, and is not public." for name in sorted(pages.keys() - public)]
    for names in objects.values():
        where = [page for name in names for page in pages.get(name, ())]
        if len(where) != 1:
            wrong.append(
                f"{' = '.join(names)} is on {len(where)} pages of the reference: {', '.join(where) or 'none'}."
            )
    return wrong


def places() -> dict[str, tuple[str, str]]:
    """For each public name without `jaxinv.`: the page on which it stands, and the anchor there."""
    pages = shown()
    found = {}
    for names in public_objects().values():
        anchors = [name for name in names if name in pages]
        if anchors:
            found |= {name.removeprefix("jaxinv."): (pages[anchors[0]][0], anchors[0]) for name in names}
    return found


if __name__ == "__main__":
    wrong = faults()
    print("\n".join(wrong) or f"{len(places())} public names, each on one page.")
    sys.exit(bool(wrong))
