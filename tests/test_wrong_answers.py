"""Components that return what the interface does not say: a line that names whose it is, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Evidence, Loss, Metric, NoCond, Objective, Sampler, Scene, Turn, World
from flowmap.interfaces.chunks import OneChunk
from flowmap.interfaces.samples import Batch
from flowmap.maths.draw import Draw
from flowmap.plugin import Finding, MetricConfig, ObjectiveConfig, RoleSpec, SamplerConfig
from flowmap.plugin.answers import guard, misdeclared
from flowmap.training.terms import terms, turns_of, without_loss
from flowmap.use.asked import Asked
from flowmap.use.numbers import floor_of, score_of

from .conftest import edited
from .installing import flowmap, installed

WHOSE = "metric 'odd' from odd 1.0"
FOUND = Finding("error", (), "no")


def odd(name: str, answer: Any) -> MetricConfig:
    """A metric whose method `name` gives that answer."""

    class OddConfig(MetricConfig):
        type: Literal["odd"] = "odd"

        def findings(self, spec: Any) -> Any:
            return []

        def build(self, references: Any) -> Any:
            return None

    setattr(OddConfig, name, lambda config, *given: answer)
    getattr(OddConfig, name).__name__ = name
    guard(OddConfig, WHOSE)
    guard(OddConfig, "another")  # who is registered first is at fault
    return OddConfig()


FINDINGS = "findings (flowmap.plugin.Finding, of an error or a warning)"
WRONG = {
    "nothing": ("findings", None, "None", FINDINGS),
    "texts": ("findings", [FOUND, "abc"], "'abc'", FINDINGS),
    "a finding of no level": ("missing", (replace(FOUND, level="fatal"),), None, FINDINGS),  # type: ignore[arg-type]
    "a number": ("missing", 7, "7", FINDINGS),
    "one remark": ("remarks", "too few", "'too few'", "sentences (str)"),
    "no label": ("label", 3, "3", "a text that is not empty"),
    "no metric": ("build", None, "None", "a flowmap.interfaces.Metric"),
    "another's": ("build", OneChunk(), None, "a flowmap.interfaces.Metric"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_refused(case: str) -> None:
    name, answer, shown, wanted = WRONG[case]
    with pytest.raises(FlowmapError) as caught:
        getattr(odd(name, answer), name)(*[None] * {"build": 1, "findings": 1, "remarks": 4}.get(name, 0))
    told = re.escape(shown) if shown else r"\S.*"
    assert re.fullmatch(
        rf"{WHOSE} is at fault: {name}\(\) returned {told}, and must be {re.escape(wanted)}", str(caught.value)
    )
    assert caught.value.code == 1


def test_a_right_answer_is_what_it_was() -> None:
    listed = [FOUND]
    assert odd("findings", listed).findings(None) is listed  # type: ignore[arg-type]
    assert odd("missing", iter(listed)).missing() == (FOUND,)
    assert odd("findings", listed).missing() == ()
    assert odd("label", "odd:3").label() == "odd:3"


def test_what_a_class_says_wrongly_of_itself() -> None:
    class Sideways(MetricConfig):
        type: Literal["sideways"] = "sideways"
        better: ClassVar[Any] = "sideways"

    class Many(SamplerConfig):
        type: Literal["many"] = "many"
        network: ClassVar[Any] = "velocity"
        calls_per_step: ClassVar[Any] = "many"

    assert misdeclared(Sideways) == "Sideways: better is 'sideways', and must be one of lower, higher"
    assert misdeclared(Many) == "Many: calls_per_step is 'many', and must be a whole number of at least 1"
    assert misdeclared(type(odd("label", "a"))) is None


class LearningConfig(ObjectiveConfig):
    """Of no distribution."""

    type: Literal["learning"] = "learning"

    def roles(self) -> dict[str, RoleSpec]:
        return {"student": RoleSpec("velocity", True, "learns"), "teacher": RoleSpec("velocity", False, "gives")}

    def findings(self, facts: Any) -> list[Finding]:
        return []

    def build(self) -> Objective:
        raise NotImplementedError


BY = "objective 'learning' is at fault: "
LEARNED = nn.Parameter(torch.ones(16))
SCENE = Scene({}, Batch(torch.zeros(1, 1, 1), NoCond(), NoCond()), Draw.whole(0, "a", 0, "a", 1), OneChunk(), World())
GIVEN = {
    "nothing": ([None], "a loss of 'student' is None, and must be a flowmap.interfaces.Loss"),
    "a number": ([Loss("x", 1.0)], "the value of the loss 'x' is 1.0, and must be a tensor"),  # type: ignore[arg-type]
    "a vector": ([Loss("x", LEARNED)], "the value of the loss 'x' has the shape [16], and must be a scalar, []"),
    "detached": (
        [Loss("x", LEARNED.sum()), Loss("y", LEARNED.sum().detach())],
        "the value of the loss 'y' has requires_grad False, and must be differentiable by the parameters of 'student'",
    ),
    "numbers beside": (
        [Loss("x", LEARNED.sum(), {"a": 1.0})],  # type: ignore[dict-item]
        "what is logged beside the loss 'x' is {'a': 1.0}, and must be scalars or vectors by their names",
    ),
    "no iterator": (None, "the losses of 'student' are None, and must be an iterator of losses"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_what_is_no_loss_is_refused(case: str) -> None:
    given, told = GIVEN[case]
    turn = Turn("student", lambda scene: given)  # type: ignore[arg-type,return-value]
    with pytest.raises(FlowmapError) as caught:
        list(terms(LearningConfig(), turn, SCENE))
    assert str(caught.value) == BY + told


def test_gradients_that_are_left_disabled_are_refused() -> None:
    def losses(scene: Scene) -> Iterator[Loss]:
        value = LEARNED.sum()
        torch.set_grad_enabled(False)
        yield Loss("x", value)

    with torch.enable_grad(), pytest.raises(FlowmapError, match=r"torch.is_grad_enabled\(\) is False"):
        list(terms(LearningConfig(), Turn("student", losses), SCENE))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        (None, "turns() returned None, and must be a tuple of flowmap.interfaces.Turn"),
        ((), "turns() returned (), and must be a tuple of flowmap.interfaces.Turn"),
        (
            (Turn("teacher", lambda scene: iter(())),),
            "turns() returned a turn of 'teacher', and must be one of the roles that are trained (student)",
        ),
    ],
)
def test_what_are_no_turns_is_refused(turns: Any, told: str) -> None:
    class Odd(Objective):
        def turns(self) -> Any:
            return turns

    with pytest.raises(FlowmapError) as caught:
        turns_of(LearningConfig(), Odd())
    assert str(caught.value) == BY + told


class Scored(Metric):
    """Changes its samples, and gives that answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def score(self, evidence: Evidence) -> float:
        evidence.samples.zero_()
        return self.answer  # type: ignore[no-any-return]

    def floor(self, size: int) -> float:
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("answer", [None, "3", 1j, torch.ones(3), torch.tensor(1j)])
def test_a_score_that_is_no_number_is_refused(answer: Any) -> None:
    config, evidence = odd("label", "odd"), Evidence(torch.ones(2), None, None, SCENE.draw)  # type: ignore[arg-type]
    with pytest.raises(FlowmapError, match=r"metric 'odd' is at fault: score\(\) returned .*, and must be a number"):
        score_of(config, Scored(answer), evidence)
    with pytest.raises(FlowmapError, match=r"metric 'odd' is at fault: floor\(\) returned .*, and must be a number"):
        floor_of(config, Scored(answer), 3)


