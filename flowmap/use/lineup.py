"""Who takes part in an evaluation, and how to open their networks.

A `Member` is a stage of the run at one training seed, or weights from outside: a name, and all that identifies the
weights. The `Lineup` finds members by name and opens one at a time, because two backbones may not fit in memory
together. What is measured of a member (which sampler, which metrics) is the business of flowmap.use.rows.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import final

import torch

from flowmap.interfaces import Data
from flowmap.phases import phase
from flowmap.plugin.kinds import BackboneConfig
from flowmap.reading.open import choose_stage, open_run, reopened
from flowmap.recipe.layout import Plan, StagePlan
from flowmap.recipe.outside import Outside, find_weights, is_weights
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind, Weights
from flowmap.training.processes import Processes
from flowmap.use.identity import stage_identity, weights_identity
from flowmap.use.networks import Networks
from flowmap.use.real import HeldOut
from flowmap.use.student import ReadyModel, open_contestant, open_weights


@final
@dataclass(frozen=True)
class Member:
    """One of those who are measured, at one training seed; `checkpoint` identifies the weights.

    Weights from outside have no training seed: at every seed they are the same, under other noise. `source` is the
    stage, or what is known of the weights.
    """

    name: str
    seed: int
    kind: NetworkKind
    checkpoint: str
    backbone: BackboneConfig
    spec: SampleSpec
    source: StagePlan | Outside

    def dependencies(self) -> dict[str, object]:
        """All that samples of the member depend on, whatever draws them, as JSON has it."""
        source = self.source
        return {
            "name": self.name,
            "seed": self.seed,
            "checkpoint": self.checkpoint,
            "backbone": self.backbone.model_dump(mode="json"),
            "spec": asdict(self.spec),
            "trained": source.lock if isinstance(source, StagePlan) else [self.kind, source.pretrained.view],
        }


@final
class Lineup:
    """All members that the recipe of a plan names; one backbone is in memory at a time, and roles share its base.

    All `processes`, if there are several, open the same members.
    """

    def __init__(self, plan: Plan, device: torch.device, processes: Processes | None = None) -> None:
        self._plan = plan
        self._device, self._processes = device, processes
        self._known: dict[str, tuple[Outside, str]] = {}
        self._networks: Networks | None = None
        self._held_out: HeldOut | None = None

    @cached_property
    def _data(self) -> Data:
        """What is measured against; opened when somebody is measured."""
        with phase("opening the data"):
            return self._plan.recipe.measured_data().build()

    def member(self, name: str, seed: int) -> Member:
        """Who is called `name`, at the training seed `seed`; raises FlowmapError for weights that cannot be read."""
        spec = self._plan.recipe.data.spec()
        if not is_weights(name):
            stage = self._plan.find(name, seed)
            kind = stage.stage.objective.roles()["student"].kind
            return Member(name, seed, kind, stage_identity(stage), self._plan.recipe.backbone, spec, stage)
        if name not in self._known:
            found = find_weights(name, self._plan.recipe.backbone).sized(spec)
            self._known[name] = found, stage_identity(_of_run(found.run)) if found.run else weights_identity(found)
        found, identity = self._known[name]
        return Member(name, seed, found.pretrained.kind, identity, found.backbone, spec, found)

    def open(self, member: Member, weights: Weights) -> ReadyModel:
        """The network of `member`; whoever was opened before is then no longer valid.

        Raises FlowmapError if a stage is not finished.
        """
        source, data = member.source, self._data
        # All who are measured together compute alike.
        networks = self._ready(member.backbone, member.spec)
        if isinstance(source, StagePlan):
            return open_contestant(source, weights, self._device, data, networks=networks)
        if source.run is None:
            return open_weights(source, member.seed, data, networks)
        with reopened(source.run):
            found = open_contestant(_of_run(source.run), weights, self._device, data, networks=networks)
        return replace(found, stage=member.name, seed=member.seed)

    def held_out(self, contestant: ReadyModel) -> HeldOut:
        """Held-out samples for `contestant`, who was opened last: encoded once for all of one backbone."""
        if self._held_out is None:
            self._held_out = HeldOut(contestant)
        return self._held_out

    def _ready(self, config: BackboneConfig, spec: SampleSpec) -> Networks:
        """The networks of `config`, made before or anew; those that are made anew let go of those before."""
        made = self._networks
        if made is None or (made.config, made.spec) != (config, spec):
            self._networks = self._held_out = made = None
            gc.collect()  # a network and its hooks know each other
            compute = self._plan.recipe.compute
            self._networks = made = Networks(config, spec, self._device, compute, self._processes)
        return made


def _of_run(folder: Path) -> StagePlan:
    """The stage that a run of ours is for, of its first seed."""
    return choose_stage(open_run(folder), None, None)
