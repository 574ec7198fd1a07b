"""Write a role for tools that know Wan by its original names: Wan's own code and what grew from it, and ComfyUI.

They have networks of one time. A velocity is one; a flow map becomes one on the list of times that it is exported for
(flowmap_wan.one_time), which is written beside it, for no tool's own schedule is that list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind
from flowmap.workshop.adapters import merged as weights_of
from flowmap.workshop.adapters import own_of
from flowmap.workshop.exporting import write_config
from flowmap.workshop.writing import write_weights
from flowmap_wan.asked import Asked
from flowmap_wan.checkpoint import DELTA, FAR, TIME
from flowmap_wan.one_time import baked
from flowmap_wan.original import of_original
from flowmap_wan.telling import about, jumping, words
from flowmap_wan.told import BEGIN
from flowmap_wan.transformer import WanConfig, shell, stored

OTHER_FORMS = ("original", "comfyui")
_EMBEDDER = "condition_embedder."
_LORA = "lora"
_WHOLE = 10**12  # ComfyUI reads one file
_OF_COMFY = {
    "Wan2.1-T2V-1.3B-Diffusers": "wan2.1_t2v_1.3B_bf16.safetensors",
    "Wan2.1-T2V-14B-Diffusers": "wan2.1_t2v_14B_bf16.safetensors",
    "Wan2.1-I2V-14B-480P-Diffusers": "wan2.1_i2v_480p_14B_bf16.safetensors",
    "Wan2.1-I2V-14B-720P-Diffusers": "wan2.1_i2v_720p_14B_bf16.safetensors",
}
"""What ComfyUI's repackaged files of the same weights are called."""
_USUAL = {"levels": "exact", "start": "noise", "time_input": "exact", "boundary": None}
"""How any tool jumps and adds noise."""


def write_for_others(asked: Asked, folder: Path) -> str:
    """Write what is `asked` for into `folder` by the original names; returns how to sample it.

    `original` is the folder that Wan's own `WanModel.from_pretrained` reads, `comfyui` one file for its folder
    diffusion_models or, if adapters are not `merged`, a LoRA for its folder loras: low-rank parts, and the layers of
    the time embedder as differences from plain Wan's. Metadata and times.json have the list of times. Raises
    FlowmapError for adapters that are to be kept in a form that has none.
    """
    config, transformer, adapter, form = asked.config, asked.transformer, asked.adapter, asked.form
    grid, kind = asked.grid, asked.kind
    if not asked.merged and form == "original":
        raise FlowmapError("--keep-lora: Wan's own code reads whole weights only; leave it out, or take comfyui")
    if asked.apart and config.one_time_weights == "jump":
        raise FlowmapError(
            "--keep-lora: what it began from jumps to data, and is no plain Wan to add it to; leave it out"
        )
    makes = weights_of(transformer, adapter)
    plain = shell(config, transformer.config, single_time=True)
    makes = of_one_time(makes) if kind == "velocity" else on_a_list(transformer, makes, grid)
    said = about(config, asked.spec, kind, grid, int(transformer.config.attention_head_dim))
    names = {key: name for key in plain.state_dict() if (name := of_original(key)) is not None}
    assert names.keys() == plain.state_dict().keys()
    if adapter is None or not asked.apart:
        wanted = {names[key]: tuple(value.shape) for key, value in plain.state_dict().items()}
        ours = {name: key for key, name in names.items()}
        stem, most = ("diffusion_pytorch_model", 4 * 10**9) if form == "original" else (_file(kind, grid), _WHOLE)
        if odd := sorted(names.keys() ^ makes.keys()):
            raise FlowmapError(f"{len(odd)} parameters are not those of plain Wan, first {odd[0]}", code=1)
        renamed = {name: makes[key] for key, name in names.items()}
        write_weights(wanted, renamed, lambda name: stored(config, ours[name]), folder, stem, most, said)
    else:
        stem = f"{_file(kind, grid)}_{_LORA}"
        tensors = _as_lora(config, transformer, adapter, makes)
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt", **said})
    if form == "original":
        write_config(folder / "config.json", "WanModel", _original_config(plain.config, config.text_length))
    (folder / "times.json").write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    return _how(asked, f"{stem}.safetensors", said)


def of_one_time(makes: Mapping[str, Callable[[], Tensor]]) -> dict[str, Callable[[], Tensor]]:
    """Plain Wan's weights among those of a two-time network, which at r = t must be plain Wan."""
    for key in makes:
        if key.startswith(DELTA) and not torch.equal(makes[key](), makes[key.replace(DELTA, TIME)]()):
            raise FlowmapError(
                "this stage trains a velocity whose two embedders of time differ (its base is AnyFlow's, or it trains "
                "every weight, without backbone.lora): it is neither an any-step model nor one that plain Wan's class "
                "computes, so there is no form of it that others load; export a stage that trains a flow map"
            )
    return {key: make for key, make in makes.items() if not key.startswith((DELTA, FAR))}


