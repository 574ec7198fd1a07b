"""What is in a video file: every frame decoded and counted, before others who look less closely read it. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import av

from flowmap.errors import ClipError


@final
@dataclass(frozen=True)
class Counted:
    """The frames that decode, and their size in pixels."""

    frames: int
    height: int
    width: int


def count_frames(path: Path) -> Counted:
    """Decode the whole of an MP4 file. Raises ClipError if it is unreadable, damaged or cut, or changes its size."""
    frames, sizes = 0, set[tuple[int, int]]()
    try:
        with av.open(str(path), "r", options={"format_whitelist": "mov,mp4"}, metadata_errors="replace") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise ClipError(f"{path.name}: it has no video in it")
            declared = stream.frames
            # Without this a decoder paints over damage and says nothing.
            stream.codec_context.options = {"err_detect": "explode"}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise ClipError(f"{path.name}: it is damaged at frame {frames + 1}")
                frames += 1
                sizes.add((frame.height, frame.width))
    except ClipError:
        raise
    except Exception as error:  # decoders of damaged files raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        after = f" after frame {frames}" if frames else ""
        raise ClipError(f"{path.name}: it cannot be decoded{after} ({reason})") from None
    if frames < declared or not frames:
        raise ClipError(f"{path.name}: it breaks off: {frames} of its {declared} frames are there")
    if len(sizes) > 1:
        raise ClipError(f"{path.name}: its frames are of {len(sizes)} sizes")
    ((height, width),) = sizes
    return Counted(frames, height, width)
