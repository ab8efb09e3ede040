"""What the site adds to MkDocs: notebooks, gallery and results as pages, links to the reference, the checks."""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from percent import code_of, figures_of, page_of
from public_names import faults, places
from results import files_without_page, with_tables

ROOT = Path(__file__).parent.parent.parent
log = logging.getLogger("mkdocs.hooks")
_places = {}


def on_config(config):
    for fault in faults():
        log.warning(fault)
    for name in files_without_page([path.read_text() for path in (ROOT / "docs" / "benchmarks").glob("*.md")]):
        log.warning(f"benchmarks/results/{name}.jsonl is on no page of docs/benchmarks.")
    _places.update(places())
    notebooks = [f"notebooks/{path.stem}.md" for path in sorted((ROOT / "notebooks").glob("*.py"))]
    gallery = [f"gallery/{path.stem}.md" for path in _scripts()]
    for item in config.nav:
        if item.get("Notebooks") == []:
            item["Notebooks"] = notebooks
        if item.get("Gallery") == []:
            item["Gallery"] = ["gallery/index.md", *gallery]
    if not (ROOT / "docs" / "lecture.md").exists():
        config.nav = [item for item in config.nav if item != {"Lecture": "lecture.md"}]
    return config


def on_files(files, config):
    for source in [*sorted((ROOT / "notebooks").glob("*.py")), *_scripts()]:
        page = f"{source.parent.name}/{source.stem}.md"
        files.append(File.generated(config, page, content=page_of(source, figures_of(source))))
    for figure in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        if files.get_file_from_path(f"figures/{figure.name}") is None:
            files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown, page, config, files):
    markdown = re.sub(r"\[\[code: (\S+)\]\]", lambda found: code_of(ROOT / found[1]), markdown)
    return with_tables(re.sub(r"\[\[gallery: ([\w ]+)\]\]", _gallery, markdown))


def _scripts():
    """The scripts of the gallery, in the order of its page."""
    page = (ROOT / "docs" / "gallery" / "index.md").read_text()
    names = [name for found in re.findall(r"\[\[gallery: ([\w ]+)\]\]", page) for name in found.split()]
    return [ROOT / "docs" / "gallery" / f"{name}.py" for name in names]


def _gallery(found):
    """A picture and a title for each of these scripts."""
    cards = []
    for name in found[1].split():
        title = re.search(r"^# # (.*)$", (ROOT / "docs" / "gallery" / f"{name}.py").read_text(), re.MULTILINE)[1]
        cards.append(f"[![]({name}.png)\n**{title}**]({name}.md)")
    return '<div class="gallery" markdown>\n' + "\n\n".join(cards) + "\n</div>"


def on_page_content(html, page, config, files):
    """`operators.certify` in a text becomes a link to the reference."""

    def link(match):
        name = re.sub(r"\(.*", "", match[2]).removeprefix("jaxinv.")
        if name not in _places:
            return match[0]
        target, anchor = _places[name]
        url = posixpath.relpath(files.get_file_from_path(target).url, page.file.url or ".")
        return f'{match[1]}<a href="{url}/#{anchor}"><code>{match[2]}</code></a>'

    # Headings and links stay as they are.
    parts = re.split(r"(<h\d.*?</h\d>|<a .*?</a>|<pre.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = [re.sub(r"()<code>([A-Za-z_.]+(?:\([^<]*\))?)</code>", link, part) for part in parts[::2]]
    return "".join(parts)
