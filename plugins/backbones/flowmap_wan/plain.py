"""What plain Wan2.1 makes, and how its authors sample it. Torch-free."""

from __future__ import annotations

from pathlib import Path

from flowmap.plugin import Pretrained, SampleSpec

FPS = 16.0
"""Frames a second of every clip of Wan2.1."""


def clip(frames: int, height: int, width: int) -> SampleSpec:
    """The clip of so many latent `frames`, with a text: 4 frames for each but the first, `height` by `width` pixels."""
    return SampleSpec((4 * (frames - 1) + 1, 3, height, width), text=True, fps=FPS)


OF_WAN = clip(21, 480, 832)
"""What it makes, unless it is told otherwise: 81 frames."""


def velocity_of(files: tuple[Path, ...], spec: SampleSpec, shift: float | None) -> Pretrained:
    """Its weights in `files`: UniPC, 50 steps and guidance 5 (diffusers' WanPipeline), on a grid of `shift`."""
    return Pretrained("velocity", "whole", files, spec, shift, "unipc", calls=50, cfg_scale=5.0)
