"""What a page asks, in the page's own words, and what that is as a wish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from flowmap.demo.sides import MOST_CALLS, Side
from flowmap.errors import FlowmapError
from flowmap.schema.words import needed, needs_frames
from flowmap.use.wish import Wish

FIELDS = {
    "prompt": "Prompt",
    "class": "Class",
    "image": "First frame",
    "video": "Beginning",
    "frames": "Frames given",
    "nfe": "Calls",
    "seed": "Seed",
    "n": "How many",
}
"""What the options of `flowmap sample` are called on the page."""

MOST_CHARACTERS = 4000
"""Of a prompt: several times what the text encoders of video models read."""

_STILLS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_DIGITS = 19  # of a seed, which has 64 bits


@final
@dataclass(frozen=True)
class Question:
    """What the fields of the page hold; what is not asked of this model stays as it is here.

    `calls` has a number for each side. `file` is an image, the first frame, or a video, the first `frames` of which
    (None: as many as fit) are given.
    """

    calls: tuple[int, ...]
    seed: str = "0"
    prompt: str = ""
    label: int | None = None
    file: Path | None = None
    frames: int | None = None
    number: int | None = None

    def wish(self, side: Side, calls: int) -> Wish:
        """The wish for `side`; raises FlowmapError, in the words of the page, for what is none."""
        if not 1 <= calls <= MOST_CALLS:
            raise FlowmapError(f"Calls {calls}: 1 to {MOST_CALLS} are possible here")
        if side.opened.sampler.steps(calls) is None:
            raise FlowmapError(f"Calls {calls}: not possible, as the sampler {side.opened.sampler.takes()}")
        prompt = " ".join(self.prompt.split())
        if len(prompt) > MOST_CHARACTERS:
            raise FlowmapError(
                f"Prompt: it has {len(prompt):,} characters, and at most {MOST_CHARACTERS:,} are read; shorten it"
            )
        wish = replace(
            side.chosen,
            calls=calls,
            seed=_seed(self.seed),
            number=self.number or 1,
            prompts=(prompt,) if prompt else (),
            classes=() if self.label is None else (self.label,),
        )
        least = needed(side.opened.contestant.contexts)
        if self.file is None and least:
            raise FlowmapError(f"{FIELDS['image']}: {needs_frames(least)}; give it")
        if self.file is None:
            return wish
        if self.file.suffix.lower() in _STILLS:
            return replace(wish, image=self.file)
        return replace(wish, video=self.file, frames=self.frames)


def _seed(text: str) -> int:
    word = text.strip() or "0"
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS):
        raise FlowmapError(f"Seed: {word[:40]!r} is no whole number of at most {_DIGITS} digits")
    return int(word)
