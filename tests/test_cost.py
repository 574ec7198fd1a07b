"""`flowmap plan` counts, without the networks, exactly what the ledger counts when they are trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from flowmap.errors import FlowmapError
from flowmap.planning.count import count
from flowmap.plugin import Finding, ObjectiveConfig, RoleSpec, StageFacts
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.layout import StagePlan, make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # What torch loads for its first forward-mode derivative uses torch.jit, which it deprecates itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

STEPS = 7
RECIPE = """\
name = "cost"
seeds = [3]
data = {{ type = "digits", conditional = {conditional} }}
backbone = {{ type = "mlp", width = 8, depth = 1 }}

[[stages]]
name = "only"
steps = {steps}
batch = 6
objective = {objective}
"""

OBJECTIVES = {
    "flow_matching": '"flow_matching"',
    "flow_matching, drop": '{ type = "flow_matching", drop_condition = 0.5 }',
    "flow_map": '"flow_map"',
    "flow_map, one sided": '{ type = "flow_map", tangent = { batched = false, step = 0.1 } }',
    "flow_map, jvp": '{ type = "flow_map", tangent = { method = "jvp" } }',
    "flow_map, guided": '{ type = "flow_map", cfg_scale = 3.0, drop_condition = 0.5 }',
    "flow_map, teacher": '{ type = "flow_map", velocity = "teacher", rebalance = false, cfg_scale = 2.0 }',
    "flow_map, free only": '{ type = "flow_map", rebalance = false, branches = { diffusion = 0, consistency = 0 } }',
    "flow_map, diffusion only": '{ type = "flow_map", branches = { diffusion = 1, consistency = 0 } }',
    "discrete_flow_map": '"discrete_flow_map"',
    "discrete_flow_map, euler": '{ type = "discrete_flow_map", solver = "euler", cfg_scale = 2.0 }',
    "consistency": '"consistency"',
    "consistency, euler": '{ type = "consistency", solver = "euler" }',
    "backward_simulation": '"backward_simulation"',
    "backward_simulation, flow_map": '{ type = "backward_simulation", forward = "flow_map", cfg_scale = 4.0 }',
    "backward_simulation, discrete": '{ type = "backward_simulation", forward = "discrete_flow_map" }',
    "backward_simulation, consistency": '{ type = "backward_simulation", sampler = "consistency" }',
    "backward_simulation, co-trained": '{ type = "backward_simulation", forward = "consistency" }',
    "backward_simulation, full": '{ type = "backward_simulation", unroll = "full" }',
    "mean_flow": '"mean_flow"',
    "mean_flow, guided": '{ type = "mean_flow", cfg_scale = 2.0 }',
    "eulerian": '"eulerian"',
    "eulerian, self": '{ type = "eulerian", velocity = "self" }',
    "lagrangian": '"lagrangian"',
    "lagrangian, difference": '{ type = "lagrangian", tangent = { method = "central" } }',
    "semigroup": '"semigroup"',
    "shortcut": '"shortcut"',
    "transition": '"transition"',
    "consistency_training": '"consistency_training"',
    "scm": '"scm"',
    "scm, data": '{ type = "scm", velocity = "data", tangent = { method = "central" } }',
    "tcm": '"tcm"',
    "dmd2": '"dmd2"',
    "self_forcing": '"self_forcing"',
    "causvid": '"causvid"',
    "trajectory": '{ type = "trajectory", trajectory_steps = 8 }',
    "rcm": '"rcm"',
}


def test_no_objective_is_left_out() -> None:
    assert set(catalogue().names("objective")) <= {name.split(",")[0] for name in OBJECTIVES}


def plan_of(here: Path, objective: str, steps: int = STEPS, conditional: bool = False) -> StagePlan:
    text = RECIPE.format(objective=objective, steps=steps, conditional=str(conditional).lower())
    (here / "r.toml").write_text(text)
    return make_plan(read(Path("r.toml"))[0], here / "runs").stages[0]


def trained(plan: StagePlan) -> tuple[dict[str, Counter[str]], int]:
    """What the real loop's records add up to: calls per role, and backwards."""
    calls: dict[str, Counter[str]] = {}
    backwards = 0
    for record in run_stage(open_stage(plan, Processes(ComputeConfig(device="cpu"))), 0):
        backwards += record.backwards
        for role, counted in record.calls.items():
            calls.setdefault(role, Counter()).update(counted)
    return calls, backwards


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_the_cost_is_what_the_ledger_counts(objective: str, here: Path) -> None:
    conditional = "cfg_scale" in objective or "drop" in objective or "shortcut" in objective
    plan = plan_of(here, objective, conditional=conditional)
    cost = count(plan)
    calls, backwards = trained(plan)
    assert {role: Counter(vars(counted)) for role, counted in cost.calls.items()} == calls
    assert sum(cost.backwards.values()) == backwards
    assert cost.steps == STEPS
    assert backwards >= STEPS


