"""Pictures drawn by hand, for a rehearsal: shapes on a ground, of several aspects, and captions that say so."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmap.files.whole import write_whole_folder
from flowmap.shards.writing import add_file
from flowmap.video.pictures import png

_COLOURS = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 220), "yellow": (230, 200, 40)}
_SHAPES = ("disc", "square")
_ASPECTS = {"": (1, 1), "-wide": (1, 2), "-tall": (2, 1)}
_PER_TAR = 12
_GROUNDS = {"": 90, "-wide": 110, "-tall": 70}
"""Greys: cropped to one shape, pictures of two aspects are to be two pictures, however they are resized."""


def write_pictures(folder: Path, size: int, caption: str, classes: int) -> None:
    """Write two raw tars of twelve pictures, none smaller than `size` x `size`, into `folder`, unless they are there.

    Each has captions in the field `caption` of its json, and is of one of the `classes`, if there are any.
    """
    if not folder.is_dir():
        write_whole_folder(folder, lambda part: _fill(part, size, caption, classes))


def _fill(folder: Path, size: int, caption: str, classes: int) -> None:
    kinds = [(shape, colour, form) for form in _ASPECTS for shape in _SHAPES for colour in _COLOURS]
    for first in range(0, len(kinds), _PER_TAR):
        with tarfile.open(folder / f"{first // _PER_TAR:03d}.tar", "w") as tar:
            for number, (shape, colour, form) in enumerate(kinds[first : first + _PER_TAR], start=first):
                height, width = (round(1.5 * size * wide) for wide in _ASPECTS[form])
                drawn = draw_picture(shape, colour, height, width, _GROUNDS[form])
                captions = [f"a {colour} {shape}", f"a grey ground with a {colour} {shape} on it"]
                add_file(tar, f"{colour}-{shape}{form}.png", png(drawn))
                add_file(tar, f"{colour}-{shape}{form}.json", json.dumps({caption: captions}).encode())
                if classes:
                    add_file(tar, f"{colour}-{shape}{form}.cls", b"%d" % (number % classes))


def draw_picture(shape: str, colour: str, height: int, width: int, ground: int = 90) -> NDArray[np.uint8]:
    """A shape in the middle of a grey `ground`: uint8 `[height, width, 3]`."""
    picture = np.full((height, width, 3), ground, dtype=np.uint8)
    away = np.stack(np.meshgrid(np.arange(height) - height / 2, np.arange(width) - width / 2, indexing="ij"))
    side = min(height, width) / 3
    inside = (away**2).sum(0) < side**2 if shape == "disc" else np.abs(away).max(0) < side
    picture[inside] = _COLOURS[colour]
    return picture
