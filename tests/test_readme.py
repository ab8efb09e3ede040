"""The Python blocks of the README and of the site run as they stand, and its commands are the ones that CI runs."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks():
    for page in PAGES:
        for number, (_, code) in enumerate(FENCED.findall(page.read_text())):
            yield pytest.param(page.name, textwrap.dedent(code), id=f"{page.name}-{number}")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), list(blocks()))
def test_block_runs(page, code, capsys):
    exec(compile(code, page, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


def test_has_blocks_and_commands():
    assert len(FENCED.findall(README)) >= 1
    assert len(README.splitlines()) < 120
    assert 'python -m pip install -e ".[demo]" && jaxinv demo' in README
    assert 'python -m pip install -e ".[test]" && python -m pytest' in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
