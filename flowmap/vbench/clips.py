"""The clips that are to be scored, looked at before the package does: it drops and shortens without a word.

A missing clip is a warning there and a mean over the others, an unreadable one is left out, a cut one is scored on the
frames that decode, and a file of another type makes every clip missing if it is listed first.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from pydantic import BaseModel, ConfigDict, Field

from flowmap.errors import ClipError, FlowmapError
from flowmap.files.texts import TextError, digest, read_bytes, shaped
from flowmap.files.whole import write_whole
from flowmap.phases import phase
from flowmap.vbench.names import ENDING
from flowmap.video.counting import count_frames

_MISSING = "is missing"
_SHOWN = 3
_MOST_BYTES = 50_000_000


class Seen(BaseModel):
    """What was seen of a file: when it was changed (ns), its bytes and SHA-256, and the frames that decode."""

    model_config = ConfigDict(strict=True)

    changed: int
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    frames: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class _Book(BaseModel):
    model_config = ConfigDict(strict=True)

    clips: dict[str, Seen]


@final
@dataclass(frozen=True)
class Clips:
    """A folder of clips: what was `seen` of those that can be scored, the `faults` of all others that are wanted."""

    folder: Path
    seen: Mapping[str, Seen]
    faults: Mapping[str, str]

    @property
    def form(self) -> tuple[int, int, int] | None:
        """Frames, height and width of each clip; None if there is none."""
        return next((_form(each) for each in self.seen.values()), None)

    def refuse_faults(self, what: str, names: Sequence[str]) -> None:
        """Raise ClipError, counting and naming, if any of `names` cannot be scored for `what`."""
        # Missing ones last: that they are not there yet is known, that others are broken is news.
        faults = sorted((self.faults[name] for name in names if name in self.faults), key=_is_of_missing)
        if faults:
            raise ClipError(f"{what}: {len(faults):,} of its {len(names):,} clips cannot be scored: {_some(faults)}", 1)

    def digest(self, names: Iterable[str]) -> str:
        """A short name for the contents of some clips and what they are called."""
        return digest({name: self.seen[name].sha256 for name in names})


def look_at(folder: Path, wanted: Sequence[str], known: Iterable[str], book: Path) -> Clips:
    """Look at every clip of `wanted` in `folder`; `known` are all names that may lie there.

    A clip has a fault if it is missing, cannot be decoded to its end, has one frame only, or is unlike most others in
    length or size. What was seen is kept in `book`, and a file is not decoded again while its size and time are the
    same. Raises FlowmapError if anything else lies in the folder.
    """
    names = _listed(folder)
    others = sorted(names - {name + ENDING for name in known})
    if others:
        raise FlowmapError(
            f"{folder}: {len(others):,} of its files are no clips of this benchmark: {_some(map(repr, others))}. "
            "VBench takes the type of all clips from the file that it lists first; move them away"
        )
    seen, faults = _seen(folder, [name for name in wanted if name + ENDING in names], book)
    faults |= {name: f"'{name}{ENDING}' {_MISSING}" for name in wanted if name + ENDING not in names}
    if seen:
        usual = Counter(map(_form, seen.values())).most_common(1)[0][0]
        for name, each in list(seen.items()):
            if _form(each) != usual or each.frames < 2:
                what = f"has {_words(_form(each))}"
                why = "which gives no number" if each.frames < 2 else f"most others have {_words(usual)}"
                faults[name] = f"'{name}{ENDING}' {what}, {why}"
                del seen[name]
    return Clips(folder, seen, faults)


def _is_of_missing(fault: str) -> bool:
    return fault.endswith(_MISSING)


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise FlowmapError(f"{folder}: the clips cannot be listed ({error.strerror})") from None


def _some(words: Iterable[str]) -> str:
    found = list(words)
    return ", ".join(found[:_SHOWN]) + " ..." * (len(found) > _SHOWN)


def _form(seen: Seen) -> tuple[int, int, int]:
    return seen.frames, seen.height, seen.width


def _words(form: tuple[int, int, int]) -> str:
    return "{} frames of {} x {}".format(*form)


def _seen(folder: Path, wanted: Sequence[str], book: Path) -> tuple[dict[str, Seen], dict[str, str]]:
    """What is seen of each clip, and what is wrong with those that cannot be."""
    try:
        before = shaped(read_bytes(book, _MOST_BYTES), _Book).clips
    except (OSError, TextError):
        before = {}
    found: dict[str, Seen] = {}
    faults: dict[str, str] = {}

    def look(name: str) -> Seen | ClipError:
        path = folder / (name + ENDING)
        try:
            stat = path.stat()
            known = before.get(name)
            if known and (known.changed, known.bytes) == (stat.st_mtime_ns, stat.st_size):
                return known
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return ClipError(f"{path.name}: it cannot be read ({error.strerror})")
        try:
            counted = count_frames(path)
        except ClipError as error:
            return error
        return Seen(
            changed=stat.st_mtime_ns,
            bytes=stat.st_size,
            sha256=sha256,
            frames=counted.frames,
            height=counted.height,
            width=counted.width,
        )

    with phase("decoding every clip", len(wanted), "clips") as doing, ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, result in zip(wanted, threads.map(look, wanted), strict=True):
            if isinstance(result, Seen):
                found[name] = result
            else:
                faults[name] = str(result)
            doing.advance()
    write_whole(book, _Book(clips={**before, **found}).model_dump_json())
    return found, faults
