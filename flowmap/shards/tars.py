"""Tar files as strangers write them: every member is found, or it is said what was not read.

Python's tarfile ends at the first end-of-archive mark, although `cat a.tar b.tar` has one in the middle, takes much
damage for an end, and reads extended headers of any size into memory. Here headers alone are read, one after the other
until the file ends; formats are those of pax(1) (POSIX.1-2008) and of GNU tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, final

from flowmap.files.names import printable

BLOCK = 512

LARGEST_HEADER = 2**20
"""Bytes of an extended header: names have some hundred, and a megabyte leaves room for any tag."""

_CHUNK = 2**20
_ZEROS = bytes(_CHUNK)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}
_REGULAR, _SPARSE, _LONG_NAME, _LONG_LINK = b"0\0" + b"7", b"S", b"L", b"K"
_PAX, _PAX_GLOBAL, _DUMPED_FOLDER, _CONTINUED = b"xX", b"g", b"D", b"M"
_WITHOUT_DATA = b"123456"
_LINKS, _FOLDERS = b"12", b"5" + _DUMPED_FOLDER
_NAMELESS = b"V"  # the label of a tape
_KINDS = {b"3": "a device", b"4": "a device", b"6": "a pipe", _CONTINUED: "a part of a file that begins in another tar"}
_IN_HEADER, _IN_EXTENSION = 482, 504  # where a sparse header says that another block of it follows


class Member(NamedTuple):
    """A file in a tar: its name, and the `size` bytes from `offset` on.

    `link` is the name of the member that it is another name of (from its own folder on if `symbolic`), `problem` is why
    its bytes cannot be had. Names are Unicode; what is no UTF-8 or cannot be printed is escaped by a backslash.
    """

    name: str
    offset: int
    size: int
    link: str = ""
    symbolic: bool = False
    problem: str = ""


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes
    link: bytes


def members(file: BinaryIO, length: int, blame: Callable[[str], object]) -> Iterator[Member]:
    """Every file in the tar `file` of `length` bytes, folders left out; what is not read is told to `blame`."""
    return _Walk(file, length, blame).members()


@final
class _Walk:
    """The way through one file."""

    def __init__(self, file: BinaryIO, length: int, blame: Callable[[str], object]) -> None:
        self._file, self._length, self._blame = file, length, blame
        self._general: dict[bytes, bytes] = {}
        self._said: dict[bytes, bytes] = {}
        self._unnamed = False  # the header that has the next member's name was of no use

    def members(self) -> Iterator[Member]:
        place, ended = 0, False
        while block := self._block(place):
            if not any(block) and (ended or len(block) == BLOCK):
                place, ended = self._after_zeros(place), True
                self._forget()
                continue
            header = _header(block)
            if header is None:
                self._blame(self._no_header(block, place, ended))
                return
            ended = False
            if header.kind in _PAX + _PAX_GLOBAL + _LONG_NAME + _LONG_LINK:
                place += BLOCK
                if place + header.size > self._length:
                    break
                self._extend(header, place)
                place += _padded(header.size)
                continue
            size = self._size(header)
            if size is None:
                self._blame("it is cut off or damaged; what comes before is used")
                return
            start = place + BLOCK + (self._sparse_blocks(place, block) if header.kind == _SPARSE else 0)
            member = self._member(header, start, size)
            if start + size > self._length:
                name = member.name if member else printable(header.name)
                self._blame(f"it is cut off within {name}; what comes before is used")
                return
            if member:
                yield member
            place = start + _padded(size)
        if not ended:
            empty = not self._length
            self._blame(_not_tar("empty file") if empty else "it is cut off or damaged; what comes before is used")

    def _block(self, place: int) -> bytes:
        self._file.seek(place)
        return self._file.read(BLOCK)

    def _after_zeros(self, place: int) -> int:
        """Where the first block from `place` on stands that is not all zeros, or the end of the file."""
        self._file.seek(place)
        while chunk := self._file.read(_CHUNK):
            if chunk != _ZEROS[: len(chunk)]:
                return place + (len(chunk) - len(chunk.lstrip(b"\0"))) // BLOCK * BLOCK
            place += len(chunk)
        return place

    def _forget(self) -> None:
        """What was said of members before the end of an archive is not said of those behind it."""
        if self._said or self._unnamed:
            self._blame("it ends behind an extended header, whose member is not there")
        self._general, self._said, self._unnamed = {}, {}, False

    def _no_header(self, block: bytes, place: int, ended: bool) -> str:
        if place == 0:
            found = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
            return _not_tar(f"{found}: unpack it" if found else "bad header")
        if ended:
            return f"behind the end of its archive, from byte {place} on, {self._length - place} bytes are no tar"
        return "it is cut off or damaged; what comes before is used"

    def _extend(self, header: _Header, place: int) -> None:
        """Take what an extended header of the next member, or of all that follow, says."""
        found: dict[bytes, bytes] | None = None
        if header.size > LARGEST_HEADER:
            why = f"has {header.size} bytes, more than the {LARGEST_HEADER} that are read"
        else:
            self._file.seek(place)
            content = self._file.read(header.size)
            if header.kind in _PAX + _PAX_GLOBAL:
                found, why = _records(content), "is damaged"
            else:
                key = b"path" if header.kind == _LONG_NAME else b"linkpath"
                found, why = {key: content.split(b"\0", 1)[0]}, ""
        if found is not None:
            (self._general if header.kind == _PAX_GLOBAL else self._said).update(found)
            return
        self._blame(f"the extended header at byte {place - BLOCK} {why}; the member behind it is left out")
        self._unnamed = True

    def _size(self, header: _Header) -> int | None:
        """How many bytes of the member follow; None if that is no number."""
        if header.kind in _WITHOUT_DATA:
            return 0
        said = self._said.get(b"size")
        if said is None:
            return header.size
        return int(said) if said.isdigit() and len(said) < 20 else None

    def _sparse_blocks(self, place: int, block: bytes) -> int:
        """Bytes of the blocks by which a header of a sparse file is longer."""
        more, at = 0, _IN_HEADER
        while len(block) == BLOCK and block[at]:
            more, at = more + BLOCK, _IN_EXTENSION
            block = self._block(place + more)
        return more

    def _member(self, header: _Header, start: int, size: int) -> Member | None:
        """The member of `header`; None if it is no file, or its name is not known. Forgets what was said of it."""
        said, unnamed = (self._general | self._said) if self._said else self._general, self._unnamed
        self._said, self._unnamed = {}, False
        name = said.get(b"GNU.sparse.name") or said.get(b"path") or header.name
        folder = header.kind in _FOLDERS or (header.kind in b"0\0" and name.endswith(b"/"))
        if unnamed or folder or header.kind in _NAMELESS:
            return None
        shown = printable(name)
        if header.kind in _LINKS:
            link = printable(said.get(b"linkpath") or header.link)
            return Member(shown, start, 0, link, symbolic=header.kind == b"2")
        if header.kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in said):
            return Member(shown, start, size, problem="is stored without its zeros (tar --sparse); pack it anew")
        if header.kind not in _REGULAR:
            what = _KINDS.get(header.kind, f"of a kind that is not known ('{printable(header.kind)}')")
            return Member(shown, start, size, problem=f"is {what}, and no file")
        return Member(shown, start, size)


def _not_tar(why: str) -> str:
    return f"it cannot be read as an uncompressed tar ({why})"


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _header(block: bytes) -> _Header | None:
    """What a block says if it is a header, which its sum of bytes tells; None if not."""
    if len(block) < BLOCK:
        return None
    stored, size = _number(block[148:156]), _number(block[124:136])
    # The eight bytes of the sum itself count as spaces; some old tars add signed bytes.
    sum_ = 256 + sum(block[:148]) + sum(block[156:])
    if stored != sum_:
        high = sum(byte > 127 for byte in block[:148]) + sum(byte > 127 for byte in block[156:])
        if stored != sum_ - 256 * high:
            return None
    if size is None:
        return None
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    return _Header(name, size, block[156:157], block[157:257].split(b"\0", 1)[0])


def _number(field: bytes) -> int | None:
    """A number in octal digits, or in binary behind a byte of 128; None if it is none, or negative."""
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        return None
    return int(digits or b"0", 8)


def _records(content: bytes) -> dict[bytes, bytes] | None:
    """The `length key=value` lines of a pax header; None if it is damaged."""
    found: dict[bytes, bytes] = {}
    place = 0
    while place < len(content) and content[place]:
        digits, space, _ = content[place : place + 20].partition(b" ")
        if not space or not digits.isdigit():
            return None
        end = place + int(digits)
        key, equals, value = content[place + len(digits) + 1 : end].partition(b"=")
        if end > len(content) or not equals or not value.endswith(b"\n"):
            return None
        found[key] = value[:-1]
        place = end
    return found
