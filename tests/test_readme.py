"""The README's Python blocks run as they stand, and its commands are the ones that CI runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, capsys):
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_has_blocks_and_commands():
    assert len(BLOCKS) >= 2
    assert 'python -m pip install -e ".[demo]" && jaxinv demo' in README
    assert 'python -m pip install -e ".[test]" && python -m pytest' in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
