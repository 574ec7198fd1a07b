"""An index of tar files: what is in them, and where, so that any member can be read without the rest. Torch-free."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final

from flowmap.shards.entries import Entry, Members, Tar, cannot_read, length_of
from flowmap.shards.faults import Faults
from flowmap.shards.tars import Member, members

# What lies beside samples in many tars, and what macOS adds to each file: nothing is lost with it.
_PAPERS = ("", ".txt", ".md", ".rst", ".html", ".csv", ".tsv", ".log", ".md5", ".sha256", ".xml", ".yaml", ".yml")
_OF_MACOS = "._"
_SHOWN = 3
_MOST_LINKS = 8  # from one to the next, before they are taken for a circle


def index(tars: Sequence[Path], faults: Faults, wanted: Members) -> list[Entry]:
    """The samples of all `tars`, by key, from headers alone.

    A damaged tar is a fault, and its whole members are used. A sample of which a member cannot be had, or is there
    twice, keeps its place and has a `problem`.
    """
    entries = [entry for tar in tars for entry in _entries(tar, faults, wanted)]
    return sorted(entries, key=lambda entry: (entry.key, str(entry.part.path)))


@final
class Found:
    """What a tar or a folder has, by name; `wanted` are the parts of a sample."""

    def __init__(self, wanted: Members) -> None:
        self._largest = wanted.largest
        self.samples: dict[str, dict[str, Member]] = {}
        self.spoilt: dict[str, str] = {}
        self.others: list[str] = []

    def add(self, member: Member) -> None:
        """Put a member to its sample, or to what is no part of one."""
        folder, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.rpartition(".")
        suffix = (dot + suffix).lower()
        if base.startswith(_OF_MACOS):
            return
        if not stem or suffix not in self._largest:
            if suffix in self._largest or (stem and suffix not in _PAPERS):
                self.others.append(member.name)
            return
        # As PurePosixPath has names, without its time for hundreds of thousands.
        key = posixpath.normpath(f"{folder}/{stem}" if folder else stem)
        parts = self.samples.setdefault(key, {})
        if suffix in parts:
            self.spoilt.setdefault(key, f"there are two {suffix} of this name, and nothing says which is meant")
        if member.problem:
            self.spoilt.setdefault(key, f"its {suffix} {member.problem}")
        parts[suffix] = member

    def follow_links(self) -> None:
        """Give members that are another name of a member the bytes of that one."""
        if not any(member.link for parts in self.samples.values() for member in parts.values()):
            return
        everything = {
            posixpath.normpath(member.name): member for parts in self.samples.values() for member in parts.values()
        }
        for key, parts in self.samples.items():
            for suffix, member in parts.items():
                end = _end(member, everything)
                if end is None:
                    self.spoilt.setdefault(key, f"its {suffix} is a link to {member.link}, which is not in the tar")
                elif end.problem:
                    self.spoilt.setdefault(key, f"its {suffix} is a link to {member.link}, which {end.problem}")
                else:
                    parts[suffix] = end

    def refuse_large(self) -> None:
        """Spoil samples that would fill the memory."""
        for key, parts in self.samples.items():
            for suffix, member in parts.items():
                if member.size > self._largest[suffix]:
                    text = f"its {suffix} has {member.size} bytes, more than the {self._largest[suffix]} that are read"
                    self.spoilt.setdefault(key, text)

    def unread(self) -> str:
        """Which members look like a part of a sample, and are of none; empty if there are none."""
        names = [name for name in self.others if not self._beside(name)]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = f"{', '.join(names[:_SHOWN])}{more}"
        return f"{len(names)} of its files are no part of a sample and not read: {shown}" if names else ""

    def _beside(self, name: str) -> bool:
        """Whether a sample has the same name: WebDataset's tars may have more than is read here."""
        folder, _, base = posixpath.normpath(name).rpartition("/")
        keys = (base.rpartition(".")[0], base.partition(".")[0])
        return any((f"{folder}/{key}" if folder else key) in self.samples for key in keys)


def _entries(tar: Path, faults: Faults, wanted: Members) -> Iterator[Entry]:
    found = Found(wanted)
    try:
        with tar.open("rb") as file:
            length = length_of(file)
            for member in members(file, length, lambda text: faults.add(str(tar), "", text)):
                found.add(member)
    except OSError as error:
        raise cannot_read(tar, error) from None
    found.follow_links()
    found.refuse_large()
    if unread := found.unread():
        faults.add(str(tar), "", unread)
    part = Tar(tar, length)
    for key, parts in found.samples.items():
        places = {suffix: (member.offset, member.size) for suffix, member in parts.items()}
        yield Entry(part, key, places, found.spoilt.get(key, ""))


def _end(member: Member, everything: dict[str, Member]) -> Member | None:
    """The member that a link leads to in the end; None if it leads out of the tar, or in a circle."""
    for _ in range(_MOST_LINKS):
        if not member.link:
            return member
        folder = posixpath.dirname(member.name) if member.symbolic else ""
        found = everything.get(posixpath.normpath(posixpath.join(folder, member.link)))
        if found is None:
            return None
        member = found
    return None
