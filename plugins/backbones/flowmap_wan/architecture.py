"""The sizes of the transformer that a recipe names, as far as they can be known without weights. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmap.hub import RUN_LOCK, find
from flowmap_wan.checkpoint import Checkpoint

if TYPE_CHECKING:
    from flowmap_wan import FarWan21Config, Wan21Config

# The published sizes, by a part of the name, and what both have in common.
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "1.3B": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "14B": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}
_COMMON = {
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "patch_size": (1, 2, 2),
}


def architecture_of(config: Wan21Config | FarWan21Config) -> Mapping[str, Any] | None:
    """A diffusers configuration: the recipe's own, the checkpoint's, or by its name; None if nothing is known of it."""
    if config.architecture is not None:
        return config.architecture.diffusers()
    return _of_weights(config.weights)


def _of_weights(weights: str) -> Mapping[str, Any] | None:
    folder = find(weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        return _of_run(folder)
    if folder is not None and (folder / "transformer" / "config.json").is_file():
        return _COMMON | Checkpoint(folder).config("transformer")
    name = Path(weights).name
    return next((_COMMON | dict(sizes) for part, sizes in _PUBLISHED.items() if part in name), None)


def _of_run(folder: Path) -> Mapping[str, Any] | None:
    """What the run in `folder` was based on, if that is a Wan model."""
    from flowmap_wan import ArchitectureConfig

    backbone = tomllib.loads((folder / RUN_LOCK).read_text()).get("backbone", {})
    if "architecture" in backbone:
        return ArchitectureConfig.model_validate(backbone["architecture"]).diffusers()
    return _of_weights(str(backbone["weights"])) if "weights" in backbone else None
