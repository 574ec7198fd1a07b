"""Weights that are a run of ours: the student of its last stage."""

from __future__ import annotations

from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role
from flowmap.interfaces.held import postponed
from flowmap.plugin.kinds import BackboneConfig
from flowmap.reading.open import open_run, reopened
from flowmap.training.stage import base_draw, stage_weights


def config_of_run(folder: Path) -> BackboneConfig:
    """The backbone of the run in `folder`."""
    return open_run(folder).recipe.backbone


def student_of_run(folder: Path) -> Role:
    """The student of the last stage of the run in `folder`, with its moving average; raises FlowmapError if unfinished.

    It is called "student", as its adapter is where the run trained adapters.
    """
    plan = open_run(folder)
    if not plan.stages:
        raise FlowmapError(f"{folder}: this run trained nothing, so it has no weights of its own")
    last = plan.find(plan.recipe.stages[-1].name, plan.recipe.seeds[0])
    backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
    kind = last.stage.objective.roles()["student"].kind
    with reopened(folder):
        own = stage_weights(last, last.stage.name, "ema")
    with postponed(False):
        # Its adapter is merged into the base as it was trained beside.
        return backbone.role("student", kind, own, base_draw(last.seed))
