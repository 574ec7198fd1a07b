"""What the page shows for a question: words, and for each side a picture and the files to take home."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from flowmap.demo.sides import Side
from flowmap.use.sample import write_samples
from flowmap.use.showing import film
from flowmap.use.wish import Wish
from flowmap.version import __version__
from flowmap.video.clips import write_mp4

State = Literal["working", "done", "stopped", "refused"]


@final
@dataclass(frozen=True)
class Shown:
    """What one side shows: a `view` (a video or an image), and, once it is whole, its `settings`."""

    view: Path
    words: str
    settings: Path | None = None


@final
@dataclass(frozen=True)
class Answer:
    """How far a question is: one line, and what each side shows; None where it shows what it did."""

    state: State
    words: str
    sides: tuple[Shown | None, ...] = ()


def write_frames(file: Path, x: Tensor, side: Side) -> None:
    """Write the finished frames `[f, C, H, W]` in data space as a video; the file is whole or absent.

    A single frame stands for a second: Chromium does not show a clip of one.
    """
    fps = side.opened.spec.fps
    assert fps is not None
    frames = x.expand(max(2, round(fps)), *x.shape[1:]) if len(x) == 1 else x
    write_mp4(file, film(frames, side.opened.contestant), fps)


def write_answer(
    out: Path, side: Side, wish: Wish, samples: Tensor, facts: dict[str, object], seconds: float, calls: int
) -> Shown:
    """Write `samples` as `flowmap sample` does and, beside them, their settings.

    `calls` were made in all.
    """
    files = write_samples(out, samples, side.opened, facts)
    view = next((file for file in files if file.suffix == ".mp4"), files[-2])
    settings = out.with_suffix(".json")
    device = side.opened.contestant.device
    told = {
        "model": side.where,
        **facts,
        "prompt": next(iter(wish.prompts), None),
        "class": next(iter(wish.classes), None),
        "image": wish.image and wish.image.name,
        "video": wish.video and wish.video.name,
        "number": wish.number,
        "network calls in all": calls,
        "seconds": round(seconds, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "flowmap": __version__,
        "torch": torch.__version__,
        "command": side.command(wish, side.opened.asked(wish).calls),
    }
    kept = {key: value for key, value in told.items() if value is not None}
    settings.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")
    asked = facts["nfe"]
    how = f" ({asked} for each chunk; the others read what is finished)" if calls != asked and wish.number == 1 else ""
    return Shown(view, f"{calls} network call{'s' * (calls > 1)}{how}, {seconds:.1f} s", settings)
