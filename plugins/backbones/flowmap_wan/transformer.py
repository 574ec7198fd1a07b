"""Make a diffusers AnyFlow transformer from any checkpoint: every parameter is set, or it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from flowmap.errors import FlowmapError
from flowmap_wan.checkpoint import DELTA, FAR, IMAGE_MODEL, TIME, Checkpoint
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.layout import misfit
from flowmap_wan.reading import tensors
from flowmap_wan.settings import ArchitectureConfig

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


def from_checkpoint(config: WanConfig, checkpoint: Checkpoint) -> Any:
    """The transformer of `checkpoint`, in `config.base_precision`, with what it lacks initialised as AnyFlow does.

    Raises FlowmapError if a parameter is missing, left over or misshapen.
    """
    kind, found = checkpoint.kind, checkpoint.transformer
    if checkpoint.is_image_model():
        raise FlowmapError(f"{checkpoint.folder} {IMAGE_MODEL}")
    causal = isinstance(config, FarWan21Config)
    if kind == "far" and not causal:
        raise FlowmapError(f"{checkpoint.folder} is a causal checkpoint; use backbone type 'far_wan21'")
    limit = found.full_chunk_limit
    if kind == "far" and isinstance(config, FarWan21Config) and limit is not None and limit != config.full_chunks:
        raise FlowmapError(
            f"{checkpoint.folder} was trained with {limit} chunks at full resolution, and backbone.full_chunks is "
            f"{config.full_chunks}; set it to {limit}"
        )
    architecture = found.model_dump(include={*_SHARED, "gate_value", "deltatime_type"})
    if kind == "wan":
        architecture |= {"gate_value": config.gate, "deltatime_type": "r"}
    state = tensors(checkpoint, "transformer", config.weights)
    contradiction = checkpoint.contradiction(state.keys())
    if contradiction is not None:
        raise FlowmapError(contradiction)
    return _filled(config, architecture, state, f"{checkpoint.folder}/transformer")


def from_state(config: WanConfig, architecture: Mapping[str, Any], state: Mapping[str, Tensor], what: str) -> Any:
    """A transformer of `architecture` (a diffusers configuration) with the complete weights `state`."""
    kept = {key: architecture[key] for key in (*_SHARED, "gate_value", "deltatime_type") if key in architecture}
    return _filled(config, kept, dict(state), what)


def random(config: WanConfig, architecture: ArchitectureConfig, seed: int) -> Any:
    """A transformer with random weights, on the CPU in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The meta device would leave nothing to initialise: these are small.
        model = _new(config, architecture.diffusers() | {"gate_value": config.gate})
    # As in a distilled model: the embedder of r starts as a copy of that of t.
    model.condition_embedder.delta_embedder.load_state_dict(model.condition_embedder.time_embedder.state_dict())
    return model


def shapes(config: WanConfig, architecture: Mapping[str, Any]) -> Any:
    """A transformer of `architecture` (a diffusers configuration) without weights, if made on the meta device."""
    return _new(config, {key: architecture[key] for key in _SHARED if key in architecture})


def _new(config: WanConfig, architecture: Mapping[str, Any]) -> Any:
    if isinstance(config, FarWan21Config):
        return AnyFlowFARTransformer3DModel(
            **architecture,
            compressed_patch_size=config.compressed_patch_size,
            full_chunk_limit=config.full_chunks,
            chunk_partition=config.chunks,
        )
    return AnyFlowTransformer3DModel(**architecture)


def _filled(config: WanConfig, architecture: Mapping[str, Any], state: dict[str, Tensor], what: str) -> Any:
    with torch.device("meta"):
        model = _new(config, architecture)
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if not any(key.startswith(DELTA) for key in state):
        # With r in the place of t this makes r = t exactly the single-time model.
        # A copy: full training updates both.
        state |= {key.replace(TIME, DELTA): value.clone() for key, value in state.items() if key.startswith(TIME)}
    if FAR + "weight" in wanted and FAR + "weight" not in state and "patch_embedding.weight" in state:
        state |= _compressed(state["patch_embedding.weight"], state["patch_embedding.bias"], wanted[FAR + "weight"])
    odd = misfit({key: tuple(value.shape) for key, value in state.items()}, wanted)
    if odd is not None:
        raise FlowmapError(f"{what} does not fit a {type(model).__name__}: {odd}")
    state = {key: value.to(stored(config, key)) for key, value in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    # The gate is a buffer that checkpoints do not hold.
    model.condition_embedder.delta_emb_gate = torch.tensor([model.config.gate_value], dtype=torch.float32)
    return model


def stored(config: WanConfig, key: str) -> torch.dtype:
    """The precision in which the base weight called `key` is held, and exported."""
    precision: torch.dtype = getattr(torch, config.base_precision)
    return torch.float32 if any(part in key for part in _EXACT) else precision


def shell(config: WanConfig, architecture: Mapping[str, Any], single_time: bool) -> Any:
    """A transformer of `architecture` without weights, two-time or (`single_time`) plain Wan's own."""
    kept = {key: architecture[key] for key in _SHARED if key in architecture}
    with torch.device("meta"):
        if single_time:
            return WanTransformer3DModel(**kept)
        times = {key: architecture[key] for key in ("gate_value", "deltatime_type") if key in architecture}
        return _new(config, kept | times)


def _compressed(weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Patches of compressed frames from those of full ones, by trilinear interpolation (FAR)."""
    flat = weight.float().reshape(-1, 1, *weight.shape[2:])
    larger = F.interpolate(flat, size=shape[2:], mode="trilinear", align_corners=False)
    larger = larger.reshape(*weight.shape[:2], *shape[2:])
    return {FAR + "weight": larger.to(weight.dtype), FAR + "bias": bias.clone()}
