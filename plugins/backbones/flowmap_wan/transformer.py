"""diffusers' AnyFlow transformers, as both backbones have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from flowmap_wan.checkpoint import FAR
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.configs import FarWan21Config, Wan21Config

WanConfig = Wan21Config | FarWan21Config

_SHARED = (
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "freq_dim",
    "ffn_dim",
    "num_layers",
    "cross_attn_norm",
    "eps",
    "rope_max_seq_len",
)
# What the classes of diffusers keep in float32 (`_keep_in_fp32_modules` of 0.42), and the embedder of r, which they
# leave out, and then round its times.
_EXACT = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3", "delta_embedder")


def new(config: WanConfig, architecture: Mapping[str, Any]) -> Any:
    """A transformer of `architecture` (a diffusers configuration) with random weights, r's embedder a copy of t's."""
    model = _new(config, kept(architecture))
    embedder = model.condition_embedder
    # As in a distilled model: at r = t the second embedder has nothing to add.
    embedder.delta_embedder.load_state_dict(embedder.time_embedder.state_dict())
    for key, parameter in model.named_parameters():
        parameter.data = parameter.data.to(stored(config, key))
    return model


def new_of_one_time(config: CommonConfig, architecture: Mapping[str, Any]) -> Any:
    """A transformer of `architecture` with random weights that has one time: its parameters are plain Wan's."""
    model = AnyFlowTransformer3DModel(**kept(architecture))
    del model.condition_embedder.delta_embedder
    for key, parameter in model.named_parameters():
        parameter.data = parameter.data.to(stored(config, key))
    return model


def kept(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """What of a diffusers configuration both of ours have, and the released class."""
    return {key: architecture[key] for key in (*_SHARED, "gate_value", "deltatime_type") if key in architecture}


def _new(config: WanConfig, architecture: Mapping[str, Any]) -> Any:
    if isinstance(config, FarWan21Config):
        return AnyFlowFARTransformer3DModel(
            **architecture,
            compressed_patch_size=config.compressed_patch_size,
            full_chunk_limit=config.full_chunks,
            chunk_partition=config.chunks,
        )
    return AnyFlowTransformer3DModel(**architecture)


def completed(config: WanConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with what a causal model has besides, each weight in the precision in which it is stored.

    Patches of compressed frames begin as those of full ones, interpolated (FAR). The embedder of r is not made here.
    """
    made = dict(state)
    if isinstance(config, FarWan21Config) and FAR + "weight" not in made and "patch_embedding.weight" in made:
        made |= _compressed(made["patch_embedding.weight"], made["patch_embedding.bias"], config.compressed_patch_size)
    return made


def stored(config: CommonConfig, key: str) -> torch.dtype:
    """The precision in which the base weight called `key` is held, and exported."""
    precision: torch.dtype = getattr(torch, config.base_precision)
    return torch.float32 if any(part in key for part in _EXACT) else precision


def shell(config: WanConfig, architecture: Mapping[str, Any], single_time: bool) -> Any:
    """A transformer of `architecture` without weights, two-time or (`single_time`) plain Wan's own."""
    with torch.device("meta"):
        if single_time:
            return WanTransformer3DModel(**{key: architecture[key] for key in _SHARED if key in architecture})
        return _new(config, kept(architecture))


def _compressed(weight: Tensor, bias: Tensor, size: tuple[int, ...]) -> dict[str, Tensor]:
    """Patches of compressed frames, of `size`, from those of full ones, by trilinear interpolation (FAR)."""
    flat = weight.float().reshape(-1, 1, *weight.shape[2:])
    larger = F.interpolate(flat, size=size, mode="trilinear", align_corners=False)
    larger = larger.reshape(*weight.shape[:2], *size)
    return {FAR + "weight": larger.to(weight.dtype), FAR + "bias": bias.clone()}
