"""The pages of the documentation that lie beside the code, in a clone as in a wheel, by name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from flowmap.errors import FlowmapError

_PACKAGE = Path(__file__).parents[1]
# A wheel has them in the package; in a clone the package's folder has none, and they lie beside it.
_PLACES = (_PACKAGE / "docs", _PACKAGE.parent / "docs")
# What is made of docstrings, or has another file's text, only on the site.
_OF_THE_SITE = ("reference-", "changelog", "contributing", "index")


def pages() -> dict[str, Path]:
    """The file of each page that reads well as text, by its name, in alphabetical order."""
    folder = next((place for place in _PLACES if place.is_dir()), None)
    found = () if folder is None else sorted(folder.glob("*.md"))
    return {path.stem: path for path in found if not path.stem.startswith(_OF_THE_SITE)}


def title_of(text: str) -> str:
    """The heading of the page `text`."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def page(name: str) -> str:
    """The text of the page called `name`, as Markdown. Raises FlowmapError if there is none, naming all."""
    known = pages()
    wanted = name.partition("#")[0].removesuffix(".md")
    if wanted in known:
        return known[wanted].read_text("utf-8")
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f". Did you mean '{near[0]}'?" if near else ""
    raise FlowmapError(f"no page is called '{name}'; there are {', '.join(known)}{hint}")
