"""Views of a causal model that read a chunk into a memory, and follow it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from flowmap.workshop.memo import Text
from flowmap_wan.attention import Remembered, Slot
from flowmap_wan.pieces import Passes, Past, clean, noised
from flowmap_wan.sight import first, runs
from flowmap_wan.views import RowView, View


@final
@dataclass(frozen=True)
class Memory:
    """What is known of the finished chunks: keys and values per layer, compressed ones first.

    The last few chunks (`recent`) are remembered at full resolution and read again each time one is added,
    because what they attend to changes when an older one is compressed. Compressed ones see only compressed
    ones, so theirs never change.
    """

    past: Past | None = None
    compressed: int = 0
    recent: tuple[Tensor, ...] = ()
    chunks: int = 0
    frames: int = 0

    def map(self, each: Any) -> Memory:
        """The memory with `each` applied to every tensor in it."""
        past = self.past and Past(tuple(layer.map(each) for layer in self.past.layers), self.past.runs)
        return replace(self, past=past, recent=tuple(each(x) for x in self.recent))


@final
@dataclass(frozen=True)
class Following(RowView):
    """The next chunk, after what `memory` holds."""

    memory: Memory

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run; everything remembered comes before, so no mask is needed."""
        piece = noised(x, t, r, self.memory.frames, (self.memory.chunks,) * x.shape[1])
        return passes.over([piece], text, past=self.memory.past)

    def take(self, index: Tensor) -> Following:
        """See RowView.take."""
        return Following(self.memory.map(lambda x: x[index]))

    def join(self, other: Following) -> Following:
        """See RowView.join."""
        theirs = iter(tensors(other.memory))
        return Following(self.memory.map(lambda x: torch.cat([x, next(theirs)])))


@final
@dataclass(frozen=True)
class Reading(View):
    """Reads finished chunks into memory: `stale` `[B, k, C, H, W]` are compressed, `recent` stay at full resolution.

    `frames` are those before them, `chunks` the chunk of each frame of both. A call leaves the new memory in
    `written`; what it returns is of no use.
    """

    before: Memory
    stale: Tensor
    recent: tuple[Tensor, ...]
    frames: int
    chunks: tuple[int, ...]
    written: list[Memory] = field(default_factory=list)

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run."""
        pieces, stale = [], self.stale.shape[1]
        fresh = torch.cat(self.recent, dim=1)
        if stale:
            pieces.append(clean(self.stale, self.frames, self.chunks[:stale], coarse=True))
        pieces.append(clean(fresh, self.frames + stale, self.chunks[stale:]))
        kept = self.before.compressed
        old = self.before.past
        # Compressed tokens are first in the one piece that a layer has.
        past = old and Past(tuple(each.map(lambda x: x[:, :, :kept]) for each in old.layers), first(old.runs, kept))
        slots = [Slot(past.layers[i] if past else None, recording=True) for i in range(passes.layers())]
        result = passes.over(pieces, text, past=past, causal=True, slots=slots)
        seen = past.runs if past else ()
        counts = [passes.tokens_per_frame(piece) for piece in pieces]
        for piece, count in zip(pieces, counts, strict=True):
            seen += runs(piece.chunks, count)
        layers = []
        for slot in slots:
            k, v = slot.written
            k, v = slot.past.before(k, v) if slot.past else (k, v)
            layers.append(Remembered((k,), (v,)))
        self.written.append(
            Memory(
                Past(tuple(layers), seen),
                compressed=kept + (counts[0] * stale if stale else 0),
                recent=self.recent,
                chunks=self.chunks[-1] + 1,
                frames=self.frames + stale + fresh.shape[1],
            )
        )
        return result


def tensors(memory: Memory) -> list[Tensor]:
    """All tensors of a memory, in the order in which `map` visits them."""
    return [x for layer in (memory.past.layers if memory.past else ()) for x in layer.tensors()] + list(memory.recent)
