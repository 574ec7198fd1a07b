"""A list of samples to make, each a file of its own: as a program gives it, or read from a file of prompts."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pydantic import Field

from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX
from flowmap.files.names import printable
from flowmap.files.texts import MOST_RECORD, TextError, home, is_file, read_text, shaped
from flowmap.schema.bounds import Seed
from flowmap.schema.config import Config

_LONGEST = 255  # bytes of a name, on the file systems of Linux and macOS
_ENDING = 4
_DIGITS = 4  # of a name that is a number


@final
@dataclass(frozen=True)
class Piece:
    """One sample to make: the file's `name` without its ending, what it shows, its noise, and its first frame if any.

    The same prompt, seed and image give the same sample, whatever its name and whatever else is in the list.
    """

    name: str
    prompt: str
    seed: int
    image: Path | None = None


@final
class _Line(Config):
    """A line of a .jsonl file of prompts."""

    prompt: str
    seed: Seed | None = None
    name: str | None = Field(None, min_length=1)
    image: str | None = Field(None, min_length=1)


def read_pieces(file: Path, seed: int, image: Path | None = None) -> list[Piece]:
    """The pieces that a file of prompts asks for: a prompt a line or, if it is called .jsonl, a JSON object a line.

    An object has `prompt` and, if it likes, `seed`, `name` and `image` (a path, from the file's folder). What a line
    leaves out is `seed`, `image`, and the number of the piece in four digits for its name. Empty lines count for
    nothing. Raises FlowmapError, naming file and line.
    """
    try:
        text = read_text(file, MOST_RECORD)
    except OSError as error:
        raise FlowmapError(f"{file} cannot be read: {error.strerror}") from None
    except TextError as error:
        raise FlowmapError(f"{file} {error}; give a file with one prompt a line") from None
    pieces: list[Piece] = []
    # Only what ends a line everywhere: a prompt may have any other separator in it.
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.strip()
        if not words:
            continue
        name = f"{len(pieces):0{_DIGITS}}"
        where = f"{file}, line {number}"
        if file.suffix.lower() != ".jsonl":
            piece = Piece(name, words, seed, image)
        else:
            piece = _from_json(words, Piece(name, "", seed, image), file.parent, where)
        _refuse_impossible(piece, where)
        pieces.append(piece)
    if not pieces:
        raise FlowmapError(f"{file} has no prompt in it; write one a line")
    _refuse_twice(pieces, f"{file}: ")
    return pieces


def _from_json(line: str, default: Piece, folder: Path, where: str) -> Piece:
    try:
        found = shaped(line.encode(), _Line)
    except TextError as error:
        raise FlowmapError(f'{where}: {error}; a line is such as {{"prompt": "a red fox", "seed": 1}}') from None
    image = folder / home(Path(found.image)) if found.image else default.image
    seed = default.seed if found.seed is None else found.seed
    return Piece(found.name or default.name, found.prompt, seed, image)


def checked(pieces: Sequence[Piece]) -> list[Piece]:
    """The `pieces` as a list; raises FlowmapError if there are none, or for one that cannot be made into a file."""
    if not pieces:
        raise FlowmapError("the list of samples to make is empty")
    for number, piece in enumerate(pieces):
        _refuse_impossible(piece, f"piece {number}")
    _refuse_twice(pieces)
    return list(pieces)


def _refuse_impossible(piece: Piece, where: str) -> None:
    name, shown = piece.name, printable_text(piece.name)
    why = ""
    try:
        piece.prompt.encode()
        long = len(name.encode()) + len(SKIP_PREFIX) + _ENDING - _LONGEST
        if long > 0:
            why = f"has {long} bytes more than a file's name can have"
    except UnicodeEncodeError:
        raise FlowmapError(f"{where}: its name or prompt has half of a character in it (a lone surrogate)") from None
    if not name or name.startswith("."):
        why = "is empty or begins with a dot, which hides a file"
    elif {"/", "\0", "\n", "\r"} & set(name):
        why = "has a '/', a NUL or a line break in it, which no file's name may have here"
    if why:
        raise FlowmapError(f"{where}: the name '{shown}' {why}; choose another")
    if piece.image is not None and not is_file(piece.image):
        raise FlowmapError(f"{where}: there is no image {piece.image}")


def printable_text(text: str) -> str:
    """A piece's name or prompt as it can be shown on a line, whatever is in it."""
    return printable(text.encode("utf-8", "backslashreplace"))


def _refuse_twice(pieces: Sequence[Piece], where: str = "") -> None:
    seen: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        if piece.name in seen:
            raise FlowmapError(
                f"{where}two pieces ({seen[piece.name]} and {number}, counted from 0) are called "
                f"'{printable_text(piece.name)}'; give each a name of its own"
            )
        seen[piece.name] = number


def alike(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of `names` that are one where a disk takes no notice of case, or of how an accent is written."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if key in seen:
            yield seen[key], name
        seen[key] = name
