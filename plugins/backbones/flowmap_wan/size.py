"""How large a Wan model is, counted on the meta device: no weights are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from flowmap_wan.adapters import add_adapter
from flowmap_wan.checkpoint import RUN_LOCK, Checkpoint, find
from flowmap_wan.transformer import WanConfig, shapes

# The published sizes, by a part of the name; what both have in common are diffusers' defaults.
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "1.3B": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "14B": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}


def sentences(config: WanConfig) -> Iterator[str]:
    """What the weights and what is trained of them take in memory; nothing if the size is not known."""
    architecture = _architecture(config)
    if architecture is None:
        return
    with torch.device("meta"):
        model = shapes(config, architecture)
        base = sum(p.numel() for p in model.parameters())
        if config.lora is None:
            yield f"memory for {base / 1e9:.2f}B parameters in each role, all trained: {16 * base / 1e9:.0f} GB a role"
            return
        own = [
            sum(p.numel() for p in add_adapter(model, "own", config.lora.rank, config.lora.alpha, two).values())
            for two in (True, False)
        ]
    held = base * (2 if config.base_precision == "bfloat16" else 4)
    yield (
        f"memory for one base of {base / 1e9:.2f}B parameters that all roles share: "
        f"{held / 1e9:.1f} GB in {config.base_precision}"
    )
    yield (
        f"memory for adapters: {own[0] / 1e9:.2f}B parameters in a student, {own[1] / 1e9:.2f}B in a critic; "
        f"with gradient, optimiser and moving average {20 * own[0] / 1e9:.1f} and {16 * own[1] / 1e9:.1f} GB; "
        "activations come on top"
    )


def _architecture(config: WanConfig) -> Mapping[str, Any] | None:
    folder = find(config.weights)
    if folder is not None and not (folder / RUN_LOCK).is_file():
        return Checkpoint(folder).config("transformer")
    return next((sizes for part, sizes in _PUBLISHED.items() if part in Path(config.weights).name), None)
