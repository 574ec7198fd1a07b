"""A stranger's plugin as a type checker sees it: one component of several kinds, with nothing but public names."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import flowmap
from flowmap.errors import FlowmapError
from flowmap.interfaces import (
    Backbone,
    Cond,
    Data,
    Evidence,
    Loss,
    Metric,
    Objective,
    References,
    Sampler,
    Samples,
    Scene,
    Turn,
    Velocity,
    as_flow_map,
)
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import draw_pairs, per_branch
from flowmap.networks.points import on_path
from flowmap.plugin import (
    AnySampler,
    BackboneConfig,
    ComponentConfig,
    DataConfig,
    Finding,
    MetricConfig,
    NetworkKind,
    ObjectiveConfig,
    RoleSpec,
    SamplerConfig,
    SampleSpec,
    StageFacts,
    hookimpl,
)
from flowmap.schema.settings import BranchesConfig, uniform_times
from flowmap.testing import check_sampler
from flowmap.workshop import LABELS, Architecture, ModuleBackbone, NoCodec, TensorCond, labelled


class OvershootConfig(SamplerConfig):
    """Jump too far."""

    type: Literal["overshoot"] = "overshoot"
    share: float = Field(0.2, ge=0, le=1, description="share")
    network: ClassVar[NetworkKind] = "flow_map"
    calls_per_step: ClassVar[int] = 1

    def build(self) -> Sampler:
        return Overshoot(self.share)


class Overshoot(Sampler):
    def __init__(self, share: float) -> None:
        self.share = share

    def order(self) -> int | None:
        return None

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        if self.share > 1:
            raise FlowmapError("too much")
        flow_map = as_flow_map(network)
        for k in range(len(times) - 1):
            x = flow_map.jump(x, times[k].expand(len(x)), times[k + 1].expand(len(x)), cond)
        return x + draw.normal("n", x.shape[1:])


class MatchingConfig(ObjectiveConfig):
    """Matching."""

    type: Literal["matching"] = "matching"
    branches: BranchesConfig = Field(default_factory=BranchesConfig, description="shares")
    other: AnySampler = Field(OvershootConfig(share=0.5), description="another")

    def roles(self) -> Mapping[str, RoleSpec]:
        return {"student": RoleSpec("flow_map", True, "learns")}

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return ()

    def build(self) -> Objective:
        return Matching(self)


class Matching(Objective):
    def __init__(self, config: MatchingConfig) -> None:
        self._config = config

    def turns(self) -> tuple[Turn, ...]:
        return (Turn("student", self._losses),)

    def _losses(self, scene: Scene) -> Iterator[Loss]:
        student, pairs = scene.flow_map("student"), draw_pairs(scene.draw, self._config.branches, uniform_times())
        at = on_path(scene, pairs, "data")
        raw = (student.mean_velocity(at.x, at.t, at.r, at.cond) - at.v).square().flatten(1).mean(1)
        yield Loss("matching", raw.mean(), per_branch(raw, pairs))


class NoiseConfig(DataConfig):
    """Noise."""

    type: Literal["noise"] = "noise"

    def spec(self) -> SampleSpec:
        return SampleSpec((1, 2), classes=3, labelled=True)

    def build(self) -> Data:
        raise NotImplementedError


class LevelConfig(MetricConfig):
    """Level."""

    type: Literal["level"] = "level"

    def build(self, references: References) -> Metric:
        return Level(references.held_out)


class Level(Metric):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def score(self, evidence: Evidence) -> float:
        return float(evidence.samples.mean())

    def floor(self, size: int) -> float:
        return float(self._samples.x.mean())


class Network(nn.Module):
    def __init__(self, spec: SampleSpec, two_times: bool) -> None:
        super().__init__()
        self.out = nn.Linear(math.prod(spec.shape), math.prod(spec.shape))
        self.label = nn.Embedding(spec.classes + 1, math.prod(spec.shape))

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        emb: Tensor = self.label(cond[LABELS]) if isinstance(cond, TensorCond) else torch.zeros_like(x).flatten(1)
        made: Tensor = self.out(x.flatten(1) + emb)
        return made.view_as(x)


class TinyConfig(BackboneConfig):
    """Tiny."""

    type: Literal["tiny"] = "tiny"
    width: int = Field(64, ge=1, le=4096, description="hidden units")
    random_base: ClassVar[bool] = True

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return ()

    def has_blocks(self) -> bool:
        return False

    def build(self, spec: SampleSpec) -> Backbone:
        architecture = Architecture(lambda two_times, chosen: Network(spec, two_times), copies={"target.": "time."})
        return ModuleBackbone(self.type, architecture, NoCodec(spec.shape), labelled(spec.classes))


@hookimpl
def flowmap_components() -> list[type[ComponentConfig]]:
    return [OvershootConfig, MatchingConfig, NoiseConfig, LevelConfig, TinyConfig]


def use() -> Tensor:
    check_sampler(OvershootConfig(share=0.1))
    return flowmap.run("recipe.toml", overrides=["seeds=[1]"]).sample(4, nfe=2)


def wrong() -> None:
    """What is no configuration is seen: an ignored error that is none would be one."""
    check_sampler(3)  # type: ignore[arg-type]
    OvershootConfig(shore=0.1)  # type: ignore[call-arg]
