"""The sentences of the conformance kit, on components that break one rule each (every component of ours: tests/kit)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from flowmap_datasets.configs import CheckerboardConfig
from flowmap_flow.configs import FlowMapConfig
from flowmap_metrics.configs import SemigroupConfig, SlicedWassersteinConfig
from flowmap_mlp.configs import MlpConfig
from flowmap_samplers.configs import EulerConfig
from pydantic import Field
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import (
    Backbone,
    Batch,
    Chunking,
    Cond,
    Data,
    Evidence,
    FlowMap,
    Loss,
    Metric,
    Objective,
    OneChunk,
    Role,
    Sampler,
    Samples,
    SamplingGrid,
    Scene,
    Turn,
    Velocity,
    Window,
)
from flowmap.maths.draw import Draw
from flowmap.maths.path import noised
from flowmap.plugin import (
    BackboneConfig,
    ComponentConfig,
    Config,
    DataConfig,
    Finding,
    MetricConfig,
    ObjectiveConfig,
    RoleSpec,
    SamplerConfig,
    SampleSpec,
)
from flowmap.plugin.catalogue import KINDS
from flowmap.testing import (
    check_backbone,
    check_config,
    check_data,
    check_metric,
    check_objective,
    check_sampler,
)
from flowmap.workshop.conditions import LABELS, TensorCond

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # What torch loads for its first forward-mode derivative uses torch.jit, which it deprecates itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

POINT = SampleSpec((1, 2), classes=0)
IMAGE = SampleSpec((1, 1, 4, 4), classes=3)


def wrong(contract: str, check: Callable[..., None], *arguments: Any) -> None:
    """Require that `check` fails, and says `contract`."""
    with pytest.raises(AssertionError) as caught:
        check(*arguments)
    assert contract in str(caught.value)


# Configurations


class _Inner(Config):
    """A table."""

    number: int = 3


def _config(**members: Any) -> ComponentConfig:
    """A sampler's configuration with these fields; annotations go under `types`."""
    types = {"type": Literal["broken"], **members.pop("types", {})}
    body = {"__annotations__": types, "__module__": __name__, "__doc__": "Broken.", "type": "broken", **members}
    made = type("Broken", (EulerConfig,), body)
    result = made()
    assert isinstance(result, ComponentConfig)
    return result


def test_a_config_that_breaks_its_contract() -> None:
    check_config(_config())
    wrong("Broken has no docstring", check_config, _config(__doc__=None))
    wrong("the field Broken.size has no description", check_config, _config(types={"size": int}, size=3))
    inner = {"types": {"table": _Inner}, "table": Field(default_factory=_Inner, description="a table")}
    wrong("the field Broken.table.number has no description", check_config, _config(**inner))
    unhashable = {"types": {"names": dict[str, int]}, "names": Field(default_factory=dict, description="names")}
    wrong("Broken cannot be hashed (unhashable type: 'dict')", check_config, _config(**unhashable))
    wrong("Broken must refuse fields", check_config, _config(model_config={"extra": "ignore"}))
    lossy = {"types": {"size": float}, "size": Field(0.5, description="a size", exclude=True)}
    changed = _config(**lossy).model_copy(update={"size": 2.0})
    wrong("Broken changes when it is written as TOML and read again", check_config, changed)


# Samplers

Step = Callable[[Velocity, Tensor, Tensor, Tensor, Cond, Draw], Tensor]


class _Stub(Sampler):
    """Takes `step` along the grid; `hidden` calls are made once."""

    def __init__(self, step: Step, order: int | None, every: Callable[[Tensor], Tensor]) -> None:
        self._step, self._order, self._every = step, order, every

    def order(self) -> int | None:
        return self._order

    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        times = self._every(times)
        for t, r in pairwise(times):
            x = self._step(network, x, t.expand(len(x)), r.expand(len(x)), cond, draw)
        return x


def _euler(network: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, draw: Draw) -> Tensor:
    return x - (t[0] - r[0]) * network.velocity(x, t, cond)


def _sampler(
    step: Step = _euler, order: int | None = 1, every: Callable[[Tensor], Tensor] = lambda times: times
) -> SamplerConfig:
    class BrokenConfig(SamplerConfig):
        """Broken."""

        type: Literal["broken"] = "broken"
        network: ClassVar[Any] = "velocity"
        calls_per_step: ClassVar[int] = 1

        def build(self) -> Sampler:
            return _Stub(step, order, every)

    return BrokenConfig()


