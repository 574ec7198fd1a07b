"""Real samples on the way between data space and model space: as many at a time as a device has room for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from flowmap.interfaces import Backbone, Batch, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.use.student import ReadyModel, latent_context

_HELD_OUT = 64
_NUMBERS = 2**26  # of data on a device at a time, 256 MiB: two thirds of a clip of 480 x 832 pixels and 81 frames


def encoded(backbone: Backbone, samples: Samples, draw: Draw) -> Batch:
    """What Backbone.encode makes of `samples`, on the device of `draw`; `samples` may be elsewhere, and many.

    Texts are read first, all together, and then the encoder of texts leaves its accelerator.
    """
    cond, null = backbone.condition(samples.prompts, len(samples.x), draw.device)
    backbone.release()
    bare, parts, first = Samples(samples.x, encoded=samples.encoded), [], 0
    for part in samples.x.split(_at_once(samples.x)):
        here = replace(bare, x=part.to(draw.device))
        parts.append(backbone.precompute(here, draw.part(first, len(part))).x)
        first += len(part)
    if not samples.encoded:
        cond, null = backbone.pictured(cond, null, samples.x)
        backbone.release()
    return Batch(torch.cat(parts), cond, null)


def decoded(backbone: Backbone, samples: Samples, device: torch.device) -> Samples:
    """The same samples in data space, on the CPU where they had to be decoded, which happens on `device`."""
    if not samples.encoded:
        return samples
    parts = [backbone.decode(part.to(device)).cpu() for part in samples.x.split(_at_once(samples.x))]
    return replace(samples, x=torch.cat(parts), encoded=False)


def _at_once(x: Tensor) -> int:
    return max(1, _NUMBERS // max(1, math.prod(x.shape[1:])))


@final
class HeldOut:
    """Held-out samples as the backbone of `contestant` encodes them, once: their first frames are given to networks.

    All contestants of that backbone may ask.
    """

    def __init__(self, contestant: ReadyModel) -> None:
        with phase("reading held-out samples"):
            samples = contestant.data.reference("held_out", _HELD_OUT)
        with phase("encoding held-out samples"):
            encoding = Draw.whole(0, "held out", 0, "encoding", len(samples.x), contestant.device)
            whole = encoded(contestant.backbone, samples, encoding)
        self._prompts, self._contexts = samples.prompts, contestant.contexts
        # On the CPU: a device has room for the rows that are drawn.
        self._whole = replace(whole, x0=whole.x0.cpu())

    def start(self, frames: int, draw: Draw) -> tuple[Batch, Any]:
        """The first `frames` (in data space) of samples drawn with replacement, with conditions; their prompts.

        Raises FlowmapError, with the nearest numbers, if the backbone cannot be given so many.
        """
        given, whole = latent_context(self._contexts, frames), self._whole
        rows = (draw.uniform("held-out rows").cpu() * len(whole.x0)).long()
        x0 = whole.x0[rows, :given].to(draw.device)
        return Batch(x0, whole.cond.take(rows), whole.null.take(rows)), _chosen(self._prompts, rows)


def _chosen(prompts: Any, rows: Tensor) -> Any:
    """The prompts of these rows, in the form in which they are."""
    if isinstance(prompts, EncodedText):
        return prompts.take(rows)
    if isinstance(prompts, Tensor) or prompts is None:
        return None if prompts is None else prompts[rows]
    return [prompts[row] for row in rows.tolist()]
