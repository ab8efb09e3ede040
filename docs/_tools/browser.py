"""Looks at every page of the built site in a real browser, and keeps a picture of each.

    python -m pip install playwright && playwright install chromium
    mkdocs build && python docs/_tools/browser.py site pictures

A Chromium that the system has (`apt install chromium`) does as well. Each page is opened as a desktop shows it, in dark
mode, and 390 pixels wide. It is a fault if a page scrolls sideways there, if a script fails, if a formula is not
typeset, if a picture is missing, or if the search does not find `certify`.
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
WIDEST = """() => [...document.querySelectorAll('article *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest('pre, .md-typeset__scrollwrap, .katex, details:not([open])')).slice(0, 2)
  .map(e => e.tagName + ': ' + e.textContent.slice(0, 60))"""
UNSET = """() => [...document.querySelectorAll('.arithmatex')].filter(e => !e.querySelector('.katex')).length
  + document.querySelectorAll('.katex-error').length"""
BROKEN = "() => [...document.images].filter(i => i.complete && i.naturalWidth === 0).map(i => i.src)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="the folder that `mkdocs build` wrote")
    parser.add_argument("pictures", type=Path, help="the folder for the pictures")
    parser.add_argument("--only", default="", help="look only at pages whose path contains this")
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=options.site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}/"
    pages = sorted(path.parent.relative_to(options.site).as_posix() for path in options.site.rglob("index.html"))
    pages = [page for page in pages if options.only in page]
    faults: list[str] = []

    def note(error) -> None:
        faults.append(f"a script fails: {error}")

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, size, scheme in (
            ("desktop", (1280, 900), "light"),
            ("dark", (1280, 900), "dark"),
            ("narrow", (390, 844), "light"),
        ):
            context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
            page = context.new_page()
            page.on("pageerror", note)
            for path in pages:
                page.goto(root + path + "/", wait_until="load")
                faults += [f"{path}, {name}: {fault}" for fault in look(page, name)]
                picture = options.pictures / f"{path.replace('/', '-').strip('.') or 'home'}-{name}.png"
                page.screenshot(path=picture, full_page=name == "desktop" and "reference" not in path)
            if name == "desktop" and not options.only:
                faults += search(page, root)
            context.close()
        browser.close()
    print("\n".join(faults) or f"{len(pages)} pages, three times each: no faults.")
    return bool(faults)


def look(page: Page, name: str) -> list[str]:
    faults = []
    if page.locator(".arithmatex").count():
        page.wait_for_timeout(300)
    if unset := page.evaluate(UNSET):
        faults.append(f"{unset} formulas are not typeset")
    faults += [f"no picture {source}" for source in page.evaluate(BROKEN)]
    if name == "narrow" and (over := page.evaluate(OVERFLOW)) > 0:
        faults.append(f"the page is {over} pixels too wide: {page.evaluate(WIDEST)}")
    return faults


def search(page: Page, root: str) -> list[str]:
    page.goto(root)
    page.keyboard.press("s")
    page.keyboard.type("certify")
    try:
        page.wait_for_selector(".md-search-result__item", timeout=10_000)
    except Exception:
        return ["the search finds nothing for certify"]
    return []


if __name__ == "__main__":
    sys.exit(main())
