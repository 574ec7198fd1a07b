"""A strict small backbone that keeps every law: conditional, with two times, causal or not; and its mutants' parts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, Chunking, Cond, Samples, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap.plugin import BackboneConfig, Finding, SampleSpec
from flowmap.testing import examination
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.examination import Outcome
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import Codec, NoCodec

CHUNKS = (1, 2, 1, 2)
VIDEO = SampleSpec((sum(CHUNKS), 2), classes=3, labelled=True)
IMAGE = SampleSpec((1, 6), classes=3, labelled=True)
WIDTH = 16
FREQUENCY = 30.0


@dataclass(frozen=True)
class Clip(Cond):
    """Labels `[B]`, and how frames are seen: `clean` `[B, f, C]` before them, or beside them from the first on."""

    labels: Tensor
    clean: Tensor | None = None
    sizes: tuple[int, ...] = ()
    start: int = 0

    def take(self, index: Tensor) -> Clip:
        return replace(self, labels=self.labels[index], clean=None if self.clean is None else self.clean[index])

    def join(self, other: Clip) -> Clip:
        clean = None
        if self.clean is not None and other.clean is not None:
            clean = torch.cat([self.clean, other.clean])
        return replace(self, labels=torch.cat([self.labels, other.labels]), clean=clean)


def labels_of(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    labels = torch.zeros(count, dtype=torch.int64) if prompts is None else prompts
    return Clip(labels), Clip(torch.full_like(labels, VIDEO.classes))


class Chunks(Chunking):
    """Chunks of CHUNKS' sizes, each given all clean frames before it."""

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        ends = [0, *itertools.accumulate(CHUNKS)][:-1]
        if given not in ends:
            raise FlowmapError(f"{given} frames cannot be given")
        return CHUNKS[ends.index(given) :]

    def window(self, frames: int, draw: Draw) -> Window:
        ends = [0, *itertools.accumulate(CHUNKS)]
        stop = int(draw.shared("stop").integers(1, len(ends)))
        return Window(ends[int(draw.shared("start").integers(stop))], ends[stop])

    def clean(self, batch: Batch, window: Window) -> Tensor:
        return batch.x0[:, : window.stop].detach()

    def forced(self, batch: Batch, window: Window) -> Batch:
        seen = {"clean": self.clean(batch, window), "sizes": CHUNKS, "start": window.start}
        cond, null = (replace(c, **seen) for c in (batch.cond, batch.null))  # type: ignore[type-var]
        return Batch(batch.x0[:, window.start : window.stop], cond, null)

    def whole(self, batch: Batch) -> Batch:
        return batch

    def unchunked(self) -> Chunking:
        return OneOfAll()

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        assert isinstance(cond, Clip)
        return replace(cond, clean=frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        assert isinstance(cond, Clip)
        return replace(cond, clean=chunk if cond.clean is None else torch.cat([cond.clean, chunk], dim=1))


class OneOfAll(Chunks):
    """All frames at once."""

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return (frames - given,)


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.linspace(1, FREQUENCY, 8), persistent=False)
        self.layers = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, t: Tensor) -> Tensor:
        angle = t[..., None] * self.frequencies
        return self.layers(torch.cat([angle.sin(), angle.cos()], dim=-1))  # type: ignore[no-any-return]


