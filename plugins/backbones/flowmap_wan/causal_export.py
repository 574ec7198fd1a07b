"""Write a causal student that jumps to data as Self-Forcing's code and what grew from it read one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.workshop.adapters import merged as weights_of
from flowmap.workshop.writing import write_weights
from flowmap_wan.causal_configs import CausalConfig
from flowmap_wan.original import of_original
from flowmap_wan.telling import about, rules_of, sampling, words
from flowmap_wan.transformer import new_of_one_time, stored

_PREFIX = "model."  # of Self-Forcing's wrapper
_WHOLE = 10**12  # its code reads one file


def write_causal(
    config: CausalConfig,
    spec: SampleSpec,
    transformer: Any,
    adapter: str | None,
    kind: NetworkKind,
    merged: bool,
    grid: SamplingGrid,
    folder: Path,
) -> str:
    """Write model.safetensors, by the original names, and times.json into `folder`; returns how to sample it.

    Its list of times is that of `grid`, and its rules are those of `config`. Raises FlowmapError for adapters that are
    to be kept, and for a velocity.
    """
    if kind == "velocity":
        raise FlowmapError("this stage trains a velocity, and Self-Forcing's code jumps to data; export one that jumps")
    if adapter is not None and not merged:
        raise FlowmapError("--keep-lora: Self-Forcing's code reads whole weights only; leave it out")
    makes = weights_of(transformer, adapter)
    with torch.device("meta"):
        plain = new_of_one_time(config, transformer.config).state_dict()
    if odd := sorted(plain.keys() ^ makes.keys()) or sorted(key for key in plain if of_original(key) is None):
        raise FlowmapError(f"{len(odd)} parameters are not those of plain Wan, first {odd[0]}", code=1)
    named = {key: f"{_PREFIX}{of_original(key)}" for key in plain}
    wanted = {named[key]: tuple(value.shape) for key, value in plain.items()}
    said = about(config, spec, kind, grid, int(transformer.config.attention_head_dim))
    renamed = {named[key]: make for key, make in makes.items()}
    precision = {name: stored(config, key) for key, name in named.items()}
    write_weights(wanted, renamed, precision.__getitem__, folder, "model", _WHOLE, said)
    (folder / "times.json").write_text(json.dumps(said, indent=2) + "\n", "utf-8")
    usual = type(config).model_fields
    rules = words({n: value for n, value in rules_of(config).items() if n == "chunk" or value != usual[n].default})
    sampler, own = sampling(grid)
    return "\n".join(
        [
            "# Self-Forcing's code reads a .pt:",
            "import safetensors.torch, torch",
            'torch.save({"generator_ema": safetensors.torch.load_file("FOLDER/model.safetensors")}, "model.pt")',
            "# jump to data and noise anew at these times, as they are (warp_denoising_step: false): "
            + ", ".join(f"{1000 * t:.6g}" for t in grid.times()[:-1]),
            f"# by these rules: {rules}",
            f'# here: backbone = {{ type = "{config.type}", weights = "FOLDER/model.safetensors", {rules} }},',
            f'# sampler = {{ type = "{sampler}", {words(own)} }}',
        ]
    )
