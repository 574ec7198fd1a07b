"""Colours as files name them: those that become a screen's (BT.709, sRGB), and those that are refused.

Pixels everywhere in flowmap are R'G'B' of 8 bits with the primaries of BT.709, which sRGB shares. Numbers are those of
ITU-T H.273, which mp4, Matroska, H.264 and PNG (cICP) have in common.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from flowmap.errors import ClipError

BT709, BT601, LIMITED = 1, 5, 1
"""The matrices as swscale numbers them (`av.video.reformatter.Colorspace`), and H.273's range of 16 to 235."""

_UNSPECIFIED = (2, 3)  # 3 is reserved: some encoders write it where they know nothing
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # H.273's to swscale's, which has one number for both BT.601
_HD_WIDTH, _SD_HEIGHT = 1280, 576  # clips that name no matrix: from here on players take BT.709 (mpv, SDL)
_OTHER_MATRICES = {0: "RGB", 8: "YCgCo", 10: "BT.2020 constant luminance", 11: "YDzDx", 14: "ICtCp"}
# BT.601's primaries differ from BT.709's by less than screens do, and no reader that models were trained with tells
# them apart. What lies beyond is another picture on a screen.
_WIDE = {
    4: "BT.470 M",
    8: "film",
    9: "BT.2020",
    10: "XYZ",
    11: "DCI-P3",
    12: "Display P3",
}
_NOT_GAMMA = {8: "linear light", 9: "a logarithm", 10: "a logarithm", 16: "PQ (HDR)", 17: "SMPTE 428", 18: "HLG (HDR)"}
_OPAQUE = 250  # of 255: what rounding may take from alpha where every pixel is meant to be opaque


def matrix(named: int, width: int, height: int) -> int:
    """swscale's number of the matrix that a file names; one that names none has what players take for its size.

    Raises ClipError for matrices that are not R'G'B' turned by constants.
    """
    if named in _UNSPECIFIED:
        return BT709 if width >= _HD_WIDTH or height > _SD_HEIGHT else BT601
    if named not in _MATRICES:
        what = _OTHER_MATRICES.get(named, f"number {named} of H.273")
        raise ClipError(f"its colours are coded by a matrix that is not read ({what}); convert it to BT.709")
    return _MATRICES[named]


def refuse_colours(primaries: int, transfer: int) -> None:
    """Raise ClipError for colours that are not a screen's: HDR, linear light, wide gamuts."""
    if transfer in _NOT_GAMMA:
        raise ClipError(f"its brightness is coded by {_NOT_GAMMA[transfer]}, which is not read; convert it to BT.709")
    if primaries in _WIDE:
        raise ClipError(f"its primaries are those of {_WIDE[primaries]}, which are not read; convert it to BT.709")


def refuse_transparent(alpha: NDArray[np.uint8]) -> None:
    """Raise ClipError unless every pixel of `alpha` `[H, W]` is opaque: what stands behind it is not known."""
    share = float((alpha < _OPAQUE).mean())
    if share:
        raise ClipError(f"{share:.2%} of its pixels are transparent, and nothing says what is behind them; flatten it")


def by_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """`image` (RGB, L or CMYK), whose colours an ICC profile explains, in sRGB. Raises ClipError."""
    try:
        found = ImageCms.applyTransform(image, _transform(profile, image.mode))
    except Exception as error:  # littlecms and its wrapper raise anything for profiles of strangers
        raise ClipError(f"its colour profile cannot be read ({error}); convert it to sRGB") from None
    assert found is not None
    return found


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """The frames of a clip share it."""
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")
