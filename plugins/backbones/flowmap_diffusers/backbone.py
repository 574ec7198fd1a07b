"""An image backbone: a family's transformer in a `ModuleBackbone`."""

from __future__ import annotations

import re
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, final

from torch import nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.schema.words import unknown_word
from flowmap.workshop import Adapters, Architecture, Chosen, ModuleBackbone, NoCodec, conditions, labelled
from flowmap_diffusers.checkpoint import Checkpoint
from flowmap_diffusers.codec import ImageCodec
from flowmap_diffusers.export import write_image_pipeline
from flowmap_diffusers.family import Family, Sizes
from flowmap_diffusers.module import ImageModule, blocks_of, transformer_of
from flowmap_diffusers.settings import ImageLoraConfig
from flowmap_diffusers.starting import base_weights, held, new, source_of
from flowmap_diffusers.two_times import DELTA, delta_of

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig


def image_backbone(config: ImageConfig, spec: SampleSpec) -> ModuleBackbone:
    """The family of `config`, for images of `spec`."""
    sizes = config.sizes()
    if sizes is None:
        # What is missing or wrong is raised.
        sizes = source_of(config).sizes()
    return of_sizes(config, spec, sizes)


def of_sizes(config: ImageConfig, spec: SampleSpec, sizes: Sizes) -> ModuleBackbone:
    """The same, of a transformer of `sizes`."""
    source, shape = _Source(config), config.latent_shape(spec, sizes)
    if config.random_base:
        codec: ImageCodec | NoCodec = NoCodec(shape)
    else:
        codec = ImageCodec(
            config.family, shape, config.text_length, config.negative_prompt, lambda: source.here.pipeline
        )
    asked = conditions if config.family.parts else labelled(config.family.classes(sizes))
    return ModuleBackbone(config.type, _architecture(config, spec, sizes, source), codec, asked)


@final
class _Source:
    """The folder that encoders are read from, opened when they are first needed: a plan needs none."""

    def __init__(self, config: ImageConfig) -> None:
        self._config = config

    @cached_property
    def here(self) -> Checkpoint:
        """See starting.source_of."""
        return source_of(self._config)


def _architecture(config: ImageConfig, spec: SampleSpec, sizes: Sizes, source: _Source) -> Architecture:
    family, share = config.family, config.share()

    def make(two_times: bool, chosen: Chosen) -> nn.Module:
        made = new(config, sizes)
        if config.lora is not None:
            refuse_unknown(config.lora, family, made)
        return ImageModule(made, family, sizes, two_times, share, config.told(), config.gradient_checkpointing, chosen)

    def export(
        module: nn.Module, role: str | None, kind: NetworkKind, folder: Path, form: str, merged: bool, on: SamplingGrid
    ) -> str:
        encoders = None if config.random_base else source.here
        return write_image_pipeline(
            config, spec, sizes, transformer_of(module), role, encoders, folder, merged, on.shift, kind
        )

    return Architecture(
        make,
        inner=transformer_of,
        copies={f"{delta_of(path)}.": f"{path}." for path in family.embedders(sizes)},
        units=partial(blocks_of, family),
        adapters=None if config.lora is None else adapters_of(config.lora, family),
        base=lambda: base_weights(config, sizes),
        held=partial(held, config),
        export=export,
    )


def refuse_unknown(lora: ImageLoraConfig, family: Family, transformer: nn.Module) -> None:
    """Refuse names of layers that no block has: among others that are there they would be left out in silence."""
    linear = [path for path, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    inside = [path for path in linear if path.startswith(tuple(f"{name}." for name in family.blocks))]
    for end in lora.layers:
        if not any(re.fullmatch(rf"(?:.*\.)?{re.escape(end)}", path) for path in inside):
            known = sorted({re.sub(r"^\w+\.\d+\.", "", path) for path in inside})
            raise FlowmapError(f"backbone.lora.layers: {unknown_word('layer', end, known)}")


def adapters_of(lora: ImageLoraConfig, family: Family) -> Adapters:
    """On the linear layers of every block whose names end as asked, and of a two-time network on the time embedders."""
    ends = "|".join(map(re.escape, lora.layers or family.adapted))
    embedder = family.embedder.rpartition(".")[2]
    return Adapters(
        lora.rank,
        lora.alpha,
        rf"({'|'.join(family.blocks)})\.\d+\.(?:.*\.)?({ends})",
        timed=rf"(?:.*\.)?({embedder}|{DELTA})\.(linear_[12]|mlp\.[02])",
    )
