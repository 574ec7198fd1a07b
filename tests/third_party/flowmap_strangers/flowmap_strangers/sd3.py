"""Stable Diffusion 3's transformer as a two-time network, with adapters for roles."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from flowmap.interfaces import Backbone, Cond
from flowmap.plugin import SampleSpec
from flowmap.workshop import LABELS, Adapters, Architecture, Chosen, ModuleBackbone, NoCodec, TensorCond, labelled
from flowmap_strangers.backbones import Sd3Config
from flowmap_strangers.exporting import export

LAYERS = r".*transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj)|ff(_context)?\.net\.(0\.proj|2))"
TIMES = r"(delta|.*\.timestep_embedder)\.linear_[12]"


class TwoTimeSd3(nn.Module):
    """Velocity from (x, t, r, labels). The embedding of r is mixed in where diffusers has made that of t."""

    def __init__(self, config: Sd3Config, spec: SampleSpec, chosen: Chosen) -> None:
        super().__init__()
        width, (_, channels, side, _) = config.heads * config.head_dim, spec.shape
        self.transformer = SD3Transformer2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            num_layers=config.layers,
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            joint_attention_dim=width,
            caption_projection_dim=width,
            pooled_projection_dim=width,
        )
        self.label = nn.Embedding(spec.classes + 1, width)
        embedder = self.transformer.time_text_embed.timestep_embedder
        self.delta = type(embedder)(256, width)
        self.gate = config.gate
        embedder.register_forward_hook(self._with_r)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing(chosen.checkpointed)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        self.r = t if r is None else r
        labels = cond[LABELS] if isinstance(cond, TensorCond) else torch.zeros(len(x), dtype=torch.int64)
        text = self.label(labels)
        made = self.transformer(x.squeeze(1), text[:, None], text, 1000 * t, return_dict=False)
        return made[0].unsqueeze(1)

    def _with_r(self, embedder: nn.Module, given: Any, made: Tensor) -> Tensor:
        angles = self.transformer.time_text_embed.time_proj(1000 * self.r)
        return torch.lerp(made, self.delta(angles.to(made.dtype)), self.gate)


def sd3(config: Sd3Config, spec: SampleSpec) -> Backbone:
    architecture = Architecture(
        lambda two_times, chosen: TwoTimeSd3(config, spec, chosen),
        copies={"delta.": "transformer.time_text_embed.timestep_embedder."},
        units=lambda module: list(module.transformer.transformer_blocks),
        adapters=Adapters(config.rank, float(config.rank), LAYERS, timed=TIMES, whole=("label",)),
        export=export,
    )
    return ModuleBackbone(config.type, architecture, NoCodec(spec.shape), labelled(spec.classes))
