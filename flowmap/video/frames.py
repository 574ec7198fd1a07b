"""A frame of a clip as it is meant to be seen, by what the file says of its colours, pixels and orientation.

What is well defined is honoured; of the rest ClipError says what it is, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from flowmap.errors import ClipError
from flowmap.video.colour import by_profile, matrix, refuse_colours, refuse_transparent
from flowmap.video.fitting import Picture, pixel_aspect

MOST_PIXELS = 8192 * 4320
"""Of a frame: 8K cinema, the largest that cameras make; as a picture it takes 106 MB."""

_STRAIGHT = 0.01  # of a side: what rounding may turn a display matrix by


def seen(frame: VideoFrame, pixel: Fraction | None) -> Picture:
    """The frame in R'G'B' of BT.709, upright; `pixel` is the shape of a pixel as stored. Raises ClipError."""
    if frame.width * frame.height > MOST_PIXELS:
        raise ClipError(too_large(frame.width, frame.height))
    if frame.is_corrupt:
        raise ClipError("it is damaged: the decoder says so of a frame that is needed")
    if frame.interlaced_frame:
        raise ClipError("it is interlaced (two half pictures in each frame); deinterlace it")
    said = _said(frame)
    _refuse_special(said)
    refuse_colours(frame.color_primaries, frame.color_trc)
    pixels = _rgb(frame)
    if profile := said.get("ICC_PROFILE"):
        pixels = np.asarray(by_profile(Image.fromarray(pixels), profile))
    shape = (pixel.numerator, pixel.denominator) if pixel else (0, 0)
    picture = Picture(pixels, pixel_aspect(*shape))
    return _upright(picture, said["DISPLAYMATRIX"]) if "DISPLAYMATRIX" in said else picture


def too_large(width: int, height: int) -> str:
    """Say that frames of this size are not read."""
    return f"its frames have {width} x {height} pixels, more than the {MOST_PIXELS / 1e6:.0f} million that are read"


def _said(frame: VideoFrame) -> dict[str, bytes]:
    """What stands beside the pixels, by its name."""
    try:
        # PyAV declares a dictionary of motion vectors here; it is a container of all side data.
        return {data.type.name: bytes(data) for data in cast("Iterable[SideData]", frame.side_data)}
    except ValueError as error:
        raise ClipError(f"it says something of its frames that the installed PyAV cannot read ({error})") from None


def _refuse_special(said: dict[str, bytes]) -> None:
    if any(name.startswith("DOVI") for name in said):
        raise ClipError("it is Dolby Vision, which is not read; convert it to BT.709")
    if "SPHERICAL" in said:
        raise ClipError("it is a panorama (360 degrees), not a picture as one sees it")
    # The first field of AVStereo3D is how the two are packed; 0 is a single one.
    if "STEREO3D" in said and any(said["STEREO3D"][:4]):
        raise ClipError("each of its frames has two pictures, one for each eye")


def _rgb(frame: VideoFrame) -> NDArray[np.uint8]:
    """R'G'B' of 8 bits `[H, W, 3]`."""
    layout = frame.format
    plain = layout.is_rgb or layout.has_palette
    # What is grey has no matrix, but BT.709's does it no harm.
    source = None if plain else matrix(frame.colorspace, frame.width, frame.height)
    if layout.has_palette or any(component.is_alpha for component in layout.components):
        with_alpha = np.asarray(frame.to_ndarray(format="rgba", src_colorspace=source), dtype=np.uint8)
        refuse_transparent(with_alpha[..., 3])
        return np.ascontiguousarray(with_alpha[..., :3])
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24", src_colorspace=source), dtype=np.uint8)


def _upright(picture: Picture, display: bytes) -> Picture:
    """Turned and mirrored by a display matrix, nine integers a b u c d v x y w in rows (ISO 14496-12, 6.2.2).

    A point (x, y) is shown at (a x + c y, b x + d y). FFmpeg has put scales into the shape of pixels.
    """
    a, b, _, c, d = (float(value) for value in np.frombuffer(display, dtype=np.int32)[:5])
    largest = max(abs(a), abs(b), abs(c), abs(d))
    straight = [0 if abs(value) <= _STRAIGHT * largest else 1 if value > 0 else -1 for value in (a, c, b, d)]
    across, down = (straight[0], straight[1]), (straight[2], straight[3])
    if {tuple(map(abs, across)), tuple(map(abs, down))} != {(1, 0), (0, 1)}:
        raise ClipError("it is to be shown turned by less than a right angle, or slanted; turn its pixels")
    return picture.turned(across, down)
