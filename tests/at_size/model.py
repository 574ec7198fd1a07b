"""A checkpoint of Wan2.1-T2V-1.3B's real shapes with random weights, in diffusers' layout; its text encoder is cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from flowmap_wan.twin import make_twin
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
}
TEXT_ENCODER: dict[str, Any] = {"vocab_size": 256_384, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_heads": 64}
_SPREAD = 0.02


def make_model(folder: Path, layers: int = 30, text_layers: int = 2) -> Path:
    """Make the checkpoint in `folder` unless it is there; about 6 GB. Returns it."""
    if (folder / "model_index.json").is_file():
        return folder
    part = make_twin(folder.with_name(f"{folder.name}.part"))
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**TRANSFORMER | {"num_layers": layers})
        vae = AutoencoderKLWan()
        texts = UMT5EncoderModel(UMT5Config(**TEXT_ENCODER, num_layers=text_layers))
    for model, name, stem in (
        (transformer, "transformer", "diffusion_pytorch_model"),
        (vae, "vae", "diffusion_pytorch_model"),
        (texts, "text_encoder", "model"),
    ):
        shutil.rmtree(part / name)
        (part / name).mkdir()
        if name == "text_encoder":
            model.config.save_pretrained(part / name)
        else:
            model.save_config(part / name)
        _write(model.state_dict(), part / name, stem, 1 if name == "vae" else 2)
    part.rename(folder)
    return folder


def _write(shapes: dict[str, Tensor], folder: Path, stem: str, files: int) -> None:
    """Random weights in bfloat16 (those of norms 1), in so many files with an index."""
    shapes = {key: value for key, value in shapes.items() if key != "encoder.embed_tokens.weight"}
    total, places, parts = (
        sum(value.numel() for value in shapes.values()),
        {},
        [dict[str, Tensor]() for _ in range(files)],
    )
    made = 0
    for key, value in shapes.items():
        index = min(files - 1, files * made // total)
        norm = "norm" in key and key.endswith(("weight", "gamma"))
        tensor = torch.empty(value.shape, dtype=torch.bfloat16)
        parts[index][key] = tensor.fill_(1.0) if norm else tensor.normal_(std=_SPREAD)
        places[key] = f"{stem}-{index + 1:05d}-of-{files:05d}.safetensors" if files > 1 else f"{stem}.safetensors"
        made += value.numel()
    for part in parts:
        save_file(part, folder / places[next(iter(part))], metadata={"format": "pt"})
    if files > 1:
        index_file = {"metadata": {"total_size": 2 * total}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index_file))
