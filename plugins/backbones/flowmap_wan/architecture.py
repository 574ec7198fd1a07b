"""The sizes of the transformer that a recipe names, as far as they can be known without weights. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.recipe.hub import RUN_LOCK, find
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.layout import TransformerFields
from flowmap_wan.parts import CONFIG
from flowmap_wan.settings import ArchitectureConfig

# A run on a run on a run ...: beyond these somebody's folder names itself.
_MOST_RUNS = 50
# The published sizes, by a part of the name; what both have in common is as diffusers' class has it.
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "1.3B": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "14B": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}


def architecture_of(architecture: ArchitectureConfig | None, weights: str) -> Mapping[str, Any] | None:
    """A diffusers configuration: the recipe's own, the checkpoint's, or by its name; None if nothing is known of it.

    Nothing is known of a damaged one: what is wrong with it is `Checkpoint.flaws` to say.
    """
    if architecture is not None:
        return architecture.diffusers()
    return _of_weights(weights, _MOST_RUNS)


def _of_weights(weights: str, runs: int) -> Mapping[str, Any] | None:
    folder = find(weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        return _of_run(folder, runs) if runs else None
    if folder is not None and (folder / "transformer" / CONFIG).is_file():
        try:
            return Checkpoint(folder).transformer.model_dump()
        except FlowmapError:
            return None
    name = Path(weights).name
    known = next((sizes for part, sizes in _PUBLISHED.items() if part in name), None)
    if known is None:
        return None
    return TransformerFields.model_validate({"_class_name": "", **known}).model_dump()


def _of_run(folder: Path, runs: int) -> Mapping[str, Any] | None:
    """What the run in `folder` was based on, if that is a Wan model."""
    backbone = backbone_of_run(folder)
    if "architecture" in backbone:
        try:
            return ArchitectureConfig.model_validate(backbone["architecture"]).diffusers()
        except ValidationError:
            return None
    return _of_weights(str(backbone["weights"]), runs - 1) if "weights" in backbone else None


def encoders_of(weights: str, runs: int = _MOST_RUNS) -> Checkpoint | None:
    """The checkpoint with the encoders of `weights`, which may be a run of ours; None if it is not here."""
    folder = find(weights)
    if folder is None or not (folder / RUN_LOCK).is_file():
        return None if folder is None else Checkpoint(folder)
    base = backbone_of_run(folder).get("weights")
    return encoders_of(base, runs - 1) if isinstance(base, str) and runs else None


def backbone_of_run(folder: Path) -> Mapping[str, Any]:
    """The table `backbone` of the run in `folder`, as it stands; empty if it cannot be read."""
    try:
        backbone = tomllib.loads((folder / RUN_LOCK).read_text("utf-8")).get("backbone")
    except (OSError, ValueError, RecursionError):
        return {}
    return backbone if isinstance(backbone, dict) else {}