def _in_place(network: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, draw: Draw) -> Tensor:
    with torch.no_grad():
        return x.sub_((t[0] - r[0]) * network.velocity(x, t, cond))


def _global_noise(network: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, draw: Draw) -> Tensor:
    return _euler(network, x + 1e-3 * torch.randn_like(x), t, r, cond, draw)


def _coupled(network: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, draw: Draw) -> Tensor:
    return _euler(network, x + 5e-4 * (x.mean() - x), t, r, cond, draw)


class _Moody:
    """Another answer at every call, without any generator."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, network: Velocity, x: Tensor, t: Tensor, r: Tensor, cond: Cond, draw: Draw) -> Tensor:
        self.calls += 1
        return _euler(network, x, t, r, cond, draw) + 1e-5 * (self.calls % 7)


SAMPLERS: dict[str, tuple[SamplerConfig, str]] = {
    "shape": (_sampler(lambda n, x, t, r, c, d: _euler(n, x, t, r, c, d)[:1]), "must have the shape [5, 1, 2]"),
    "dtype": (_sampler(lambda n, x, t, r, c, d: _euler(n, x.double(), t, r, c, d)), "must be float32"),
    "nan": (_sampler(lambda n, x, t, r, c, d: _euler(n, x, t, r, c, d) / 0), "must be finite"),
    "in place": (_sampler(_in_place), "must not change the x that it is given"),
    "calls": (
        _sampler(lambda n, x, t, r, c, d: _euler(n, x, t, r, c, d) + 0 * n.velocity(x, t, c)),
        "so 1 steps should take 1; it made 2",
    ),
    "another grid": (
        _sampler(every=lambda times: torch.linspace(1, 0, len(times))),
        "from times[0] = 0.6 to times[-1] = 0.2",
    ),
    "another end": (_sampler(every=lambda times: times / times[0]), "from times[0] = 0.6 to times[-1] = 0.2"),
    "times out of range": (_sampler(every=lambda times: 1000 * times), "times outside [0, 1]"),
    "one time for all": (
        _sampler(lambda n, x, t, r, c, d: _euler(n, x, t[:1], r, c, d)),
        "a network was given times of shape [1]",
    ),
    "integer times": (
        _sampler(lambda n, x, t, r, c, d: x - (t[0] - r[0]) * n.velocity(x, t.half(), c)),
        "a network was given times as torch.float16",
    ),
    "order": (_sampler(order=2), "declares order 2, but its error falls with order"),
    "no gradient": (
        _sampler(lambda n, x, t, r, c, d: _euler(n, x, t, r, c, d).detach()),
        "gradients must flow through 'broken'; its result has none",
    ),
    "no gradient of x": (
        _sampler(lambda n, x, t, r, c, d: _euler(n, x.detach(), t, r, c, d)),
        "gradients must flow through 'broken' to x",
    ),
    "no gradient of the network": (
        _sampler(lambda n, x, t, r, c, d: x - (t[0] - r[0]) * n.velocity(x, t, c).detach()),
        "gradients must flow through 'broken' to the network",
    ),
    "gradients on": (
        _sampler(torch.enable_grad()(_euler)),
        "must not turn gradients on",
    ),
    "global noise": (_sampler(_global_noise), "must take random numbers from its Draw only"),
    "moody": (_sampler(_Moody(), order=None), "must return the same for the same draw"),
    "coupled": (_sampler(_coupled, order=None), "must not depend on which samples share its process"),
}


@pytest.mark.parametrize(("config", "contract"), SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_sampler_that_breaks_its_contract(config: SamplerConfig, contract: str) -> None:
    wrong(contract, check_sampler, config)


def test_the_stub_of_these_samplers_keeps_the_contract() -> None:
    check_sampler(_sampler())


def test_a_sampler_of_a_flow_map_may_not_go_back_in_time() -> None:
    class BackwardsConfig(SamplerConfig):
        """Broken."""

        type: Literal["broken"] = "broken"
        network: ClassVar[Any] = "flow_map"
        calls_per_step: ClassVar[int] = 1

        def build(self) -> Sampler:
            def step(n: Velocity, x: Tensor, t: Tensor, r: Tensor, c: Cond, d: Draw) -> Tensor:
                assert isinstance(n, FlowMap)
                return n.jump(x, r, t, c)

            return _Stub(step, None, lambda times: times)

    wrong("a flow map was asked to go from t to r > t", check_sampler, BackwardsConfig())


# Objectives

Losses = Callable[[Scene], Iterator[Loss]]


def _matching(scene: Scene) -> Tensor:
    noise, t = scene.draw.normal("noise", scene.batch.x0.shape[1:]), scene.draw.uniform("t")
    x_t = noised(scene.batch.x0, noise, t)
    predicted = scene.velocity("student").velocity(x_t, t, scene.batch.cond)
    return (predicted - (noise - scene.batch.x0)).square().mean()


def _objective(
    losses: Losses | None = None, roles: Mapping[str, RoleSpec] | None = None, turns: tuple[str, ...] = ("student",)
) -> ObjectiveConfig:
    def usual(scene: Scene) -> Iterator[Loss]:
        yield Loss("matching", _matching(scene))

    class Stub(Objective):
        def turns(self) -> tuple[Turn, ...]:
            return tuple(Turn(role, losses or usual) for role in turns)

    class BrokenConfig(ObjectiveConfig):
        """Broken."""

        type: Literal["broken"] = "broken"

        def roles(self) -> Mapping[str, RoleSpec]:
            return roles or {"student": TRAINED, "teacher": FROZEN}

        def findings(self, facts: Any) -> Iterable[Finding]:
            return []

        def build(self) -> Objective:
            return Stub()

    return BrokenConfig()


def _yields(*values: Callable[[Scene], Tensor]) -> Losses:
    def losses(scene: Scene) -> Iterator[Loss]:
        for index, value in enumerate(values):
            yield Loss(f"loss {index}", value(scene))

    return losses


def _same_name(scene: Scene) -> Iterator[Loss]:
    yield Loss("matching", _matching(scene))
    yield Loss("matching", _matching(scene))


def _raw_with_graph(scene: Scene) -> Iterator[Loss]:
    value = _matching(scene)
    yield Loss("matching", value, {"raw": value})


def _changes_the_student(scene: Scene) -> Iterator[Loss]:
    yield Loss("matching", _matching(scene))
    with torch.no_grad():
        scene.roles["student"].own["theta"].mul_(0.9)


def _leaves_the_average(scene: Scene) -> Iterator[Loss]:
    yield Loss("matching", _matching(scene))
    student = scene.roles["student"]
    student.own["theta"].data = student.average["theta"]


def _changes_the_batch(scene: Scene) -> Iterator[Loss]:
    yield Loss("matching", _matching(scene))
    scene.batch.x0.zero_()


def _thaws_the_teacher(scene: Scene) -> Iterator[Loss]:
    scene.roles["teacher"].own["theta"].requires_grad_(True)
    t = scene.draw.uniform("time of the teacher")
    teacher = scene.velocity("teacher").velocity(scene.batch.x0, t, scene.batch.cond)
    yield Loss("matching", _matching(scene) + teacher.square().mean())


def _global_objective(scene: Scene) -> Tensor:
    return _matching(scene) * (1 + random.random())


def _only_the_first_rows(scene: Scene) -> Tensor:
    t = scene.draw.uniform("t")[:4]
    return scene.velocity("student").velocity(scene.batch.x0[:4], t, scene.batch.cond).square().mean()


def _no_draw(scene: Scene) -> Tensor:
    x = torch.ones_like(scene.batch.x0)
    return scene.velocity("student").velocity(x, torch.full((len(x),), 0.5), scene.batch.cond).square().mean()


def _asks_a_critic(scene: Scene) -> Tensor:
    t = scene.draw.uniform("t")
    return scene.velocity("critic").velocity(scene.batch.x0, t, scene.batch.cond).mean()


class _MoodyLoss:
    """Another loss at every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, scene: Scene) -> Tensor:
        self.calls += 1
        return _matching(scene) * self.calls


