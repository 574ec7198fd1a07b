"""Samples as files: videos as mp4, pictures as PNG."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowmap.files.folder import SKIP_PREFIX, writing
from flowmap.files.whole import write_whole_file
from flowmap.phases import phase
from flowmap.schema.specs import SampleSpec
from flowmap.use.student import ReadyModel
from flowmap.video.clips import to_uint8, write_mp4
from flowmap.video.pictures import png

PICTURES = "pictures"
"""Of an evaluation, in the folder of a run."""


def in_colour(spec: SampleSpec) -> bool:
    """Whether samples are pictures that can be shown as they are."""
    return spec.fps is None and len(spec.shape) == 4 and spec.shape[:2] == (1, 3)


def pictured(image: Tensor) -> NDArray[np.uint8]:
    """A sample `[1, 3, H, W]` as a picture `[H, W, 3]`."""
    return to_uint8(image[0]).permute(1, 2, 0).numpy()


def write_picture(file: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture `[H, W, 3]` as a PNG."""
    file.write_bytes(png(picture))


def write_video(file: Path, video: Tensor, contestant: ReadyModel, fps: float) -> None:
    """Write a sample `[F, C, H, W]` as an mp4."""
    with phase(f"writing {file.name.removeprefix(SKIP_PREFIX)}"):
        write_mp4(file, film(video, contestant), fps)


def film(video: Tensor, contestant: ReadyModel) -> NDArray[np.uint8]:
    """A video `[F, C, H, W]` as frames `[F, H, W, 3]`: its own colours, or drawn as its data draw themselves."""
    if video.shape[1] == 3:
        return to_uint8(video).permute(0, 2, 3, 1).numpy()
    return np.stack([contestant.data.picture(frame[None, None]) for frame in video])


def save_picture(folder: Path, name: str, picture: NDArray[np.uint8]) -> None:
    """Write a picture of an evaluation into the run's `folder`."""
    with writing(folder / PICTURES):
        (folder / PICTURES).mkdir(exist_ok=True)
    write_whole_file(folder / PICTURES / f"{name}.png", partial(write_picture, picture=picture))
