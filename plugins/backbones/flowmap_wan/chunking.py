"""How Wan models split frames: all at once (bidirectional) or in chunks (FAR, arXiv 2503.19325)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Chunking, Cond, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap_wan.condition import VideoCond, as_video
from flowmap_wan.memory import Following, Memory, Reading
from flowmap_wan.views import Forced, Whole


@final
class Bidirectional(Chunking):
    """One chunk, in which any number of first frames can be given; some training steps are given the first."""

    def __init__(self, first_frame: float) -> None:
        self._first_frame = first_frame

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """All frames that are not given."""
        if not 0 <= given < frames:
            raise FlowmapError(f"{given} of {frames} latent frames cannot be given; give at most {frames - 1}")
        return (frames - given,)

    def window(self, frames: int, draw: Draw) -> Window:
        """All frames, or all but the first on a share of the steps."""
        given = bool(self._first_frame) and frames > 1 and draw.shared("first frame").random() < self._first_frame
        return Window(int(given), frames)

    def forced(self, batch: Batch, window: Window) -> Batch:
        """The frames of the window; those before it are given clean."""
        if not window.start:
            return batch
        context = batch.x0[:, : window.start].detach()
        cond, null = (_seen(c, Whole(context)) for c in (batch.cond, batch.null))
        return Batch(batch.x0[:, window.start : window.stop], cond, null)

    def whole(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def unchunked(self) -> Bidirectional:
        """The same."""
        return self

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given; no network call."""
        return _seen(cond, Whole(frames))

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """The condition itself: nothing follows."""
        return cond


@final
class Causal(Chunking):
    """Chunks of the sizes `partition`; the newest `full_chunks` at full resolution, older ones compressed.

    In training, `long_share` of the steps look at `full_chunks` to all chunks of a video (evenly), the others at
    `full_chunks`; the last `full_chunks` of what is looked at are noised.
    """

    def __init__(self, partition: tuple[int, ...], full_chunks: int, long_share: float) -> None:
        self._partition = partition
        self._full = full_chunks
        self._long_share = long_share

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """The chunks that follow the given frames, which must end where a chunk ends."""
        if frames != sum(self._partition):
            raise FlowmapError(
                f"chunks {list(self._partition)} make {sum(self._partition)} latent frames, not {frames}; "
                "set backbone.chunks to sizes that sum to it"
            )
        ends = [0, *itertools.accumulate(self._partition)][:-1]
        if given not in ends:
            near = [*[end for end in ends[1:] if end < given][-1:], *[end for end in ends if end > given][:1]]
            raise FlowmapError(
                f"{given} latent frames cannot be given: chunks end after {', '.join(map(str, ends[1:]))}; "
                f"nearest: {' or '.join(map(str, near))}"
            )
        return self._partition[ends.index(given) :]

    def window(self, frames: int, draw: Draw) -> Window:
        """See the class."""
        sizes = self.sizes(frames)
        shared = draw.shared("chunks")
        most, least = len(sizes), min(self._full, len(sizes))
        count = int(shared.integers(least, most + 1)) if shared.random() < self._long_share else least
        return Window(sum(sizes[: max(0, count - self._full)]), sum(sizes[:count]))

    def forced(self, batch: Batch, window: Window) -> Batch:
        """See Chunking.forced. Clean frames carry no gradient."""
        chunks = self._labels(0, window.stop)
        clean = batch.x0.detach()
        view = Forced(clean[:, : window.start], clean[:, window.start : window.stop], chunks)
        cond, null = (_seen(c, view) for c in (batch.cond, batch.null))
        return Batch(batch.x0[:, window.start : window.stop], cond, null)

    def whole(self, batch: Batch) -> Batch:
        """The batch itself: a condition without a view means one chunk."""
        return batch

    def unchunked(self) -> Bidirectional:
        """The bidirectional model that the same layers are without a mask and without compressed frames."""
        return Bidirectional(first_frame=0.0)

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """See Chunking.given; one network call, however many the chunks."""
        sizes = self._partition[: len(self._partition) - len(self.sizes(sum(self._partition), frames.shape[1]))]
        return self._read(network, cond, Memory(), frames.split(sizes, dim=1))

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """See Chunking.remember; one network call over the newest chunks and the one that is compressed now."""
        view = cond.view if isinstance(cond, VideoCond) else None
        memory = view.memory if isinstance(view, Following) else Memory()
        return self._read(network, cond, memory, (*memory.recent, chunk))

    def _read(self, network: Velocity, cond: Cond, memory: Memory, chunks: tuple[Tensor, ...]) -> Cond:
        """Read `chunks`, the last of which is new, after the compressed part of `memory`."""
        keep = self._full - 1
        stale, recent = chunks[:-keep] if keep else chunks, chunks[-keep:] if keep else ()
        size = sum(c.shape[1] for c in chunks)
        first = memory.frames - sum(c.shape[1] for c in memory.recent)
        old = torch.cat(stale, dim=1) if stale else chunks[0][:, :0]
        reading = Reading(memory, old, recent, first, self._labels(first, first + size))
        newest = chunks[-1]
        network.velocity(newest, torch.zeros(len(newest), device=newest.device), _seen(cond, reading))
        return _seen(cond, Following(reading.written[0]))

    def _labels(self, start: int, stop: int) -> tuple[int, ...]:
        """The chunk of each frame of `start` to `stop`."""
        return tuple(chunk for chunk, size in enumerate(self._partition) for _ in range(size))[start:stop]


def _seen(cond: Cond, view: Whole | Forced | Following | Reading) -> VideoCond:
    return replace(as_video(cond), view=view)
