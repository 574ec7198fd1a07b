"""Weights that are a run of ours: what it was based on, with its last student merged in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.reading.open import open_run, reopened
from flowmap.training.stage import base_draw, stage_weights
from flowmap_wan.adapters import merged_state
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.transformer import WanConfig, from_state


def config_of(folder: Path) -> WanConfig:
    """The Wan backbone of the run in `folder`; raises FlowmapError if it has another."""
    backbone = open_run(folder).recipe.backbone
    if not isinstance(backbone, Wan21Config | FarWan21Config):
        raise FlowmapError(f"{folder} is a run with backbone '{backbone.type}'; its weights are not Wan's")
    return backbone


def from_run(config: WanConfig, folder: Path) -> Any:
    """The transformer of the last finished stage's student (its moving average) of the run in `folder`."""
    there = config_of(folder)
    if there.type != config.type:
        raise FlowmapError(f"{folder} is a run of backbone '{there.type}', and this recipe's is '{config.type}'")
    plan = open_run(folder)
    if not plan.stages:
        raise FlowmapError(f"{folder}: this run trained nothing, so it has no weights of its own")
    last = plan.find(plan.recipe.stages[-1].name, plan.recipe.seeds[0])
    backbone = there.build(plan.recipe.data.spec())
    kind = last.stage.objective.roles()["student"].kind
    with reopened(folder):
        own = stage_weights(last, last.stage.name, "ema")
    role = backbone.role("student", kind, own, base_draw(last.seed))
    transformer: Any = role.module.transformer
    # No copies: the model that these are of is not kept.
    state = merged_state(transformer, "student" if there.lora else None)
    return from_state(config, dict(transformer.config), state, f"the student of {folder}")
