"""What a new package may be called: one word for its folder, its module, its distribution and its component."""

from __future__ import annotations

import keyword
import re
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import Catalogue
from flowmap.scaffold.kinds import one_of
from flowmap.schema.bounds import MOST_NAME
from flowmap.schema.words import plain

_NAME = re.compile(r"[a-z](_?[a-z0-9])*")
_FOLDERS = ("build", "dist", "runs", "tests")
"""What lies beside the module in a package's folder, or will."""


def refuse_unusable(name: str, catalogue: Catalogue) -> None:
    """Raise FlowmapError if `name` is no name for a package, or one that something installed has."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or len(name) > MOST_NAME:
        raise FlowmapError(
            f"'{plain(name)}' is no name for a package, which Python imports: use at most {MOST_NAME} lower-case "
            f"letters, digits and single '_', beginning with a letter{_hint(name)}"
        )
    for component in catalogue.components:
        if component.name == name:
            raise FlowmapError(
                f"{one_of(component.kind)} of {component.distribution} is called '{name}' already; choose another name"
            )
    if name in _FOLDERS or name in sys.stdlib_module_names:
        whose = "is a folder that every package has" if name in _FOLDERS else "is a module of Python's own"
        raise FlowmapError(f"'{name}' {whose}, which a package of that name would hide; choose another name")
    owner = _owner_of(name)
    if owner is not None:
        raise FlowmapError(
            f"'{name}' is installed here already, by {owner}, which a package of that name would hide; choose another"
        )


def distribution_name(name: str) -> str:
    """What the package `name` is called by pip."""
    return name.replace("_", "-")


def class_name(name: str) -> str:
    """The words of `name` as a class is called: my_unet is MyUnet."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _hint(name: str) -> str:
    """A name like it that could be one."""
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower())
    meant = "_".join(words)
    return f": '{meant}', say" if _NAME.fullmatch(meant) and not keyword.iskeyword(meant) else ""


def _owner_of(name: str) -> str | None:
    """Who has installed a distribution or a module called `name`; None if nobody has. Imports nothing."""
    with suppress(PackageNotFoundError):
        return str(distribution(name).metadata["Name"])
    # A folder that is no package is in nobody's way.
    found = PathFinder.find_spec(name)
    if found is None or found.origin is None:
        return None
    return " and ".join(sorted(set(packages_distributions().get(name, [found.origin]))))
