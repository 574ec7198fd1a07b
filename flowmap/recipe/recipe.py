"""The recipe: everything a run depends on, in one TOML file. Torch-free."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, is_folder, parse_toml, read_text
from flowmap.plugin.fields import AnyBackbone, AnyData
from flowmap.plugin.kinds import ArchiveConfig, ComponentConfig, DataConfig, SamplerConfig
from flowmap.recipe import made_with, outside
from flowmap.recipe.lines import Path as Place
from flowmap.recipe.messages import Source, explain, explain_syntax, explain_validation
from flowmap.recipe.outside import Outside
from flowmap.recipe.overrides import override
from flowmap.recipe.step_length import default_step, settled, step_findings
from flowmap.recipe.tables import (
    CheckpointsConfig,
    ComputeConfig,
    ContestConfig,
    EvaluationConfig,
    OptimizerConfig,
    RoleConfig,
    StageConfig,
    WatchdogConfig,
    has_critic,
)
from flowmap.schema.bounds import MOST_HELD, MOST_MICRO_BATCHES, MOST_NAME, MOST_SEEDS, MOST_STAGES, Seed
from flowmap.schema.config import Config, Finding, guidance_findings, idle
from flowmap.schema.specs import StageFacts
from flowmap.schema.words import NAME, FrameView, NetworkKind, context_refusal, unknown_word

Absent = Literal["ignore", "warning", "error"]
"""What it means if weights or data are not on this machine."""


class Recipe(Config):
    """A whole run."""

    name: str = Field(pattern=NAME, max_length=MOST_NAME, description="names the run's folder")
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=MOST_SEEDS, description="the whole recipe is run once per seed"
    )
    data: AnyData = Field(description="what is learned")
    backbone: AnyBackbone = Field(description="the architecture of every role, and where its base weights come from")
    stages: tuple[StageConfig, ...] = Field(
        (),
        max_length=MOST_STAGES,
        description="run in this order; there may be none, if the evaluation names nothing but weights",
    )
    evaluation: EvaluationConfig | None = Field(None, description="what is measured at the end; nothing if left out")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="device, precision, trackers")
    checkpoints: CheckpointsConfig = Field(default_factory=CheckpointsConfig, description="how often to save")
    watchdog: WatchdogConfig = Field(
        default_factory=WatchdogConfig, description="of stages that train a critic beside their student"
    )

    @model_validator(mode="wrap")
    @classmethod
    def _steps_follow_the_backbone(cls, value: Any, made: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill in what a recipe leaves to its backbone, so that its lock has the number."""
        recipe = made(value)
        step = default_step(recipe.backbone.time_frequency(), recipe.compute.precision)
        stages = (s.model_copy(update={"objective": settled(s.objective, step)}) for s in recipe.stages)
        return recipe.model_copy(update={"stages": tuple(stages)})

    def stage(self, name: str) -> StageConfig:
        """The stage called `name`; raises KeyError if there is none."""
        return next((s for s in self.stages if s.name == name), None) or _missing(name)

    def facts(self, stage: StageConfig) -> StageFacts:
        """What the objective of `stage` may know about it."""
        return StageFacts(
            stage.batch,
            self.data.spec().conditional,
            self.backbone.recomputes(),
            accumulates=(self.compute.micro_batch or stage.batch) < stage.batch,
            steps=stage.steps,
            channels=self.data.spec().shape[1] if len(self.data.spec().shape) > 1 else 0,
        )

    def measured_data(self) -> DataConfig:
        """The data that samples are compared with."""
        return (self.evaluation and self.evaluation.data) or self.data

    def findings(self) -> Iterator[Finding]:
        """Everything about the recipe as a whole that is wrong (errors) or doubtful (warnings)."""
        spec = self.data.spec()
        for finding in self.backbone.findings(spec):
            yield Finding(finding.level, ("backbone", *finding.field), finding.message)
        for place, data in self._other_data():
            if data.spec() != spec:
                yield Finding("error", place, f"samples of '{data.type}' are not of the same kind as the recipe's data")
        if len(set(self.seeds)) < len(self.seeds):
            yield Finding("error", ("seeds",), "a seed is listed twice; every seed is one training run")
        earlier: list[StageConfig] = []
        for index, stage in enumerate(self.stages):
            for finding in self._stage_findings(stage, earlier, self.facts(stage)):
                yield Finding(finding.level, ("stages", index, *finding.field), finding.message)
            earlier.append(stage)
        yield from self._micro_batch_findings()
        if not self.stages and self.evaluation is None:
            why = "there are none, and no evaluation of weights: there is nothing to do. Add [[stages]] or [evaluation]"
            yield Finding("error", ("stages",), why)
        for finding in self._watchdog_findings():
            yield Finding(finding.level, ("watchdog", *finding.field), finding.message)
        if self.evaluation is not None:
            for index, metric in enumerate(self.evaluation.metrics):
                for finding in metric.findings(spec):
                    yield Finding(finding.level, ("evaluation", "metrics", index, *finding.field), finding.message)
            weights, problems = outside.known(self.evaluation, self.backbone)
            yield from problems
            yield from outside.findings(self.evaluation, weights, spec)
            for finding in self._evaluation_findings(self.evaluation, weights):
                yield Finding(finding.level, ("evaluation", *finding.field), finding.message)

    def _micro_batch_findings(self) -> Iterator[Finding]:
        """A stage whose batch no number of processes could take in such micro-batches."""
        micro = self.compute.micro_batch
        stage = next((stage for stage in self.stages if micro and stage.batch % micro), None)
        if stage is not None:
            whole = stage.batch // micro * micro
            near = f"{whole} or {whole + micro}" if whole else str(micro)
            why = (
                f"stage '{stage.name}': a batch of {stage.batch} is not whole micro-batches of compute.micro_batch = "
                f"{micro}; use a batch of {near}, or a micro-batch that divides it"
            )
            yield Finding("error", ("compute", "micro_batch"), why)
        most = max((stage.batch // micro for stage in self.stages if micro), default=0)
        if most > MOST_MICRO_BATCHES:
            why = f"a step would have {most:,} micro-batches (batch / micro_batch), and at most {MOST_MICRO_BATCHES:,}"
            yield Finding("error", ("compute", "micro_batch"), f"{why} are gone through one by one; use a larger one")

    def missing(self) -> Iterator[Finding]:
        """What a run would read and this machine does not have."""
        weights = outside.named(self.evaluation) if self.evaluation else {}
        parts: list[tuple[Place, ComponentConfig]] = [(("data",), self.data)]
        if self.stages or outside.BASE in weights:
            parts.insert(0, (("backbone",), self.backbone))
        for place, component in [*parts, *self._other_data()]:
            for finding in component.missing():
                yield Finding(finding.level, (*place, *finding.field), finding.message)
        if self.evaluation is not None:
            yield from outside.missing(self.evaluation)

    def here(self, absent: Absent) -> list[Finding]:
        """What is wrong with weights and data on this machine: what is absent, and encoded data of another backbone."""
        if absent == "ignore":
            return []
        found = [replace(finding, level=absent) for finding in self.missing()]
        parts: list[tuple[Place, DataConfig]] = [(("data",), self.data), *self._other_data()]
        for place, data in parts:
            if isinstance(data, ArchiveConfig):
                encoded = made_with.findings(data, self.backbone)
                found += [replace(finding, field=(*place, *finding.field)) for finding in encoded]
        return found

    def _other_data(self) -> Iterator[tuple[Place, DataConfig]]:
        """The data that a stage or the evaluation has of its own, and where they are named."""
        for index, stage in enumerate(self.stages):
            if stage.data is not None:
                yield ("stages", index, "data"), stage.data
        if self.evaluation is not None and self.evaluation.data is not None:
            yield ("evaluation", "data"), self.evaluation.data

    def _stage_findings(
        self, stage: StageConfig, earlier: Sequence[StageConfig], facts: StageFacts
    ) -> Iterator[Finding]:
        names = [s.name for s in earlier]
        if stage.name in names:
            yield Finding("error", ("name",), f"two stages are called '{stage.name}'; give each its own name")
        if stage.name in ("base", "pictures") or re.fullmatch(r"seed-\d+", stage.name):
            yield Finding("error", ("name",), f"'{stage.name}' has a meaning of its own; choose another name")
        if "." in stage.name:
            yield Finding("error", ("name",), "a stage's name has no '.', which stands between fields in --set")
        needed = stage.objective.roles()
        if "student" not in needed:
            yield Finding("error", ("objective",), "the objective declares no role 'student'")
        for role, config in stage.roles.items():
            if role not in needed:
                yield Finding("error", ("roles", role), unknown_word("role", role, needed))
                continue
            for finding in self._role_findings(role, config, stage, earlier):
                yield Finding(finding.level, ("roles", role, *finding.field), finding.message)
        yield from self._random_roles(stage)
        yield from self._batch_findings(stage)
        yield from self._idle_fields(stage)
        steps = step_findings(stage.objective, facts, self.backbone.time_frequency(), self.compute.precision)
        for finding in (*stage.objective.findings(facts), *steps):
            yield Finding(finding.level, ("objective", *finding.field), finding.message)

    def _role_findings(
        self, role: str, config: RoleConfig, stage: StageConfig, earlier: Sequence[StageConfig]
    ) -> Iterator[Finding]:
        needed, names, source = stage.objective.roles()[role], [s.name for s in earlier], config.from_
        if source not in ("base", *names) and source in [s.name for s in self.stages]:
            why = f"stage '{source}' does not come before '{stage.name}'; move it up, or start from"
            yield Finding("error", ("from",), f"{why} {' or '.join(['base', *names])}")
        elif source not in ("base", *names):
            yield Finding("error", ("from",), unknown_word("stage", source, ["base", *names]))
        elif source != "base":
            given = next(s for s in earlier if s.name == source).objective.roles().get("student")
            if needed.kind == "velocity" and given is not None and given.kind == "flow_map":
                why = f"role '{role}' is a single-time velocity, but stage '{source}' trains a two-time flow map"
                yield Finding("error", ("from",), why)
            elif given is not None and role != "student" and self.backbone.causal():
                yield from _view_findings(role, needed.view, source, given.view)
        if config.optimizer is not None and not needed.trained:
            yield Finding("error", ("optimizer",), f"role '{role}' is frozen; it takes no optimizer")

    def _batch_findings(self, stage: StageConfig) -> Iterator[Finding]:
        """A batch that all processes together could not hold."""
        elements = math.prod((stage.data or self.data).spec().shape)
        if stage.batch * elements > MOST_HELD:
            why = (
                f"a batch of {stage.batch:,} samples x {elements:,} numbers of each (data) has "
                f"{stage.batch * elements:,}, and at most {MOST_HELD:,} fit in memory; use {MOST_HELD // elements:,}"
            )
            yield Finding("error", ("batch",), why)

    def _idle_fields(self, stage: StageConfig) -> Iterator[Finding]:
        """What of a stage's tables nothing reads."""
        optimizers: dict[Place, OptimizerConfig] = {("optimizer",): stage.optimizer}
        optimizers |= {("roles", n, "optimizer"): role.optimizer for n, role in stage.roles.items() if role.optimizer}
        for place, optimizer in optimizers.items():
            if not optimizer.warmup:
                for finding in idle(optimizer, "there is no warmup", "warmup_zero"):
                    yield replace(finding, field=(*place, *finding.field))

    def _random_roles(self, stage: StageConfig) -> Iterator[Finding]:
        for role, spec in stage.objective.roles().items():
            if self.backbone.random_base and not spec.trained and stage.roles.get(role, RoleConfig()).from_ == "base":
                why = f"the frozen role '{role}' starts from random weights; name a stage: roles.{role}.from"
                yield Finding("warning", ("roles", role), why)

    def _evaluation_findings(
        self, evaluation: EvaluationConfig, weights: Mapping[str, Outside | None]
    ) -> Iterator[Finding]:
        kinds: dict[str, NetworkKind | None] = {
            s.name: s.objective.roles()["student"].kind for s in self.stages if "student" in s.objective.roles()
        }
        kinds |= {name: found.pretrained.kind if found else None for name, found in weights.items()}
        if evaluation.teacher not in kinds:
            yield Finding("error", ("teacher",), _unknown_stage(evaluation.teacher, self.stages))
        else:
            yield from _sampler_findings(("teacher_sampler",), evaluation.teacher_sampler, evaluation.teacher, kinds)
        if evaluation.teacher_calls % evaluation.teacher_sampler.calls_per_step:
            per_step = evaluation.teacher_sampler.calls_per_step
            message = f"'{evaluation.teacher_sampler.type}' takes {per_step} calls a step; give a multiple of it"
            yield Finding("error", ("teacher_calls",), message)
        held = evaluation.samples * math.prod(self.data.spec().shape)
        if held > MOST_HELD:
            why = (
                f"{evaluation.samples:,} samples x {math.prod(self.data.spec().shape):,} numbers of each (data) are "
                f"{held:,}, and at most {MOST_HELD:,} fit in memory; use {MOST_HELD * evaluation.samples // held:,}"
            )
            yield Finding("error", ("samples",), why)
        names = [metric.type for metric in evaluation.metrics]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield Finding("error", ("metrics", index), f"metric '{name}' is listed twice")
        if evaluation.teacher_cfg_scale != 1 and evaluation.teacher_sampler.network == "flow_map":
            why = f"'{evaluation.teacher_sampler.type}' follows the flow map, which has its guidance in it; use 1"
            yield Finding("error", ("teacher_cfg_scale",), why)
        else:
            for finding in guidance_findings(evaluation.teacher_cfg_scale, self.data.spec().conditional):
                yield replace(finding, field=("teacher_cfg_scale",))
        yield from self._shift_findings(evaluation)
        yield from self._contest_findings(evaluation, kinds)

    def _watchdog_findings(self) -> Iterator[Finding]:
        """Settings of a watchdog that has nothing to watch, or does something else."""
        config = self.watchdog
        if config.action != "rewind":
            yield from idle(config, f"action is '{config.action}'", "lower", "rewinds")
        if config.action == "off":
            yield from idle(config, "action is 'off'", "rise", "variance", "memory")
        elif not any(has_critic(stage) for stage in self.stages):
            yield from idle(config, "no stage trains a critic", "action", "rise", "variance", "memory")

    def _shift_findings(self, evaluation: EvaluationConfig) -> Iterator[Finding]:
        """Say it where stages are measured on another grid than they are trained on."""
        measured = {evaluation.teacher, *(contest.stage for contest in evaluation.contests)}
        own = {s.name: s.objective.grid_shift() for s in self.stages if s.name in measured}
        other = [f"'{name}' ({shift:g})" for name, shift in own.items() if shift not in (None, evaluation.shift)]
        if evaluation.shift is not None and other:
            why = (
                f"samples are drawn at shift {evaluation.shift:g}, but trained at another: {', '.join(other)}; "
                "leave it out to sample each stage as it is trained"
            )
            yield Finding("warning", ("shift",), why)

    def _contest_findings(
        self, evaluation: EvaluationConfig, kinds: Mapping[str, NetworkKind | None]
    ) -> Iterator[Finding]:
        seen: set[tuple[str, str, str, int]] = set()
        possible = self.backbone.contexts(self.data.spec())
        for index, contest in enumerate(evaluation.contests):
            where = ("contests", index)
            if contest.stage not in kinds:
                yield Finding("error", (*where, "stage"), _unknown_stage(contest.stage, self.stages))
                continue
            if not outside.is_weights(contest.stage) and contest.context and contest.context not in possible:
                yield Finding("error", (*where, "context"), context_refusal(possible, contest.context))
            if all(sampler.network == "velocity" for sampler in contest.samplers):
                for finding in guidance_findings(contest.cfg_scale, self.data.spec().conditional):
                    yield replace(finding, field=(*where, *finding.field))
            for position, sampler in enumerate(contest.samplers):
                place = (*where, "samplers", position)
                yield from _sampler_findings(place, sampler, contest.stage, kinds)
                if contest.cfg_scale != 1 and sampler.network == "flow_map":
                    why = f"'{sampler.type}' follows the flow map, which has its guidance in it; use 1"
                    yield Finding("error", (*where, "cfg_scale"), why)
                if all(calls % sampler.calls_per_step for calls in evaluation.calls):
                    per_step = f"'{sampler.type}' takes {sampler.calls_per_step} calls a step"
                    yield Finding("warning", place, f"{per_step}; none of 'calls' fits, so it is not measured")
                entry = (contest.stage, contest.weights, sampler.type, contest.context)
                if entry in seen:
                    yield Finding("error", place, f"'{sampler.type}' on stage '{contest.stage}' is listed twice")
                seen.add(entry)
            refusal = contest.against and _no_control(contest, contest.against, evaluation, kinds)
            if refusal:
                yield Finding("error", (*where, "against"), refusal)


def _no_control(
    contest: ContestConfig, against: str, evaluation: EvaluationConfig, stages: Iterable[str]
) -> str | None:
    """Why stage `against` can be no control of the contest; None if it can."""
    others = [other for other in evaluation.contests if other.stage != contest.stage]
    if against == contest.stage:
        return f"stage '{against}' is not its own control; name the stage of another contest"
    if against not in [other.stage for other in others]:
        if against in stages:
            return f"no contest measures stage '{against}'; add one with the same samplers"
        return unknown_word("stage", against, dict.fromkeys(other.stage for other in others))
    alike = (contest.weights, contest.context, contest.cfg_scale)
    twins = [o for o in others if o.stage == against and (o.weights, o.context, o.cfg_scale) == alike]
    if any(sampler in twin.samplers for twin in twins for sampler in contest.samplers):
        return None
    return (
        f"nothing is measured alike: give the contests of '{contest.stage}' and '{against}' a sampler in common, with "
        "the same weights, context and cfg_scale"
    )


def _sampler_findings(
    place: tuple[str | int, ...], sampler: SamplerConfig, stage: str, kinds: Mapping[str, NetworkKind | None]
) -> Iterator[Finding]:
    if sampler.network == "flow_map" and kinds[stage] == "velocity":
        whose = f"the weights '{stage}' are" if outside.is_weights(stage) else f"stage '{stage}' trains"
        message = (
            f"sampler '{sampler.type}' needs a flow map, but {whose} a velocity; "
            "use a velocity sampler such as euler or heun"
        )
        yield Finding("error", place, message)


def _unknown_stage(name: str, stages: Sequence[StageConfig]) -> str:
    """Say that an evaluation names no stage."""
    if not stages:
        return (
            f"there is no stage '{name}', nor any other; name weights: 'base', or a folder or hub id, with a '/' in it"
        )
    hint = f"; for the folder of that name write './{name}'" if is_folder(name) else ""
    return unknown_word("stage", name, [stage.name for stage in stages]) + hint


def _view_findings(role: str, asked: FrameView, source: str, trained: FrameView) -> Iterator[Finding]:
    """A causal network answers well in the view that it was trained in."""
    words = {"whole": "all frames as one chunk", "forced": "chunks after clean ones"}
    if asked != trained:
        why = (
            f"role '{role}' is shown {words[asked]}, and stage '{source}' trained it on {words[trained]} only; "
            f"train it with view = '{asked}' (flow_matching), or change how this objective shows frames to it"
        )
        yield Finding("warning", ("from",), why)


def _missing(name: str) -> StageConfig:
    raise KeyError(name)


def read(path: Path, overrides: Sequence[str] = (), absent: Absent = "ignore") -> tuple[Recipe, list[str]]:
    """Read and check the recipe at `path`, with `a.b=value` overrides; return it and its warnings.

    `absent` says what it means if weights or data are not on this machine. Raises FlowmapError with one line per
    problem: file, line, field, what is allowed, the nearest word.
    """
    text = text_of(path)
    raw = tables_of(path, text)
    if "contestants" in raw and "stages" not in raw:
        raise FlowmapError(f"{path}: is a comparison, not a recipe; flowmap compare {path}")
    source = Source(str(path), text, raw)
    for setting in overrides:
        override(source, setting)
    if not raw:
        needed = [name for name, field in Recipe.model_fields.items() if field.is_required()]
        raise FlowmapError(f"{path}: nothing is set; a recipe has at least {', '.join(needed)}, and mostly stages")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise FlowmapError("\n".join(explain_validation(error, source))) from None
    findings = list(recipe.findings())
    findings += recipe.here(absent)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise FlowmapError("\n".join(explain(errors, source)))
    return recipe, explain(findings, source)


def tables_of(path: Path, text: str) -> dict[str, Any]:
    """The tables of the recipe `text` that stands at `path`; raises FlowmapError if it is no TOML, or has too much."""
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise FlowmapError(explain_syntax(error, str(path), text)) from None
    except TextError as error:
        raise FlowmapError(f"{path}: {error}; that is no recipe") from None


def text_of(path: Path) -> str:
    """The text of the recipe at `path`; raises FlowmapError, with the recipes that are near, if there is none."""
    try:
        return read_text(path)
    except FileNotFoundError:
        raise FlowmapError(f"{path}: there is no such recipe{_recipes_near(path)}") from None
    except IsADirectoryError:
        raise FlowmapError(f"{path}: is a folder, not a recipe{_recipes_near(path / 'any')}") from None
    except TextError as error:
        raise FlowmapError(f"{path}: {error}") from None
    except OSError as error:
        raise FlowmapError(f"{path}: cannot be read: {error.strerror}") from None


def _recipes_near(path: Path) -> str:
    folder = path.parent if is_folder(path.parent) else Path("recipes")
    try:
        found = sorted(p.name for p in folder.glob("*.toml"))
    except OSError:
        found = []  # a folder that cannot be read has nothing to offer
    near = difflib.get_close_matches(path.name, found, n=1)
    hint = f". Did you mean '{folder / near[0]}'?" if near else ""
    return f"; {folder}/ has: {', '.join(found)}{hint}" if found else ""
