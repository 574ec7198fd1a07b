"""Refuse to go on with a stage that was begun with another configuration.

A stage's folder has a lock: the configuration that it was begun with. Before a run starts, `refuse_changes` compares
the locks of all stages that have a checkpoint with the recipe as it is now, and names every field that differs. Fields
that a newer version has added count as their defaults. `refuse_other_seeds` finds stages that lie where the run would
not look for them, because it has another number of training seeds. A stage without a checkpoint may change freely.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.console.options import both, flag, option
from flowmap.errors import FlowmapError
from flowmap.files.manifest import checkpoints
from flowmap.files.sealed import read_sealed
from flowmap.files.texts import TextError
from flowmap.plugin.fields import AnyBackbone, AnyData
from flowmap.recipe.layout import LOCK, Plan, StagePlan, seed_folder, seeds_folder
from flowmap.recipe.tables import StageConfig
from flowmap.schema.config import Config

_SHOWN = 8


def refuse_changes(plans: Iterable[StagePlan]) -> None:
    """Raise FlowmapError if a stage of `plans` was begun with another configuration, naming what differs."""
    locks = [(plan, _of_today(read_lock(plan.folder / LOCK))) for plan in plans if begun(plan)]
    changed = [(plan, _differences(lock, plan.lock)) for plan, lock in locks]
    changed = [(plan, differences) for plan, differences in changed if differences]
    if not changed:
        return
    plan, differences = changed[0]
    shown = "\n".join(f"  {line}" for line in differences[:_SHOWN])
    more = f"\n  and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    names = dict.fromkeys(plan.stage.name for plan, _ in changed)
    raise FlowmapError(
        f"{plan.folder} holds stage '{plan.stage.name}' of another configuration "
        f"({checkpoints(plan.folder)[-1].step} steps done):\n{shown}{more}\n"
        f"Undo the change, give the recipe another name, or start over with {flag('fresh')}, which sets the old folder "
        f"aside (only what changed: {both(flag('fresh'), option('stage', *names))})."
    )


def refuse_other_seeds(plan: Plan) -> None:
    """Raise FlowmapError if stages of `plan` were begun where a run of another number of seeds has them.

    They would be trained again, without a word, beside what is there.
    """
    several = len(plan.recipe.seeds) > 1
    for seed in plan.recipe.seeds:
        here = seed_folder(plan.recipe, plan.folder, seed)
        there = plan.folder if several else seeds_folder(plan.folder, seed)
        stages = [stage for stage in plan.stages if stage.seed == seed and not begun(stage)]
        left = [there / stage.stage.name for stage in stages if _is_of(there / stage.stage.name, seed)]
        if left:
            move = shlex.join(["mv", "--", *map(str, left), str(here)])
            raise FlowmapError(
                f"{left[0]} holds a stage of seed {seed}, where a run of {'one seed' if several else 'several'} has "
                f"it; one of {'several' if several else 'one'} has it in {here}, and would train it again. Move it:\n"
                f"  {shlex.join(['mkdir', '-p', '--', str(here)])} && {move}\n"
                f"Or give the recipe another name, or start over with {flag('fresh')}."
            )


def _is_of(folder: Path, seed: int) -> bool:
    """Whether `folder` is that of a stage of which anything was trained, with training seed `seed`."""
    return bool(checkpoints(folder)) and read_lock(folder / LOCK).get("seed") == seed


def begun(plan: StagePlan) -> bool:
    """Whether the stage has a checkpoint, which would be lost if it started over."""
    return bool(checkpoints(plan.folder))


def read_lock(path: Path, how: str = "copy it from a backup, or move its folder away") -> dict[str, Any]:
    """The configuration in the lock at `path`; raises FlowmapError, with `how` to mend it, if it was damaged."""
    try:
        return read_sealed(path)
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}; {how}", code=1) from None
    except TextError as error:
        raise FlowmapError(f"{path} cannot be read: it {error}; {how}", code=1) from None


class _StageLock(Config):
    """What StagePlan.lock holds, as this version of flowmap and of the plugins would write it."""

    seed: int
    data: AnyData
    backbone: AnyBackbone
    precision: str
    stages: tuple[StageConfig, ...]


def _of_today(lock: dict[str, Any]) -> dict[str, Any]:
    """An older version's `lock` with the fields that have come since, at their defaults; as it is, if it is too old."""
    try:
        return _StageLock.model_validate(lock).as_tables()
    except ValidationError:
        return lock


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _leaves(old), _leaves(new)
    missing = "(not there)"
    return [
        f"{key}: was {before.get(key, missing)}, is now {after.get(key, missing)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted paths to plain values; list elements with a name go by it."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and value and all(isinstance(e, dict) for e in value):
        items = {str(e.get("name", i)): e for i, e in enumerate(value)}.items()
    else:
        return {path: value}
    return {k: v for key, child in items for k, v in _leaves(child, f"{path}.{key}".lstrip(".")).items()}
