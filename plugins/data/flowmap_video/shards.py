"""An index of tar files: what is in them, and where, so that any member can be read without the rest."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, final

from flowmap.errors import FlowmapError
from flowmap_video.faults import Faults

Layout = Literal["raw", "encoded"]

VIDEO, LATENT, ABOUT = ".mp4", ".safetensors", ".json"
_KNOWN = (VIDEO, LATENT, ABOUT)
_BLOCK = 512


@final
@dataclass(frozen=True)
class Entry:
    """A sample: its tar, its key, and (offset, size) of its members by suffix."""

    tar: Path
    key: str
    members: dict[str, tuple[int, int]]

    def has(self, suffix: str) -> bool:
        """Whether the sample has such a member."""
        return suffix in self.members

    def read(self, suffix: str) -> bytes:
        """The bytes of a member. The file is opened anew: there is no handle that a fork or a copy could share."""
        offset, size = self.members[suffix]
        try:
            with self.tar.open("rb") as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise FlowmapError(f"{self.tar} cannot be read: {error.strerror}", code=1) from None
        if len(content) < size:
            raise FlowmapError(f"{self.tar} was cut or replaced while it was in use; start again", code=1)
        return content


def index(tars: Sequence[Path], faults: Faults) -> list[Entry]:
    """The samples of all `tars`, by key, from headers alone; a damaged tar is a fault, its whole members are used."""
    entries = [entry for tar in tars for entry in _entries(tar, faults)]
    return sorted(entries, key=lambda entry: (entry.key, str(entry.tar)))


def layout(entries: Sequence[Entry], path: str) -> Layout:
    """Whether the samples are raw or encoded; raises FlowmapError if there are none, or some of both."""
    raw = next((entry for entry in entries if entry.has(VIDEO)), None)
    encoded = next((entry for entry in entries if entry.has(LATENT)), None)
    if raw and encoded:
        raise FlowmapError(
            f"{path}: raw and encoded shards lie together: {raw.tar.name} has {raw.key}{VIDEO} and "
            f"{encoded.tar.name} has {encoded.key}{LATENT}; move either to a folder of its own"
        )
    if raw is None and encoded is None:
        raise FlowmapError(
            f"{path}: the tars hold no samples: NAME{VIDEO} with NAME{ABOUT} (raw), or NAME{LATENT} (encoded)"
        )
    return "raw" if encoded is None else "encoded"


def _entries(tar: Path, faults: Faults) -> Iterator[Entry]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in _members(tar, faults):
        path = PurePosixPath(name)
        if path.suffix.lower() in _KNOWN and not path.name.startswith("."):
            found.setdefault(str(path.with_suffix("")), {})[path.suffix.lower()] = (offset, size)
    return (Entry(tar, key, members) for key, members in found.items())


def _members(tar: Path, faults: Faults) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every whole file in a tar."""
    try:
        length = tar.stat().st_size
        with tar.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.offset_data + member.size > length:
                    faults.add(str(tar), "", f"it is cut off within {member.name}; what comes before is used")
                    return
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
            # tarfile takes a cut between two members, or in a header, for the end; the real one is a block of zeros.
            file.seek(archive.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                faults.add(str(tar), "", "it is cut off or damaged; what comes before is used")
    except tarfile.TarError as error:
        faults.add(str(tar), "", f"it cannot be read as an uncompressed tar ({error})")
    except OSError as error:
        raise FlowmapError(f"{tar} cannot be read: {error.strerror}", code=1) from None
