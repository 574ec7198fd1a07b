"""Make ready what the next micro-batches need of the CPU, while this one computes: samples and noise.

Every draw of a stage is known beforehand, so nothing is guessed but which noise an objective will ask for: that which
it asked for in the last micro-batch of the same turn. What it does not ask for is thrown away, what was not foreseen is
made when it is asked for, and the numbers are the same either way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Samples
from flowmap.maths.devices import pinned
from flowmap.maths.draw import Draw, Noise
from flowmap.phases import phase

Asked = tuple[str, str, tuple[int, ...]]
"""Noise that a turn asked for: the turn with what was added to its name (Draw.child), the name, and the shape."""


@final
class Foreseen(Noise):
    """The noise of one micro-batch, which is that of `whole`: some is made ahead, each for one asking."""

    def __init__(self, whole: Draw) -> None:
        self._whole = whole
        self._made: dict[Asked, Tensor] = {}
        self.asked: dict[Asked, None] = {}

    def make(self, asked: Iterable[Asked]) -> None:
        """Make such noise ahead."""
        for turn, name, shape in asked:
            self._made[turn, name, shape] = pinned(replace(self._whole.here, turn=turn).normal(name, shape))

    def take(self, draw: Draw, name: str, shape: Sequence[int]) -> Tensor | None:
        """See Noise.take; of other samples than all of the micro-batch nothing is foreseen."""
        if draw.rows is not self._whole.rows:
            return None
        key = draw.turn, name, tuple(shape)
        self.asked[key] = None
        return self._made.pop(key, None)


@final
@dataclass(frozen=True)
class Made:
    """The samples of a micro-batch, on the CPU, and the draw that may know some of its noise."""

    draw: Draw
    samples: Samples
    noise: Foreseen | None = field(default=None, repr=False)


@final
class Ahead:
    """Makes the samples of `todo`, one draw after the other by `make`, and those of at most `depth` draws ahead.

    One thread makes them all, in their order, for what reads data need not bear two. What it raises is raised where the
    samples are asked for. With `depth` 0 there is no thread.
    """

    def __init__(self, todo: Iterator[Draw], make: Callable[[Draw], Samples], depth: int, device: torch.device) -> None:
        self._todo, self._make, self._depth = todo, make, depth
        self._pool = ThreadPoolExecutor(1, "ahead", _on, (device,)) if depth else None
        self._coming: deque[tuple[Draw, Future[Made]]] = deque()
        self._known: dict[str, Sequence[Asked]] = {}
        self._last: tuple[str, Foreseen] | None = None

    def take(self, draw: Draw) -> Made:
        """The samples of `draw`: made ahead if it is the next of `todo`, or else now."""
        if self._pool is None:
            return Made(draw, self._make(draw))
        if self._last is not None:
            # That micro-batch is done, so that all it asks for is known.
            self._known[self._last[0]] = tuple(self._last[1].asked)
        self._fill()
        if self._coming and self._coming[0][0] == draw:
            _, coming = self._coming.popleft()
            self._fill()
        else:
            coming = self._pool.submit(self._made, draw, ())
        with phase("waiting for data"):
            made = coming.result()
        self._last = (draw.turn, made.noise) if made.noise else None
        return made

    def _fill(self) -> None:
        assert self._pool is not None
        while len(self._coming) < self._depth and (draw := next(self._todo, None)) is not None:
            self._coming.append((draw, self._pool.submit(self._made, draw, self._known.get(draw.turn, ()))))

    def _made(self, draw: Draw, asked: Sequence[Asked]) -> Made:
        samples, noise = self._make(draw).map(pinned), Foreseen(draw)
        noise.make(asked)
        return Made(replace(draw, noise=noise), samples, noise)

    def close(self) -> None:
        """End the thread; what it is at is finished first, and nothing else begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def ahead(todo: Iterator[Draw], make: Callable[[Draw], Samples], depth: int, device: torch.device) -> Iterator[Ahead]:
    """An `Ahead` for the length of this context."""
    made = Ahead(todo, make, depth, device)
    try:
        yield made
    finally:
        made.close()


def _on(device: torch.device) -> None:
    """Pin memory for this accelerator and no other."""
    if device.type != "cpu" and device.index is not None and torch.accelerator.is_available():
        torch.accelerator.set_device_index(device.index)
