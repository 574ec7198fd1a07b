"""Tar files as strangers write them: every sample is found as it is, or a fault says which is not."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flowmap_video.videos import CLIPS, VIDEO

from flowmap.errors import ClipError, FlowmapError
from flowmap.shards import index as shards
from flowmap.shards import tars
from flowmap.shards.captions import read_captions
from flowmap.shards.entries import ABOUT, Entry
from flowmap.shards.faults import Faults
from flowmap.shards.index import index

BLOCK = 512
Files = dict[str, bytes]


def samples(*keys: str) -> Files:
    """A clip and a caption for each key; the clip is some kilobytes that nothing else begins with."""
    files: Files = {}
    for key in keys:
        seed = sum(key.encode())
        files[f"{key}.mp4"] = key.encode() + np.random.default_rng(seed).bytes(1500 + 7 * seed % 600)
        files[f"{key}.json"] = json.dumps({"captions": key}).encode()
    return files


def member(name: str | bytes, content: bytes = b"", **fields: Any) -> bytes:
    """One member as it stands in a tar; `fields` are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo("\0" if isinstance(name, bytes) else name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    block = info.tobuf(tarfile.USTAR_FORMAT)
    if isinstance(name, bytes):
        block = resummed(name.ljust(100, b"\0") + block[100:])
    return block + content + bytes(-len(content) % BLOCK)


def resummed(block: bytes) -> bytes:
    """A header with the right sum of its bytes."""
    total = 256 + sum(block[:148]) + sum(block[156:BLOCK])
    return block[:148] + b"%06o\0 " % total + block[156:]


def archive(files: Files, how: int = tarfile.PAX_FORMAT, end: int = 2 * BLOCK) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=how) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        length = tar.offset
    return buffer.getvalue()[:length] + bytes(end)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return member("PaxHeader", records, type=kind)


def record(key: str, value: bytes | str) -> bytes:
    body = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def refused(entry: Entry) -> str:
    with pytest.raises(ClipError) as caught:
        entry.read(next(iter(entry.members)))
    return str(caught.value)


Look = Callable[..., tuple[dict[str, Files], list[str]]]


