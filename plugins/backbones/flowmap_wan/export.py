"""Write a role as a folder that diffusers' AnyFlow pipelines load, or NVIDIA's released ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import FlowMapEulerDiscreteScheduler
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import save_file

from flowmap.errors import FlowmapError
from flowmap_wan import FarWan21Config
from flowmap_wan.adapters import merged_state, parameters_of
from flowmap_wan.checkpoint import FIRST_RELEASE, Checkpoint
from flowmap_wan.quiet import no_bars
from flowmap_wan.transformer import WanConfig, from_state

_RELEASED_MODEL = "far.models.transformer_far_wan_model"
_RELEASED_SCHEDULER = ("far.schedulers.scheduling_flowmap_euler_discrete", "FlowMapDiscreteScheduler")
_RELEASED_PIPELINES = {
    False: ("far.pipelines.pipeline_wan_anyflow", "WanAnyFlowPipeline"),
    True: ("far.pipelines.pipeline_far_wan_anyflow", "FARWanAnyFlowPipeline"),
}
# Those of the released class's arguments that ours has too.
_RELEASED_KEYS = (
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
    "gate_value",
    "deltatime_type",
)

LORA = "pytorch_lora_weights.safetensors"


def write_pipeline(
    config: WanConfig,
    transformer: Any,
    adapter: str | None,
    source: Checkpoint | None,
    folder: Path,
    form: str,
    merged: bool,
    shift: float,
) -> str:
    """Write `transformer` under `adapter`, and the encoders of `source`, into `folder`; returns how to load them.

    `form` is `diffusers` or `released` (the classes of NVlabs/AnyFlow). Adapters are merged into the weights, or
    written beside the base in the form of diffusers' LoRA files (the patches of compressed frames, which are trained
    whole, are always in the weights).
    """
    causal = config.type == "far_wan21"
    apart = adapter is not None and not merged
    if apart and form == "released":
        raise FlowmapError("--keep-lora: AnyFlow's released classes take whole weights only; leave it out")
    state = merged_state(transformer, None if apart else adapter)
    if apart:
        state |= {k: v for k, v in merged_state(transformer, adapter).items() if k.startswith("far_patch_embedding.")}
    # From a fresh model: the trained one has wrappers around its layers, and hooks of whoever trained it.
    state = {key: value.detach().clone() for key, value in state.items()}
    plain = from_state(config, dict(transformer.config), state, "the trained transformer")
    with no_bars():
        plain.save_pretrained(folder / "transformer")
    if form == "released":
        return _as_released(config, plain, source, folder, shift)
    name = type(plain).__name__
    loads = [f'transformer = diffusers.{name}.from_pretrained("FOLDER/transformer")']
    if source is not None:
        _copy_encoders(source, folder)
        FlowMapEulerDiscreteScheduler(shift=shift).save_pretrained(folder / "scheduler")
        pipeline = "AnyFlowFARPipeline" if causal else "AnyFlowPipeline"
        _write_index(
            source, folder, pipeline, ["diffusers", name], ["diffusers", FlowMapEulerDiscreteScheduler.__name__]
        )
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


def _as_released(config: WanConfig, plain: Any, source: Checkpoint | None, folder: Path, shift: float) -> str:
    """Describe the weights of `plain`, whose names are the released class's too, as AnyFlow's pipelines do."""
    causal = config.type == "far_wan21"
    about = {key: plain.config[key] for key in _RELEASED_KEYS if key in plain.config}
    about |= {"qk_norm": "rms_norm_across_heads", "image_dim": None, "added_kv_proj_dim": None}
    # Without these two the class leaves out what AnyFlow adds to Wan, with no more than a warning.
    about |= {"init_flowmap_model": True, "init_far_model": causal}
    # Those of the class's defaults where nothing is compressed.
    about |= {"chunk_partition": None, "full_chunk_limit": 3, "compressed_patch_size": [1, 4, 4]}
    if isinstance(config, FarWan21Config):
        about["chunk_partition"] = list(config.chunks)
        about["full_chunk_limit"] = config.full_chunks
        about["compressed_patch_size"] = list(config.compressed_patch_size)
    _write_json(folder / "transformer" / "config.json", FIRST_RELEASE, about)
    loads = ["# with the code of https://github.com/NVlabs/AnyFlow on the path"]
    if source is None:
        return "\n".join(
            [
                *loads,
                f"from {_RELEASED_MODEL} import {FIRST_RELEASE}",
                f'transformer = {FIRST_RELEASE}.from_pretrained("FOLDER/transformer")',
            ]
        )
    _copy_encoders(source, folder)
    (folder / "scheduler").mkdir()
    told = {"num_train_timesteps": 1000, "shift": shift, "weight_type": "gaussian"}
    _write_json(folder / "scheduler" / "scheduler_config.json", _RELEASED_SCHEDULER[1], told)
    module, pipeline = _RELEASED_PIPELINES[causal]
    _write_index(source, folder, pipeline, [_RELEASED_MODEL, FIRST_RELEASE], list(_RELEASED_SCHEDULER))
    loads += [
        f"from {module} import {pipeline}",
        f'pipe = {pipeline}.from_pretrained("FOLDER")',
        "transformer = pipe.transformer",
    ]
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


def _write_index(source: Checkpoint, folder: Path, pipeline: str, transformer: list[str], scheduler: list[str]) -> None:
    index_file = source.folder / "model_index.json"
    known = json.loads(index_file.read_text()) if index_file.is_file() else {}
    index = {
        "scheduler": scheduler,
        "text_encoder": known.get("text_encoder", ["transformers", "UMT5EncoderModel"]),
        "tokenizer": known.get("tokenizer", ["transformers", "T5TokenizerFast"]),
        "transformer": transformer,
        "vae": known.get("vae", ["diffusers", "AutoencoderKLWan"]),
    }
    _write_json(folder / "model_index.json", pipeline, index)


def _write_json(file: Path, kind: str, fields: Mapping[str, Any]) -> None:
    """Write a configuration as diffusers writes one."""
    whole = {"_class_name": kind, "_diffusers_version": diffusers.__version__, **dict(sorted(fields.items()))}
    file.write_text(json.dumps(whole, indent=2) + "\n")