class Network(nn.Module):
    """The velocity `[B, F, C]`: a frame sees its chunk, and the mean of the clean frames before it."""

    def __init__(self, channels: int, two_times: bool) -> None:
        super().__init__()
        self.into = nn.Linear(channels, WIDTH)
        self.chunk = nn.Linear(channels, WIDTH)
        self.context = nn.Linear(channels, WIDTH)
        self.time = Embedder()
        self.target_time = Embedder() if two_times else None
        self.label = nn.Embedding(VIDEO.classes + 1, WIDTH)
        self.block = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, channels)
        nn.init.zeros_(self.out.weight)

    def times(self, t: Tensor, r: Tensor | None) -> Tensor:
        embedded: Tensor = self.time(t)
        return embedded if self.target_time is None else torch.lerp(embedded, self.target_time(r), 0.25)

    def labelled(self, cond: Clip) -> Tensor:
        return self.label(cond.labels)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Clip) -> Tensor:
        h = self.into(x) + self.labelled(cond)[:, None] + _framed(self.times(t, r))
        h = h + torch.cat([self.seen(*part, cond) for part in self.parts(x, cond)], dim=1)
        return self.out(torch.tanh(self.block(torch.tanh(h)))).reshape(x.shape)  # type: ignore[no-any-return]

    def parts(self, x: Tensor, cond: Clip) -> list[tuple[Tensor, int]]:
        """The chunks of x, and how many clean frames are before each."""
        if not cond.sizes:
            return [(x, 0 if cond.clean is None else cond.clean.shape[1])]
        ends = [0, *itertools.accumulate(cond.sizes)]
        spans = [
            (begin, end) for begin, end in itertools.pairwise(ends) if cond.start <= begin < cond.start + x.shape[1]
        ]
        return [(x[:, begin - cond.start : end - cond.start], begin) for begin, end in spans]

    def seen(self, x: Tensor, begin: int, cond: Clip) -> Tensor:
        found = self.chunk(x.mean(1, keepdim=True))
        if begin and cond.clean is not None:
            found = found + self.context(cond.clean[:, :begin].mean(1, keepdim=True))
        return found.expand(-1, x.shape[1], -1)  # type: ignore[no-any-return]


def _framed(times: Tensor) -> Tensor:
    return times[:, None] if times.ndim == 2 else times


Wrap = Callable[[Backbone], Backbone]


def reference(
    spec: SampleSpec = IMAGE,
    network: type[nn.Module] = Network,
    chunking: type[Chunking] = Chunks,
    conditions: Callable[..., tuple[Cond, Cond]] = labels_of,
    codec: Callable[[tuple[int, ...]], Codec] = NoCodec,
    wrap: Wrap = lambda backbone: backbone,
    frequency: float | None = FREQUENCY,
) -> BackboneConfig:
    """The configuration of the reference backbone, or of one with other parts."""

    class ReferenceConfig(BackboneConfig):
        """The reference."""

        type: Literal["reference"] = "reference"
        random_base: ClassVar[bool] = True

        def causal(self) -> bool:
            return spec is VIDEO

        def contexts(self, asked: SampleSpec) -> Mapping[int, int]:
            return {end: end for end in itertools.accumulate(CHUNKS[:-1])} if spec is VIDEO else {}

        def time_frequency(self) -> float | None:
            return frequency

        def findings(self, asked: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, asked: SampleSpec) -> Backbone:
            made = Architecture(
                lambda two_times, chosen: network(math.prod(spec.shape[1:]), two_times),
                copies={"target_time.": "time."},
                times="either",
                units=lambda module: [module.block],  # type: ignore[list-item]
            )
            chunks = chunking() if spec is VIDEO else None
            return wrap(ModuleBackbone("reference", made, codec(spec.shape), conditions, chunks))

    return ReferenceConfig()


def outcomes(config: Any, told: Capabilities = Capabilities(), **given: Any) -> list[Outcome]:  # noqa: B008
    return examination(config, capabilities=told, **given).outcomes()


def broken(config: Any, told: Capabilities = Capabilities(), **given: Any) -> dict[str, str]:  # noqa: B008
    """The laws that are broken by name, each with what is said."""
    return {o.check.name: o.sentence for o in outcomes(config, told, **given) if o.status == "failed"}


def samples(spec: SampleSpec) -> Samples:
    draw = Draw.whole(0, "kit", 0, "samples", 4)
    labels = torch.tensor([0, 1, 2, 0])
    return Samples(draw.normal("x", spec.shape), labels, labels)
