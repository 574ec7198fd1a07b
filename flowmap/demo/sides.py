"""Who is asked on the page: a student on each side of it, or one that is asked twice."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from flowmap.errors import FlowmapError
from flowmap.interfaces import FlowMap
from flowmap.plugin.footprint import CallShape
from flowmap.schema.words import NetworkKind
from flowmap.use.opened import Opened, open_wished
from flowmap.use.wish import Wish

MOST_CALLS = 32
"""Network calls that the page offers: a flow map is for few."""

_FEW_FLOPS = 1e12  # of a call: below it a CPU takes seconds
_SQUARE = 768
_SECONDS = 60


@final
@dataclass(frozen=True)
class Side:
    """A student as the page offers it; `chosen` is the wish that it was opened with, from `where`."""

    where: str
    chosen: Wish
    opened: Opened

    @property
    def name(self) -> str:
        """The student as the page calls it."""
        stage = self.opened.facts.get("stage")
        return f"{self.where} · {stage}" if stage else self.where

    @property
    def label(self) -> str:
        """The same in short, above its clip."""
        return self.name.replace(self.where, Path(self.where).name or self.where, 1)

    @property
    def prompts(self) -> bool:
        """Whether it can be asked in words."""
        return self.opened.reads_text

    @property
    def per_step(self) -> int:
        """Network calls of a step of its sampler: only multiples of it are possible."""
        return self.opened.sampler.calls_per_step

    @property
    def contexts(self) -> tuple[int, ...]:
        """How many frames it can be given, ascending."""
        return tuple(sorted(self.opened.contestant.contexts)) if self.opened.spec.fps is not None else ()

    def command(self, wish: Wish, calls: int) -> str:
        """What to type for the same samples."""
        words = ["flowmap", "sample", self.where]
        given = {
            "stage": wish.stage,
            "weights": None if wish.weights == "ema" else wish.weights,
            "sampler": wish.sampler,
            "nfe": calls,
            "n": wish.number,
            "seed": wish.seed,
            "train-seed": wish.train_seed,
            "image": wish.image and wish.image.name,
            "video": wish.video and wish.video.name,
            "frames": wish.frames,
            "guidance": wish.cfg_scale,
            "length": wish.length,
            "height": wish.height,
            "width": wish.width,
            "shift": wish.shift,
        }
        words += [f"--prompt={prompt}" for prompt in wish.prompts]
        words += [f"--class={label}" for label in wish.classes]
        return shlex.join(words + [f"--{name}={value}" for name, value in given.items() if value is not None])


def open_side(where: str, chosen: Wish) -> Side:
    """The student of the run or the weights `where`, as `chosen`, ready to be asked again and again.

    Raises FlowmapError for what cannot be opened.
    """
    return Side(where, chosen, open_wished(where, chosen, later=True))


def refuse_unlike(one: Side, other: Side) -> None:
    """Raise FlowmapError unless one question can be put to both."""
    left, right = one.opened.spec, other.opened.spec
    for what, here, there in (
        ("take prompts", one.prompts, other.prompts),
        ("have classes", left.classes, right.classes),
        ("make videos", left.fps is not None, right.fps is not None),
    ):
        if here != there:
            raise FlowmapError(
                f"{one.name} and {other.name} cannot be asked the same: they do not {what} alike; show each by itself"
            )


def same_noise(one: Side, other: Side) -> bool:
    """Whether both start from the same noise at the same seed: where noise has the same shape in model space."""
    return one.opened.contestant.backbone.latent_shape() == other.opened.contestant.backbone.latent_shape()


def machine(sides: Sequence[Side]) -> str:
    """Where the students compute, and, of a large one on a CPU, how long a call takes at least."""
    device = sides[0].opened.contestant.device
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"computing on {name}"
    flops = max(_flops(side) for side in sides)
    if flops < _FEW_FLOPS:
        return "computing on the CPU"
    seconds = flops / _pace()
    long = f"{seconds / _SECONDS:.0f} minutes" if seconds > 2 * _SECONDS else f"{seconds:.0f} seconds"
    return (
        f"computing on the CPU, for no GPU was found: a network call over all frames is {flops / 1e12:,.0f} TFLOP, at "
        f"least {long} here"
    )


def _flops(side: Side) -> float:
    """Those of a network call for one sample, all frames at once; 0 if they are not known."""
    opened = side.opened
    try:
        footprint = opened.backbone.footprint(opened.spec, "no")
    except FlowmapError:
        return 0
    if footprint is None:
        return 0
    kind: NetworkKind = "flow_map" if isinstance(opened.contestant.network, FlowMap) else "velocity"
    frames = opened.contestant.backbone.latent_shape()[0]
    return footprint.flops(kind, CallShape("whole", frames), gradient=False)


def _pace() -> float:
    """FLOP/s of this CPU in a product of matrices, which no network exceeds."""
    a = torch.ones(_SQUARE, _SQUARE)
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * _SQUARE**3 / best
