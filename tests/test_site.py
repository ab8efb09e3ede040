"""The site's own checks that need no MkDocs: every public name on one page, every result and script on a page."""

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(DOCS / "_tools"), *sys.path])


def test_every_public_name_is_on_one_page():
    import public_names

    assert public_names.faults() == []


def test_a_name_on_no_page_and_one_on_two_are_found(monkeypatch):
    import public_names

    pages = public_names.shown()
    del pages["jaxinv.operators.certify"]
    pages["jaxinv.operators.Mask"] = ["one.md", "two.md"]
    pages["jaxinv.operators.Nothing"] = ["one.md"]
    monkeypatch.setattr(public_names, "shown", lambda: pages)
    faults = "\n".join(public_names.faults())
    assert "jaxinv.operators.certify is on 0 pages" in faults
    assert "jaxinv.operators.Mask is on 2 pages of the reference: one.md, two.md" in faults
    assert "jaxinv.operators.Nothing is on one.md, and is not public" in faults


def test_every_result_is_on_a_page_and_every_table_has_rows():
    import results

    pages = [path.read_text() for path in sorted((DOCS / "benchmarks").glob("*.md"))]
    assert results.files_without_page(pages) == []
    for page in pages:
        tables = results.with_tables(page)
        assert "[[" not in tables
        assert not re.search(r"^ *\|.*\| *\|", tables, re.MULTILINE), "an empty cell"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_of_the_gallery_has_a_title_and_its_figure(script):
    text = script.read_text()
    assert re.match(r"# %% \[markdown\]\n# # \S", text)
    assert f'"{script.stem}.png"' in text
    assert script.with_suffix(".png").exists()
    assert len(text.splitlines()) < 90


def test_every_script_of_the_gallery_is_on_its_page_once():
    page = (DOCS / "gallery" / "index.md").read_text()
    named = [name for found in re.findall(r"\[\[gallery: ([\w ]+)\]\]", page) for name in found.split()]
    assert sorted(named) == [script.stem for script in SCRIPTS]
