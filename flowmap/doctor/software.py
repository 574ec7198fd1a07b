"""What is installed: versions, what flowmap requires of them, extras, trackers, plugins. Torch-free."""

from __future__ import annotations

import platform
import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import final, get_args

from flowmap.plugin.catalogue import Catalogue
from flowmap.recipe.tables import ComputeConfig
from flowmap.version import __version__

_SHOWN = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "scipy", "pydantic", "av")
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?(?:>=([\d.]+))?([^;]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_TESTS = "dev"
"""The extra that only work on flowmap itself needs."""


@final
@dataclass(frozen=True)
class Plugin:
    """A distribution, how many components of each kind it brings, and what is wrong with entry points of it.

    `broken` are those that could not be loaded, `remarks` what is to be said of others.
    """

    distribution: str
    components: dict[str, int]
    broken: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def versions() -> dict[str, str]:
    """The versions that a bug report needs, by name; what is not installed is said to be so."""
    found = {"flowmap": __version__, "python": platform.python_version(), "system": platform.platform()}
    return found | {name: _version(name) or "not installed" for name in _SHOWN}


def unmet() -> list[str]:
    """What flowmap requires and is not installed, or is too old: each a sentence."""
    found = []
    for name, least, extra in _requirements():
        if extra is None and (problem := _problem(name, least)):
            found.append(problem)
    return found


def extras() -> dict[str, str]:
    """Each extra of flowmap by its name, with what of it is not installed; empty text if nothing is."""
    lacking: dict[str, list[str]] = {}
    for name, least, extra in _requirements():
        if extra is not None and extra != _TESTS:
            lacking.setdefault(extra, [])
            if _problem(name, least):
                lacking[extra].append(name)
    return {extra: ", ".join(names) for extra, names in lacking.items()}


def trackers() -> dict[str, str]:
    """The version of each tracker that a recipe can name, or that it is not installed."""
    (names, _) = get_args(ComputeConfig.model_fields["trackers"].annotation)
    return {name: _version(name) or "not installed" for name in get_args(names)}


def plugins(found: Catalogue) -> tuple[Plugin, ...]:
    """Every distribution with components in `found`, or with plugins that could not be loaded."""
    owners = {c.distribution for c in found.components} | {b.distribution for b in found.broken}
    return tuple(
        Plugin(
            owner,
            dict(Counter(c.kind for c in found.components if c.distribution == owner)),
            tuple(f"{b.entry_point}: {b.reason}" for b in found.broken if b.distribution == owner),
            tuple(f"{r.entry_point}: {r.text}" for r in found.remarks if r.distribution == owner),
        )
        for owner in sorted(owners)
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirements() -> list[tuple[str, str, str | None]]:
    """Name, least version (empty: any) and extra of everything that flowmap's own metadata ask for."""
    try:
        told = requires("flowmap") or []
    except PackageNotFoundError:
        return []  # run from its source, uninstalled: nothing says what it needs
    found = []
    for line in told:
        match, extra = _REQUIREMENT.match(line), _EXTRA.search(line)
        assert match is not None, line
        found.append((match[1], match[2] or "", extra and extra[1]))
    return found


def _problem(name: str, least: str) -> str | None:
    there = _version(name)
    if there is None:
        return f"{name} is not installed: pip install '{name}{'>=' + least if least else ''}'"
    if least and _numbers(there) < _numbers(least):
        return f"{name} is {there}, and flowmap needs {least}: pip install -U '{name}>={least}'"
    return None


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: 2.13.0 of "2.13.0+cu130"."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0]))
