"""The recipe: everything a run depends on, in one TOML file, and what is wrong between its tables. Torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from flowmap.console.options import option
from flowmap.plugin.fields import AnyBackbone, AnyData
from flowmap.plugin.kinds import ArchiveConfig, ComponentConfig, DataConfig
from flowmap.recipe import made_with, outside_weights
from flowmap.recipe.base_weights import base_findings
from flowmap.recipe.batches import batch_findings
from flowmap.recipe.computing import compute_findings
from flowmap.recipe.derivatives import method_findings, settled, with_methods
from flowmap.recipe.evaluations import evaluation_findings
from flowmap.recipe.lines import Path as Place
from flowmap.recipe.one_time import one_time_findings
from flowmap.recipe.outside import BASE
from flowmap.recipe.published import with_own_samplers
from flowmap.recipe.sizes import size_findings
from flowmap.recipe.step_length import default_step, step_findings
from flowmap.recipe.tables import (
    CheckpointsConfig,
    ComputeConfig,
    EvaluationConfig,
    OptimizerConfig,
    RoleConfig,
    StageConfig,
    WatchdogConfig,
    watchdog_findings,
)
from flowmap.schema.bounds import MOST_NAME, MOST_SEEDS, MOST_STAGES, Seed
from flowmap.schema.config import Config, Finding, idle
from flowmap.schema.specs import StageFacts
from flowmap.schema.words import NAME, FrameView, unknown_word

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
    def _derivatives_follow_the_backbone(cls, value: Any, made: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill in what a recipe leaves to its backbone and to weights, so that its lock has method and number."""
        recipe = made(value)
        step = default_step(recipe.backbone.time_frequency(), recipe.compute.precision)
        stages = []
        for stage in recipe.stages:
            objective = with_methods(stage.objective, partial(recipe.facts, stage))
            stages.append(stage.model_copy(update={"objective": settled(objective, step)}))
        evaluation = recipe.evaluation and with_own_samplers(recipe.evaluation, recipe.backbone)
        return recipe.model_copy(update={"stages": tuple(stages), "evaluation": evaluation})

    def stage(self, name: str) -> StageConfig:
        """The stage called `name`; raises KeyError if there is none."""
        return {s.name: s for s in reversed(self.stages)}[name]

    def facts(self, stage: StageConfig) -> StageFacts:
        """What the objective of `stage` may know about it."""
        spec = self.data.spec()
        return StageFacts(
            stage.batch,
            spec.conditional,
            self.backbone.recomputation() != "none",
            micro_batch=self.compute.micro_batch,
            steps=stage.steps,
            channels=spec.shape[1] if len(spec.shape) > 1 else 0,
            no_forward_mode=self.backbone.no_forward_mode(spec),
        )

    def measured_data(self) -> DataConfig:
        """The data that samples are compared with."""
        return (self.evaluation and self.evaluation.data) or self.data

    def findings(self) -> Iterator[Finding]:
        """Everything about the recipe as a whole that is wrong (errors) or doubtful (warnings)."""
        spec = self.data.spec()
        trained = self.backbone.training_findings() if self.stages else ()
        for finding in (*self.backbone.findings(spec), *trained):
            yield Finding(finding.level, ("backbone", *finding.field), finding.message)
        yield from size_findings(self.backbone, [(("data",), self.data), *self._other_data()])
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
        yield from compute_findings(self.compute, self.stages, self.backbone, spec)
        if not self.stages and self.evaluation is None:
            why = "there are none, and no evaluation of weights: there is nothing to do. Add [[stages]] or [evaluation]"
            yield Finding("error", ("stages",), why)
        for finding in watchdog_findings(self.watchdog, self.stages):
            yield Finding(finding.level, ("watchdog", *finding.field), finding.message)
        if self.evaluation is not None:
            for index, metric in enumerate(self.evaluation.metrics):
                for finding in metric.findings(spec):
                    yield replace(finding, field=("evaluation", "metrics", index, *finding.field))
            weights, problems = outside_weights.known(self.evaluation, self.backbone, spec)
            yield from problems
            yield from outside_weights.findings(self.evaluation, weights, spec)
            # Whom a name means that two stages have cannot be said, nor what would be wrong with it.
            found = evaluation_findings(self.evaluation, self.stages, spec, self.backbone, weights)
            for finding in () if self._named_twice() else found:
                yield Finding(finding.level, ("evaluation", *finding.field), finding.message)

    def missing(self) -> Iterator[Finding]:
        """What a run would read and this machine does not have."""
        weights = outside_weights.named(self.evaluation) if self.evaluation else {}
        parts: list[tuple[Place, ComponentConfig]] = [(("data",), self.data)]
        if self.stages or BASE in weights:
            parts.insert(0, (("backbone",), self.backbone))
        for place, component in [*parts, *self._other_data()]:
            for finding in component.missing():
                yield Finding(finding.level, (*place, *finding.field), finding.message)
        if self.evaluation is not None:
            for index, metric in enumerate(self.evaluation.metrics):
                for finding in metric.missing():
                    yield Finding(finding.level, ("evaluation", "metrics", index, *finding.field), finding.message)
            yield from outside_weights.missing(self.evaluation)

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
            why = f"a stage's name has no '.', which stands between fields in {option('set')}"
            yield Finding("error", ("name",), why)
        needed = stage.objective.roles()
        if "student" not in needed:
            yield Finding("error", ("objective",), "the objective declares no role 'student'")
        for role, config in stage.roles.items():
            if role not in needed:
                yield Finding("error", ("roles", role), unknown_word("role", role, needed))
                continue
            for finding in () if self._named_twice() else self._role_findings(role, config, stage, earlier):
                yield Finding(finding.level, ("roles", role, *finding.field), finding.message)
        yield from self._random_roles(stage)
        yield from batch_findings(stage, math.prod((stage.data or self.data).spec().shape))
        yield from self._idle_fields(stage)
        steps = step_findings(stage.objective, facts, self.backbone.time_frequency(), self.compute.precision)
        methods = method_findings(stage.objective, facts, self.compute.sequence)
        times = one_time_findings(stage.objective, self.backbone)
        yield from base_findings(stage, self.evaluation, self.backbone)
        for finding in (*stage.objective.findings(facts), *methods, *steps, *times):
            yield Finding(finding.level, ("objective", *finding.field), finding.message)

    def _named_twice(self) -> bool:
        """Whether two stages have one name."""
        return len({stage.name for stage in self.stages}) < len(self.stages)

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


def _view_findings(role: str, asked: FrameView, source: str, trained: FrameView) -> Iterator[Finding]:
    """A causal network answers well in the view that it was trained in."""
    words = {"whole": "all frames as one chunk", "forced": "chunks after clean ones"}
    if asked != trained:
        why = (
            f"role '{role}' is shown {words[asked]}, and stage '{source}' trained it on {words[trained]} only; "
            f"train it with view = '{asked}' (flow_matching), or change how this objective shows frames to it"
        )
        yield Finding("warning", ("from",), why)
