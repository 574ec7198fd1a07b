"""Pictures as they are meant to be seen, and how they come to the size of a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from flowmap.errors import ClipError
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import Fit

_OBLONG = 16.0  # pixels this many times as wide as high, or as high as wide, are a mistake; anamorphic film has 2
_SQUARE = 0.005  # what rounding of densities may make of square pixels


@final
@dataclass(frozen=True)
class Picture:
    """Pixels uint8 `[H, W, 3]`, each `aspect` times as wide as it is high."""

    pixels: NDArray[np.uint8]
    aspect: float = 1.0

    def turned(self, across: tuple[int, int], down: tuple[int, int]) -> Picture:
        """The picture with the pixel of column x and row y at column `across` . (x, y) and row `down` . (x, y).

        Each of the two is (1, 0), (-1, 0), (0, 1) or (0, -1), and they are not parallel; their origin does not count.
        """
        pixels, aspect = self.pixels, self.aspect
        if across[0] == 0:
            pixels, aspect = pixels.swapaxes(0, 1), 1 / aspect
        if sum(across) < 0:
            pixels = pixels[:, ::-1]
        if sum(down) < 0:
            pixels = pixels[::-1]
        return Picture(np.ascontiguousarray(pixels), aspect)


def pixel_aspect(width: float, height: float) -> float:
    """How many times as wide as high a pixel of `width` by `height` is; zeros say that it is not known: 1.

    Raises ClipError for what no camera makes.
    """
    if not (width > 0 and height > 0):
        return 1.0
    aspect = width / height
    if not 1 / _OBLONG <= aspect <= _OBLONG:
        raise ClipError(f"it says that its pixels are {aspect:.3g} times as wide as high, which cannot be meant")
    return 1.0 if abs(aspect - 1) < _SQUARE else aspect


def fitted(picture: Picture, spec: SampleSpec) -> NDArray[np.uint8]:
    """Bring to the size of `spec` `[H, W, 3]`, in its way; antialiased."""
    *_, height, width = spec.shape
    return _FITS[spec.fit](picture, height, width)


def _cropped(picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    """Scale to cover, bicubic; keep the middle."""
    image = Image.fromarray(picture.pixels)
    seen = image.width * picture.aspect
    scale = max(height / image.height, width / seen)
    across, down = min(width / scale, seen) / picture.aspect, min(height / scale, image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    # Rounding must not lead out of the picture.
    box = (max(left, 0.0), max(top, 0.0), min(left + across, image.width), min(top + down, image.height))
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _stretched(picture: Picture, height: int, width: int) -> NDArray[np.uint8]:
    """Squash, bilinear, in float32 as torchvision's Resize does; rounded to 8 bits. The shape of pixels is lost."""
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float()
    resized = interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)[0]
    return np.asarray(resized.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


_FITS: dict[Fit, Callable[[Picture, int, int], NDArray[np.uint8]]] = {"crop": _cropped, "stretch": _stretched}