def on_a_list(
    transformer: Any, makes: Mapping[str, Callable[[], Tensor]], grid: SamplingGrid
) -> dict[str, Callable[[], Tensor]]:
    """The weights of the one-time network that is the flow map's on the grid, or jumps to data from its times."""
    both = {key.removeprefix(_EMBEDDER): make().float() for key, make in makes.items() if key.startswith((TIME, DELTA))}
    made = baked(transformer.condition_embedder, both, grid.times(), jumping("flow_map", grid))
    rest = {key: make for key, make in makes.items() if not key.startswith((DELTA, FAR))}
    return rest | {TIME + key: partial(_as_it_is, value) for key, value in made.items()}


def _as_it_is(value: Tensor) -> Tensor:
    return value


def _file(kind: NetworkKind, grid: SamplingGrid) -> str:
    return "wan_velocity" if kind == "velocity" else f"wan_flow_map_{grid.calls}_steps"


def _as_lora(
    config: WanConfig, transformer: Any, adapter: str, makes: Mapping[str, Callable[[], Tensor]]
) -> dict[str, Tensor]:
    """ComfyUI's form of an adapter: low-rank pairs with their alpha, and the time embedder as differences."""
    assert config.lora is not None
    tensors: dict[str, Tensor] = {}
    for key, value in own_of(transformer, adapter).items():
        layer, found, part = key.partition(".lora_")
        if not found or key.startswith((TIME, DELTA)):
            continue
        name = f"diffusion_model.{_layer(layer)}"
        which = {"A.weight": "lora_down", "B.weight": "lora_up"}[part]
        tensors[f"{name}.{which}.weight"] = value.detach().float().cpu().contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(config.lora.alpha)
    base = weights_of(transformer, None)
    for layer in ("linear_1", "linear_2"):
        for part, ending in (("weight", "diff"), ("bias", "diff_b")):
            key = f"{TIME}{layer}.{part}"
            difference = makes[key]().float() - base[key]().float()
            tensors[f"diffusion_model.{_layer(TIME + layer)}.{ending}"] = difference.cpu().contiguous()
    return tensors


def _layer(path: str) -> str:
    name = of_original(f"{path}.weight")
    assert name is not None, path
    return name.removesuffix(".weight")


def _original_config(sizes: Mapping[str, Any], text_length: int) -> dict[str, Any]:
    """The fields of Wan's own WanModel."""
    return {
        "model_type": "i2v" if sizes.get("image_dim") else "t2v",
        "patch_size": list(sizes["patch_size"]),
        "text_len": text_length,
        "in_dim": sizes["in_channels"],
        "dim": sizes["num_attention_heads"] * sizes["attention_head_dim"],
        "ffn_dim": sizes["ffn_dim"],
        "freq_dim": sizes["freq_dim"],
        "text_dim": sizes["text_dim"],
        "out_dim": sizes["out_channels"],
        "num_heads": sizes["num_attention_heads"],
        "num_layers": sizes["num_layers"],
        "qk_norm": True,
        "cross_attn_norm": bool(sizes["cross_attn_norm"]),
        "eps": sizes["eps"],
    }


def _how(asked: Asked, file: str, said: Mapping[str, str]) -> str:
    """What to do with the `file` that has `said` what it is, in lines of Python's comments."""
    grid, comfy = asked.grid, asked.form == "comfyui"
    lines = ["# WanModel.from_pretrained of FOLDER"]
    if comfy:
        place = "loras" if asked.apart else "diffusion_models"
        lines = [f"# ComfyUI: copy into ComfyUI/models/{place}/, from FOLDER/{file}"]
    if asked.apart:
        lines.append(f"# load it at strength 1, on the weights that it was trained on: {_base_of(asked)}")
    if asked.kind == "velocity":
        return "\n".join([*lines, f"# a velocity, for a solver with many steps, at shift {grid.shift:g}"])
    jumps = jumping(asked.kind, grid)
    how = "jumping to data and adding noise again (ComfyUI's sampler lcm)" if jumps else "Euler"
    lines += [
        f"# sample with {how}, guidance (cfg) 1, on exactly these times and no others: "
        + ", ".join(f"{1000 * t:.6g}" for t in grid.times()),
        f"sigmas = [{', '.join(f'{t:.7g}' for t in grid.times())}]",
    ]
    if comfy:
        nodes = f"ManualSigmas (or any that takes a list) and SamplerCustomAdvanced with {'lcm' if jumps else 'euler'}"
        lines.append(f"# as nodes: {nodes}; no scheduler")
    fields = json.loads(said.get(f"{BEGIN}sampler_fields", "{}"))
    more = {
        name: value for name, value in fields.items() if name not in ("times", "warped") and value != _USUAL.get(name)
    }
    if more:
        lines.append(f"# as the run samples, that is with: {words(more)}")
    return "\n".join(lines)


def _base_of(asked: Asked) -> str:
    """The weights that adapters are for, as ComfyUI has them where their file is known."""
    weights = asked.config.weights
    name = asked.config.origin().hub_id or Path(weights).name
    file = _OF_COMFY.get(name.rpartition("/")[2])
    return name if file is None else f"{name}, for ComfyUI {file} of Comfy-Org/Wan_2.1_ComfyUI_repackaged"
