"""Tiny rivals under their published names, each laid out as its project lays one out, beside the encoders of a twin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from flowmap_wan.original import of_original
from flowmap_wan.twin import TEXT_DIM
from safetensors.torch import save_file
from torch import Tensor


def state(seed: int = 3) -> dict[str, Tensor]:
    """A tiny network of one time, with a head of the released size, by diffusers' names."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"num_attention_heads": 1, "attention_head_dim": 128, "ffn_dim": 32, "num_layers": 2}
    return dict(WanTransformer3DModel(**sizes, text_dim=TEXT_DIM, freq_dim=32).state_dict())


def beside_encoders(encoders: Path, place: Path) -> Path:
    """Make the folder `place` with the text encoder, tokenizer and VAE in `encoders`; returns it."""
    shutil.copytree(encoders, place, ignore=shutil.ignore_patterns("transformer", "model_index.json"))
    return place


def one_file(encoders: Path, place: Path, name: str, prefix: str = "model.", seed: int = 3) -> Path:
    """A folder with one file `name` under the original names after `prefix`; rCM's, `net.`, has a linear patch."""
    found = state(seed)
    if prefix == "net.":
        found["patch_embedding.weight"] = found["patch_embedding.weight"].flatten(1)
    file = beside_encoders(encoders, place) / f"{name}.safetensors"
    save_file({f"{prefix}{of_original(key)}": value.contiguous() for key, value in found.items()}, file)
    return place


def two_experts(encoders: Path, place: Path) -> Path:
    """FastVideo's two networks."""
    beside_encoders(encoders, place)
    for seed, part in enumerate(("transformer", "transformer_2")):
        (place / part).mkdir()
        save_file(state(seed), place / part / "diffusion_pytorch_model.safetensors")
        told = {"_class_name": "CausalWanTransformer3DModel", "attention_head_dim": 128}
        (place / part / "config.json").write_text(json.dumps(told))
    return place
