"""Pictures in a folder and those in it, with captions beside them, in tables, or by the folders that they are in."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.files.names import expanded, printable
from flowmap.phases import phase
from flowmap.shards.entries import ABOUT, Entry, Part, cannot_read
from flowmap.shards.faults import Faults
from flowmap.shards.index import Found
from flowmap.shards.tars import Member
from flowmap_images.configs import ImagesConfig
from flowmap_images.forms import CLASS, METADATA, PICTURES, class_folders, walked
from flowmap_images.pictures import members_of
from flowmap_images.tables import rows

_PER_PART = 1000  # pictures of an encoded tar, about


@final
class Files(Part):
    """Some of the files of a folder; a place is a file's path in it, or the bytes themselves."""

    of_a_state = True

    def read(self, place: bytes | str) -> bytes:
        """See Part.read."""
        if isinstance(place, bytes):
            return place
        try:
            return (self.path / place).read_bytes()
        except OSError as error:
            raise cannot_read(self.path / place, error) from None

    def head(self, place: bytes | str, count: int) -> bytes:
        """See Part.head; no more is read."""
        if isinstance(place, bytes):
            return place[:count]
        try:
            with (self.path / place).open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise cannot_read(self.path / place, error) from None


def listed_folder(config: ImagesConfig, faults: Faults) -> list[Entry]:
    """The samples of the folder that `config.path` names, by key; none of them is opened."""
    folder = expanded(config.path)
    found, names, tables = _found(folder, config)
    if unread := found.unread():
        faults.add(str(folder), "", unread)
    found.refuse_large()
    samples = {key: {suffix: names[m.name] for suffix, m in parts.items()} for key, parts in found.samples.items()}
    added: dict[str, dict[str, bytes]] = {}
    spoilt = dict(found.spoilt)
    if config.condition == "class" and (classes := class_folders(config.path)):
        _add_classes(folder, classes, samples, added, spoilt, faults)
    elif config.condition != "none":
        for table in tables:
            _add_rows(folder, table, samples, added, spoilt, faults)
    kinds = [suffix for suffix in PICTURES if any(suffix in parts for parts in samples.values())]
    if not kinds:
        raise FlowmapError(f"data: {config.path}: there are no pictures in it. {config.how_to_get()}")
    sizes = {key: sorted((suffix, m.size) for suffix, m in parts.items()) for key, parts in found.samples.items()}
    entries = []
    for part, keys in _parts(folder, {key: repr((sizes[key], added.get(key))) for key in samples}):
        entries += [Entry(part, key, {**samples[key], **added.get(key, {})}, spoilt.get(key, "")) for key in keys]
    return sorted(entries, key=lambda entry: entry.key)


def _found(folder: Path, config: ImagesConfig) -> tuple[Found, dict[str, str], list[Path]]:
    """What the folder has, the path in it of each file by its name as it is shown, and its tables."""
    found, names, tables = Found(members_of(config)), {}, []
    with phase("looking for pictures", unit="files") as doing:
        for root, _, files in walked(folder):
            inner = os.path.relpath(root, folder)
            before = "" if inner == os.curdir else f"{inner}/"
            for name in files:
                if name in METADATA:
                    tables.append(root / name)
                    continue
                shown = printable(before + name)
                names[shown] = before + name
                found.add(_member(shown, f"{root}/{name}"))
            doing.advance(len(files))
    return found, names, tables


def _member(shown: str, path: str) -> Member:
    """A file as a part of a sample."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Member(shown, 0, 0, problem=f"cannot be read ({error.strerror})")
    return Member(shown, 0, status.st_size, problem="" if stat.S_ISREG(status.st_mode) else "is no file")


def _add_rows(
    folder: Path,
    table: Path,
    samples: dict[str, dict[str, Any]],
    added: dict[str, dict[str, bytes]],
    spoilt: dict[str, str],
    faults: Faults,
) -> None:
    """Give the pictures of a table's own folder what it says of them; what it says of others is a fault."""
    place = os.path.relpath(table.parent, folder)
    for row in rows(table):
        if row.problem:
            faults.add(str(table), "", row.problem)
            continue
        inner = os.path.normpath(os.path.join(place, row.file))
        key, suffix = os.path.splitext(printable(inner))
        if os.path.isabs(row.file) or inner.split(os.sep)[0] == os.pardir:
            faults.add(str(table), "", f"{row.where} names '{printable(row.file)}', which is outside of the folder")
        elif suffix.lower() not in samples.get(key, {}):
            faults.add(str(table), "", f"{row.where} names '{printable(row.file)}', which is not there")
        elif key in added:
            spoilt.setdefault(key, f"{row.where} of {table.name} names it again, and nothing says which is meant")
        else:
            beside = sorted(samples[key].keys() - set(PICTURES))
            if beside:
                spoilt.setdefault(key, f"it has a {beside[0]} and a line in {table.name}; remove one of them")
            added[key] = {ABOUT: row.content}


def _add_classes(
    folder: Path,
    classes: list[str],
    samples: dict[str, dict[str, Any]],
    added: dict[str, dict[str, bytes]],
    spoilt: dict[str, str],
    faults: Faults,
) -> None:
    """Give each picture the number of the folder that it is in."""
    numbers = {printable(name): number for number, name in enumerate(classes)}
    seen = set()
    for key in samples:
        top, inside, _ = key.partition("/")
        if not inside:
            spoilt.setdefault(key, "it lies in no class's folder")
            continue
        seen.add(top)
        added[key] = {CLASS: b"%d" % numbers[top]}
    if empty := [name for name in numbers if name not in seen]:
        names = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
        faults.add(str(folder), "", f"{len(empty)} of its classes have no picture: {names}")


def _parts(folder: Path, contents: dict[str, str]) -> Iterator[tuple[Files, list[str]]]:
    """The keys in parts of about a thousand, by a hash of the key.

    A part's name has a digest of what is in it (keys, sizes, lines of tables): as pictures come and go, the parts that
    change have other names, and the others have been encoded already.
    """
    number = 1
    while number * _PER_PART < len(contents):
        number *= 2
    together: list[list[str]] = [[] for _ in range(number)]
    for key in sorted(contents):
        together[int.from_bytes(_hash([key]), "little") % number].append(key)
    for place, keys in enumerate(together):
        digest = _hash(part for key in keys for part in (key, contents[key])).hex()[:8]
        yield Files(folder, f"{place:05d}-of-{number:05d}-{digest}.tar"), keys


def _hash(texts: Iterable[str]) -> bytes:
    found = hashlib.blake2b(digest_size=8)
    for text in texts:
        found.update(text.encode("utf-8", "backslashreplace") + b"\0")
    return found.digest()
