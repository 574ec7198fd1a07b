"""Pictures as samples of shards."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.shards.captions import field_of, read_captions, read_text
from flowmap.shards.entries import ABOUT, LARGEST_ABOUT, Entry, Members
from flowmap.shards.kind import Kind
from flowmap.video import strips, to_float
from flowmap.video.fitting import fitted
from flowmap.video.stills import read_still, still_size
from flowmap_images.buckets import nearest
from flowmap_images.configs import ImagesConfig
from flowmap_images.forms import CLASS, PICTURES, TEXT

_LARGEST = (
    2**28
)  # bytes of a picture, which is read whole: 89 million pixels of 16 bits without any compression have two
_HEAD = 2**16  # bytes of a picture, in which most say their size
_BEHIND = {"refuse": None, "white": 255, "black": 0}
_log = logging.getLogger("flowmap.pictures")  # what is said of faults alone is counted as one


def members_of(config: ImagesConfig) -> Members:
    """What belongs to a sample, by what it is conditioned on."""
    beside = {
        "caption": {TEXT: LARGEST_ABOUT, ABOUT: LARGEST_ABOUT},
        "class": {CLASS: 2**10, ABOUT: LARGEST_ABOUT},
        "none": {},
    }
    return Members(dict.fromkeys(PICTURES, _LARGEST), beside[config.condition])


@final
class Pictures(Kind):
    """Pictures `[1, 3, H, W]` with captions or classes, which stand beside each."""

    def __init__(self, config: ImagesConfig) -> None:
        self._config, self._spec, self._members = config, config.spec(), members_of(config)
        self._sizes = [size[2:] for size in self._spec.sizes]
        self._enlarged: set[tuple[str, str]] = set()

    def members(self) -> Members:
        """A picture and what is said of it."""
        return self._members

    def load(self, entry: Entry) -> Tensor:
        """The picture in [-1, 1], upright, in sRGB."""
        content = entry.read(self._members.raw_of(entry))
        picture = read_still(io.BytesIO(content), _BEHIND[self._config.transparent])
        shape = self._nearest(*still_size(io.BytesIO(content))) if self._sizes else self._spec.shape
        seen = picture.pixels.shape[0], picture.pixels.shape[1] * picture.aspect
        self._look_at_size(entry, seen, shape[2:])
        pixels = torch.from_numpy(fitted(picture, replace(self._spec, shape=shape)))
        return to_float(pixels.permute(2, 0, 1)[None].contiguous())

    def size(self, entry: Entry) -> tuple[int, ...]:
        """The bucket whose aspect is nearest, by the picture's header."""
        suffix = self._members.raw_of(entry)
        try:
            found = still_size(io.BytesIO(entry.head(suffix, _HEAD)))
        except ClipError:
            # Before their size some have more than that: thumbnails, profiles.
            found = still_size(io.BytesIO(entry.read(suffix)))
        return self._nearest(*found)

    def _nearest(self, height: float, width: float) -> tuple[int, ...]:
        return (1, 3, *nearest(self._sizes, height, width))

    def _look_at_size(self, entry: Entry, seen: tuple[float, float], wanted: tuple[int, ...]) -> None:
        """Refuse a picture that is smaller than it is wanted, or count it: the 1st, 10th, 100th ... is logged."""
        if seen[0] >= wanted[0] and seen[1] >= wanted[1]:
            return
        size = f"{seen[0]:.0f} x {seen[1]:.0f}, smaller than {wanted[0]} x {wanted[1]}"
        if self._config.small == "skip":
            raise ClipError(f"it is {size}, and such pictures are skipped (data.small)")
        before = len(self._enlarged)
        self._enlarged.add((str(entry.part.path), entry.key))
        if (now := len(self._enlarged)) > before and str(now).strip("0") == "1":
            which = f"{entry.part.path}: {entry.key} is {size}"
            number = f"with {before} before it, it is" if before else "it is"
            _log.warning('%s: %s enlarged (data.small = "skip" leaves such out)', which, number)

    def captions(self, entry: Entry) -> list[str]:
        """The text beside the picture, or what its json says."""
        if entry.has(TEXT):
            return read_text(entry.read(TEXT), TEXT)
        if not entry.has(ABOUT):
            raise ClipError(f"it has no {TEXT} or {ABOUT}, where its caption would be")
        return read_captions(entry.read(ABOUT), self._config.caption)

    def label(self, entry: Entry) -> int:
        """The number beside the picture, or what its json says."""
        if entry.has(CLASS):
            return self._class(entry.read(CLASS).decode("ascii", "backslashreplace").strip(), f"its {CLASS}")
        if not entry.has(ABOUT):
            raise ClipError(f"it has no {CLASS} or {ABOUT}, where its class would be")
        field = self._config.label
        return self._class(field_of(entry.read(ABOUT), field), f"its '{field}'")

    def _class(self, found: Any, what: str) -> int:
        text = str(found) if isinstance(found, str) or type(found) is int else ""
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if not 0 <= number < self._spec.classes:
            shown = json.dumps(found)[:40]
            raise ClipError(f"{what} is {shown}, not a number from 0 to {self._spec.classes - 1} (data.classes)")
        return number

    def about(self, entry: Entry) -> bytes:
        """Captions and class by the names of their fields."""
        said: dict[str, Any] = {}
        if self._spec.text:
            said[self._config.caption] = self.captions(entry)
        if self._spec.labelled:
            said[self._config.label] = self.label(entry)
        return json.dumps(said).encode()

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """A sheet of at most 64 pictures."""
        return strips(x)