class _Kept(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def looked(path: Path, content: bytes, limit: int = 100) -> tuple[dict[str, Files], list[str]]:
    """The samples of a tar, `{key: {suffix: content}}`, and the reasons of its faults."""
    path.write_bytes(content)
    kept, logger = _Kept(), logging.getLogger("flowmap.data")
    logger.addHandler(kept)
    try:
        entries = index([path], Faults(limit), CLIPS)
    finally:
        logger.removeHandler(kept)
    reasons = [text.removeprefix(f"skipped {path}: ") for text in kept.texts]
    assert len({entry.key for entry in entries}) == len(entries)
    reasons += [f"{e.key}: {refused(e)}" for e in entries if e.problem]
    return {e.key: {suffix: e.read(suffix) for suffix in e.members} for e in entries if not e.problem}, reasons


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """`looked` in a folder of the test's own."""
    return lambda content, limit=100: looked(tmp_path / "a.tar", content, limit)


def whole(files: Files) -> dict[str, Files]:
    """What `look` finds of `files` where nothing is wrong."""
    found: dict[str, Files] = {}
    for name, content in files.items():
        stem, _, suffix = name.rpartition(".")
        found.setdefault(stem, {})["." + suffix] = content
    return found


A, B, AB = samples("a", "b"), samples("c", "d"), samples("a", "b", "c", "d")

ONE = samples("a")


def with_size(block: bytes, digits: bytes) -> bytes:
    """A member whose header says another size, of twelve characters."""
    return resummed(block[:124] + digits.ljust(12, b"\0") + block[136:BLOCK]) + block[BLOCK:]


def _signed(block: bytes) -> bytes:
    """A header whose sum took bytes above 127 for negative ones, as old tars did."""
    total = 256 + sum(b - 256 * (b > 127) for b in block[:148] + block[156:BLOCK])
    return block[:148] + b"%06o\0 " % total + block[156:]


def _members(files: Files) -> list[bytes]:
    return [member(name, content) for name, content in files.items()]


def _pair(*members: bytes) -> bytes:
    return b"".join(members) + bytes(2 * BLOCK)


LONG = "folder/" * 40 + "a"
# Whatever a tar holds, its samples are there: (tar, what is in it)
GOOD: dict[str, tuple[bytes, Files]] = {
    "cat a.tar b.tar": (archive(A) + archive(B), AB),
    "cat of tars padded to ten kilobytes": (archive(A, end=10240) + archive(B, end=10240), AB),
    "a tar without an end before another": (archive(A, end=0) + archive(B), AB),
    "one block of zeros in the middle": (archive(A, end=BLOCK) + archive(B), AB),
    "megabytes of zeros in the middle": (archive(A, end=3 * 2**20 + BLOCK) + archive(B), AB),
    "an empty tar before another": (bytes(10240) + archive(AB), AB),
    "formats in turn": (archive(A, tarfile.GNU_FORMAT) + archive(B, tarfile.USTAR_FORMAT), AB),
    "parts of a sample far from each other": (archive(dict(sorted(AB.items(), key=lambda i: i[0][::-1]))), AB),
    "parts of a sample in two archives": (
        archive({n: c for n, c in AB.items() if n.endswith(VIDEO)})
        + archive({n: c for n, c in AB.items() if n.endswith(ABOUT)}),
        AB,
    ),
    "other things between samples": (
        archive(A, end=0)
        + member("folder/", type=tarfile.DIRTYPE)
        + member("README", b"hello")
        + member("a.cls", b"7")
        + member("._c.mp4", b"of macOS")
        + member(".DS_Store", b"of macOS")
        + member("notes.txt", b"hello")
        + member("label", type=b"V")
        + archive(B),
        AB,
    ),
    "a name in a pax header": (
        _pair(pax(record("path", "a.mp4")), member("x.y", ONE["a.mp4"])),
        {"a.mp4": ONE["a.mp4"]},
    ),
    "a name in two pax headers, and then another member": (
        _pair(
            pax(record("path", "b.mp4")),
            pax(record("path", "a.mp4") + record("comment", "of a\nstranger")),
            member("x.y", ONE["a.mp4"]),
            member("a.json", ONE["a.json"]),
        ),
        ONE,
    ),
    "a thousand pax headers in a row": (
        _pair(*[pax(record("path", "a.mp4"))] * 1000, member("x.y", ONE["a.mp4"])),
        {"a.mp4": ONE["a.mp4"]},
    ),
    "a size in a pax header": (
        _pair(
            pax(record("size", str(len(ONE["a.mp4"])))),
            with_size(member("a.mp4", ONE["a.mp4"]), b"0"),
            member("a.json", ONE["a.json"]),
        ),
        ONE,
    ),
    "a size in binary": (
        _pair(with_size(member("a.mp4", ONE["a.mp4"]), b"\x80" + len(ONE["a.mp4"]).to_bytes(11, "big"))),
        {"a.mp4": ONE["a.mp4"]},
    ),
    "what is said of all members ends with the archive": (
        pax(record("path", "x.mp4"), b"g") + bytes(2 * BLOCK) + archive(ONE),
        ONE,
    ),
    "a long name of GNU's": (archive({f"{LONG}.mp4": b"clip"}, tarfile.GNU_FORMAT), {f"{LONG}.mp4": b"clip"}),
    "a long name of pax": (archive({f"{LONG}.mp4": b"clip"}, tarfile.PAX_FORMAT), {f"{LONG}.mp4": b"clip"}),
    "a long name of ustar": (
        archive({f"{LONG[91:]}.mp4": b"clip"}, tarfile.USTAR_FORMAT),
        {f"{LONG[91:]}.mp4": b"clip"},
    ),
    "another name of the same file": (
        _pair(member("a.mp4", b"clip"), member("b.mp4", type=tarfile.LNKTYPE, linkname="a.mp4")),
        {"a.mp4": b"clip", "b.mp4": b"clip"},
    ),
    "links that lead to a later member": (
        _pair(
            member("x/b.mp4", type=tarfile.SYMTYPE, linkname="../y/c.mp4"),
            member("y/c.mp4", type=tarfile.SYMTYPE, linkname="./a.mp4"),
            member("y/a.mp4", b"clip"),
        ),
        {"x/b.mp4": b"clip", "y/c.mp4": b"clip", "y/a.mp4": b"clip"},
    ),
    "a member without a byte": (
        _pair(member("a.mp4"), member("a.json", ONE["a.json"])),
        {"a.mp4": b"", "a.json": ONE["a.json"]},
    ),
    "names in capitals, and from here on": (
        _pair(member("./a.MP4", ONE["a.mp4"]), member(".//a.Json", ONE["a.json"])),
        ONE,
    ),
    "a sum of signed bytes": (_signed(member(b"caf\xe9.mp4", b"clip")) + bytes(2 * BLOCK), {"caf\\xe9.mp4": b"clip"}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_whatever_a_tar_holds_its_samples_are_found(kind: str, look: Look) -> None:
    content, files = GOOD[kind]
    assert look(content) == (whole(files), [])


NAMES = {
    "Latin-1": ("caf\xe9".encode("latin-1"), "caf\\xe9"),
    "Shift-JIS": ("\u732b".encode("shift-jis"), "\\x94L"),
    "UTF-8": ("caf\xe9 \u732b \U0001f408".encode(), "caf\xe9 \u732b \U0001f408"),
    "a new line": (b"a\nb", "a\\nb"),
    "a bell and a colour": (b"a\x07\x1b[31m", "a\\x07\\x1b[31m"),
    "half of a character": (b"a\xed\xa0\x80", "a\\xed\\xa0\\x80"),
    "from right to left": ("a\u202eb".encode(), "a\\u202eb"),
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("how", ["ustar", "pax", "gnu"])
def test_names_may_be_in_any_encoding(kind: str, how: str, look: Look) -> None:
    name, shown = NAMES[kind]
    content = b""
    for suffix, data in ((b".mp4", b"clip"), (b".json", b"{}")):
        if how == "ustar":
            content += member(name + suffix, data)
        elif how == "pax":
            content += pax(record("path", name + suffix)) + member("x.y", data)
        else:
            content += member("././@LongLink", name + suffix + b"\0", type=b"L") + member("x.y", data)
    assert look(content + bytes(2 * BLOCK)) == ({shown: {VIDEO: b"clip", ABOUT: b"{}"}}, [])
    shown.encode()


CUT = "it is cut off or damaged; what comes before is used"
# What cannot be had is a fault: (tar, what is found all the same, the faults)
BAD: dict[str, tuple[bytes, Files, list[str]]] = {
    "no end": (archive(A, end=0), A, [CUT]),
    "no end of the second": (archive(A) + archive(B, end=0), AB, [CUT]),
    "cut within a member of the second": (
        archive(A) + archive(B)[: -4 * BLOCK],
        A | {n: c for n, c in B.items() if n != "d.json"},
        [CUT],
    ),
    "text behind the end": (
        archive(A) + b"junk" * 300,
        A,
        [f"behind the end of its archive, from byte {len(archive(A))} on, 1200 bytes are no tar"],
    ),
    "a tar behind the end that does not begin where a block does": (
        archive(A) + bytes(100) + archive(B),
        A,
        [f"behind the end of its archive, from byte {len(archive(A))} on, {len(archive(B)) + 100} bytes are no tar"],
    ),
    "a compressed tar behind the end": (
        archive(A) + gzip.compress(archive(B), mtime=0),
        A,
        [
            f"behind the end of its archive, from byte {len(archive(A))} on, "
            f"{len(gzip.compress(archive(B)))} bytes are no tar"
        ],
    ),
    "a compressed tar": (
        gzip.compress(archive(A)),
        {},
        ["it cannot be read as an uncompressed tar (gzip: unpack it)"],
    ),
    "no tar": (b"hello" * 500, {}, ["it cannot be read as an uncompressed tar (bad header)"]),
    "nothing": (b"", {}, ["it cannot be read as an uncompressed tar (empty file)"]),
    "a name twice": (
        archive(A, end=0) + archive({"a.json": b"{}"}),
        {n: c for n, c in A.items() if n[0] == "b"},
        ["a: there are two .json of this name, and nothing says which is meant"],
    ),
    "the same tar twice": (
        archive(ONE) + archive(ONE),
        {},
        ["a: there are two .mp4 of this name, and nothing says which is meant"],
    ),
    "a name twice, in capitals": (
        archive(ONE, end=0) + archive({"a.MP4": b"x"}),
        {},
        ["a: there are two .mp4 of this name, and nothing says which is meant"],
    ),
    "a compressed part": (
        archive({"a.mp4.gz": b"x", "b.json": b"{}"}),
        {"b.json": b"{}"},
        ["1 of its files are no part of a sample and not read: a.mp4.gz"],
    ),
    "clips of another format": (
        archive({f"{i}.mov": b"x" for i in range(5)}),
        {},
        ["5 of its files are no part of a sample and not read: 0.mov, 1.mov, 2.mov and 2 more"],
    ),
    "a suffix without a name": (
        archive({".mp4": b"x"}),
        {},
        ["1 of its files are no part of a sample and not read: .mp4"],
    ),
    "a link to nothing": (
        _pair(member("a.mp4", type=tarfile.SYMTYPE, linkname="/data/a.mp4"), member("a.json", b"{}")),
        {},
        ["a: its .mp4 is a link to /data/a.mp4, which is not in the tar"],
    ),
    "links in a circle": (
        _pair(*(member(f"{a}.mp4", type=tarfile.LNKTYPE, linkname=f"{b}.mp4") for a, b in ("ab", "ba"))),
        {},
        [f"{a}: its .mp4 is a link to {b}.mp4, which is not in the tar" for a, b in ("ab", "ba")],
    ),
    "a link to a sparse file": (
        _pair(member("a.mp4", type=b"S"), member("b.mp4", type=tarfile.LNKTYPE, linkname="a.mp4")),
        {},
        [
            "a: its .mp4 is stored without its zeros (tar --sparse); pack it anew",
            "b: its .mp4 is a link to a.mp4, which is stored without its zeros (tar --sparse); pack it anew",
        ],
    ),
    "a pipe and a device": (
        _pair(member("a.mp4", type=tarfile.FIFOTYPE), member("b.mp4", type=tarfile.CHRTYPE), *_members(B)),
        B,
        ["a: its .mp4 is a pipe, and no file", "b: its .mp4 is a device, and no file"],
    ),
    "a kind that nobody knows": (
        _pair(member("a.mp4", b"clip", type=b"Z"), *_members(B)),
        B,
        ["a: its .mp4 is of a kind that is not known ('Z'), and no file"],
    ),
    "the rest of another tar's member": (
        _pair(member("a.mp4", b"clip", type=b"M"), *_members(B)),
        B,
        ["a: its .mp4 is a part of a file that begins in another tar, and no file"],
    ),
    "a negative size": (_pair(*_members(A), with_size(member("c.mp4"), b"\xff" * 12)), A, [CUT]),
    "a size in letters": (_pair(*_members(A), with_size(member("c.mp4"), b"many")), A, [CUT]),
    "a size of a pax header in letters": (_pair(*_members(A), pax(record("size", "many")), member("c.mp4")), A, [CUT]),
    "an extended header at the end": (
        _pair(*_members(A), pax(record("path", "c.mp4"))),
        A,
        ["it ends behind an extended header, whose member is not there"],
    ),
    "an extended header that is cut": (
        b"".join(_members(A)) + pax(b"x" * 9000)[:-BLOCK],
        A,
        [CUT],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_had_is_a_fault(kind: str, look: Look) -> None:
    content, files, faults = BAD[kind]
    assert look(content) == (whole(files), faults)


@pytest.mark.parametrize(
    "records", [b"9999 path=c.mp4\n", b"12 path=c.mp4", b"path=c.mp4\n", b"0 path=c.mp4\n", b"\xff" * 9]
)
def test_a_damaged_pax_header_costs_its_member_alone(records: bytes, look: Look) -> None:
    content = _pair(*_members(A), pax(records), member("x.mp4", b"whose name is not known"), *_members(B))
    place = len(b"".join(_members(A)))
    reason = f"the extended header at byte {place} is damaged; the member behind it is left out"
    assert look(content) == (whole(AB), [reason])


def test_a_cut_anywhere_loses_nothing_without_a_fault(look: Look) -> None:
    content = archive(A, end=10240) + archive(B, end=BLOCK)
    for cut in range(0, len(content), 256):
        found, faults = look(content[:cut])
        assert all(whole(AB)[key][suffix] == data for key, parts in found.items() for suffix, data in parts.items())
        # Where the second archive has not begun, nothing says that there should be one.
        complete = found == whole(A) and len(archive(A, end=BLOCK)) <= cut <= len(archive(A, end=10240))
        assert faults or complete or found == whole(AB)


def test_sparse_files_are_a_fault_and_the_rest_is_found(tmp_path: Path, look: Look) -> None:
    """A file of GNU tar's own making would need GNU tar: headers as its manual has them (Storing Sparse Files)."""
    rows = b"".join(b"%011o\0%011o\0" % (1024 * i, 512) for i in range(4))
    head = bytearray(member("a.mp4", bytes(30 * BLOCK), type=b"S"))
    head[386 : 386 + len(rows)] = rows
    head[482] = 1
    extension = (b"%011o\0%011o\0" % (9000, 512)) * 21
    old = resummed(bytes(head[:BLOCK])) + extension.ljust(504, b"\0") + b"\1" + bytes(7)
    old += extension.ljust(504, b"\0") + bytes(8) + bytes(head[BLOCK:])
    new = pax(
        record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "a.mp4")
    ) + member("GNUSparseFile.0/a.mp4", b"1\n0\n9\n".ljust(BLOCK, b"\0") + b"123456789")
    for sparse in (old, new):
        found, faults = look(_pair(sparse, *_members(B)))
        assert faults == ["a: its .mp4 is stored without its zeros (tar --sparse); pack it anew"]
        assert found == whole(B)


def huge(path: Path, head: bytes, size: int, tail: bytes) -> Path:
    """A file of `head`, `size` bytes that take no room on the disk, and `tail`."""
    with path.open("wb") as file:
        file.write(head)
        file.seek(size, os.SEEK_CUR)
        file.write(tail)
    return path


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (member("a.mp4"), f"a: its .mp4 has {10**10} bytes, more than the {2**30} that are read"),
        (member("a.json"), f"a: its .json has {10**10} bytes, more than the {2**24} that are read"),
        (member("a.safetensors"), f"a: its .safetensors has {10**10} bytes, more than the {2**30} that are read"),
        (
            pax(b""),
            f"the extended header at byte 0 has {10**10} bytes, more than the {2**20} that are read; "
            "the member behind it is left out",
        ),
        (
            member("././@LongLink", type=b"L"),
            f"the extended header at byte 0 has {10**10} bytes, more than the {2**20} "
            "that are read; the member behind it is left out",
        ),
    ],
)
def test_ten_gigabytes_are_passed_over_unread(
    head: bytes, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = with_size(head, b"%o" % 10**10)
    behind = member("x.mp4", b"its name is lost") if b"LongLink" in head or b"Pax" in head else b""
    path = huge(tmp_path / "a.tar", head, -(-(10**10) // BLOCK) * BLOCK, behind + archive(B))
    with caplog.at_level(logging.WARNING, "flowmap.data"):
        entries = index([path], Faults(9), CLIPS)
    said = [record.getMessage().removeprefix(f"skipped {path}: ") for record in caplog.records]
    assert said + [f"{e.key}: {refused(e)}" for e in entries if e.problem] == [reason]
    assert {e.key: {suffix: e.read(suffix) for suffix in e.members} for e in entries if not e.problem} == whole(B)


def test_a_tar_is_read_by_its_headers_alone(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred thousand members take seconds, as no more than a header is read of each."""
    taken: list[int] = []
    whole_walk = tars.members

    def counted(file: Any, length: int, blame: Any) -> Iterator[tars.Member]:
        class Counting(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                content: bytes = file.read(size)
                taken.append(len(content))
                return content

            def seek(self, *where: int) -> int:
                return int(file.seek(*where))

        return whole_walk(Counting(), length, blame)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "members", counted)
    files = {f"{i:03d}.mp4": bytes(9000) for i in range(50)}
    assert look(archive(files)) == (whole(files), [])
    assert sum(taken) <= 51 * BLOCK + 2 * BLOCK


def test_faults_of_a_tar_are_counted_each(look: Look) -> None:
    """Whole tars have several reasons, and each counts."""
    content = archive({"a.mov": b"x"}) + b"junk" * 200
    assert len(look(content)[1]) == 2
    with pytest.raises(FlowmapError, match="data: 2 unusable samples or shards, more than the 1"):
        look(content, 1)


# Damage of any kind


def tar_of_tars() -> bytes:
    """Tars of three formats, one behind the other."""
    return (
        archive(samples("a", "b"), tarfile.GNU_FORMAT)
        + archive({f"{LONG}{name}": data for name, data in samples("c", "d").items()}, tarfile.PAX_FORMAT)
        + archive(samples("e"), tarfile.USTAR_FORMAT)
    )


def is_whole(path: Path, content: bytes, random: np.random.Generator) -> bool:
    """Damage the tar `content`: whether nothing is said; then all of its samples are there, as they were.

    As they are used, that is: a caption is read as JSON, and a clip is compared with what was packed.
    """
    clean, faults = looked(path, content)
    assert not faults
    known = clean | whole(samples("z"))
    found, faults = looked(path, _mutated(content, random))
    if faults or [reason for parts in found.values() for reason in _unusable(parts)]:
        return False
    assert set(clean) <= set(found)
    assert all(parts == known[key] for key, parts in found.items())
    return True


def _mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A tar with damage that its headers, sums or ends can tell; what is in members stays as it is."""
    headers = [place for place in range(0, len(content), BLOCK) if content[place + 257 : place + 262] == b"ustar"]
    data = bytearray(content)
    kind, place = int(random.integers(8)), headers[int(random.integers(len(headers)))]
    if kind == 0:
        data[place + int(random.integers(BLOCK))] ^= 1 << int(random.integers(8))
    elif kind == 1:
        start = place + int(random.integers(BLOCK - 16))
        data[start : start + 16] = random.bytes(16)
    elif kind == 2:
        del data[place + int(random.integers(1, BLOCK)) :]
    elif kind == 3:
        block = int(random.integers(len(data) // BLOCK)) * BLOCK
        del data[block : block + BLOCK]
    elif kind == 4:
        block = int(random.integers(len(data) // BLOCK)) * BLOCK
        data[block:block] = data[block : block + BLOCK]
    elif kind == 5:
        data[place:place] = bytes(BLOCK * int(random.integers(1, 40)))
    elif kind == 6:
        data += random.bytes(int(random.integers(1, 2000)))
    else:
        data[place:place] = archive(samples("z")) + archive({}, end=1024)
    return bytes(data)


def test_damage_of_any_kind_ends_in_the_right_samples_or_in_faults(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    silent = sum(is_whole(tmp_path / "a.tar", tar_of_tars(), random) for _ in range(400))
    assert 40 < silent < 360


def _unusable(parts: Files) -> list[str]:
    if set(parts) != {VIDEO, ABOUT}:
        return ["a part is missing"]
    try:
        read_captions(parts[ABOUT], "captions")
    except ClipError as error:
        return [str(error)]
    return []
