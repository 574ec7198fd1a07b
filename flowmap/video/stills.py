"""Pictures in files (PNG, JPEG, WebP, BMP, TIFF) as they are meant to be seen.

What a file says of itself is honoured where that is well defined: EXIF orientation, shape of pixels, ICC profiles,
palettes, 16 bits. Of the rest ClipError says what it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from flowmap.errors import ClipError
from flowmap.video.colour import by_profile, refuse_colours, refuse_transparent
from flowmap.video.fitting import Picture, pixel_aspect

MOST_PIXELS = 89_478_485
"""Of a picture: Pillow's own limit (a quarter of a gigabyte of RGB), beyond which it suspects a decompression bomb."""

# Not more: Pillow hands an EPS to Ghostscript, whatever the file is called, and knows formats that nobody uses.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_PLAIN = ("1", "L", "P", "RGB", "YCbCr")
_BITS_PER_SAMPLE = 258  # TIFF's tag
_UPRIGHT, _LAST_ORIENTATION, _FIRST_SWAPPED = 1, 8, 5  # EXIF's numbers; 0 is written for "not known"
_GAMMA, _GAMMA_SLACK = 1 / 2.2, 0.02  # of a PNG that is shown as it is, as PNG says it
_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # of sRGB: white, red, green, blue
_CHROMATICITY_SLACK = 0.02
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNREAD = "cannot be read as an image"

T = TypeVar("T")


def read_still(source: Path | BinaryIO, behind: int | None = None) -> Picture:
    """The picture in a file, upright, in sRGB. Raises ClipError.

    Transparent pixels show a grey of `behind` (0 is black, 255 white), or are refused.
    """
    return _opened(source, lambda image: _seen(image, behind))


def still_size(source: Path | BinaryIO) -> tuple[float, float]:
    """Height and width of the picture in a file as it is seen, in pixels of its height, by its header alone.

    Raises ClipError. Of a PNG whose orientation stands behind its pixels, it is that of the pixels as they are stored.
    """
    return _opened(source, _size)


def _opened(source: Path | BinaryIO, look: Callable[[Image.Image], T]) -> T:
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        given = source.open("rb") if isinstance(source, Path) else nullcontext(source)
        with warnings.catch_warnings(), given as file:
            # Pillow's own limit is in `_refuse_large`; of sloppy metadata it warns, and reads the picture well.
            warnings.simplefilter("ignore")
            # Without its EXIF a picture may lie on its side.
            warnings.filterwarnings("error", message="(?i).*corrupt exif")
            _refuse_tagged(file)
            with Image.open(file, formats=_FORMATS) as image:
                _refuse_large(image)
                return look(image)
    except FileNotFoundError:
        raise ClipError(f"{where}there is no such file") from None
    except UnidentifiedImageError:
        raise ClipError(f"{where}{_UNREAD}: it is none of {', '.join(_FORMATS)}") from None
    except ClipError as error:
        raise ClipError(f"{where}{error}") from None
    except Exception as error:  # Pillow's decoders raise anything for what strangers wrote
        raise ClipError(f"{where}{_UNREAD}: {error or type(error).__name__}") from None


def _refuse_large(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ClipError(f"it has {image.width} x {image.height} pixels, more than the {MOST_PIXELS} that are read")


def _size(image: Image.Image) -> tuple[float, float]:
    # Pillow looks for the EXIF of a PNG behind its pixels, which it decodes for that.
    turned = image.format != "PNG" or "exif" in image.info
    aspect = pixel_aspect(*_density(image)[::-1])
    height, width = float(image.height), image.width * aspect
    return (width / aspect, height / aspect) if turned and _orientation(image) >= _FIRST_SWAPPED else (height, width)


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    if found not in range(_LAST_ORIENTATION + 1):
        raise ClipError(f"its EXIF orientation is {found!r}, which is none of 1 to 8")
    return int(found)


def _seen(image: Image.Image, behind: int | None) -> Picture:
    # A JPEG of several pictures (MPO) is a photograph with a smaller one, or another eye's, behind it.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ClipError(f"it is animated, or has pages: {frames} pictures, and nothing says which is meant")
    # Before the pixels: reading those of a TIFF turns them, and forgets what was said.
    orientation = _orientation(image)
    aspect = pixel_aspect(*_density(image)[::-1])
    profile = image.info.get("icc_profile")
    if not profile:
        _refuse_gamma(image)
    upright = ImageOps.exif_transpose(image)
    pixels = _rgb(upright, profile, behind)
    return Picture(pixels, 1 / aspect if orientation >= _FIRST_SWAPPED else aspect)


def _rgb(image: Image.Image, profile: bytes | None, behind: int | None) -> NDArray[np.uint8]:
    """R'G'B' of 8 bits `[H, W, 3]`."""
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        if behind is None:
            refuse_transparent(np.asarray(image)[..., 3])
        else:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (behind, behind, behind, 255)), image)
    elif image.mode == "CMYK":
        if not profile:
            raise ClipError("its colours are inks (CMYK) without a profile that says which; convert it to sRGB")
    elif image.mode not in _PLAIN:
        raise ClipError(f"its pixels are of a kind that is not read (Pillow calls it {image.mode}); convert it to sRGB")
    if profile:
        image = by_profile(image if image.mode in ("L", "CMYK") else image.convert("RGB"), profile)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would cut off at 255."""
    values = np.asarray(image).astype(np.uint32)
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    if tuple(bits) != (16,):
        raise ClipError(f"its pixels have {bits[0]} bits, of which only 8 and 16 are read")
    if "transparency" in image.info:
        raise ClipError("a grey of 16 bits stands for transparent pixels, which is not read; flatten it")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _density(image: Image.Image) -> tuple[float, float]:
    """Pixels per length across and down; zeros if the file does not say."""
    for name in ("aspect", "jfif_density", "dpi"):
        found = image.info.get(name)
        if isinstance(found, tuple) and len(found) == 2:
            return float(found[0]), float(found[1])
    return 0.0, 0.0


def _refuse_gamma(image: Image.Image) -> None:
    """Refuse a PNG that says of itself that its numbers are not a screen's."""
    if image.format != "PNG" or "srgb" in image.info:
        return
    gamma = image.info.get("gamma")
    if gamma is not None and abs(gamma - _GAMMA) > _GAMMA_SLACK:
        raise ClipError(f"its brightness is coded with a gamma of {gamma:g}, not of {_GAMMA:.4f}; convert it to sRGB")
    colours = image.info.get("chromaticity")
    if colours and any(abs(a - b) > _CHROMATICITY_SLACK for a, b in zip(colours, _CHROMATICITY, strict=True)):
        raise ClipError("its primaries are not those of sRGB, which is not read; convert it to sRGB")


def _refuse_tagged(file: BinaryIO) -> None:
    """Refuse a PNG whose cICP chunk, which Pillow passes over, says that it is HDR or of a wide gamut."""
    if file.read(len(_SIGNATURE)) == _SIGNATURE:
        while len(head := file.read(8)) == 8 and (kind := head[4:]) != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if kind == b"cICP" and len(colours := file.read(min(length, 4))) == 4:
                refuse_colours(colours[0], colours[1])
                break
            file.seek(length + 4, 1)
    file.seek(0)
