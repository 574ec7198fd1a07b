"""The Wan backbone: diffusers' AnyFlow transformer in a `ModuleBackbone`, text and video, chunks, export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from flowmap.interfaces import Chunking, EncodedText, SamplingGrid
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.workshop.adapters import Adapters, Chosen
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec
from flowmap.workshop.conditions import Conditions
from flowmap_wan.checkpoint import DELTA, FAR, TIME, Checkpoint
from flowmap_wan.codec import WanCodec
from flowmap_wan.condition import conditions
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.image_encoder import ImageEncoder
from flowmap_wan.module import WanModule
from flowmap_wan.pictures import FirstFrames, with_picture
from flowmap_wan.settings import LoraConfig
from flowmap_wan.starting import Start, source_of, start_of
from flowmap_wan.transformer import WanConfig, new, stored

_TIMES = r"condition_embedder\.(time_embedder|delta_embedder)\.linear_[12]"


def wan_backbone(config: WanConfig, spec: SampleSpec, chunking: Chunking) -> ModuleBackbone:
    """Wan2.1 as `config` describes it, for videos of `spec`."""
    source = _Source(config)
    if config.random_base:
        return _on_latents(config, spec, chunking, source)
    codec = WanCodec(config, spec, source.encoders)
    told, seen = _told(config, source, codec.null.beside), None
    if config.pictures:
        seen = FirstFrames(codec, ImageEncoder(source.encoders), spec.shape[0], source.text_dim)
    return ModuleBackbone(config.type, _architecture(config, spec, source), codec, told, chunking, seen)


def of_sizes(config: WanConfig, spec: SampleSpec, chunking: Chunking, sizes: Mapping[str, Any]) -> ModuleBackbone:
    """The same of other `sizes` (a diffusers configuration), from random weights, for latents of `spec`."""
    return _on_latents(config, spec, chunking, _Source(config, Start(sizes, None)))


def _on_latents(config: WanConfig, spec: SampleSpec, chunking: Chunking, source: _Source) -> ModuleBackbone:
    """On data that are not encoded."""
    told = _told(config, source, lambda prompts: prompts.null)
    return ModuleBackbone(config.type, _architecture(config, spec, source), NoCodec(spec.shape), told, chunking)


def _told(config: WanConfig, source: _Source, null: Callable[[EncodedText], Tensor]) -> Conditions:
    """What a network is told of prompts, beside which `null` says what stands for none; and of pictures."""
    texts: Conditions = partial(conditions, source.text_dim, null)
    return partial(with_picture, texts) if config.pictures else texts


@final
class _Source:
    """What networks and encoders are read from, when they are first needed: a plan needs no weights."""

    def __init__(self, config: WanConfig, start: Start | None = None) -> None:
        self._config, self._start = config, start

    @cached_property
    def start(self) -> Start:
        """See starting.start_of."""
        return self._start or start_of(self._config)

    def encoders(self) -> Checkpoint:
        """See starting.source_of."""
        return source_of(self._config)

    def base(self) -> dict[str, Tensor] | None:
        """The base weights, read; None if they are random."""
        return None if self.start.read is None else self.start.read()

    def text_dim(self) -> int:
        """Dimensions of a text embedding."""
        return int(self.start.architecture["text_dim"])


def _architecture(config: WanConfig, spec: SampleSpec, source: _Source) -> Architecture:
    def make(two_times: bool, chosen: Chosen) -> nn.Module:
        transformer = new(config, source.start.architecture)
        return WanModule(transformer, config.attention, config.gradient_checkpointing, chosen)

    def export(
        module: nn.Module, role: str | None, kind: NetworkKind, folder: Path, form: str, merged: bool, on: SamplingGrid
    ) -> str:
        # The libraries' schedulers and pipelines: nothing else needs them.
        from flowmap_wan.asked import Asked
        from flowmap_wan.export import write_pipeline

        encoders = None if config.random_base else source.encoders()
        return write_pipeline(
            Asked(config, spec, transformer_of(module), role, form, merged, on, kind), encoders, folder
        )

    return Architecture(
        make,
        inner=transformer_of,
        copies={DELTA: TIME},
        units=blocks_of,
        adapters=None if config.lora is None else adapters_of(config.lora, isinstance(config, FarWan21Config)),
        base=source.base,
        held=partial(stored, config),
        times="either",
        export=export,
    )


def transformer_of(module: nn.Module) -> Any:
    """The transformer of a role's module."""
    assert isinstance(module, WanModule)
    return module.transformer


def blocks_of(module: nn.Module) -> Sequence[nn.Module]:
    """The transformer blocks of a role's module."""
    return list(transformer_of(module).blocks)


def adapters_of(lora: LoraConfig, causal: bool, timed: bool = True) -> Adapters:
    """On the linear layers that the recipe names of every block, of a two-time network (`timed`) on the time embedders.

    The patches of compressed frames are trained whole (AnyFlow's published choice).
    """
    layers = rf"blocks\.\d+\.({'|'.join(map(re.escape, lora.layers))})"
    return Adapters(
        lora.rank, lora.alpha, layers, timed=_TIMES if timed else "", whole=(FAR.rstrip("."),) if causal else ()
    )