def test_a_metric_changes_no_other_s_samples() -> None:
    evidence = Evidence(torch.ones(2), None, None, SCENE.draw)  # type: ignore[arg-type]
    found = score_of(odd("label", "odd"), Scored(torch.tensor(0.5)), evidence)
    assert (found, type(found), evidence.samples.tolist()) == (0.5, float, [1, 1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: None, "sample() returned None, and must be a tensor"),
        (
            lambda x: x[:, :, :1],
            "sample() returned the shape [2, 1, 1], and must be that of the noise, [2, 1, 3]",
        ),
    ],
)
def test_samples_of_another_shape_are_refused(change: Callable[[torch.Tensor], Any], told: str) -> None:
    class Odd(Sampler):
        def order(self) -> None:
            return None

        def sample(self, network: Any, x: torch.Tensor, times: Any, cond: Any, draw: Any) -> Any:
            return change(x)

    class OddSamplerConfig(SamplerConfig):
        type: Literal["odd"] = "odd"
        network: ClassVar[Literal["velocity"]] = "velocity"
        calls_per_step: ClassVar[int] = 1

        def build(self) -> Sampler:
            return Odd()

    network: Any = None
    with pytest.raises(FlowmapError) as caught:
        Asked(OddSamplerConfig()).sample(network, torch.ones(2, 1, 3), torch.ones(2), NoCond(), SCENE.draw)
    assert str(caught.value) == f"sampler 'odd' is at fault: {told}"


