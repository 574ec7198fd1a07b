"""What a Wan network is conditioned on: text, and how the frames it is given stand among the frames of a video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from flowmap.interfaces import Cond
from flowmap_wan.attention import Slot, TextMemo
from flowmap_wan.module import Past, Piece, WanModule

V = TypeVar("V", bound="View")


class View(ABC):
    """One way of calling the network on frames `x` at times `t`, `r` (`[B]` or `[B, F]`)."""

    @abstractmethod
    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """The velocity of `x` `[B, F, C, H, W]`; `memo` is what is known of `text` `[B, M, D]`."""

    @abstractmethod
    def take(self: V, index: Tensor) -> V:
        """The rows `index`."""

    @abstractmethod
    def join(self: V, other: V) -> V:
        """The rows of this one, then those of `other`."""


@final
@dataclass(frozen=True)
class Whole(View):
    """All frames see each other; the clean frames `context` `[B, k, C, H, W]`, if any, come first."""

    context: Tensor | None = None

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run."""
        if self.context is None:
            return module([_noised(x, t, r, 0, (0,) * x.shape[1])], text, adapter, memo=memo)
        given = self.context.shape[1]
        pieces = [_clean(self.context, 0, (0,) * given), _noised(x, t, r, given, (0,) * x.shape[1])]
        return module(pieces, text, adapter, memo=memo)

    def take(self, index: Tensor) -> Whole:
        """See View.take."""
        return Whole(None if self.context is None else self.context[index])

    def join(self, other: Whole) -> Whole:
        """See View.join."""
        if self.context is None or other.context is None:
            if self.context is not other.context:
                raise ValueError("cannot join a condition with given frames and one without")
            return self
        return Whole(torch.cat([self.context, other.context]))


@final
@dataclass(frozen=True)
class Forced(View):
    """Teacher forcing (FAR): every noised chunk sees the clean chunks before it; old ones only compressed.

    `context` `[B, Fc, C, H, W]` are the frames before x, to be compressed; `clean` `[B, F, C, H, W]` are x's own
    frames at t = 0. `chunks` is the chunk of every frame of both.
    """

    context: Tensor
    clean: Tensor
    chunks: tuple[int, ...]

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run."""
        given = self.context.shape[1]
        own = self.chunks[given:]
        pieces = [_noised(x, t, r, given, own), _clean(self.clean, given, own)]
        if given:
            pieces.insert(0, _clean(self.context, 0, self.chunks[:given], coarse=True))
        return module(pieces, text, adapter, causal=True, memo=memo)

    def take(self, index: Tensor) -> Forced:
        """See View.take."""
        return replace(self, context=self.context[index], clean=self.clean[index])

    def join(self, other: Forced) -> Forced:
        """See View.join."""
        context, clean = torch.cat([self.context, other.context]), torch.cat([self.clean, other.clean])
        return replace(self, context=context, clean=clean)


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
        past = self.past and Past(tuple((each(k), each(v)) for k, v in self.past.layers), self.past.chunks)
        return replace(self, past=past, recent=tuple(each(x) for x in self.recent))


@final
@dataclass(frozen=True)
class Following(View):
    """The next chunk, after what `memory` holds."""

    memory: Memory

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run; everything remembered comes before, so no mask is needed."""
        piece = _noised(x, t, r, self.memory.frames, (self.memory.chunks,) * x.shape[1])
        return module([piece], text, adapter, past=self.memory.past, memo=memo)

    def take(self, index: Tensor) -> Following:
        """See View.take."""
        return Following(self.memory.map(lambda x: x[index]))

    def join(self, other: Following) -> Following:
        """See View.join."""
        theirs = iter(_tensors(other.memory))
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

    def run(
        self,
        module: WanModule,
        adapter: str | None,
        text: Tensor,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        memo: TextMemo | None = None,
    ) -> Tensor:
        """See View.run."""
        pieces, stale = [], self.stale.shape[1]
        fresh = torch.cat(self.recent, dim=1)
        if stale:
            pieces.append(_clean(self.stale, self.frames, self.chunks[:stale], coarse=True))
        pieces.append(_clean(fresh, self.frames + stale, self.chunks[stale:]))
        kept = self.before.compressed
        old = self.before.past
        past = old and Past(tuple((k[:, :, :kept], v[:, :, :kept]) for k, v in old.layers), old.chunks[:kept])
        slots = [Slot(past.layers[i] if past else None, recording=True) for i in range(len(module.transformer.blocks))]
        result = module(pieces, text, adapter, past=past, causal=True, slots=slots, memo=memo)
        labels = past.chunks if past else ()
        counts = [module.tokens_per_frame(piece) for piece in pieces]
        for piece, count in zip(pieces, counts, strict=True):
            labels += tuple(chunk for chunk in piece.chunks for _ in range(count))
        layers = []
        for slot in slots:
            k, v = slot.written
            layers.append((torch.cat([slot.past[0], k], 2), torch.cat([slot.past[1], v], 2)) if slot.past else (k, v))
        self.written.append(
            Memory(
                Past(tuple(layers), labels),
                compressed=kept + (counts[0] * stale if stale else 0),
                recent=self.recent,
                chunks=self.chunks[-1] + 1,
                frames=self.frames + stale + fresh.shape[1],
            )
        )
        return result

    def take(self, index: Tensor) -> Reading:
        """Not needed: reading is done by the chunking, for the whole batch."""
        raise NotImplementedError

    def join(self, other: Reading) -> Reading:
        """Not needed, as above."""
        raise NotImplementedError


@final
@dataclass(frozen=True)
class VideoCond(Cond):
    """Text `[B, M, D]`, and a view. The same text under another view shares its `memo`."""

    text: Tensor
    view: View = Whole()
    memo: TextMemo | None = field(default_factory=TextMemo, compare=False, repr=False)

    def take(self, index: Tensor) -> VideoCond:
        """See Cond.take."""
        return VideoCond(self.text[index], self.view.take(index))

    def join(self, other: VideoCond) -> VideoCond:
        """See Cond.join. Nothing is kept for such a pair: it is made for one call."""
        if type(self.view) is not type(other.view):
            raise ValueError(f"cannot join {type(self.view).__name__} and {type(other.view).__name__}")
        return VideoCond(torch.cat([self.text, other.text]), self.view.join(other.view), memo=None)


def _tensors(memory: Memory) -> list[Tensor]:
    """All tensors of a memory, in the order in which `map` visits them."""
    return [x for layer in (memory.past.layers if memory.past else ()) for x in layer] + list(memory.recent)


def _column(t: Tensor) -> Tensor:
    return t[:, None] if t.ndim == 1 else t


def _noised(x: Tensor, t: Tensor, r: Tensor, first: int, chunks: tuple[int, ...]) -> Piece:
    return Piece(x, _column(t), _column(r), first, chunks, noised=True)


def _clean(x: Tensor, first: int, chunks: tuple[int, ...], coarse: bool = False) -> Piece:
    zero = torch.zeros(len(x), 1, device=x.device)
    return Piece(x, zero, zero, first, chunks, noised=False, coarse=coarse)
