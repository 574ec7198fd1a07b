"""Adapters in files, as diffusers and PEFT write and read them.

diffusers: one safetensors file with `PATH.lora_A.weight` and `PATH.lora_B.weight`, rank and alpha in its metadata.
PEFT: `adapter_model.safetensors` with the same behind a prefix, beside `adapter_config.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.weights.headers import read_json
from flowmap.workshop.reading import read_tensors

DIFFUSERS = "pytorch_lora_weights.safetensors"
PEFT, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"

_KEY = re.compile(r"(?:base_model\.model\.|transformer\.|diffusion_model\.)*(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")


@final
@dataclass(frozen=True)
class AdapterFile:
    """An adapter that was read: its `weights` by the names of checkpoints, its rank, and the scale alpha / rank."""

    weights: Mapping[str, Tensor]
    rank: int
    alpha: float


def write_adapter(weights: Mapping[str, Tensor], rank: int, alpha: float, folder: Path) -> Path:
    """Write the low-rank `weights` (others of a role have no place there) into `folder` in both forms.

    Returns the file that diffusers' `load_lora_adapter(folder, weight_name=..., prefix=None)` takes; PEFT's
    `PeftModel.from_pretrained` takes the folder.
    """
    low = {key: x.detach().float().cpu().contiguous() for key, x in weights.items() if ".lora_" in key}
    layers = sorted({key.split(".lora_")[0] for key in low})
    # Without this diffusers takes alpha to be the rank.
    about: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": layers}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(low, folder / DIFFUSERS, metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(about)})
    save_file({f"base_model.model.{key}": x for key, x in low.items()}, folder / PEFT, metadata={"format": "pt"})
    config = {"peft_type": "LORA", "base_model_name_or_path": None, "bias": "none", "inference_mode": True, **about}
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return folder / DIFFUSERS


def read_adapter(path: Path) -> AdapterFile:
    """The adapter in `path`: a file, or a folder with one of diffusers or of PEFT.

    Raises FlowmapError if there is none, if it is of another kind than LoRA, if halves of a layer are missing or do not
    go together, or if layers differ in rank or alpha.
    """
    file = next((f for f in (path / DIFFUSERS, path / PEFT) if f.is_file()), None) if path.is_dir() else path
    if file is None or not file.is_file():
        raise FlowmapError(f"{path} has no adapter: there is neither {DIFFUSERS} nor {PEFT}")
    weights: dict[str, Tensor] = {}
    for key, value in read_tensors([file], "an adapter").items():
        found = _KEY.fullmatch(key)
        if found is None or value.ndim != 2:
            raise FlowmapError(f"{file}: {key} is no part of a low-rank adapter of linear layers (LAYER.lora_A.weight)")
        weights[f"{found['layer']}.lora_{found['part']}.weight"] = value
    ranks: set[int] = set()
    for key, value in weights.items():
        layer, part = key.split(".lora_")[0], key.split(".lora_")[1][0]
        other = weights.get(f"{layer}.lora_{'B' if part == 'A' else 'A'}.weight")
        if other is None:
            raise FlowmapError(f"{file}: of layer {layer} there is only lora_{part}; it is cut, or of another kind")
        ranks.add(value.shape[0 if part == "A" else 1])
    if len(ranks) != 1:
        why = f"its layers have ranks {sorted(ranks)}" if ranks else "it is empty"
        raise FlowmapError(f"{file}: {why}; an adapter here has one rank")
    (rank,) = ranks
    return AdapterFile(weights, rank, _alpha(file, rank))


def merge_into(weights: Mapping[str, Tensor], adapter: AdapterFile, who: str) -> dict[str, Tensor]:
    """`weights` of a base with the `adapter` of `who` in them: W + (alpha / rank) B A, in the precision of W.

    Raises FlowmapError for a layer that the base does not have, or has in another shape.
    """
    made = dict(weights)
    for key, a in adapter.weights.items():
        layer, _, part = key.partition(".lora_")
        if not part.startswith("A"):
            continue
        b, weight = adapter.weights[f"{layer}.lora_B.weight"], weights.get(f"{layer}.weight")
        shape = [b.shape[0], a.shape[1]]
        if weight is None or list(weight.shape) != shape:
            there = "none of that name" if weight is None else f"one of {list(weight.shape)}"
            raise FlowmapError(f"{who}: adapts a layer {layer} of {shape}, and the base has {there}")
        change = adapter.alpha / adapter.rank * (b.float() @ a.float())
        made[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return made


def _alpha(file: Path, rank: int) -> float:
    """As the metadata or the configuration beside the file says; the rank where neither does, as diffusers has it."""
    about: Mapping[str, Any] = {}
    if file.name == PEFT and (file.parent / PEFT_CONFIG).is_file():
        about = read_json(file.parent / PEFT_CONFIG)
    else:
        with safe_open(file, "pt") as opened:
            told = (opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY)
        try:
            about = json.loads(told) if told else {}
        except ValueError:
            raise FlowmapError(f"{file}: its metadata are no JSON, and would say alpha") from None
    # diffusers writes them with the model's part in front of each name.
    named = {key.rpartition(".")[2]: value for key, value in about.items()}
    if named.get("rank_pattern") or named.get("alpha_pattern") or named.get("use_rslora") or named.get("use_dora"):
        raise FlowmapError(f"{file}: its layers differ in rank or alpha, or it is rsLoRA or DoRA; that is not read")
    alpha = named.get("lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not alpha > 0:
        raise FlowmapError(f"{file}: lora_alpha is {alpha!r}; it is a number above 0")
    return float(alpha)