STRANGER = """
from typing import ClassVar, Literal
from pydantic import model_serializer, model_validator
from flowmap.interfaces import Objective, Turn
from flowmap.plugin import ObjectiveConfig, RoleSpec, SamplerConfig, hookimpl

class IdleConfig(ObjectiveConfig):
    type: Literal["idle"] = "idle"
    def roles(self):
        return {"student": RoleSpec("velocity", True, "learns")}
    def findings(self, facts):
        return ()
    def build(self):
        return Idle()

class Idle(Objective):
    def turns(self):
        return (Turn("student", lambda scene: iter(())),)

class Base(SamplerConfig):
    network: ClassVar[str] = "velocity"
    calls_per_step: ClassVar[int] = 1
    def build(self):
        return None

class NowhereConfig(Base):
    type: Literal["nowhere"] = "nowhere"
    @model_validator(mode="after")
    def _gone(self):
        return None

class UnwrittenConfig(Base):
    type: Literal["unwritten"] = "unwritten"
    @model_serializer
    def _fails(self):
        raise RuntimeError("no")

@hookimpl
def flowmap_components():
    return [IdleConfig, NowhereConfig, UnwrittenConfig]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    installed(folder, "odd", STRANGER)
    return folder


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "a validator of NowhereConfig returned None, and must return the configuration itself"),
        ("unwritten", "its fields cannot be written as a recipe: Error calling function `_fails`: RuntimeError: no"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_at_its_place(
    name: str, told: str, site: Path, here: Path
) -> None:
    (here / "r.toml").write_text(
        edited(('samplers = ["flow_map"]', f'samplers = ["{name}"]'), ('stage = "student"', 'stage = "teacher"'))
    )
    done = flowmap(site, here, "check", "r.toml")
    place = "r.toml:28: evaluation.contests.0.samplers.0"
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {place}: sampler '{name}' from odd 1.0 is at fault: {told}\n",
    )


@pytest.mark.slow
def test_an_objective_without_a_loss_trains_nothing(site: Path, here: Path) -> None:
    """In the first step, and not as so many steps of training."""
    (here / "r.toml").write_text(edited(('"flow_matching"', '"idle"')))
    done = flowmap(site, here, "run", "r.toml", "--set", "compute.device='cpu'", TMPDIR=str(here))
    said = str(without_loss(LearningConfig(), Turn("student", lambda scene: iter(())))).removeprefix(BY)
    assert f"error: objective 'idle' from odd 1.0 is at fault: {said}" in done.stderr
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert (here / "runs/tiny/teacher/steps.jsonl").read_text() == ""
