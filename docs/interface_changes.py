"""What a change of the public interface asks for: a version, a list, and words in the changelog.

A version of the plugin interface is released when a section of CHANGELOG.md with a date says so, with the digest of its
list. From then on that list stays as it is, and what differs from it needs a higher version.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

Version: TypeAlias = tuple[int, int]

RUN = "python docs/interface.py"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_SAID = re.compile(r"^- Plugin interface (\d+)\.(\d+)(?: \(list ([0-9a-f]+)\))?", re.MULTILINE)


@final
@dataclass(frozen=True)
class Change:
    """One difference between two lists; `breaks` says that what others wrote may not work with it any more."""

    name: str
    words: str
    breaks: bool

    def __str__(self) -> str:
        """In a line."""
        return f"{self.name} {self.words} ({'a break' if self.breaks else 'an addition'})"


@final
@dataclass(frozen=True)
class Section:
    """A section of the changelog: what it says of the interface, and of which list."""

    title: str
    text: str
    interface: Version | None
    digest: str | None

    @property
    def released(self) -> bool:
        """Whether it is of a release."""
        return "unreleased" not in self.title


def sections(changelog: str) -> list[Section]:
    """The sections of the changelog, the newest first."""
    _, *parts = _SECTION.split(changelog)
    found = []
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        said = _SAID.search(text)
        found.append(Section(title, text, (int(said[1]), int(said[2])) if said else None, said[3] if said else None))
    return found


def digest(listing: str) -> str:
    """What tells lists apart, short enough for a line."""
    return hashlib.sha256(listing.encode()).hexdigest()[:12]


def entries(listing: str) -> dict[str, str]:
    """What a list says, by dotted names, members of classes among them."""
    found: dict[str, str] = {}
    owner = ""
    for line in listing.splitlines():
        if line and not line.startswith("#"):
            key, _, text = line.strip().partition(": ")
            if not line.startswith(" "):
                owner = key
            found[f"{owner}.{key}" if line.startswith(" ") else key] = text
    return found


def changes(before: str, after: str) -> list[Change]:
    """Everything that differs between two lists; of a class that came or went, the class alone."""
    old, new = entries(before), entries(after)
    found = []
    for name in sorted(old.keys() | new.keys()):
        owner = name.rpartition(".")[0]
        if name not in new:
            if owner in new or owner not in old:
                found.append(Change(name, "is gone", True))
        elif name not in old:
            if owner in old or owner not in new:
                found.append(Change(name, "is new", owner in new and _must_be_given(new[owner], new[name])))
        elif old[name] != new[name]:
            allowed = _allows_more(new.get(owner, "final"), old[name], new[name])
            found.append(Change(name, f"was '{old[name]}' and is '{new[name]}'", not allowed))
    return found


def _must_be_given(owner: str, text: str) -> bool:
    """Whether classes that others wrote, or calls that they make, lack a new member."""
    if "def(" in text or text == "attribute":
        return "abstractmethod" in text
    return " = " not in f" {text}" and ("dataclass" in owner or "final" not in owner.split())


def _allows_more(owner: str, before: str, after: str) -> bool:
    """Whether all that was right with `before` is right with `after`."""
    if before.replace("abstractmethod ", "") == after:
        return True
    if "def(" not in before or "def(" not in after:
        return after.startswith(f"{before} = ") or _more_words(before, after)
    head, tail = before.split("def(", 1), after.split("def(", 1)
    # Who overrides a method would not take what is new.
    closed = "final" in owner.split() or "final" in head[0].split()
    return head[0] == tail[0] and closed and _takes_more(f"def({head[1]}", f"def({tail[1]}")


def _takes_more(before: str, after: str) -> bool:
    old, new = (ast.parse(f"{text.replace('def(', 'def f(', 1)}: ...").body[0] for text in (before, after))
    assert isinstance(old, ast.FunctionDef)
    assert isinstance(new, ast.FunctionDef)
    was, now = list(_arguments(old.args)), list(_arguments(new.args))
    if [ast.dump(node) for node in (old.returns,) if node] != [ast.dump(node) for node in (new.returns,) if node]:
        return False
    places = [argument for argument in now if argument[0] == "place"]
    before_places = [argument for argument in was if argument[0] == "place"]
    added = [argument for argument in now if argument not in was]
    return set(was) <= set(now) and places[: len(before_places)] == before_places and all(a[3] for a in added)


def _arguments(arguments: ast.arguments) -> Iterator[tuple[str, str, str, str]]:
    """Kind, name, annotation and default of each."""
    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(placed) - len(arguments.defaults)) + list(arguments.defaults)
    groups = [("place", placed, defaults), ("key", arguments.kwonlyargs, arguments.kw_defaults)]
    groups += [(kind, [rest], [None]) for kind, rest in (("*", arguments.vararg), ("**", arguments.kwarg)) if rest]
    for kind, each, given in groups:
        for argument, default in zip(each, given, strict=True):
            annotation = ast.unparse(argument.annotation) if argument.annotation else ""
            yield kind, argument.arg, annotation, ast.unparse(default) if default else ""


def _more_words(before: str, after: str) -> bool:
    """Whether a Literal has got further words."""
    old, new = (set(re.findall(r"'[^']*'", text)) for text in (before, after))
    return old < new and re.sub(r"'[^']*'(, )?", "", before) == re.sub(r"'[^']*'(, )?", "", after)


def asked_for(last: Version, found: list[Change]) -> Version:
    """The lowest version that an interface may have which differs so from `last`, which is released."""
    if any(change.breaks for change in found):
        return last[0] + 1, 0
    return (last[0], last[1] + 1) if found else last


def problems(current: Version, recomputed: str, lists: Mapping[Version, str], changelog: str) -> list[str]:
    """What is still to be done before version `current` of the interface, which is `recomputed`, says what it is."""
    every = sections(changelog)
    released = [section for section in every if section.released and section.interface]
    found = [*_frozen(released, lists), *_of_the_release(current, recomputed, released, lists, every[0])]
    if every[0].interface != current:
        found.append(f"CHANGELOG.md, {every[0].title}: it needs a line '- Plugin interface {_told(current)}: ...'")
    if lists.get(current) != recomputed:
        differing = "".join(f"\n  {change}" for change in changes(lists.get(current, ""), recomputed))
        found.append(f"docs/interface/{_told(current)}.txt is not what is public:{differing}\n  run: {RUN}")
    known = {section.interface for section in released} | {current}
    found += [f"docs/interface/{_told(v)}.txt is of no release: remove it" for v in lists if v not in known]
    return found


def _frozen(released: list[Section], lists: Mapping[Version, str]) -> Iterator[str]:
    """Lists that are not as they were released."""
    for section in released:
        assert section.interface is not None
        number = _told(section.interface)
        there = digest(lists.get(section.interface, ""))
        if section.digest is None:
            told = f"- Plugin interface {number} (list {there})"
            yield f"CHANGELOG.md, {section.title}: a release says its list: '{told}'"
        elif section.digest != there:
            yield f"docs/interface/{number}.txt is not as it was released with {section.title}: restore it"


def _of_the_release(
    current: Version, recomputed: str, released: list[Section], lists: Mapping[Version, str], newest: Section
) -> Iterator[str]:
    """What is to be done because it differs from what was released last."""
    last = released[0].interface if released else None
    if last is None or last not in lists:
        return
    found = changes(lists[last], recomputed)
    lowest = asked_for(last, found)
    if current < lowest:
        differing = "".join(f"\n  {change}" for change in found)
        yield (
            f"version {_told(last)} of the interface is released, and this is another:{differing}\n  set INTERFACE in "
            f"flowmap/plugin/version.py to {_told(lowest)}, and the groups of entry points in pyproject.toml; then: "
            f"{RUN}"
        )
    for change in found:
        short = re.escape(change.name.rpartition(".")[2])
        if newest.released or not re.search(rf"`[^`\n]*\b{short}\b[^`\n]*`", newest.text):
            yield f"CHANGELOG.md, {newest.title}: it does not name `{change.name}`, which {change.words}"


def _told(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
