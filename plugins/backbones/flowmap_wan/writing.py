"""The view of a causal model that writes finished chunks into a memory at full resolution, each once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from flowmap.workshop.memo import Text
from flowmap_wan.attention import Remembered, Slot
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
            before = slot.past or Remembered((), ())
            layers.append(Remembered((*before.keys, k), (*before.values, v)))
        self.written.append(Past(tuple(layers), (*(old.runs if old else ()), *own)))
        return result


def seen_of(past: Past, query: Run) -> Past:
    """What tokens such as `query` see of `past`."""
    spans = seen_by(query, past.runs)
    if spans == ((0, sum(run.length for run in past.runs)),):
        return past
    layers = tuple(Remembered(_within(each.keys, spans), _within(each.values, spans)) for each in past.layers)
    return Past(layers, tuple(run for run in past.runs if query.sees(run)))


def _within(pieces: tuple[Tensor, ...], spans: tuple[Span, ...]) -> tuple[Tensor, ...]:
    """Of the tokens of `pieces` those in the spans: whole pieces as they are, of others copies."""
    found, start = [], 0
    for piece in pieces:
        stop = start + piece.shape[2]
        inside = [(max(begin, start), min(end, stop)) for begin, end in spans if begin < stop and end > start]
        if inside == [(start, stop)]:
            found.append(piece)
        elif inside:
            # A view would keep all of what is no longer seen.
            found.append(torch.cat([piece[:, :, begin - start : end - start] for begin, end in inside], dim=2))
        start = stop
    return tuple(found)