def _shared_graph(scene: Scene) -> Iterator[Loss]:
    value = _matching(scene)
    yield Loss("one", value)
    yield Loss("two", 2 * value)


TRAINED, FROZEN = RoleSpec("velocity", True, ""), RoleSpec("velocity", False, "")

OBJECTIVES: dict[str, tuple[ObjectiveConfig, str]] = {
    "no student": (_objective(roles={"pupil": TRAINED}, turns=("pupil",)), "must have a role 'student'"),
    "frozen student": (_objective(roles={"student": RoleSpec("velocity", False, "")}), "must train its student"),
    "turn of nobody": (_objective(turns=("student", "critic")), "takes turns of ['critic'], which it does not train"),
    "turn of a frozen role": (_objective(turns=("student", "teacher")), "takes turns of ['teacher']"),
    "no turn": (
        _objective(roles={"student": TRAINED, "critic": TRAINED}),
        "says it trains ['critic'], but takes no turn",
    ),
    "no loss": (_objective(_yields()), "the turn of 'student' of 'broken' yields no loss"),
    "no scalar": (_objective(_yields(lambda s: _matching(s).repeat(2))), "must be a scalar, not [2]"),
    "not finite": (_objective(_yields(lambda s: _matching(s) / 0)), "must be finite"),
    "no gradient": (
        _objective(_yields(lambda s: _matching(s).detach())),
        "the loss 'loss 0' of 'broken' has no gradient",
    ),
    "gradient of something else": (
        _objective(_yields(lambda s: torch.ones((), requires_grad=True) * s.draw.uniform("t").mean())),
        "no gradient of 'broken' reaches 'student' in its own turn",
    ),
    "gradient of a frozen role": (
        _objective(_thaws_the_teacher),
        "says that 'teacher' is frozen, but gives it a gradient",
    ),
    "one name twice": (_objective(_same_name), "has two losses called 'matching' in one step"),
    "one name in two turns": (
        _objective(turns=("student", "student")),
        "has two losses called 'matching' in one step",
    ),
    "raw with a graph": (
        _objective(_raw_with_graph),
        "the raw number 'raw' of the loss 'matching' of 'broken' must be",
    ),
    "unknown role": (
        _objective(_yields(_asks_a_critic)),
        "uses the role 'critic', which it does not declare",
    ),
    "changes the student": (_objective(_changes_the_student), "must change neither the batch nor parameters"),
    "leaves the average": (_objective(_leaves_the_average), "must change neither the batch nor parameters"),
    "changes the batch": (_objective(_changes_the_batch), "must change neither the batch nor parameters"),
    "condition of other rows": (_objective(_yields(_only_the_first_rows)), "another number of rows than samples"),
    "global randomness": (_objective(_yields(_global_objective)), "must take random numbers from its Draw only"),
    "moody": (_objective(_yields(_MoodyLoss())), "must yield the same losses for the same scene"),
    "no draw": (_objective(_yields(_no_draw)), "must draw anew at every step"),
    "one graph for two losses": (_objective(_shared_graph), "needs a graph of its own"),
}


