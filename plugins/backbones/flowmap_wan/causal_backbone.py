"""The backbone of other projects' causal students: one network of one time, or two with a boundary between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.maths.draw import Draw
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.weights.runs import run_in
from flowmap.workshop.adapters import Chosen, plain_state
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec
from flowmap.workshop.lineage import config_of_run, student_of_run
from flowmap_wan.backbone import adapters_of
from flowmap_wan.causal_configs import CausalConfig, CausalWan22Config
from flowmap_wan.causal_files import absences, flaws, head_dim_of, opened_encoders, sizes_of
from flowmap_wan.codec import WanCodec
from flowmap_wan.condition import conditions
from flowmap_wan.experts import Experts
from flowmap_wan.foreign import transformer_in
from flowmap_wan.module import WanModule
from flowmap_wan.transformer import new_of_one_time, stored

_HIGH, _LOW = "high.transformer.", "low.transformer."
_OF_TEXT = ("condition_embedder.text_embedder.", "attn2.to_k.", "attn2.to_v.", "attn2.norm_k.")
"""What the parameters that read a text are called."""

Sizes = Mapping[str, Any]


def causal_backbone(config: CausalConfig, spec: SampleSpec) -> ModuleBackbone:
    """The backbone that `config` describes, for videos of `spec`."""
    source = _Source(config)
    if config.random_base:
        return _backbone(config, spec, source.sizes, None, NoCodec(spec.shape))
    return _backbone(config, spec, source.sizes, source.read, WanCodec(config, spec, lambda: opened_encoders(config)))


def of_sizes(config: CausalConfig, spec: SampleSpec, sizes: Sizes) -> ModuleBackbone:
    """The same of other `sizes` (a diffusers configuration), from random weights, for latents of `spec`."""
    return _backbone(config, spec, lambda: sizes, None, NoCodec(spec.shape))


def _backbone(
    config: CausalConfig,
    spec: SampleSpec,
    sizes: Callable[[], Sizes],
    read: Callable[[], Mapping[str, Tensor]] | None,
    codec: NoCodec | WanCodec,
) -> ModuleBackbone:
    def make(two_times: bool, chosen: Chosen) -> nn.Module:
        made = [
            WanModule(new_of_one_time(config, sizes()), config.attention, config.gradient_checkpointing, chosen)
            for _ in config.parts()
        ]
        return Experts(made[0], made[1], config.boundary / 1000) if isinstance(config, CausalWan22Config) else made[0]

    def null(prompts: Any) -> Tensor:
        found: Tensor = codec.null.beside(prompts) if isinstance(codec, WanCodec) else prompts.null
        return found

    def export(
        module: nn.Module, role: str | None, kind: NetworkKind, folder: Path, form: str, merged: bool, on: SamplingGrid
    ) -> str:
        from flowmap_wan.causal_export import write_causal

        return write_causal(config, spec, _inner(module), role, kind, merged, on, folder)

    architecture = Architecture(
        make,
        inner=_inner,
        units=_blocks,
        adapters=None if config.lora is None else adapters_of(config.lora, causal=False, timed=False),
        base=(lambda: None) if read is None else read,
        held=partial(stored, config),
        times="either",
        export=export if config.forms else None,
    )
    text = partial(conditions, lambda: int(sizes()["text_dim"]), null)
    return ModuleBackbone(config.type, architecture, codec, text, config.splitting(partial(_reencoded, codec)))


def _inner(module: nn.Module) -> nn.Module:
    if isinstance(module, WanModule):
        transformer: nn.Module = module.transformer
        return transformer
    return module


def _blocks(module: nn.Module) -> Sequence[nn.Module]:
    networks = [module.high, module.low] if isinstance(module, Experts) else [module]
    return [block for network in networks for block in network.transformer.blocks]


def _reencoded(codec: NoCodec | WanCodec, frames: Tensor) -> Tensor:
    """The last of the first latent frames of a video, encoded by itself from the last pixels that it stands for.

    The VAE decodes a frame from those before it, so all of them are decoded each time. Latents that no VAE made stay.
    """
    if isinstance(codec, NoCodec):
        return frames[:, -1:]
    pixels = codec.decode(frames)[:, -1:].to(frames.device)
    return codec.encode(pixels, Draw.whole(0, "encoded anew", 0, "encoding", len(frames), frames.device)).to(frames)


@final
class _Source:
    """What networks are read from, when they are first needed: a plan needs no weights."""

    def __init__(self, config: CausalConfig) -> None:
        self._config = config

    @cached_property
    def _run(self) -> tuple[Path, CausalConfig] | None:
        run = None if self._config.random_base else run_in(self._config.weights)
        if run is None:
            return None
        there = config_of_run(run)
        if not isinstance(there, CausalConfig) or there.type != self._config.type:
            raise FlowmapError(f"{run} is a run of backbone '{there.type}', and this recipe's is '{self._config.type}'")
        return run, there

    def sizes(self) -> Sizes:
        """A diffusers configuration; raises FlowmapError with what is missing, or the first flaw."""
        if self._run is not None:
            return _Source(self._run[1]).sizes()
        if not self._config.random_base:
            problems = [finding.message for finding in absences(self._config) if finding.field == ("weights",)]
            problems = problems or [f.message for f in flaws(self._config) if f.field == ("weights",)]
            if problems:
                raise FlowmapError("\n".join(problems))
        found = sizes_of(self._config)
        assert found is not None, "whole weights have shapes, and random ones a table"
        return found

    def read(self) -> dict[str, Tensor]:
        """All weights, by the names of the module's parameters."""
        if self._run is not None:
            run, there = self._run
            student = student_of_run(run).module
            # No copies: the model that these are of is not kept.
            return dict(plain_state(_inner(student), "student" if there.lora else None))
        self.sizes()
        found = []
        for part in self._config.parts():
            transformer = transformer_in(self._config.weights, part)
            assert transformer is not None, "its absence is an error"
            found.append(transformer.read(head_dim_of(self._config)))
        if len(found) == 1:
            return found[0]
        high, low = found
        if isinstance(self._config, CausalWan22Config) and self._config.shared_text_keys:
            low |= {key: value.clone() for key, value in high.items() if any(part in key for part in _OF_TEXT)}
        return {_HIGH + key: value for key, value in high.items()} | {_LOW + key: value for key, value in low.items()}
