"""What cannot be judged as it is asked for, refused before anything is made or written."""

from __future__ import annotations

from pathlib import Path

import torch

from flowmap.errors import FlowmapError
from flowmap.vbench.dimensions import VIDEOS
from flowmap.vbench.protocol import FLICKERING


def refuse_misplaced(out: Path, videos: Path | None) -> None:
    """Refuse to write beside clips that are there: nothing else may lie in their folder."""
    if videos is not None and out.resolve().is_relative_to(videos.resolve()):
        raise FlowmapError(f"--out {out}: lies in the folder of the clips, where nothing else may be; name another")


def refuse_device(device: str) -> None:
    """Refuse what the package cannot compute on here."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise FlowmapError(f"--device {device}: the package computes on cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise FlowmapError(f"--device {device}: PyTorch sees no CUDA device on this machine; take cpu")


def refuse_unfiltered(dimension: str, videos: int, clips: Path) -> None:
    """Of 25 videos of a prompt the package looks at the first five, which need not be static ones."""
    if dimension == FLICKERING and videos != VIDEOS:
        raise FlowmapError(
            f"{dimension}: of {videos} videos of a prompt five static ones are chosen by VBench's own "
            f"static_filter (with RAFT's weights): run it on {clips}, then score its folder: --videos FOLDER "
            f"--dimensions {dimension}"
        )
