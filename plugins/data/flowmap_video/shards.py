"""An index of tar files: what is in them, and where, so that any member can be read without the rest."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, final

from flowmap.errors import ClipError, FlowmapError
from flowmap_video.faults import Faults
from flowmap_video.tars import Member, members

Layout = Literal["raw", "encoded"]

VIDEO, LATENT, ABOUT = ".mp4", ".safetensors", ".json"

LARGEST = {VIDEO: 2**30, LATENT: 2**30, ABOUT: 2**24}
"""Bytes of a member, which is read whole: an hour of good video, sixty latents of 81 frames at 480 x 832, and captions
that nobody has written."""

# What lies beside samples in many tars, and what macOS adds to each file: nothing is lost with it.
_PAPERS = ("", ".txt", ".md", ".rst", ".html", ".csv", ".tsv", ".log", ".md5", ".sha256", ".xml", ".yaml", ".yml")
_OF_MACOS = "._"
_SHOWN = 3
_MOST_LINKS = 8  # from one to the next, before they are taken for a circle


@final
@dataclass(frozen=True)
class Entry:
    """A sample: its tar, its key, (offset, size) of its members by suffix, and why it cannot be used, if so.

    `length` is the size of the tar, by which another one in its place is noticed.
    """

    tar: Path
    key: str
    members: dict[str, tuple[int, int]]
    length: int
    problem: str = ""

    def has(self, suffix: str) -> bool:
        """Whether the sample has such a member."""
        return suffix in self.members

    def read(self, suffix: str) -> bytes:
        """The bytes of a member; raises ClipError if the sample cannot be used.

        The file is opened anew: there is no handle that a fork or a copy could share.
        """
        if self.problem:
            raise ClipError(self.problem)
        offset, size = self.members[suffix]
        try:
            with self.tar.open("rb") as file:
                length = _length(file)
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise FlowmapError(f"{self.tar} cannot be read: {error.strerror}", code=1) from None
        if len(content) < size or length != self.length:
            raise FlowmapError(f"{self.tar} was cut or replaced while it was in use; start again", code=1)
        return content


def index(tars: Sequence[Path], faults: Faults) -> list[Entry]:
    """The samples of all `tars`, by key, from headers alone.

    A damaged tar is a fault, and its whole members are used. A sample of which a member cannot be had, or is there
    twice, keeps its place and has a `problem`.
    """
    entries = [entry for tar in tars for entry in _entries(tar, faults)]
    return sorted(entries, key=lambda entry: (entry.key, str(entry.tar)))


def layout(entries: Sequence[Entry], path: str, faults: Faults) -> Layout:
    """Whether the samples are raw or encoded; raises FlowmapError if there are none, or some of both."""
    raw = next((entry for entry in entries if entry.has(VIDEO)), None)
    encoded = next((entry for entry in entries if entry.has(LATENT)), None)
    if raw and encoded:
        raise FlowmapError(
            f"{path}: raw and encoded shards lie together: {raw.tar.name} has {raw.key}{VIDEO} and "
            f"{encoded.tar.name} has {encoded.key}{LATENT}; move either to a folder of its own"
        )
    if raw is None and encoded is None:
        found = faults.listed()
        raise FlowmapError(
            f"{path}: the tars hold no samples: NAME{VIDEO} with NAME{ABOUT} (raw), or NAME{LATENT} (encoded)"
            + (f". What was found wrong:\n{found}" if found else "")
        )
    return "raw" if encoded is None else "encoded"


@final
class _Found:
    """What one tar has, by name."""

    def __init__(self) -> None:
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
        if not stem or suffix not in LARGEST:
            if suffix in LARGEST or (stem and suffix not in _PAPERS):
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
                if member.size > LARGEST[suffix]:
                    text = f"its {suffix} has {member.size} bytes, more than the {LARGEST[suffix]} that are read"
                    self.spoilt.setdefault(key, text)

    def unread(self) -> list[str]:
        """Members that look like a part of a sample, and are of none."""
        return [name for name in self.others if not self._beside(name)]

    def _beside(self, name: str) -> bool:
        """Whether a sample has the same name: WebDataset's tars may have more than is read here."""
        folder, _, base = posixpath.normpath(name).rpartition("/")
        keys = (base.rpartition(".")[0], base.partition(".")[0])
        return any((f"{folder}/{key}" if folder else key) in self.samples for key in keys)


def _entries(tar: Path, faults: Faults) -> Iterator[Entry]:
    found = _Found()
    try:
        with tar.open("rb") as file:
            length = _length(file)
            for member in members(file, length, lambda text: faults.add(str(tar), "", text)):
                found.add(member)
    except OSError as error:
        raise FlowmapError(f"{tar} cannot be read: {error.strerror}", code=1) from None
    found.follow_links()
    found.refuse_large()
    if unread := found.unread():
        more = f" and {len(unread) - _SHOWN} more" if len(unread) > _SHOWN else ""
        text = f"{len(unread)} of its files are no part of a sample and not read: {', '.join(unread[:_SHOWN])}{more}"
        faults.add(str(tar), "", text)
    for key, parts in found.samples.items():
        places = {suffix: (member.offset, member.size) for suffix, member in parts.items()}
        yield Entry(tar, key, places, length, found.spoilt.get(key, ""))


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


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
