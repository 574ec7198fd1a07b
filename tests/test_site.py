"""The site that `make docs` builds: complete, without a warning, and readable where there is no network."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from .web_driver import CHROMIUM, DRIVER, Browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = {
    "flowmap.interfaces": "reference-interfaces.md",
    "flowmap.plugin": "reference-plugin.md",
    "flowmap.workshop": "reference-workshop.md",
    "flowmap.testing": "reference-testing.md",
    "flowmap.api": "reference-python.md",
}
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
OTHERS = ("http://", "https://", "//")


def named(nav: Any) -> Iterator[str]:
    """The pages of a nav, in order."""
    for entry in [nav] if isinstance(nav, str) else nav.values() if isinstance(nav, dict) else nav:
        yield from [entry] if isinstance(entry, str) else named(entry)


def pages() -> list[str]:
    return list(named(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))


def test_every_page_has_one_place_in_the_nav() -> None:
    written = [str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md")]
    assert sorted(pages()) == sorted(written)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    shown = re.findall(r"^::: (\S+)$", (DOCS / PUBLIC[module]).read_text(), re.MULTILINE)
    names = [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    assert not set(names) - set(shown)


class Page(HTMLParser):
    """What a page loads, where its links lead, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.anchors |= {has[name] for name in ("id", "name") if name in has}
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        elif tag in LOADED and LOADED[tag] in has and has.get("rel") not in ("next", "prev", "canonical"):
            self.loads.append(has[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a copy, as `make docs` builds it."""
    if importlib.util.find_spec("zensical") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the site's generator is not installed: pip install 'flowmap[docs]'")
    copy = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, copy / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("zensical.toml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("flowmap", "plugins", "recipes", "tests"):
        (copy / name).symlink_to(ROOT / name)
    command = [sys.executable, "-W", "ignore", "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=copy, env={"PYTHONPATH": "docs"}, capture_output=True, text=True, check=False)
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "warning" not in said.lower(), said
    assert "No issues found" in said
    return copy / "site"


@pytest.fixture(scope="module")
def read(site: Path) -> dict[str, Page]:
    return {str(file.relative_to(site)): Page(file.read_text()) for file in site.glob("**/*.html")}


@pytest.mark.slow
def test_every_page_of_the_nav_is_built(site: Path) -> None:
    for page in pages():
        assert (site / re.sub(r"README\.md$", "index.md", page)).with_suffix(".html").exists(), page
    assert not list(site.glob("**/*.py"))


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path, read: dict[str, Page]) -> None:
    for name, page in read.items():
        assert page.loads
        for loaded in page.loads:
            assert not loaded.startswith(OTHERS), f"{name} loads {loaded}"
            if not loaded.startswith(("data:", "/")) and name != "404.html":
                assert (site / name).parent.joinpath(urlsplit(loaded).path).exists(), f"{name} lacks {loaded}"
    styles = list(site.glob("**/*.css"))
    assert styles
    for style in styles:
        for loaded in re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s]+)", style.read_text()):
            assert not loaded.startswith(OTHERS), f"{style} loads {loaded}"


@pytest.mark.slow
def test_every_link_and_anchor_leads_somewhere(site: Path, read: dict[str, Page]) -> None:
    checked = 0
    for name, page in read.items():
        for link in page.links if name != "404.html" else ():
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            to = str(((site / name).parent / unquote(parts.path)).resolve().relative_to(site.resolve()))
            to = name if not parts.path else f"{to}/index.html".removeprefix("./") if (site / to).is_dir() else to
            assert (site / to).exists(), f"{name}: {link}"
            if parts.fragment and to in read:
                assert unquote(parts.fragment) in read[to].anchors, f"{name}: {link}"
                checked += 1
    assert checked > 100


@pytest.mark.slow
def test_the_search_index_has_the_words(site: Path) -> None:
    items = json.loads((site / "search.json").read_text())["items"]
    words = ("StudentObjective", "semigroup", "sbatch", "--rehearse", "cfg_scale")
    found = {word: {i["location"].split("#")[0] for i in items if word in i["text"] + i["title"]} for word in words}
    assert "reference-interfaces.html" in found["StudentObjective"]
    assert all(found.values()), found
    assert (site / "search.js").read_text().startswith("var __index")


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver")
def test_a_browser_reads_and_searches_it_from_the_file_system_without_a_network(
    site: Path, read: dict[str, Page], tmp_path: Path
) -> None:
    browser = Browser((site / "index.html").as_uri(), tmp_path)
    inside = "return document.activeElement.shadowRoot?.querySelector('input')"
    try:
        browser.click(".md-search__button")
        browser.until(lambda: browser.run(f"{inside} !== null && {inside.removeprefix('return ')} !== undefined"))
        browser.run(f"const i = {inside.removeprefix('return ')}; i.value = 'semigroup'; "
                    "i.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
        links = "[...document.activeElement.shadowRoot.querySelectorAll('a')].map(a => a.href)"
        browser.until(lambda: any("semigroup" in link for link in browser.run(f"return {links}")))
        for name in read:
            if name == "404.html":  # it is shown by servers alone, at any depth
                continue
            browser.run("location.href = arguments[0]", (site / name).as_uri())
            browser.until(lambda name=name: browser.run("return document.readyState") == "complete"
                          and browser.run("return location.href").startswith((site / name).as_uri()))  # fmt: skip
        messages = [json.loads(line["message"])["message"] for line in browser.log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert len(asked) > len(read)
        assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]
        drawn = "return [...document.querySelectorAll('.equation math')].map(m => m.getBoundingClientRect().height)"
        browser.run("location.href = arguments[0]", (site / "derivations.html").as_uri())
        browser.until(lambda: browser.run(drawn))
        assert min(browser.run(drawn)) > 10
    finally:
        browser.close()
