"""Write a role as a folder that diffusers' AnyFlow pipelines load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import diffusers
from diffusers import FlowMapEulerDiscreteScheduler
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import save_file

from flowmap_wan.adapters import merged_state, parameters_of
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.quiet import no_bars
from flowmap_wan.transformer import WanConfig, from_state

LORA = "pytorch_lora_weights.safetensors"


def write_pipeline(
    config: WanConfig,
    transformer: Any,
    adapter: str | None,
    source: Checkpoint | None,
    folder: Path,
    merged: bool,
    shift: float,
) -> str:
    """Write `transformer` under `adapter`, and the encoders of `source`, into `folder`; returns how to load them.

    Adapters are merged into the weights, or written beside the base in the form of diffusers' LoRA files (the
    patches of compressed frames, which are trained whole, are always in the weights).
    """
    causal = config.type == "far_wan21"
    apart = adapter is not None and not merged
    state = merged_state(transformer, None if apart else adapter)
    if apart:
        state |= {k: v for k, v in merged_state(transformer, adapter).items() if k.startswith("far_patch_embedding.")}
    # From a fresh model: the trained one has wrappers around its layers, and hooks of whoever trained it.
    state = {key: value.detach().clone() for key, value in state.items()}
    plain = from_state(config, dict(transformer.config), state, "the trained transformer")
    with no_bars():
        plain.save_pretrained(folder / "transformer")
    name = type(plain).__name__
    loads = [f'transformer = diffusers.{name}.from_pretrained("FOLDER/transformer")']
    if source is not None:
        _copy_encoders(source, folder)
        FlowMapEulerDiscreteScheduler(shift=shift).save_pretrained(folder / "scheduler")
        pipeline = "AnyFlowFARPipeline" if causal else "AnyFlowPipeline"
        _write_index(source, folder, pipeline, name)
        loads = [f'pipe = diffusers.{pipeline}.from_pretrained("FOLDER")', "transformer = pipe.transformer"]
    if apart:
        assert adapter is not None
        weights = {k: v.detach().cpu().contiguous() for k, v in parameters_of(transformer, adapter).items()}
        weights = {k: v for k, v in weights.items() if "lora_" in k}
        (folder / "lora").mkdir()
        assert config.lora is not None
        # Without this diffusers takes alpha to be the rank.
        about = {
            "r": config.lora.rank,
            "lora_alpha": config.lora.alpha,
            "target_modules": sorted({key.split(".lora_")[0] for key in weights}),
        }
        metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(about)}
        save_file(weights, folder / "lora" / LORA, metadata=metadata)
        loads.append(f'transformer.load_lora_adapter("FOLDER/lora", weight_name="{LORA}", prefix=None)')
    return "\n".join(loads)


def _copy_encoders(source: Checkpoint, folder: Path) -> None:
    """Text encoder, tokenizer and VAE, linked where the file system can: they are large and never change."""
    for part in ("text_encoder", "tokenizer", "vae"):
        shutil.copytree(source.folder / part, folder / part, copy_function=_link)


def _link(source: str, target: str) -> None:
    # Not the small files: who edits one here would edit it there.
    if not source.endswith(".safetensors"):
        shutil.copy2(source, target)
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _write_index(source: Checkpoint, folder: Path, pipeline: str, transformer: str) -> None:
    index_file = source.folder / "model_index.json"
    known = json.loads(index_file.read_text()) if index_file.is_file() else {}
    index = {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "FlowMapEulerDiscreteScheduler"],
        "text_encoder": known.get("text_encoder", ["transformers", "UMT5EncoderModel"]),
        "tokenizer": known.get("tokenizer", ["transformers", "T5TokenizerFast"]),
        "transformer": ["diffusers", transformer],
        "vae": known.get("vae", ["diffusers", "AutoencoderKLWan"]),
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
