"""How other projects' causal Wan models split frames: equal chunks, remembered at full resolution, each written once.

Self-Forcing (arXiv 2506.08009), CausVid (2412.07772) and what grew from them. A finished chunk goes through the network
once more, without noise at time 0, and its keys stay, rotated at their frame of the video; a model with a window lets
go of the oldest. Krea's realtime model writes all that a chunk may see anew before it, from the newest frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Chunking, Cond, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap_wan.chunking import Bidirectional
from flowmap_wan.condition import VideoCond, as_video
from flowmap_wan.memory import Following, Memory
from flowmap_wan.pieces import Past
from flowmap_wan.sight import Reach, Run
from flowmap_wan.views import Forced
from flowmap_wan.writing import Writing, seen_of

Reencoding = Callable[[Tensor], Tensor]
"""Of the first latent frames of a video `[B, f, C, H, W]` the last, encoded anew by itself `[B, 1, C, H, W]`."""


@final
@dataclass(frozen=True)
class Even:
    """Chunks of `size` frames; the first has `first` where that is another number."""

    size: int
    first: int | None = None

    def whole(self, frames: int) -> bool:
        """Whether a chunk ends after so many frames, of which there are some."""
        begin = self.size if self.first is None else self.first
        return frames >= begin and (frames - begin) % self.size == 0

    def near(self, frames: int) -> tuple[int, ...]:
        """The numbers of frames next to `frames` after which a chunk ends."""
        around = range(max(1, frames - self.size), frames + self.size + (self.first or 0) + 1)
        ends = [end for end in around if self.whole(end)]
        below, above = [end for end in ends if end <= frames][-1:], [end for end in ends if end > frames][:1]
        return (*below, *above)

    def labels(self, start: int, stop: int) -> tuple[int, ...]:
        """The chunk of each frame from `start` to `stop`."""
        first = self.size if self.first is None else self.first
        return tuple(0 if frame < first else 1 + (frame - first) // self.size for frame in range(start, stop))

    def sizes(self, frames: int, given: int) -> tuple[int, ...]:
        """Frames per chunk of those after the `given` ones, which end where a chunk does."""
        labels = self.labels(given, frames)
        return tuple(labels.count(chunk) for chunk in dict.fromkeys(labels))


class Remembering(Chunking, ABC):
    """What both ways of remembering share: all frames of a video are looked at in training."""

    def __init__(self, chunks: Even) -> None:
        self._chunks = chunks

    @final
    def window(self, frames: int, draw: Draw) -> Window:
        """All frames, noised."""
        return Window(0, frames)

    @final
    def whole(self, batch: Batch) -> Batch:
        """The batch itself: a condition without a view means one chunk."""
        return batch

    @final
    def unchunked(self) -> Bidirectional:
        """The bidirectional model that the same layers are without a mask."""
        return Bidirectional(first_frame=0.0)

    @abstractmethod
    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given; one network call, however many the chunks."""


