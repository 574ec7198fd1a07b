"""Mutants of the objective that `flowmap new objective` writes: a sign, a weight, a time or a condition is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import Field

import flowmap.scaffold
from flowmap.interfaces import Objective
from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec

from .reference import broken

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATE = next(iter(flowmap.scaffold.__path__)) + "/templates/objective/objective.py.template"


STUDENT = RoleSpec("flow_map", True, "")


def written(old: str = "", new: str = "", cfg_scale: float = 1.0, student: RoleSpec = STUDENT) -> ObjectiveConfig:
    """The objective of the template, `new` in the place of `old`."""
    with open(TEMPLATE, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    space: dict[str, Any] = {"__name__": "mutant"}
    text = text.replace(old, new).replace("$name", "mine").replace("${Name}", "Mine")
    exec("\n".join(line for line in text.splitlines() if line != "from mine import MineConfig"), space)

    class ReferenceConfig(ObjectiveConfig):
        """The reference."""

        type: Literal["reference"] = "reference"

        def roles(self) -> Mapping[str, RoleSpec]:
            return {"student": student, "teacher": RoleSpec("velocity", False, "")}

        def findings(self, facts: Any) -> Iterable[Finding]:
            return []

        def build(self) -> Objective:
            made: Objective = space["Mine"](SimpleNamespace(step=1 / 32, cfg_scale=cfg_scale))
            return made

    return ReferenceConfig()


def scaled(old: str = "", new: str = "", cfg_scale: float = 1.0) -> ObjectiveConfig:
    """The same with a field `cfg_scale`."""
    plain = type(written())

    class ReferenceConfig(plain):  # type: ignore[misc,valid-type]
        """The reference."""

        cfg_scale: float = Field(1.0, ge=0, le=100, description="the teacher's guidance, w in null + w (cond - null)")

        def build(self) -> Objective:
            return written(old, new, self.cfg_scale).build()

    return ReferenceConfig(cfg_scale=cfg_scale)


R = 'r = t * draw.uniform("r")'
TARGET = "w * v + (1 - w) * rest"
MUTANTS = {
    "the step goes the wrong way": (("x - like(t - s, x) * v", "x + like(t - s, x) * v"), "stays_at_the_flow"),
    "weights swapped": ((TARGET, "(1 - w) * v + w * rest"), "stays_at_the_flow"),
    "the rest from the wrong time": (("* v, s, r, batch.cond", "* v, t, r, batch.cond"), "stays_at_the_flow"),
    "the velocity at t for all": ((TARGET, "v + 0 * rest"), "stays_at_the_flow"),
    "a little too far": ((TARGET, f"1.02 * ({TARGET})"), "stays_at_the_flow"),
    "r always 0": ((R, "r = 0 * t"), "jumps_are_trained_as_said"),
    "r always as good as 0": ((R, "r = 1e-3 * t"), "jumps_are_trained_as_said"),
    "r never near t": ((R, R + " / 2"), "velocities_are_trained_as_said"),
    "cond and null swapped": (
        ("batch.cond, batch.null", "batch.null, batch.cond"),
        "guidance_is_towards_the_condition",
    ),
    "trained without condition": (
        ("student.mean_velocity(x, t, r, batch.cond)", "student.mean_velocity(x, t, r, batch.null)"),
        "training_is_with_the_condition",
    ),
}


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0])
def test_as_written_it_keeps_every_law(cfg_scale: float) -> None:
    assert broken(written(cfg_scale=cfg_scale)) == {}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_its_check(name: str) -> None:
    words, check = MUTANTS[name]
    assert list(broken(written(*words))) == [check]


@pytest.mark.parametrize("cfg_scale", [1.0, 2.0, 3.5])
def test_guidance_of_any_scale_keeps_every_law(cfg_scale: float) -> None:
    assert broken(scaled(cfg_scale=cfg_scale)) == {}


@pytest.mark.parametrize(("other", "weight"), [("1.0", 0), ("1 + config.cfg_scale", 40)])
def test_guidance_of_another_scale_is_caught(other: str, weight: int) -> None:
    found = broken(scaled("config.cfg_scale", other))
    assert list(found) == ["guidance_is_as_strong_as_said"]
    words = f"should have 33 % of the weight in the gradients of 'student', and has {weight} %"
    assert words in found["guidance_is_as_strong_as_said"]


def test_guidance_the_wrong_way_round_is_caught() -> None:
    swapped = written("batch.cond, batch.null", "batch.null, batch.cond", cfg_scale=2.0)
    assert list(broken(swapped)) == ["guidance_is_towards_the_condition"]


@pytest.mark.parametrize(
    ("words", "student", "check"),
    [
        # What jumps to data alone says so, and then it is right.
        ((R, "r = 0 * t"), RoleSpec("flow_map", True, "", diagonal=False, to_data=True), None),
        ((R, "r = 0 * t"), RoleSpec("flow_map", True, "", to_data=True), "velocities_are_trained_as_said"),
        ((R, R + " / 2"), RoleSpec("flow_map", True, "", diagonal=False), None),
        (("", ""), RoleSpec("flow_map", True, "", diagonal=False, to_data=True), "jumps_are_trained_as_said"),
    ],
)
def test_which_times_are_trained_is_what_the_role_says(
    words: tuple[str, str], student: RoleSpec, check: str | None
) -> None:
    assert list(broken(written(*words, student=student))) == ([check] if check else [])


def test_times_that_are_never_trained_are_told_by_their_number() -> None:
    said = broken(written(R, "r = 0 * t"))["jumps_are_trained_as_said"]
    assert (
        "'reference' must train 'student' at r between 0 and t, as a map between any two times; it does in 0 of" in said
    )
