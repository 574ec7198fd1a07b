"""Samples as the images that networks of others see: of 8 bits, of three channels, of the size they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final
from weakref import ref

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowmap.interfaces import Features, References
from flowmap.phases import phase
from flowmap.video.clips import to_uint8

_TOGETHER = 64
"""Images that a network sees at a time."""

_last: dict[str, tuple[Callable[[], Tensor | None], Tensor]] = {}
"""By network: the samples that it saw last, and what it made of them. Several metrics look at the same ones in turn."""


def as_images(samples: Tensor) -> Tensor:
    """Samples `[N, 1, C, H, W]` in [-1, 1] as images `[N, 3, H, W]` of 8 bits, rounded as if they were saved."""
    return to_uint8(samples[:, 0]).expand(-1, 3, -1, -1)


def seen(see: Callable[[Tensor], Tensor], samples: Tensor, device: torch.device, what: str) -> Tensor:
    """What `see` makes of `samples` `[N, 1, C, H, W]`, some `[n, 3, H, W]` at a time: rows `[N, D]` on the CPU."""
    rows = []
    with phase(what, len(samples), "images") as doing, torch.no_grad():
        for part in samples.split(_TOGETHER):
            rows.append(see(as_images(part).to(device)).float().cpu())
            doing.advance(len(part))
    return torch.cat(rows)


@final
class NetworkFeatures(Features):
    """What a network that others trained makes of images, by `see`: images `[n, 3, H, W]` of 8 bits to rows `[n, D]`.

    `key` is all that it depends on, in JSON. What it makes of the references is kept on their shelf.
    """

    def __init__(self, see: Callable[[Tensor], Tensor], key: dict[str, Any], references: References) -> None:
        self._see, self._key, self._references = see, key, references

    def of(self, samples: Tensor) -> Tensor:
        """See Features."""
        name = repr(sorted(self._key.items()))
        known, rows = _last.get(name, (lambda: None, torch.empty(0)))
        if known() is not samples:
            rows = self._of(samples)
            _last[name] = ref(samples), rows
        return rows

    def _of(self, samples: Tensor) -> Tensor:
        def make() -> dict[str, Tensor]:
            return {"rows": seen(self._see, samples, self._references.device, "looking at images")}

        given = self._references
        if any(samples is known for known in (given.train.x, given.held_out.x, given.teacher, given.teacher_again)):
            return given.shelf.kept("network-features", {**self._key, "images": to_uint8(samples)}, make)["rows"]
        return make()["rows"]


def resized_as_clean_fid(images: Tensor, side: int) -> Tensor:
    """Images `[N, 3, H, W]` of 8 bits as float32 `[N, 3, side, side]`, as clean-fid resizes (arXiv 2104.11222).

    Pillow's bicubic filter, a channel at a time in floats: antialiased, not rounded, clipped to 0 ... 255.
    """
    planes = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    made = [np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC)) for plane in planes]
    return torch.from_numpy(np.stack(made)).clamp(0, 255).unflatten(0, images.shape[:2]).to(images.device)


def resized_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """Images `[N, 3, H, W]` of 8 bits as float32 `[N, 3, side, side]`, as TensorFlow 1 resizes in FID's graph.

    Bilinear between the two nearest pixels, with no half-pixel offset and no antialiasing (`align_corners` is False).
    """
    x = images.float()
    for axis in (3, 2):
        places = torch.arange(side, device=x.device) * torch.tensor(x.shape[axis] / side, device=x.device)
        low = places.long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (places - low).reshape(-1, *[1] * (3 - axis))
        first, second = x.index_select(axis, low), x.index_select(axis, high)
        x = first + (second - first) * share
    return x
