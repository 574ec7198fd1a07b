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

from flowmap_wan.attention import attend_to_pictures
from flowmap_wan.checkpoint import FAR
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.image_config import Wan21I2VConfig

WanConfig = Wan21Config | FarWan21Config | Wan21I2VConfig

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
_OF_PICTURES = ("image_dim", "added_kv_proj_dim")
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
    """What of a diffusers configuration all of ours have, and the released class; and what pictures need, if any."""
    found = {key: architecture[key] for key in (*_SHARED, "gate_value", "deltatime_type") if key in architecture}
    return found | _of_pictures(architecture)


def _of_pictures(architecture: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key in _OF_PICTURES if (value := architecture.get(key)) is not None}


def _new(config: WanConfig, architecture: dict[str, Any]) -> Any:
    if isinstance(config, FarWan21Config):
        return AnyFlowFARTransformer3DModel(
            **architecture,
            compressed_patch_size=config.compressed_patch_size,
            full_chunk_limit=config.full_chunks,
            chunk_partition=config.chunks,
        )
    # diffusers' class has the embedder of pictures, and no attention to them.
    seen = architecture.pop("added_kv_proj_dim", None)
    model = AnyFlowTransformer3DModel(**architecture)
    if seen is not None:
        attend_to_pictures(model, seen)
    return model


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
            own = {key: architecture[key] for key in _SHARED if key in architecture}
            return WanTransformer3DModel(**own, **_of_pictures(architecture))
        return _new(config, kept(architecture))


def _compressed(weight: Tensor, bias: Tensor, size: tuple[int, ...]) -> dict[str, Tensor]:
    """Patches of compressed frames, of `size`, from those of full ones, by trilinear interpolation (FAR)."""
    flat = weight.float().reshape(-1, 1, *weight.shape[2:])
    larger = F.interpolate(flat, size=size, mode="trilinear", align_corners=False)
    larger = larger.reshape(*weight.shape[:2], *size)
    return {FAR + "weight": larger.to(weight.dtype), FAR + "bias": bias.clone()}
