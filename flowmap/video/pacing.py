"""Which frames of a clip are taken: those nearest in time, or those that counting by the declared rate comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from av.video.frame import VideoFrame

from flowmap.errors import ClipError

MOST_DECODED = 20_000
"""Frames that are decoded for one clip: a minute and more at the highest rates of cameras (240), in a minute or so."""

_LAST = 0.01  # of a frame: what rounding of timestamps may take from the end of a clip


@final
class Counted:
    """Frames, and how many of them have been decoded. Raises ClipError beyond `MOST_DECODED`."""

    def __init__(self, frames: Iterator[VideoFrame]) -> None:
        self._frames = frames
        self.count = 0

    def __iter__(self) -> Iterator[VideoFrame]:
        for frame in self._frames:
            if self.count >= MOST_DECODED:
                raise ClipError(f"its first {MOST_DECODED} frames are not long enough, and no more are decoded")
            self.count += 1
            yield frame


def paced(decoded: Iterable[VideoFrame], fps: float | None, rate: float) -> Iterator[VideoFrame]:
    """The frames nearest to 0, 1 / fps, 2 / fps ... seconds; `rate` is that of videos without timestamps."""
    wanted, start, before = 0, 0.0, -1.0
    previous: VideoFrame | None = None
    for index, frame in enumerate(decoded):
        if fps is None:
            yield frame
            continue
        time = index / rate if frame.time is None else frame.time
        start = time if previous is None else start
        time -= start
        while wanted / fps <= time:
            nearer = previous if previous is not None and wanted / fps - before < time - wanted / fps else frame
            yield nearer
            wanted += 1
        previous, before = frame, time
    if fps is None or previous is None:
        return
    # The last frame is shown for a while too.
    shown = float(previous.duration * previous.time_base) if previous.duration and previous.time_base else 1 / rate
    while wanted < (before + shown) * fps - _LAST:
        yield previous
        wanted += 1


def by_rate(decoded: Iterable[VideoFrame], fps: float, rate: float) -> Iterator[VideoFrame]:
    """The first frame, and each one with which a sum of `fps` / `rate` a frame is full; of slower clips every frame.

    The sum is one of float64 after the other, and its rounding counts, as in the released AnyFlow reader: 24 fps give
    frames 0, 2, 4, 5, 7, 8, ... for 16, where fractions would give 0, 2, 3, 5, 6, 8. Raises ClipError without a rate.
    """
    if not rate:
        raise ClipError('it declares no frame rate, and its frames are to be chosen by it (frame_choice = "rate")')
    due = 1.0
    for frame in decoded:
        if due >= 1:
            yield frame
            due -= 1
        due += fps / rate
