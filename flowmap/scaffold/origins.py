"""Where a copy comes from: whose it is, under which licence, and what it needs beside flowmap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import PurePath
from typing import final

from flowmap.plugin.catalogue import Component

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
_FLOWMAP = "flowmap"


@final
@dataclass(frozen=True)
class Origin:
    """The licence of what was copied: its `line` in pyproject.toml, the README's `words`, and its own `files`."""

    line: str
    words: str
    files: Mapping[str, str]


def origin_of(component: Component) -> Origin:
    """The licence of the distribution that `component` is of."""
    owner = component.distribution
    copied = f"Copied from {owner}"
    try:
        found = distribution(owner.split(" ")[0])
    except PackageNotFoundError:
        return Origin("", f"{copied}, whose licence is not known here: ask its authors before you pass this on.", {})
    expression = _said(found, "License-Expression")
    told = expression or _said(found, "License")
    files = dict(_licence_files(found))
    kept = f"; its terms are in {', '.join(f'`{file}`' for file in sorted(files))}" if files else ""
    if not told or "\n" in told:
        unsaid = "" if files else " that does not name a licence: ask its authors before you pass this on"
        return Origin("", f"{copied}{unsaid}{kept}.", files)
    line = f'license = "{told}"' if expression else f"# license: {told}"
    return Origin(line, f"{copied} under {told}{kept}. What you add is under a licence that goes with that.", files)


def needed_beside(modules: Iterable[str]) -> list[str]:
    """The distributions that `modules` are of, without flowmap and what that needs itself."""
    needs = [line for line in distribution(_FLOWMAP).requires or [] if "extra ==" not in line]
    theirs = {_plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in needs} | {_FLOWMAP}
    # Most are called as their module is. To find the others takes a second.
    rest = [module for module in modules if _plain(module) not in theirs]
    owners = packages_distributions() if rest else {}
    return sorted(name for module in rest for name in set(owners.get(module, [])) if _plain(name) not in theirs)


def _licence_files(found: Distribution) -> Iterable[tuple[str, str]]:
    for file in found.files or ():
        path = PurePath(file)
        if path.parts[0].endswith(".dist-info") and _LICENCE_FILE.match(path.name):
            yield path.name, file.read_text(encoding="utf-8")


def _said(found: Distribution, key: str) -> str:
    return " ".join(found.metadata.get_all(key) or [])


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