class StrangeConfig(ObjectiveConfig):
    """Turns of different rhythm, and gradients through a frozen role."""

    type: Literal["strange"] = "strange"

    def roles(self) -> Mapping[str, RoleSpec]:
        return {
            "student": RoleSpec("velocity", True, "every second step"),
            "critic": RoleSpec("velocity", True, "every step"),
            "teacher": RoleSpec("velocity", False, "asked twice"),
        }

    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        return []

    def build(self) -> Any:
        from flowmap.interfaces import Loss, Objective, Scene, Turn, every

        def losses(role: str) -> Callable[[Scene], Iterator[Loss]]:
            def one(scene: Scene) -> Iterator[Loss]:
                x, cond, t = scene.batch.x0, scene.batch.cond, scene.draw.uniform("t")
                # Neither call of the teacher is with gradient: it is frozen, and so is what goes in.
                for _ in range(2):
                    x = scene.velocity("teacher").velocity(x, t, cond)
                x = scene.velocity(role).velocity(x, t, cond)
                # This one is: the gradient goes through it to the role.
                yield Loss(role, scene.velocity("teacher").velocity(x, t, cond).square().mean())

            return one

        class Strange(Objective):
            def turns(self) -> tuple[Turn, ...]:
                return (Turn("student", losses("student"), every(2)), Turn("critic", losses("critic")))

        return Strange()


def test_turns_that_are_not_taken_at_every_step(here: Path, install: Callable[..., None]) -> None:
    install(StrangeConfig)
    plan = plan_of(here, '"strange"')
    cost = count(plan)
    assert cost.backwards == {"student": 4, "critic": STEPS}
    assert (cost.calls["teacher"].grad, cost.calls["teacher"].no_grad) == (4 + STEPS, 2 * (4 + STEPS))
    calls, _ = trained(plan)
    assert {role: Counter(vars(counted)) for role, counted in cost.calls.items()} == calls


def test_backwards_are_counted_for_the_role_they_train(here: Path) -> None:
    cost = count(plan_of(here, '{ type = "backward_simulation", forward = "flow_map" }'))
    assert cost.backwards == {"student": 2 * STEPS, "critic": STEPS}


def test_a_long_stage_is_counted_in_part_and_a_short_one_whole(here: Path) -> None:
    assert count(plan_of(here, '"flow_matching"', steps=5000)).steps == 256
    assert count(plan_of(here, '"flow_matching"', steps=3)).steps == 3


def test_steps_of_very_many_calls_are_counted_until_there_were_enough(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowmap.planning.count._MOST_CALLS", 30)
    # A call for the student and one for its derivative at each step.
    cost = count(plan_of(here, '"flow_map"', steps=5000))
    assert (cost.steps, cost.calls["student"].grad + cost.calls["student"].no_grad) == (15, 30)


@pytest.mark.parametrize(
    "objective",
    ['"flow_map"', pytest.param('{ type = "backward_simulation", forward = "flow_map" }', marks=pytest.mark.slow)],
)
def test_of_many_micro_batches_one_of_each_step_stands_for_all(
    objective: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a step draws for all is counted at every step; branches come about in their shares, halves and quarters."""
    text = RECIPE.format(objective=objective, steps=64, conditional="false")
    (here / "r.toml").write_text(text.replace("batch = 6", "batch = 16"))
    plan = make_plan(read(Path("r.toml"), ["compute.micro_batch=1"])[0], here / "runs").stages[0]
    monkeypatch.setattr("flowmap.planning.count._WHOLE_PARTS", 10_000)
    monkeypatch.setattr("flowmap.planning.count._WHOLE_CALLS", 1_000_000)
    whole = count(plan)
    monkeypatch.setattr("flowmap.planning.count._WHOLE_PARTS", 1_000)
    part = count(plan)
    assert (whole.steps, whole.whole_steps) == (64, 64)
    assert (part.steps, part.whole_steps) == (64, 4)
    for role, calls in whole.calls.items():
        assert {k: n / 64 for k, n in vars(calls).items()} == {k: n / 4 for k, n in vars(part.calls[role]).items()}
    assert {k: n / 64 for k, n in whole.backwards.items()} == {k: n / 4 for k, n in part.backwards.items()}
    assert set(part.scripts) <= set(whole.scripts)
    # So it is where a step turns out to have many calls, and of few steps those that are taken lie far apart.
    monkeypatch.setattr("flowmap.planning.count._WHOLE_PARTS", 10_000)
    monkeypatch.setattr("flowmap.planning.count._WHOLE_CALLS", 10)
    assert count(plan).calls == part.calls
    few = count(plan, most=4)
    assert (few.steps, few.whole_steps) == (4, 1 / 4)


def test_more_samples_at_a_time_than_can_be_counted_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmap.planning.tally._MOST_NUMBERS", 5)
    with pytest.raises(
        FlowmapError, match=r"stage 'only': 6 samples at a time x 1 frames .* lower compute.micro_batch"
    ):
        count(plan_of(here, '"flow_map"'))
