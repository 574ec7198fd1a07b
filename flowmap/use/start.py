"""What samples begin with: the frames that are given, and what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowmap.console.options import option
from flowmap.errors import ClipError, FlowmapError
from flowmap.interfaces import Batch, Cond, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.plugin.kinds import BackboneConfig
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import context_refusal, needed, needs_frames
from flowmap.use.student import ReadyModel, latent_context
from flowmap.use.wish import Wish
from flowmap.video.clips import clip_as, image_as, to_float


def refuse_given(wish: Wish, backbone: BackboneConfig, spec: SampleSpec) -> None:
    """Raise FlowmapError if networks of `backbone` cannot be given as many frames as `wish` says.

    How many a clip has is known when it is read.
    """
    if wish.image is None and wish.frames is None:
        return
    frames = wish.frames or 1
    contexts = backbone.contexts(spec)
    if frames not in contexts:
        who = option("image") if wish.image else option("frames", frames)
        raise FlowmapError(f"{who}: {context_refusal(contexts, frames, backbone.context_hint(spec, frames))}")


def given_frames(wish: Wish, contestant: ReadyModel, spec: SampleSpec) -> Tensor | None:
    """The frames given clean, in data space `[k, C, H, W]`; None if nothing is."""
    try:
        if wish.image is not None:
            pixels = image_as(wish.image, spec)
        elif wish.video is not None:
            pixels = _clip(wish.video, wish.frames, contestant, spec)
        elif needed(contestant.contexts):
            raise FlowmapError(f"{option('image')}: {needs_frames(needed(contestant.contexts))}; give it")
        else:
            return None
    except ClipError as error:
        raise FlowmapError(str(error)) from None
    x = to_float(pixels)
    return x.mean(1, keepdim=True) if spec.shape[1] == 1 else x


def _clip(path: Path, frames: int | None, contestant: ReadyModel, spec: SampleSpec) -> Tensor:
    """The first `frames` frames; without a number, as many as the clip has and the model can be given."""
    if frames is not None:
        return clip_as(path, frames, spec)
    problem = ClipError(f"{path}: the model of this run cannot be given frames")
    for possible in sorted(contestant.contexts, reverse=True):
        try:
            return clip_as(path, possible, spec)
        except ClipError as error:
            problem = error
    raise problem


def start_of(wish: Wish, contestant: ReadyModel, given: Tensor | None, count: int, draw: Draw) -> Batch | None:
    """The given frames and the conditions of all samples; None if everything comes from the data's own prompts."""
    if given is None and not wish.asked:
        return None
    backbone, device = contestant.backbone, contestant.device
    asked: Any = contestant.data.prompts(draw)
    if wish.asked:
        each = [each for each in (*wish.prompts, *wish.classes) for _ in range(count)]
        asked = torch.tensor(each, device=device) if wish.classes else each
    cond, null = backbone.condition(asked, draw.count, device)
    backbone.release()
    return begun(contestant, given, cond, null, draw.count)


def begun(contestant: ReadyModel, given: Tensor | None, cond: Cond, null: Cond, count: int) -> Batch:
    """The start of `count` samples that all have the frames `given`, `[k, C, H, W]` in data space, if any are.

    Prompts have been read: `cond` and `null` are what came of them.
    """
    backbone, device = contestant.backbone, contestant.device
    nothing = torch.zeros(count, 0, *backbone.latent_shape()[1:], device=device)
    if given is None:
        return Batch(nothing, cond, null)
    if not latent_context(contestant.contexts, len(given)):
        with phase("encoding the frames given"):
            cond, null = backbone.pictured(cond, null, given[None])
        backbone.release()
        return Batch(nothing, cond, null)
    # A video needs no prompts to be encoded.
    with phase("encoding the frames given"):
        once = Draw.whole(0, "given frames", 0, "encoding", 1, device)
        x0 = backbone.precompute(Samples(given[None].to(device), prompts=[]), once).x
    return Batch(x0.expand(count, *x0.shape[1:]), cond, null)


def noise_of(seed: int, count: int, device: torch.device) -> Draw:
    """The noise of `count` samples: the same for a seed, whatever is asked for, of whom, and sampled how."""
    return Draw.whole(seed, "flowmap sample", 0, "noise", count, device)