@pytest.mark.parametrize(("config", "contract"), OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_an_objective_that_breaks_its_contract(config: ObjectiveConfig, contract: str) -> None:
    wrong(contract, check_objective, config)


def test_the_stub_of_these_objectives_keeps_the_contract() -> None:
    check_objective(_objective())


def test_a_refused_combination_is_not_checked() -> None:
    config = FlowMapConfig(velocity="teacher", rebalance=True)
    wrong("'flow_map' refuses what it is checked with: rebalance with velocity", check_objective, config)


# Backbones


class _Wrapped(Backbone):
    """The small mlp with a mistake: `change` gets the arguments of `role` and the role."""

    def __init__(self, spec: SampleSpec, change: Callable[..., Role] | None, **answers: Any) -> None:
        self.inner = MlpConfig(width=8, depth=1).build(spec)
        self.change, self.answers = change, answers

    def role(self, name: str, kind: Any, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        if self.change is None:
            return self.inner.role(name, kind, weights, draw)
        return self.change(self.inner, name, kind, weights, draw)

    def encode(self, samples: Samples, draw: Draw) -> Batch:
        return self.answers.get("encode", self.inner.encode)(samples, draw)  # type: ignore[no-any-return]

    def decode(self, x: Tensor) -> Tensor:
        return self.answers.get("decode", self.inner.decode)(x)  # type: ignore[no-any-return]

    def condition(self, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        return self.answers.get("condition", self.inner.condition)(prompts, count, device)  # type: ignore[no-any-return]

    def latent_shape(self) -> tuple[int, ...]:
        return self.inner.latent_shape()

    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        return samples

    def export(self, role: Role, folder: Path, form: str, merged: bool, grid: SamplingGrid) -> str:
        raise FlowmapError("nothing to export")

    def chunking(self) -> Chunking:
        return self.answers.get("chunking", OneChunk())  # type: ignore[no-any-return]


def _backbone(change: Callable[..., Role] | None = None, **answers: Any) -> BackboneConfig:
    class BrokenConfig(BackboneConfig):
        """Broken."""

        type: Literal["broken"] = "broken"

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, spec: SampleSpec) -> Backbone:
            return _Wrapped(spec, change, **answers)

    return BrokenConfig()


class _Through(FlowMap):
    """A flow map with a mistake in what comes out."""

    def __init__(self, network: Any, mistake: Callable[[Tensor], Tensor]) -> None:
        self._network, self._mistake = network, mistake

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return self._mistake(self._network.mean_velocity(x, t, r, cond))


class _ThroughVelocity(Velocity):
    """A velocity with a mistake in what comes out."""

    def __init__(self, network: Velocity, mistake: Callable[[Tensor], Tensor]) -> None:
        self._network, self._mistake = network, mistake

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self._mistake(self._network.velocity(x, t, cond))


def _output(mistake: Callable[[Tensor], Tensor]) -> Callable[..., Role]:
    def change(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
        role = inner.role(name, kind, weights, draw)
        wrap = _Through if kind == "flow_map" else _ThroughVelocity
        return Role(name, wrap(role.network, mistake), role.module, role.own)

    return change


def _own(change_own: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Role]:
    def change(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
        role = inner.role(name, kind, weights, draw)
        return Role(name, role.network, role.module, change_own(role.own))

    return change


def _renamed(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    return inner.role("student" if name == "teacher" else "teacher", kind, weights, draw)


def _always_two_times(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    return inner.role(name, "flow_map", weights, draw)


def _lenient(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, None, draw)
    role.module.load_state_dict(dict(weights or {}), strict=False)
    return role


def _lenient_where_it_fits(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, None, draw)
    for key, value in (weights or {}).items():
        if key in role.own and role.own[key].shape == value.shape:
            role.own[key].data = value.clone()
    return role


def _aliased(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, weights, draw)
    for key, value in (weights or {}).items():
        if key in role.own:
            role.own[key].data = value
    return role


def _shared(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    if weights is not None:
        return inner.role(name, kind, weights, draw)
    if not hasattr(inner, "kept"):
        inner.kept = {}  # type: ignore[attr-defined]
    made: Role = inner.kept.setdefault(kind, inner.role(name, kind, None, draw))  # type: ignore[attr-defined]
    return Role(name, made.network, made.module, made.own)


def _anew(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, weights, draw)
    if weights is None:
        _COUNTER.append(0)
        with torch.no_grad():
            next(iter(role.own.values())).fill_(float(len(_COUNTER)))
    return role


_COUNTER: list[int] = []


def _global_initialisation(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, weights, draw)
    if weights is None:
        with torch.no_grad():
            next(iter(role.own.values())).normal_()
    return role


def _off_the_diagonal(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, weights, draw)
    if kind == "flow_map" and weights and not any("target_time" in key for key in weights):
        with torch.no_grad():
            role.own["target_time.layers.0.bias"].add_(1.0)
    return role


def _other_names(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
    role = inner.role(name, kind, weights, draw)
    if weights is not None:
        role.own = {f"again.{key}": value for key, value in role.own.items()}
    return role


class _Mistimed(FlowMap):
    """A flow map that is asked at other times than those that are meant."""

    def __init__(self, network: Any, times: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self._network, self._times = network, times

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return self._network.mean_velocity(x, *self._times(t, r), cond)  # type: ignore[no-any-return]


def _times(times: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Role]:
    def change(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
        role = inner.role(name, kind, weights, draw)
        network = _Mistimed(role.network, times) if kind == "flow_map" else role.network
        return Role(name, network, role.module, role.own)

    return change


def _deaf(prompts: Tensor, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """The null condition, whatever is asked for."""
    null = TensorCond({LABELS: torch.full_like(prompts, 3)})
    return null, null


class _Uneven(Chunking):
    """Chunks that miss a frame."""

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return (frames, 1)

    def window(self, frames: int, draw: Draw) -> Window:
        return Window(0, frames)

    def forced(self, batch: Batch, window: Window) -> Batch:
        return batch

    def whole(self, batch: Batch) -> Batch:
        return batch

    def unchunked(self) -> Chunking:
        return self

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return cond

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return cond


def _stubborn(take: bool) -> Callable[[Any, int, torch.device], tuple[Cond, Cond]]:
    """Labels that ignore which rows are taken, or else are joined the wrong way round."""

    class Labels(TensorCond):  # type: ignore[misc]
        def take(self, index: Tensor) -> Any:
            return Labels({LABELS: self[LABELS][: len(index)] if take else self[LABELS][index]})

        def join(self, other: Any) -> Any:
            both = [self[LABELS], other[LABELS]]
            return Labels({LABELS: torch.cat(both if take else both[::-1])})

    return lambda prompts, count, device: (Labels({LABELS: prompts}), Labels({LABELS: torch.full_like(prompts, 3)}))


BACKBONES: dict[str, tuple[BackboneConfig, str]] = {
    "encoded shape": (
        _backbone(encode=lambda s, draw: Batch(s.x[:, 0], *_none())),
        "x0 as encoded by 'broken' must have the shape",
    ),
    "encoded dtype": (
        _backbone(encode=lambda s, draw: Batch(s.x.double(), *_none())),
        "x0 as encoded by 'broken' must be float32",
    ),
    "decoded shape": (_backbone(decode=lambda x: x[:1]), "samples as decoded by 'broken' must have the shape"),
    "chunks": (_backbone(chunking=_Uneven()), "the chunks (1, 1) of 'broken' must be above 0 and sum to 1 frames"),
    "joined": (_backbone(condition=_stubborn(take=False)), "joined conditions of 'broken' must act as each does alone"),
    "taken": (_backbone(condition=_stubborn(take=True)), "taking rows of a condition of 'broken'"),
    "deaf": (_backbone(condition=_deaf), "must use its condition: with the prompts of other samples"),
    "r ignored": (
        _backbone(_times(lambda t, r: (t, t))),
        "must depend on r; u(x, t, r) of `mean_velocity` is u(x, t, t) in 3 of 3 samples",
    ),
    "t ignored": (_backbone(_times(lambda t, r: (0 * t, 0 * r))), "a flow_map role of 'broken' must depend on t"),
    "name": (_backbone(_renamed), "must have the name that was asked for"),
    "kind": (_backbone(_always_two_times), "a velocity role of 'broken' has a network of the wrong kind"),
    "shape": (
        _backbone(_output(lambda u: u.flatten(1))),
        "the result of a velocity role of 'broken' must have the shape",
    ),
    "dtype": (_backbone(_output(lambda u: u.double())), "the result of a velocity role of 'broken' must be float32"),
    "coupled": (_backbone(_output(lambda u: u - u.mean(0))), "must not depend on the others"),
    "no own": (_backbone(_own(lambda own: {})), "owns no parameters"),
    "incomplete own": (
        _backbone(_own(lambda own: {k: v for k, v in own.items() if k != "out.bias"})),
        "must own every parameter that it trains; out.bias are not in own",
    ),
    "frozen own": (
        _backbone(_own(lambda own: {k: v.requires_grad_(k != "out.bias") for k, v in own.items()})),
        "must be trainable until it is frozen; out.bias are not",
    ),
    "foreign own": (
        _backbone(_own(lambda own: {k: torch.nn.Parameter(v.detach().clone()) for k, v in own.items()})),
        "must own every parameter that it trains",
    ),
    "no gradient": (
        _backbone(_output(lambda u: u.detach().requires_grad_())),
        "no gradient reaches the own parameters",
    ),
    "lenient": (_backbone(_lenient), "must refuse weights without"),
    "lenient where it fits": (_backbone(_lenient_where_it_fits), "must refuse weights without"),
    "aliased": (_backbone(_aliased), "must copy the weights it is made from"),
    "other names": (_backbone(_other_names), "must own the same names when it is made from weights"),
    "shared": (_backbone(_shared), "must not share own parameters"),
    "anew": (_backbone(_anew), "must be the same for the same draw"),
    "global initialisation": (
        _backbone(_global_initialisation),
        "a velocity role of 'broken' must take random numbers from its Draw",
    ),
    "diagonal": (_backbone(_off_the_diagonal), "must equal that velocity at r = t"),
}


def _none() -> tuple[Cond, Cond]:
    from flowmap.interfaces import NoCond

    return NoCond(), NoCond()


@pytest.mark.parametrize(("config", "contract"), BACKBONES.values(), ids=BACKBONES.keys())
def test_a_backbone_that_breaks_its_contract(config: BackboneConfig, contract: str) -> None:
    conditional = contract.startswith(("joined", "taking", "must use its"))
    wrong(contract, check_backbone, config, IMAGE if conditional else POINT)


def test_the_wrapper_of_these_backbones_keeps_the_contract() -> None:
    check_backbone(_backbone(), POINT)
    check_backbone(_backbone(), IMAGE)


def test_a_backbone_must_refuse_with_an_error_for_the_user() -> None:
    def crash(inner: Backbone, name: str, kind: Any, weights: Any, draw: Draw) -> Role:
        try:
            return inner.role(name, kind, weights, draw)
        except FlowmapError as error:
            raise KeyError("theta") from error

    wrong("with a FlowmapError, not KeyError", check_backbone, _backbone(crash), POINT)


def test_a_backbone_is_checked_only_with_data_that_fit() -> None:
    wrong("'mlp' refuses what it is checked with", check_backbone, MlpConfig(), SampleSpec((5, 2), classes=0))


# Data


def _data(spec: SampleSpec = POINT, **answers: Any) -> DataConfig:
    inner = CheckerboardConfig().build()

    class Stub(Data):
        def batch(self, draw: Draw) -> Samples:
            return answers.get("batch", inner.batch)(draw)  # type: ignore[no-any-return]

        def reference(self, split: Any, count: int) -> Samples:
            return answers.get("reference", inner.reference)(split, count)  # type: ignore[no-any-return]

        def prompts(self, draw: Draw) -> Any:
            return answers.get("prompts", inner.prompts)(draw)

        def picture(self, x: Tensor) -> Any:
            return answers.get("picture", lambda x: np.zeros((2, 2, 3), np.uint8))(x)

    class BrokenConfig(DataConfig):
        """Broken."""

        type: Literal["broken"] = "broken"

        def spec(self) -> SampleSpec:
            return spec

        def build(self) -> Data:
            return Stub()

    return BrokenConfig()


def _labelled(draw: Draw, **fields: Any) -> Samples:
    return Samples(draw.normal("x", (1, 2)), **fields)


LABELLED = SampleSpec((1, 2), classes=0, labelled=True)
CONDITIONAL = SampleSpec((1, 2), classes=2)


def _prompted(draw: Draw) -> Samples:
    return Samples(draw.normal("x", (1, 2)), prompts=(draw.uniform("p") * 2).long())


def _prompted_reference(split: str, count: int) -> Samples:
    return _prompted(Draw.whole(0, split, 0, "reference", count))


def _conditional(prompts: Callable[[Draw], Any]) -> DataConfig:
    return _data(CONDITIONAL, batch=_prompted, reference=_prompted_reference, prompts=prompts)


DATA: dict[str, tuple[DataConfig, str]] = {
    "shape": (_data(SampleSpec((1, 3), 0)), "x of a batch of 'broken' must have the shape [11, 1, 3], not [11, 1, 2]"),
    "dtype": (_data(batch=lambda d: Samples(d.normal("x", (1, 2)).double())), "must be float32"),
    "no labels": (_data(LABELLED), "a batch of 'broken' must have labels [11] in int64"),
    "float labels": (
        _data(LABELLED, batch=lambda d: _labelled(d, labels=d.uniform("l"))),
        "must have labels [11] in int64",
    ),
    "negative labels": (
        _data(LABELLED, batch=lambda d: _labelled(d, labels=-torch.ones(d.count).long())),
        "must not be negative",
    ),
    "labels nobody expects": (
        _data(batch=lambda d: _labelled(d, labels=torch.zeros(d.count).long())),
        "does not say so",
    ),
    "no prompts": (_data(CONDITIONAL), "must have prompts if and only if"),
    "global randomness": (
        _data(batch=lambda d: Samples(torch.rand(d.count, 1, 2))),
        "must take random numbers from its Draw",
    ),
    "state": (
        _data(batch=lambda d: Samples(d.normal("x", (1, 2)) + _count())),
        "must return the same batch for the same draw",
    ),
    "no draw": (
        _data(batch=lambda d: Samples(torch.ones(d.count, 1, 2))),
        "must return another batch for another step",
    ),
    "split": (
        _data(batch=lambda d: Samples(torch.from_numpy(d.shared("x").random((d.count, 1, 2), np.float32)) - 0.5)),
        "must not depend on how many processes share it",
    ),
    "too many": (
        _data(reference=lambda s, n: Samples(torch.zeros(n + 1, 1, 2))),
        "must have from 1 to 3 samples, not 4",
    ),
    "none": (_data(reference=lambda s, n: Samples(torch.zeros(0, 1, 2))), "must have from 1 to 3 samples, not 0"),
    "restless reference": (
        _data(reference=lambda s, n: Samples(torch.zeros(n, 1, 2) + _count())),
        "the train reference of 'broken' must be the same at every call",
    ),
    "one split": (
        _data(reference=lambda s, n: CheckerboardConfig().build().reference("train", n)),
        "the held-out reference of 'broken' must not be what it trains on",
    ),
    "prompts of unconditional data": (_data(prompts=lambda d: d.uniform("p")), "must give prompts if and only if"),
    "no prompts for generation": (_conditional(lambda d: None), "must give prompts if and only if"),
    "restless prompts": (
        _conditional(lambda d: torch.full((d.count,), _count())),
        "the prompts of 'broken' must be the same for the same draw",
    ),
    "split prompts": (
        _conditional(lambda d: torch.arange(d.count)),
        "the prompts of 'broken' must not depend on how many processes share them",
    ),
    "picture": (_data(picture=lambda x: np.zeros((2, 2), np.uint8)), "must be uint8 [H, W, 3], not uint8 [2, 2]"),
}


def _count() -> int:
    _COUNTER.append(0)
    return len(_COUNTER)


@pytest.mark.parametrize(("config", "contract"), DATA.values(), ids=DATA.keys())
def test_a_data_source_that_breaks_its_contract(config: DataConfig, contract: str) -> None:
    wrong(contract, check_data, config)


def test_the_stubs_of_these_data_keep_the_contract() -> None:
    check_data(_data())
    check_data(_conditional(lambda d: (d.uniform("p") * 2).long()))


# Metrics


def _metric(
    score: Callable[[Evidence], Any] | None = None,
    floor: float | None = None,
    build: Callable[[], Any] | None = None,
) -> MetricConfig:
    inner = SlicedWassersteinConfig()

    class BrokenConfig(MetricConfig):
        """Broken."""

        type: Literal["broken"] = "broken"

        def findings(self, spec: SampleSpec) -> Iterable[Finding]:
            return []

        def build(self, references: Any) -> Metric:
            if build:
                build()
            good = inner.build(references)

            class Stub(Metric):
                def score(self, evidence: Evidence) -> float:
                    return score(evidence) if score else good.score(evidence)  # type: ignore[no-any-return]

                def floor(self, size: int) -> float:
                    return good.floor(size) if floor is None else floor

            return Stub()

    return BrokenConfig()


def _peeks(evidence: Evidence) -> float:
    from flowmap.interfaces import NoCond

    x = evidence.samples[:2]
    evidence.network.velocity(x, torch.full((2,), 0.5), NoCond())
    return float(x.square().mean())


def _spoils(evidence: Evidence) -> float:
    evidence.samples.mul_(0.5)
    return float(evidence.samples.square().mean())


METRICS: dict[str, tuple[MetricConfig, str]] = {
    "not a float": (_metric(lambda e: e.samples.mean()), "must give a finite float, not tensor("),
    "not finite": (_metric(lambda e: float("nan")), "must give a finite float, not nan"),
    "higher is better": (
        _metric(lambda e: -(float(e.samples.std() - 0.7) ** 2)),
        "lower is better: 'broken' must score",
    ),
    "blind": (_metric(lambda e: 1.0), "lower is better: 'broken' must score the reference (1) below noise (1)"),
    "spoils the samples": (_metric(_spoils), "must not change the samples"),
    "restless": (_metric(lambda e: float(_count())), "must give the same score for the same evidence"),
    "global randomness": (_metric(lambda e: 0.0 * random.random()), "must take random numbers from its Draw only"),
    "global randomness in build": (_metric(build=lambda: torch.manual_seed(_count())), "building 'broken' must take"),
    "calls nobody knows of": (_metric(_peeks), "says 0 network calls per sample; it made 1"),
    "floor above noise": (_metric(floor=1e9), "the floor of 'broken' is what a perfect model would score"),
    "floor not finite": (_metric(floor=float("nan")), "the floor of 'broken' is what a perfect model would score"),
}


@pytest.mark.parametrize(("config", "contract"), METRICS.values(), ids=METRICS.keys())
def test_a_metric_that_breaks_its_contract(config: MetricConfig, contract: str) -> None:
    wrong(contract, check_metric, config)


def test_a_metric_that_makes_other_calls_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SemigroupConfig, "calls", 2)
    wrong("'semigroup' says 2 network calls per sample; it made 3", check_metric, SemigroupConfig())


def test_the_stub_of_these_metrics_keeps_the_contract() -> None:
    check_metric(_metric())


def test_the_kit_names_every_kind() -> None:
    from flowmap import testing

    assert {f"check_{kind}" for kind in KINDS} <= set(testing.__all__)
