"""Samples and where they are: what a sample has is read when it is wanted, and not before. Torch-free."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, final

from flowmap.errors import ClipError, FlowmapError
from flowmap.shards.faults import Faults

Layout = Literal["raw", "encoded"]

LATENT, ABOUT = ".safetensors", ".json"

LARGEST_LATENT, LARGEST_ABOUT = 2**30, 2**24
"""Bytes of a member, which is read whole: sixty latents of 81 frames at 480 x 832, and captions nobody has written."""


@final
@dataclass(frozen=True)
class Members:
    """What belongs to a sample, by its suffix in lower case, and how many bytes of it are read at most.

    `raw` are the suffixes of a raw sample itself, one of which it has, `beside` those of what is said of it. An encoded
    sample has `.safetensors` and `.json`.
    """

    raw: Mapping[str, int]
    beside: Mapping[str, int]

    @property
    def largest(self) -> Mapping[str, int]:
        """All suffixes, with the bytes of each that are read."""
        return {LATENT: LARGEST_LATENT, ABOUT: LARGEST_ABOUT, **self.raw, **self.beside}

    def raw_of(self, entry: Entry) -> str:
        """The suffix of the raw sample itself. Raises ClipError if it has none, or several."""
        found = [suffix for suffix in self.raw if entry.has(suffix)]
        if not found:
            raise ClipError(f"it has no {' or '.join(self.raw)}")
        if len(found) > 1:
            raise ClipError(f"there are {' and '.join(found)} of this name, and nothing says which is meant")
        return found[0]


class Part(ABC):
    """Where several samples are: a tar, or some of the files of a folder. Encoded, they become one tar.

    `path` is what faults call it, `name` what its encoded tar is called. That of a part `of_a_state` changes with what
    is in it.
    """

    of_a_state: ClassVar[bool] = False

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    @abstractmethod
    def read(self, place: Any) -> bytes:
        """The bytes of a member that stands at `place`. Raises FlowmapError if what was there is not any more."""

    def head(self, place: Any, count: int) -> bytes:
        """The first `count` of these bytes, or all if they are fewer."""
        return self.read(place)[:count]


@final
class Tar(Part):
    """A tar of `length` bytes, by which another one in its place is noticed; a place is `(offset, size)`."""

    def __init__(self, path: Path, length: int) -> None:
        super().__init__(path, path.name)
        self._length = length

    def read(self, place: tuple[int, int]) -> bytes:
        """The file is opened anew: there is no handle that a fork or a copy could share."""
        offset, size = place
        try:
            with self.path.open("rb") as file:
                length = length_of(file)
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise cannot_read(self.path, error) from None
        if len(content) < size or length != self._length:
            raise replaced(self.path)
        return content

    def head(self, place: tuple[int, int], count: int) -> bytes:
        """See Part.head; no more is read."""
        return self.read((place[0], min(place[1], count)))


@final
@dataclass(frozen=True)
class Entry:
    """A sample: its part, its key, the places of its members by suffix, and why it cannot be used, if so."""

    part: Part
    key: str
    members: Mapping[str, Any]
    problem: str = ""

    def has(self, suffix: str) -> bool:
        """Whether the sample has such a member."""
        return suffix in self.members

    def read(self, suffix: str) -> bytes:
        """The bytes of a member; raises ClipError if the sample cannot be used."""
        self.refuse_spoilt()
        found: bytes = self.part.read(self.members[suffix])
        return found

    def head(self, suffix: str, count: int) -> bytes:
        """The first `count` bytes of a member, or all; raises ClipError if the sample cannot be used."""
        self.refuse_spoilt()
        return self.part.head(self.members[suffix], count)

    def refuse_spoilt(self) -> None:
        """Raise ClipError if the sample cannot be used."""
        if self.problem:
            raise ClipError(self.problem)


def layout(entries: Sequence[Entry], path: str, faults: Faults, members: Members) -> Layout:
    """Whether the samples are raw or encoded; raises FlowmapError if there are none, or some of both."""
    raw = next(((entry, suffix) for entry in entries for suffix in members.raw if entry.has(suffix)), None)
    encoded = next((entry for entry in entries if entry.has(LATENT)), None)
    if raw and encoded:
        raise FlowmapError(
            f"{path}: raw and encoded shards lie together: {raw[0].part.path.name} has {raw[0].key}{raw[1]} and "
            f"{encoded.part.path.name} has {encoded.key}{LATENT}; move either to a folder of its own"
        )
    if raw is None and encoded is None:
        found = faults.listed()
        suffixes = " or ".join(f"NAME{suffix}" for suffix in members.raw)
        beside = " or ".join(f"NAME{suffix}" for suffix in members.beside)
        raise FlowmapError(
            f"{path}: the tars hold no samples: {suffixes}{' with ' * bool(beside)}{beside} (raw), "
            f"or NAME{LATENT} (encoded)" + (f". What was found wrong:\n{found}" if found else "")
        )
    return "raw" if encoded is None else "encoded"


def length_of(file: BinaryIO) -> int:
    """The bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def replaced(path: Path) -> FlowmapError:
    """Say that a file is not what it was when it was indexed."""
    return FlowmapError(f"{path} was cut or replaced while it was in use; start again", code=1)


def cannot_read(path: Path, error: OSError) -> FlowmapError:
    """Say that a file that was there cannot be read."""
    return FlowmapError(f"{path} cannot be read: {error.strerror}", code=1)
