"""The view of a causal model that writes finished chunks into a memory at full resolution, each once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from flowmap.workshop.memo import Text
from flowmap_wan.attention import Slot
from flowmap_wan.memory import Memory
from flowmap_wan.pieces import Passes, Past, clean
from flowmap_wan.sight import Reach, Run, Span, seen_by
from flowmap_wan.views import View

_PADDED_TO = 128  # tokens: what flex attention takes at once


@final
@dataclass(frozen=True)
class Writing(View):
    """Writes the clean `frames` `[B, f, C, H, W]`, whole chunks, after `before`; `chunks` is the chunk of each.

    They are written as their chunks saw them: with a `reach`, so far back. A last chunk that lacks frames sees as many
    tokens more that are all zeros, up to a multiple of 128 of all there are, if it is `lacking` some. A call leaves the
    keys and values of `before` and of these frames in `written`; what it returns is of no use.
    """

    before: Memory
    frames: Tensor
    chunks: tuple[int, ...]
    reach: Reach | None = None
    lacking: int = 0
    written: list[Past] = field(default_factory=list)

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run."""
        piece = clean(self.frames, self.before.frames, self.chunks, reach=self.reach)
        old, tokens = self.before.past, passes.tokens_per_frame(piece)
        padding = min(self.lacking * tokens, -(len(self.chunks) * tokens) % _PADDED_TO)
        slots = [Slot(old.layers[i] if old else None, True, padding) for i in range(passes.layers())]
        zeros = (Run(self.chunks[-1], padding),) if padding else ()
        seen = (*zeros, *(old.runs if old else ()))
        result = passes.over([piece], text, past=Past((), seen), causal=True, slots=slots)
        own = piece.runs(tokens)
        layers = []
        for slot in slots:
            k, v = slot.written
            layers.append((torch.cat([slot.past[0], k], 2), torch.cat([slot.past[1], v], 2)) if slot.past else (k, v))
        self.written.append(Past(tuple(layers), (*(old.runs if old else ()), *own)))
        return result


def seen_of(past: Past, query: Run) -> Past:
    """What tokens such as `query` see of `past`."""
    spans = seen_by(query, past.runs)
    if spans == ((0, sum(run.length for run in past.runs)),):
        return past
    layers = tuple((_spans(k, spans), _spans(v, spans)) for k, v in past.layers)
    return Past(layers, tuple(run for run in past.runs if query.sees(run)))


def _spans(x: Tensor, spans: tuple[Span, ...]) -> Tensor:
    # A copy: a view would keep all of what is no longer seen.
    return torch.cat([x[:, :, :0], *(x[:, :, begin:end] for begin, end in spans)], dim=2)
