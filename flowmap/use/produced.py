"""The folder of a list of samples, and beside it the record of how they were made.

`OUT` holds finished files and nothing else: other programs take all that is in it for samples. `OUT.json` says how they
are made and which they are. `.part-OUT` is there while somebody works: it holds the lock and what is unfinished, and
may be deleted when nobody does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict

from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX, clear, locked, make_folder, sync, writing
from flowmap.files.texts import MOST_RECORD, TextError, read_bytes, shaped
from flowmap.files.whole import write_whole
from flowmap.use.pieces import Piece, alike, printable_text

Entry = Mapping[str, Any]
"""What a record says of one sample: its `prompt`, its `seed`, and a digest of its `image`, if it has one."""

_FORMAT = 1
_MOST_IMAGE = 2**30


class _Shape(BaseModel):
    """What a record has in it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    where: str
    settings: dict[str, Any]
    pieces: dict[str, Entry]


@final
class Produced:
    """The folder `out` of a list of samples that are files of one `ending`, as one of the processes sees it."""

    def __init__(self, out: Path) -> None:
        if not out.name:
            raise FlowmapError(f"{option('out', out)}: give a folder for the files, such as samples")
        # A link stands for what it leads to: a file can be renamed within one disk only.
        self.folder = Path(os.path.realpath(out))
        self.record = self.folder.with_name(self.folder.name + ".json")
        self._unfinished = self.folder.with_name(SKIP_PREFIX + self.folder.name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process, and with it for all that work with this one.

        Raises FlowmapError at once if others work here.
        """
        try:
            with locked(self._unfinished, f"name another folder with {option('out')}"):
                clear(self._unfinished)
                yield
        finally:
            with suppress(OSError):  # somebody else holds it, or others have left something unfinished
                self._unfinished.rmdir()

    def refuse_misfits(self, pieces: Mapping[str, Entry]) -> None:
        """Raise FlowmapError for files that are not of the record, and for `pieces` that are recorded otherwise."""
        if self.folder.exists() and not self.folder.is_dir():
            raise FlowmapError(f"{self.folder}: is a file; give a folder with {option('out')}")
        kept = self._read()
        recorded = kept.pieces if kept else {}
        self._refuse_strangers(recorded)
        for name, now in pieces.items():
            before = recorded.get(name, now)
            for what in now:
                if before.get(what) != now[what]:
                    raise FlowmapError(
                        f"{self.record}: the {what} of '{printable_text(name)}' was {_shown(before.get(what))} there, "
                        f"and is {_shown(now[what])} now; give the piece another name, or name another folder with "
                        f"{option('out')}"
                    )
        self._refuse_alike(list(recorded | dict(pieces)))

    def begin(self, where: str, settings: Mapping[str, Any], pieces: Mapping[str, Entry]) -> None:
        """Record how `pieces` are made from `where`, with those that were recorded before.

        Raises FlowmapError, naming the field, if those were made otherwise.
        """
        kept = self._read()
        # As they are read again.
        now = json.loads(json.dumps(dict(settings)))
        before = kept.settings if kept else now
        for what in {**now, **before}:
            if before.get(what) != now.get(what):
                raise FlowmapError(
                    f"{self.record}: {what} was {_shown(before.get(what))} when these samples were begun, and is "
                    f"{_shown(now.get(what))} now; go on as they were begun, or name another folder with "
                    f"{option('out')}"
                )
        recorded = kept.pieces if kept else {}
        all_pieces = recorded | dict(pieces)
        with writing(self.folder):
            make_folder(self.folder)
            if self.folder.stat().st_dev != self._unfinished.stat().st_dev:
                raise FlowmapError(f"{self.folder} is a disk of its own; name a folder in it with {option('out')}")
        if kept is None or all_pieces != recorded:
            text = {"format": _FORMAT, "where": where, "settings": now, "pieces": all_pieces}
            write_whole(self.record, json.dumps(text, indent=1) + "\n")

    def there(self, name: str) -> bool:
        """Whether the file `name` is finished."""
        return (self.folder / name).is_file()

    def put(self, name: str, fill: Callable[[Path], object]) -> None:
        """Write the file `name` by `fill`, which is given another to write; it is there whole, or not at all."""
        path, part = self.folder / name, self._unfinished / name
        try:
            with writing(path):
                fill(part)
                sync(part)
                part.replace(path)
                sync(path.parent)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _read(self) -> _Shape | None:
        """The record; None if there is none. Raises FlowmapError for one that is damaged."""
        try:
            found = shaped(read_bytes(self.record, MOST_RECORD), _Shape)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FlowmapError(f"{self.record} cannot be read: {error.strerror}") from None
        except TextError as error:
            how = f"name another folder with {option('out')}, or move both it and {self.folder} away"
            raise FlowmapError(f"{self.record} is no record of samples ({error}); {how}") from None
        if found.format != _FORMAT:
            raise FlowmapError(
                f"{self.record}: is of format {found.format}, and this version of flowmap reads {_FORMAT}"
            )
        return found

    def _refuse_strangers(self, recorded: Mapping[str, object]) -> None:
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if path.stem not in recorded or path.suffix not in (".mp4", ".png") or not path.is_file():
                why = f"is not one of the samples that {self.record} lists" if recorded else "was there before"
                raise FlowmapError(
                    f"{self.folder}: {printable_text(path.name)} {why}; move it away, or name another folder with "
                    f"{option('out')}"
                )

    def _refuse_alike(self, names: Sequence[str]) -> None:
        """Refuse names that would be one file on a disk that takes no notice of case."""
        pair = next(alike(names), None)
        if pair is None:
            return
        # The held folder lies on the same disk.
        if _is_one(*(self._unfinished / name for name in pair)):
            raise FlowmapError(
                f"'{printable_text(pair[0])}' and '{printable_text(pair[1])}' are one file on the disk of "
                f"{self.folder}, which takes no notice of case; write to another disk, or give one another name"
            )


def _is_one(path: Path, other: Path) -> bool:
    """Whether two paths, of which none is there, are one for the disk."""
    with writing(path):
        path.touch()
        try:
            return other.exists()
        finally:
            path.unlink()


def told(piece: Piece) -> Entry:
    """What a record says of a piece. Raises FlowmapError if its image cannot be read."""
    return {"prompt": piece.prompt, "seed": piece.seed, "image": piece.image and _contents(piece.image)}


def _contents(image: Path) -> str:
    """A short name for what is in a file."""
    try:
        return hashlib.blake2b(read_bytes(image, _MOST_IMAGE), digest_size=8).hexdigest()
    except OSError as error:
        raise FlowmapError(f"{image}: cannot be read: {error.strerror}") from None
    except TextError as error:
        raise FlowmapError(f"{image} {error}") from None


def _shown(value: object) -> str:
    return printable_text(json.dumps(value, ensure_ascii=False))
