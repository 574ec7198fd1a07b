"""Clips drawn by hand, for a rehearsal: shapes that move, and captions that say so."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowmap.files.whole import write_whole_folder
from flowmap.shards.writing import add_file
from flowmap.video import write_mp4

_COLOURS = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 220), "yellow": (230, 200, 40)}
_SHAPES = ("disc", "square")
_PER_TAR = 4
_GROUND = 90


def write_clips(folder: Path, frames: int, size: int, fps: float, caption: str) -> None:
    """Write two raw tars of four clips `[frames, size, size]` into `folder`, unless they are there."""
    if not folder.is_dir():
        write_whole_folder(folder, lambda part: _fill(part, frames, size, fps, caption))


def _fill(folder: Path, frames: int, size: int, fps: float, caption: str) -> None:
    kinds = [(shape, colour) for shape in _SHAPES for colour in _COLOURS]
    clip = folder / "clip.mp4"
    for first in range(0, len(kinds), _PER_TAR):
        with tarfile.open(folder / f"{first // _PER_TAR:03d}.tar", "w") as tar:
            for shape, colour in kinds[first : first + _PER_TAR]:
                way = "down" if shape == "disc" else "to the right"
                captions = [f"a {colour} {shape} moves {way}", f"a grey ground with a {colour} {shape} on it"]
                write_mp4(clip, draw_clip(shape, colour, frames, size), fps)
                add_file(tar, f"{colour}-{shape}.mp4", clip.read_bytes())
                add_file(tar, f"{colour}-{shape}.json", json.dumps({caption: captions}).encode())
    clip.unlink()


def draw_clip(shape: str, colour: str, frames: int, size: int) -> NDArray[np.uint8]:
    """A shape that crosses a grey ground once: uint8 `[frames, size, size, 3]`."""
    video = np.full((frames, size, size, 3), _GROUND, dtype=np.uint8)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    for k in range(frames):
        along = size * (0.2 + 0.6 * k / max(frames - 1, 1))
        centre = (along, size / 2) if shape == "disc" else (size / 2, along)
        away = np.abs(grid - np.reshape(centre, (2, 1, 1)))
        inside = (away**2).sum(0) < (size / 5) ** 2 if shape == "disc" else away.max(0) < size / 6
        video[k][inside] = _COLOURS[colour]
    return video