@final
class Rolling(Remembering):
    """Each chunk is written once; it sees, and is written seeing, as far back as `reach` says (None: all)."""

    def __init__(self, chunks: Even, reach: Reach | None) -> None:
        super().__init__(chunks)
        self._reach = reach

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """The chunks that follow the given frames, which must end where a chunk ends."""
        for count, what in ((frames, "made"), (given, "given")):
            if not (self._chunks.whole(count) or (what == "given" and count == 0)):
                near = " or ".join(map(str, self._chunks.near(count)))
                raise FlowmapError(f"{count} latent frames cannot be {what}: they are no whole chunks; nearest: {near}")
        if given >= frames:
            raise FlowmapError(f"{given} of {frames} latent frames cannot be given: none would be left to make")
        return self._chunks.sizes(frames, given)

    def forced(self, batch: Batch, window: Window) -> Batch:
        """See Chunking.forced. Clean frames carry no gradient."""
        clean = batch.x0.detach()
        view = Forced(clean[:, :0], clean, self._chunks.labels(0, clean.shape[1]), self._reach)
        cond, null = (replace(as_video(c), view=view) for c in (batch.cond, batch.null))
        return Batch(batch.x0, cond, null)

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given."""
        return self._write(network, cond, Memory(), frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """See Chunking.remember; one network call over the chunk."""
        return self._write(network, cond, memory_of(cond), chunk)

    def _write(self, network: Velocity, cond: Cond, memory: Memory, frames: Tensor) -> Cond:
        end = memory.frames + frames.shape[1]
        labels = self._chunks.labels(memory.frames, end)
        past = write(network, cond, Writing(memory, frames, labels, self._reach))
        if self._reach is not None:
            following = self._chunks.labels(end, end + self._chunks.size)[0]
            since = self._reach.since(end + self._chunks.size)
            past = seen_of(past, Run(following, 0, True, end, since, self._reach.sink))
        return replace(as_video(cond), view=Following(Memory(past, chunks=labels[-1] + 1, frames=end)))


@final
class Refilled(Remembering):
    """Before every chunk but the first all that a chunk sees is written anew (Krea's realtime model).

    It is the first frame of the video and the newest `frames` - 1, at positions from 0 on, block by block causal. Once
    a chunk begins beyond `frames` and a chunk, and unless `keep_first`, it is the newest `frames`, of which the first
    is encoded anew by itself. Given frames count as no chunk. If `padded`, a last block that is short attends to zeros
    beside it, as flex attention is padded to 128 tokens there.
    """

    def __init__(self, chunks: Even, frames: int, keep_first: bool, padded: bool, reencoded: Reencoding) -> None:
        super().__init__(chunks)
        self._frames, self._keep_first, self._padded, self._reencoded = frames, keep_first, padded, reencoded

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """Whole chunks after any number of given frames."""
        rest, size = frames - given, self._chunks.size
        if rest <= 0 or rest % size:
            near = [given + max(1, rest // size + more) * size for more in (0, 1)]
            shown = " or ".join(map(str, dict.fromkeys(near)))
            raise FlowmapError(f"{frames} latent frames, {given} of them given, are no whole chunks; nearest: {shown}")
        return (size,) * (rest // size)

    def forced(self, batch: Batch, window: Window) -> Batch:
        """Raises FlowmapError: what a chunk sees depends on what has been made, so nobody can be taught by force."""
        raise FlowmapError(
            "a model with context = 'recomputed' cannot be trained with teacher forcing: what a chunk sees is written "
            "anew from what was made; set backbone.context = 'written', or take an objective that rolls out"
        )

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given."""
        return self._refill(network, cond, frames, chunks=0)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """See Chunking.remember; one network call over what the next chunk sees."""
        memory = memory_of(cond)
        return self._refill(network, cond, torch.cat([*memory.recent, chunk], dim=1), memory.chunks + 1)

    def _refill(self, network: Velocity, cond: Cond, finished: Tensor, chunks: int) -> Cond:
        """The condition of the chunk after the `finished` frames, of which so many `chunks` were made."""
        context = self._context(finished, chunks)
        count = context.shape[1]
        labels = Even(self._chunks.size).labels(0, count)
        lacking = -count % self._chunks.size if self._padded else 0
        past = write(network, cond, Writing(Memory(), context, labels, lacking=lacking))
        memory = Memory(past, recent=(finished,), chunks=chunks, frames=count)
        return replace(as_video(cond), view=Following(memory))

    def _context(self, finished: Tensor, chunks: int) -> Tensor:
        kept = finished[:, 1:][:, -(self._frames - 1) :]
        if self._keep_first or self._chunks.size * (chunks - 1) < self._frames:
            return torch.cat([finished[:, :1], kept], dim=1)
        begin = finished.shape[1] - self._frames
        return torch.cat([self._reencoded(finished[:, : begin + 1]), kept], dim=1)


def memory_of(cond: Cond) -> Memory:
    """What is remembered so far."""
    view = cond.view if isinstance(cond, VideoCond) else None
    return view.memory if isinstance(view, Following) else Memory()


def write(network: Velocity, cond: Cond, writing: Writing) -> Past:
    """What one call of the network writes."""
    frames = writing.frames
    network.velocity(frames, torch.zeros(len(frames), device=frames.device), replace(as_video(cond), view=writing))
    return writing.written[0]
