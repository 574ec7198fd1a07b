"""A budget in calls buys what the ledger will say, whatever the turns of an objective do and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from flowmap.comparison.budget import steps_within
from flowmap.comparison.specification import BudgetConfig
from flowmap.errors import FlowmapError
from flowmap.interfaces import Loss, Scene, Taken, Turn, always, every
from flowmap.planning.tally import Tally
from tests.small_runs import scripted, scripted_plan

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH = 2
EACH = 3 * BATCH
"""What a call with gradient costs."""


def turn(calls: Callable[[Scene], int], taken: Taken = always) -> Turn:
    """A turn of so many calls with gradient, which may depend on the step and on draws."""

    def losses(scene: Scene) -> Iterator[Loss]:
        x0, cond = scene.batch.x0, scene.batch.cond
        for _ in range(calls(scene)):
            yield Loss("loss", scene.velocity("student").velocity(x0, x0[:, 0, 0], cond).mean())

    return Turn("student", losses, taken)


def later(start: int, calls: int = 3) -> Callable[[Scene], int]:
    """One call, and more from step `start` on."""
    return lambda scene: calls if scene.draw.step >= start else 1


def drawn(scene: Scene) -> int:
    """One to three calls, six to eight from step 1000 on."""
    return int(scene.draw.shared("calls").integers(1, 4)) + 5 * (scene.draw.step >= 1000)


OBJECTIVES: dict[str, tuple[Turn, ...]] = {
    "always the same": (turn(lambda scene: 2),),
    "more from 500 on": (turn(later(500)),),
    "more from 500 and again from 2000 on": (turn(later(500)), turn(later(2000, 7))),
    "less from 3000 on": (turn(lambda scene: 1 if scene.draw.step >= 3000 else 4),),
    "a turn in 150": (turn(lambda scene: 1), turn(lambda scene: 60, every(150))),
    "only turns in 150 and 7": (turn(lambda scene: 9, every(150)), turn(later(2000), every(7))),
    "one or the other, as rcm": (
        turn(later(1000), lambda step: step < 1000 or step % 5 == 0),
        turn(lambda scene: 2, lambda step: step >= 1000 and step % 5 != 0),
    ),
    "a while": (turn(lambda scene: 6 if 700 <= scene.draw.step < 1900 else 1),),
}


def real(turns: tuple[Turn, ...], steps: int) -> list[int]:
    """What each of the first steps costs, from the rule itself."""

    class _Draw:
        def __init__(self, step: int) -> None:
            self.step = step

    def cost(step: int) -> int:
        scene = type("S", (), {"draw": _Draw(step)})()
        counted = 0
        for one in turns:
            if one.taken(step):
                calls = one.losses.__closure__[0].cell_contents  # type: ignore[attr-defined]
                counted += EACH * calls(scene)
        return counted

    return [cost(step) for step in range(steps)]


@pytest.mark.parametrize("steps", [100, 400, 650, 3500, 9000])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_budget_is_met_to_a_step(name: str, steps: int, tmp_path: Path) -> None:
    costs = real(OBJECTIVES[name], steps)
    recipe = scripted_plan(scripted(*OBJECTIVES[name]), tmp_path, batch=BATCH).recipe
    bought = steps_within(recipe, "teacher", BudgetConfig(by="calls", amount=float(sum(costs))), 1.0)
    # Steps at the end may cost nothing; more than a step's cost is never over or missing.
    assert sum(costs[: min(bought, steps)]) == sum(costs)
    assert bought <= steps


def test_what_is_drawn_is_counted_and_then_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmap.comparison.budget._COUNTED", 300)
    monkeypatch.setattr("flowmap.comparison.budget._SAMPLED", 150)
    plan = scripted_plan(scripted(turn(drawn)), tmp_path, batch=BATCH)
    tally = Tally(plan)
    counted = 0
    for steps, error in ((200, 0.0), (3000, 0.02)):
        for _ in range(steps - counted):
            tally.step()
        counted = steps
        amount = 3 * tally.calls["student"].grad_samples
        bought = steps_within(plan.recipe, "teacher", BudgetConfig(by="calls", amount=float(amount)), 1.0)
        assert bought == pytest.approx(steps, rel=error)


@pytest.mark.parametrize("by", ["steps", "calls"])
def test_a_budget_of_more_steps_than_a_stage_has_is_refused(
    by: Literal["steps", "calls"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmap.comparison.budget.MOST_STEPS", 5000)
    plan = scripted_plan(scripted(turn(lambda scene: 1)), tmp_path, batch=BATCH)
    per_step = EACH if by == "calls" else 1
    assert steps_within(plan.recipe, "teacher", BudgetConfig(by=by, amount=float(4990 * per_step)), 1.0) == 4990
    with pytest.raises(FlowmapError, match=r"pays for more than 5,000 steps of stage 'teacher'.*lower budget.amount"):
        steps_within(plan.recipe, "teacher", BudgetConfig(by=by, amount=1e18), 1.0)


def test_steps_of_many_calls_are_counted_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmap.comparison.budget._COUNTED_CALLS", 2000)
    monkeypatch.setattr("flowmap.comparison.budget._SAMPLED_CALLS", 400)
    asked = 0

    def many(scene: Scene) -> int:
        nonlocal asked
        asked += 1
        return 10 + drawn(scene)

    plan = scripted_plan(scripted(turn(many)), tmp_path, batch=BATCH)
    bought = steps_within(plan.recipe, "teacher", BudgetConfig(by="calls", amount=EACH * 12.0 * 900), 1.0)
    assert bought == pytest.approx(900, rel=0.05)
    # 2000 calls are of some 170 steps; after them one in about 33 steps is counted.
    assert asked < 300


def test_an_objective_that_falls_idle_is_refused(tmp_path: Path) -> None:
    plan = scripted_plan(scripted(turn(lambda scene: int(scene.draw.step < 50))), tmp_path, batch=BATCH)
    with pytest.raises(FlowmapError, match="spends nothing from step 50 on"):
        steps_within(plan.recipe, "teacher", BudgetConfig(by="calls", amount=1e4), 1.0)
