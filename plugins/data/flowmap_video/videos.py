"""Clips as samples of shards."""

from __future__ import annotations

import io
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.shards.captions import read_captions
from flowmap.shards.entries import ABOUT, LARGEST_ABOUT, Entry, Members
from flowmap.shards.kind import Kind
from flowmap.video import clip_as, strips, to_float
from flowmap_video.configs import VideoShardsConfig

VIDEO = ".mp4"

CLIPS = Members({VIDEO: 2**30}, {ABOUT: LARGEST_ABOUT})
"""A clip is read whole: an hour of good video."""


@final
class Clips(Kind):
    """Clips `[T, 3, H, W]` with captions, which stand in a json beside each."""

    def __init__(self, config: VideoShardsConfig) -> None:
        self._config = config

    def members(self) -> Members:
        """A clip and its json."""
        return CLIPS

    def load(self, entry: Entry) -> Tensor:
        """The first frames of a clip, in [-1, 1]."""
        return to_float(clip_as(io.BytesIO(entry.read(VIDEO)), self._config.frames, self._config.spec()))

    def captions(self, entry: Entry) -> list[str]:
        """Those in the json."""
        if not entry.has(ABOUT):
            raise ClipError(f"it has no {ABOUT}, where its caption would be")
        return read_captions(entry.read(ABOUT), self._config.caption)

    def about(self, entry: Entry) -> bytes:
        """The json as it is."""
        return entry.read(ABOUT)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """At most eight videos as rows, each of at most eight evenly spaced frames."""
        return strips(x)
