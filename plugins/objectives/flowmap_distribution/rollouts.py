"""How the student makes the samples that are scored: from noise, as it will be sampled, or from noised data.

The last jump has a gradient: D at the last time, after steps of the sampler (docs/derivations.md, eqs. 17 and 23).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Chunking, Cond, Sampler, Scene, Velocity, Window
from flowmap.maths.devices import sent
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid, noised
from flowmap.networks.rollout import rollout
from flowmap.plugin import FrameView

Times = Callable[[Draw, str], Tensor]
"""Draws one time a sample `[B]`, under a name."""


@final
@dataclass(frozen=True)
class Rollout:
    """Samples of the student from fresh noise along `times`, chunk by chunk, with what `score` looks at.

    The number of times and the window are the same in all processes. Frames that the scores see as clean context only
    are made without gradient: none would reach them.
    """

    sampler: Sampler
    times: Callable[[Draw], Tensor]
    score: FrameView
    replay: bool

    def __call__(self, scene: Scene) -> Batch:
        """The samples, as their scores see them."""
        draw, batch, chunking = scene.draw, scene.batch, scene.chunking
        times = sent(self.times(draw.here), draw.device)
        start = draw.normal("start noise", batch.x0.shape[1:])
        window = Window(0, start.shape[1])
        if self.score == "forced":
            window = chunking.window(window.stop, draw.child("context"))
        x = rollout(
            self.sampler,
            scene.flow_map("student"),
            start,
            times,
            batch.cond,
            chunking,
            draw.child("rollout"),
            stop=window.stop,
            still=window.start,
            replay=self.replay,
        )
        made = replace(batch, x0=x)
        return chunking.whole(made) if self.score == "whole" else chunking.forced(made, window)


@final
class LastStep(Sampler):
    """The steps of `inner`, of which only the last has a gradient."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def order(self) -> int | None:
        """That of `inner`."""
        return self._inner.order()

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """See Sampler.sample."""
        if len(times) > 2:
            with torch.no_grad():
                x = self._inner.sample(network, x, times[:-1], cond, draw)
        return self._inner.sample(network, x, times[-2:], cond, draw.child("last"))


def exit_times(draw: Draw, steps: int, shift: float) -> Tensor:
    """The times 1, ... t_k, 0 of a rollout on the grid of `steps` that exits at step k, evenly drawn and shared."""
    return truncated(grid(steps, shift), int(draw.shared("exit").integers(steps)))


def falling_times(draw: Draw, most: int, law: Times) -> Tensor:
    """The times `[N + 1, B]` of a rollout of N steps, N evenly drawn from 1 to `most` and shared.

    From 1 each sample goes down by times of its own that `law` draws, none above the one before it, to 0.
    """
    steps = int(draw.shared("exit").integers(1, most + 1))
    times = [torch.ones(draw.count, device=draw.device)]
    for index in range(1, steps):
        times.append(torch.minimum(law(draw, f"rollout time {index}"), times[-1]))
    return torch.stack([*times, torch.zeros_like(times[0])])


def truncated(times: Tensor, last: int) -> Tensor:
    """The `times` `[N + 1]` up to and with number `last`, then their end."""
    return torch.cat([times[: last + 1], times[-1:]])


@final
@dataclass(frozen=True)
class Denoised:
    """Data, noised to times of the grid of `steps`, and carried to 0 by one jump of the student.

    Each chunk has a time of its own (CausVid, arXiv 2412.07772). With `score` "whole" the scores see the whole video,
    in which the chunks of this turn's window are the student's.
    """

    steps: int
    shift: float
    score: FrameView

    def __call__(self, scene: Scene) -> Batch:
        """The samples, as their scores see them."""
        draw, batch, chunking = scene.draw, scene.batch, scene.chunking
        window = chunking.window(batch.x0.shape[1], draw.child("context"))
        view = chunking.forced(batch, window)
        index = chunk_indices(draw, chunking, window, batch.x0.shape[1], self.steps)
        t = sent(grid(self.steps, self.shift)[index], draw.device)
        x_t = noised(view.x0, draw.normal("start noise", view.x0.shape[1:]), t)
        x0 = scene.flow_map("student").jump(x_t, t, torch.zeros_like(t), view.cond)
        before, after = batch.x0[:, : window.start], batch.x0[:, window.stop :]
        if self.score == "whole":
            return chunking.whole(replace(batch, x0=torch.cat([before, x0, after], dim=1)))
        return chunking.forced(replace(batch, x0=torch.cat([before, x0], dim=1)), window)


def chunk_indices(draw: Draw, chunking: Chunking, window: Window, frames: int, count: int) -> Tensor:
    """For each sample and chunk in `window` one of the numbers 0 ... `count` - 1.

    `[B, F]` over the window's frames, the same within a chunk, or `[B]` if it has one chunk only; on the CPU.
    """
    sizes, left = [], window.stop - window.start
    for size in chunking.sizes(frames, window.start):
        if left <= 0:
            break
        sizes.append(size)
        left -= size
    if len(sizes) == 1:
        return (draw.here.uniform("chunk time") * count).long()
    index = (draw.here.uniform("chunk time", (len(sizes),)) * count).long()
    return index.repeat_interleave(torch.tensor(sizes), dim=1)
