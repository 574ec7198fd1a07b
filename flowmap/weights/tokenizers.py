"""The files of a tokenizer: which there have to be, and whether its tokens are those of an encoder. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.weights.headers import read_json

VOCABULARY, PIECES, SETTINGS = "tokenizer.json", "spiece.model", "tokenizer_config.json"
"""A tokenizer whole; the model of SentencePiece; and beside either, which class reads it."""

# Which files say what the tokens are: those of one of these lines.
_FORMS = ((VOCABULARY,), (PIECES,), ("vocab.json", "merges.txt"))
_MOST_VOCABULARY = 2**25  # bytes of tokenizer.json; UMT5's has 17 million
_SPIECE_START = b"\n"  # the first field of a SentencePiece model: a piece


def token_files(part: Path) -> list[Path]:
    """The files that say what the tokens are, of the first form that is there whole; none if none is."""
    forms = ([part / name for name in form] for form in _FORMS)
    return next((form for form in forms if all(file.is_file() for file in form)), [])


def absent_tokenizer(part: Path) -> Iterator[str]:
    """The files that a tokenizer has to have and has not."""
    if not part.is_dir() or not any(part.iterdir()):
        yield f"{part.name}/"
        return
    if not token_files(part):
        # A form that was begun, if one was.
        begun = next((form for form in _FORMS if any((part / name).is_file() for name in form)), _FORMS[0])
        yield from (f"{part.name}/{name}" for name in begun if not (part / name).is_file())
    if not (part / SETTINGS).is_file():
        yield f"{part.name}/{SETTINGS}"


def tokenizer_flaw(part: Path, vocabulary: int) -> str | None:
    """What is wrong with the files of a tokenizer for an encoder of `vocabulary` tokens; None if nothing is known."""
    try:
        read_json(part / SETTINGS)
        pieces, whole = part / PIECES, part / VOCABULARY
        if pieces.is_file():
            with pieces.open("rb") as opened:
                if opened.read(1) != _SPIECE_START:
                    return f"{pieces} is no SentencePiece model; it is damaged or was fetched in part"
        if not whole.is_file():
            return None
        about = whole.stat()
        last = _last_token(whole, about.st_mtime_ns, about.st_size)
    except FlowmapError as error:
        return str(error)
    except OSError as error:
        return f"{part}: cannot be read: {error.strerror}"
    if last >= vocabulary:
        return (
            f"{whole} has tokens up to {last}, and the text encoder {vocabulary} of them; they do not belong together"
        )
    return None


@lru_cache(maxsize=8)
def _last_token(file: Path, stamp: int, size: int) -> int:
    """The highest number of a token in `file`, of that time and size: it is large, and asked for again and again."""
    read = read_json(file, _MOST_VOCABULARY)
    model, added = read.get("model"), read.get("added_tokens", [])
    words: Any = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(words, dict | list) or len(words) < 2 or not isinstance(added, list):
        raise FlowmapError(f"{file} has no vocabulary; fetch it again")
    numbers = list(words.values()) if isinstance(words, dict) else [len(words) - 1]
    numbers += [token.get("id") if isinstance(token, dict) else None for token in added]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise FlowmapError(f"{file} numbers its tokens by what is no number; fetch it again")
    return int(max(numbers))
