"""The student that a run has trained, as weights of other recipes. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from flowmap.errors import FlowmapError
from flowmap.files.sealed import read_sealed
from flowmap.files.texts import TextError
from flowmap.plugin.fields import AnyBackbone, AnyData
from flowmap.recipe.tables import EvaluationConfig, StageConfig, sampling_shift
from flowmap.schema.bounds import Seed
from flowmap.schema.config import Config
from flowmap.schema.specs import Pretrained, RoleSpec
from flowmap.weights.runs import RUN_LOCK


class RunLock(Config):
    """What another recipe needs to know of a run."""

    seeds: tuple[Seed, ...] = Field(min_length=1)
    data: AnyData
    backbone: AnyBackbone
    stages: tuple[StageConfig, ...] = Field(())
    evaluation: EvaluationConfig | None = None


def run_stage(folder: Path) -> tuple[RunLock, StageConfig]:
    """What the run in `folder` is, and the stage that it is for.

    Raises FlowmapError if it is none of this version's recipes, or trained nothing.
    """
    try:
        raw = read_sealed(folder / RUN_LOCK)
        if "name" not in raw:
            raise FlowmapError(f"{folder} is the folder of one stage; give the run's folder, which lies above it")
        lock = RunLock.model_validate({key: raw[key] for key in RunLock.model_fields if key in raw})
    except OSError as error:
        raise FlowmapError(f"{folder / RUN_LOCK} cannot be read: {error.strerror}") from None
    except TextError as error:
        raise FlowmapError(f"{folder / RUN_LOCK} {error}; run that recipe again, which writes it anew") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise FlowmapError(
            f"{folder / RUN_LOCK} does not fit this version of flowmap or its plugins: {error.error_count()} "
            f"problems, first {first['loc']}: {first['msg']}"
        ) from None
    if not lock.stages:
        raise FlowmapError(f"the run in {folder} trained nothing, so it has no weights of its own")
    name = main_stage(lock.stages, lock.evaluation)
    return lock, next(stage for stage in lock.stages if stage.name == name)


def run_as_base(folder: Path) -> Pretrained:
    """What the run in `folder` is as base weights: the student of its last stage, whatever that is for.

    Raises FlowmapError if that is not finished.
    """
    lock, _ = run_stage(folder)
    last = lock.stages[-1]
    home = folder / f"seed-{lock.seeds[0]}" if len(lock.seeds) > 1 else folder
    manifest = home / last.name / "checkpoints" / f"step-{last.steps:06d}" / "manifest.json"
    if not manifest.is_file():
        raise FlowmapError(f"the base weights are those of the run {folder}, whose stage '{last.name}' is not finished")
    return as_weights(lock, last, (manifest,))


def main_stage(stages: tuple[StageConfig, ...], evaluation: EvaluationConfig | None) -> str:
    """The stage that a recipe is for: the last that a contest samples by its flow map first, or the last of all.

    It is no control, which another stage is held against.
    """
    names = [stage.name for stage in stages]
    contests = evaluation.contests if evaluation else ()
    controls = {c.against for c in contests}
    maps = [c.stage for c in contests if c.samplers[:1] and c.samplers[0].type == "flow_map" and c.stage in names]
    maps = [stage for stage in maps if stage not in controls]
    return maps[-1] if maps else names[-1]


def as_weights(lock: RunLock, stage: StageConfig, files: tuple[Path, ...] = ()) -> Pretrained:
    """What the student that `stage` of the run has trained is as weights, which `files` tell from others."""
    student, shift = stage.objective.roles()["student"], sampling_shift(stage, lock.evaluation)
    told = student.kind, student.view, files, lock.data.spec(), shift
    how = _sampled(stage.name, student, lock.evaluation)
    return Pretrained(*told, diagonal=student.diagonal, to_data=student.to_data, **how)


def _sampled(stage: str, student: RoleSpec, evaluation: EvaluationConfig | None) -> dict[str, Any]:
    """The first sampler by which a run has measured `stage`, or the usual one, in the words of Pretrained."""
    for contest in evaluation.contests if evaluation else ():
        if contest.stage == stage and contest.samplers:
            fields = contest.samplers[0].as_tables()
            return {"sampler": fields.pop("type"), "sampler_fields": fields}
    of_map = "consistency" if student.to_data else "flow_map"
    return {"sampler": of_map if student.kind == "flow_map" else "euler"}
