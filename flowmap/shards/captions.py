"""The captions of a raw sample. Torch-free."""

from __future__ import annotations

import json
from typing import Any

from flowmap.errors import ClipError
from flowmap.shards.entries import ABOUT

MOST_CAPTIONS = 1000
"""Of a sample: each is encoded, and nobody writes more."""

LONGEST = 100_000
"""Characters of a caption: text encoders take some hundred words, and cutting a book to them takes minutes."""

_MARK = "\ufeff"  # of byte order, which editors leave at the beginning of texts


def read_captions(content: bytes, field: str) -> list[str]:
    """The captions in `field` of a sample's json, a string or a list of them; raises ClipError if there are none."""
    found = field_of(content, field)
    given = [found] if isinstance(found, str) else found
    if not isinstance(given, list) or not all(isinstance(caption, str) for caption in given):
        raise ClipError(f"its '{field}' is neither a string nor a list of strings")
    if len(given) > MOST_CAPTIONS:
        raise ClipError(f"its '{field}' are {len(given)} captions, more than the {MOST_CAPTIONS} that are read")
    return _readable(given, f"'{field}'")


def read_text(content: bytes, suffix: str) -> list[str]:
    """The one caption that the text file beside a sample is; raises ClipError if it is none."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ClipError(f"its {suffix} is no UTF-8 (byte {error.start + 1})") from None
    return _readable([text], suffix)


def field_of(content: bytes, field: str) -> Any:
    """What a sample's json says in `field`. Raises ClipError if it says nothing there."""
    try:
        about = json.loads(content)
    except UnicodeDecodeError:
        raise ClipError(f"its {ABOUT} is no UTF-8") from None
    except (ValueError, RecursionError):
        raise ClipError(f"its {ABOUT} is no JSON") from None
    if not isinstance(about, dict) or field not in about:
        raise ClipError(f"its {ABOUT} has no '{field}'")
    return about[field]


def _readable(given: list[str], where: str) -> list[str]:
    """Those that have anything in them; raises ClipError for what no text encoder could read, and if there are none."""
    captions = [caption for caption in (text.replace(_MARK, "").strip() for text in given) if _visible(caption)]
    if not captions:
        raise ClipError(f"its {where} is empty")
    for caption in captions:
        _refuse(caption, where)
    return captions


def _visible(caption: str) -> bool:
    """Whether there is anything to be read in it."""
    return any(c == "\0" or _half(c) or (c.isprintable() and not c.isspace()) for c in caption)


def _half(character: str) -> bool:
    """Whether it is one of the two halves in which UTF-16 writes some characters, left alone."""
    return "\ud800" <= character <= "\udfff"


def _refuse(caption: str, where: str) -> None:
    """Raise ClipError for what no text encoder could read."""
    if len(caption) > LONGEST:
        raise ClipError(f"its {where} has {len(caption)} characters, more than the {LONGEST} that are read")
    if "\0" in caption:
        raise ClipError(f"its {where} has a NUL character in it")
    if any(map(_half, caption)):
        raise ClipError(f"its {where} has half of a character in it (a surrogate without the other)")
