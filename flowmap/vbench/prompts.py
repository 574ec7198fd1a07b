"""The texts that videos are made from: the original prompts, or augmented ones, which move a total more than methods.

Videos are called by their original prompt in either case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, read_text
from flowmap.vbench.protocol import MOST_BYTES, Entry, Protocol, read_entries

PLAIN = "original"
_AUGMENTED = "aug_prompt_en"


@final
@dataclass(frozen=True)
class Prompts:
    """What is said to the model: `texts` by the number of the entry (none: the original prompts), and from where."""

    source: str = PLAIN
    digest: str = ""
    texts: Mapping[int, str] = field(default_factory=dict)

    def text(self, entry: Entry) -> str:
        """What the videos of an entry are made from."""
        return self.texts.get(entry.number, entry.prompt)


def read_prompts(path: Path | None, whole: Protocol) -> Prompts:
    """Augmented prompts for every entry of the whole list; the original ones without a `path`.

    The file is JSON in the package's form whose entries have `aug_prompt_en` (as AnyFlow's), or a text with one line
    for each entry, in order (as those in the package's repository). Raises FlowmapError for any other.
    """
    if path is None:
        return Prompts()
    if path.suffix == ".json":
        entries, digest = read_entries(path)
        if [entry.prompt for entry in entries] != [entry.prompt for entry in whole.entries]:
            raise FlowmapError(f"{path}: its prompts are not those of {whole.source}, in that order")
        texts = [entry.said.get(_AUGMENTED) for entry in entries]
        return Prompts(
            path.name, digest, dict(enumerate(_checked(path, texts, f"entry {{}} has no '{_AUGMENTED}'", 0)))
        )
    try:
        text = read_text(path, MOST_BYTES)
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}") from None
    except TextError as error:
        raise FlowmapError(f"{path} {error}") from None
    # Not splitlines, which also ends lines at signs that a text may contain.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if len(lines) != len(whole.entries):
        raise FlowmapError(
            f"{path} has {len(lines):,} lines; one is needed for each of the {len(whole.entries):,} entries of "
            f"{whole.source}"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Prompts(path.name, digest, dict(enumerate(_checked(path, lines, "line {} is empty", 1))))


def _checked(path: Path, texts: Sequence[str | None], why: str, first: int) -> list[str]:
    found = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if len(found) != len(texts):
        bad = next(place for place, text in enumerate(texts) if not isinstance(text, str) or not text.strip())
        raise FlowmapError(f"{path}: {why.format(bad + first)}")
    return found
