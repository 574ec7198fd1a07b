"""The watchdog: what is a sign of a collapse, what is none, and what a run does about it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_distribution.matching import moments

from flowmap.errors import FlowmapError
from flowmap.files.manifest import checkpoints
from flowmap.maths.draw import Draw
from flowmap.recipe.read import read
from flowmap.recipe.tables import WatchdogConfig
from flowmap.training.rewinds import REWINDS, lowered
from flowmap.training.watchdog import Alarm, Watchdog, quantities
from tests.small_runs import (
    EVERYTHING,
    FORWARD,
    HEAD,
    ON_POLICY,
    TEACHER,
    Watcher,
    checkpoints_every,
    planned,
    train_all,
)

DETECTED = 20
"""Steps within which a collapse that multiplies a quantity by 10 is noticed (docs/recipe.md says so)."""


@dataclass
class Step:
    """What a watchdog looks at."""

    step: int
    losses: dict[str, float]
    norms: dict[str, float]
    raw: dict[str, float]


def line(step: int, loss: float = 1.0, norm: float = 1.0, variance: float = 1.0) -> Step:
    """Samples with so many times the variance of data around 2 that vary by 3."""
    raw = {"samples": 2.0, "samples_squared": 4 + 3 * variance, "data": 2.0, "data_squared": 7.0}
    return Step(step, {"dmd": loss}, {"student": norm}, {f"dmd/{key}": value for key, value in raw.items()})


def alarms(steps: list[Step]) -> list[tuple[int, Alarm]]:
    """The step and alarm of each."""
    watchdog = Watchdog(WatchdogConfig())
    return [(found.step, alarm) for found in steps for alarm in watchdog.see(found)]


def noise(seed: int, step: int) -> float:
    """A factor as losses vary between steps: log-normal, 0.4."""
    return math.exp(0.4 * torch.randn(1, generator=torch.Generator().manual_seed(1000 * seed + step)).item())


@pytest.mark.parametrize("kind", ["loss", "norm"])
def test_a_sudden_rise_is_noticed_within_so_many_steps(kind: str) -> None:
    lines = [line(s, **{kind: noise(0, s) * (10 if s > 200 else 1)}) for s in range(1, 400)]
    (step, alarm), *more = alarms(lines)
    assert 200 < step <= 200 + DETECTED
    assert 200 - DETECTED < alarm.good <= 200
    assert "times its running mean" in alarm.why
    assert more == []


@pytest.mark.parametrize("seed", range(20))
def test_what_falls_by_orders_and_wanders_is_healthy(seed: int) -> None:
    """Losses fall by a factor of 100 in a stage, norms vary, and sample variances move by half."""
    lines = [
        line(
            s,
            loss=noise(seed, s) * math.exp(-s / 200),
            norm=noise(seed + 50, s),
            variance=1 + 0.5 * math.sin(s / 90) * noise(seed + 99, s) / 3,
        )
        for s in range(1, 1000)
    ]
    assert alarms(lines) == []


@pytest.mark.parametrize(("slope", "within"), [(-1 / 10, 40), (-1 / 400, 700), (1 / 400, 700)])
def test_variances_that_leave_the_data_s_are_noticed_however_slowly(slope: float, within: int) -> None:
    lines = [line(s, variance=math.exp(slope * max(0, s - 200))) for s in range(1, 2000)]
    (step, alarm), *_ = alarms(lines)
    assert 200 < step <= 200 + within
    assert alarm.why.startswith("the variance of samples is")


def test_an_alarm_is_raised_once_until_the_sign_is_gone() -> None:
    levels = [1.0] * 100 + [10.0] * 30 + [1.0] * 200 + [10.0] * 30
    found = alarms([line(s, loss=level) for s, level in enumerate(levels, start=1)])
    assert len(found) == 2


def test_nothing_and_what_is_no_number_are_no_sign() -> None:
    assert alarms([line(s, loss=0.0, norm=math.nan if s % 2 else 1.0) for s in range(1, 200)]) == []


@pytest.mark.parametrize("parts", [1, 4])
def test_the_variance_along_a_direction_is_that_of_all_samples_however_they_are_split(parts: int) -> None:
    draw = Draw.whole(0, "stage", 3, "turn", 4000)
    x = 5 + torch.tensor([1.0, 2.0, 0.5, 1.0]) * draw.normal("x", (1, 4))
    some = [moments(x[part::parts], 2 * x[part::parts], draw) for part in range(parts)]
    raw = {f"dmd/{key}": float(torch.cat([found[key] for found in some]).mean()) for key in some[0]}
    found = {name: value for name, value, _ in quantities(Step(1, {}, {}, raw), 4.0)}
    # Along whatever direction, half as far is a quarter of the variance.
    assert found == {"the variance of samples": pytest.approx(0.25, rel=1e-4)}
    dice = torch.Generator().manual_seed(int(draw.shared("direction").integers(2**31)))
    expected = (x.flatten(1) @ torch.randn(4, generator=dice) / 2).var(correction=0)
    assert raw["dmd/samples_squared"] - raw["dmd/samples"] ** 2 == pytest.approx(float(expected), rel=1e-3)


# --- a run

LONG = (
    ON_POLICY.replace("steps = 5", "steps = {steps}")
    .replace("rollout_steps = [1, 2, 4]", "rollout_steps = [1, 2]")
    .replace("{", "{{")
    .replace("}", "}}")
    .replace("{{steps}}", "{steps}")
)
RECIPE = HEAD + TEACHER + FORWARD + LONG.format(steps=80) + checkpoints_every(2, keep=99)
"""Healthy; what provokes a collapse comes from `collapsing`."""


def collapsing(monkeypatch: pytest.MonkeyPatch, at: int, unless_below: float = 0.0) -> None:
    """From step `at` on the student's learning rate is so high that it collapses, unless it has been lowered."""
    from flowmap.training import loop

    real = loop.learning_rate

    def rate(config: Any, step: int, steps: int) -> float:
        found = real(config, step, steps)
        return found * 300 if step >= at and steps == 80 and config.lr > unless_below else found

    monkeypatch.setattr(loop, "learning_rate", rate)


def test_a_healthy_run_is_silent(tmp_path: Path) -> None:
    plan = planned(RECIPE, tmp_path, "watchdog.action=stop")
    watcher = train_all(plan)
    assert [r for r in watcher.records if r.doubts] == []
    assert "dmd/samples_squared" in watcher.records[-1].raw


def test_a_provoked_collapse_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, 40)
    watcher = train_all(planned(RECIPE, tmp_path))
    doubts = [(r.step, doubt) for r in watcher.records if len(r.lr) == 2 for doubt in r.doubts]
    assert doubts
    assert 40 < doubts[0][0] <= 40 + DETECTED
    assert "may be a collapse: " in doubts[0][1]


def test_it_stops_where_the_recipe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, 40)
    plan = planned(RECIPE, tmp_path, "watchdog.action=stop")
    with pytest.raises(
        FlowmapError, match=r"stage 'on_policy' seems to collapse: .* the last checkpoint before is"
    ) as e:
        train_all(plan)
    assert e.value.code == 1
    assert re.search(r"the last checkpoint before is \S+step-0000(2[0-9]|3[0-8])\.", str(e.value))
    newest = checkpoints(plan.find("on_policy", 0).folder)[-1].step
    assert newest < 40 + DETECTED


def test_it_goes_back_with_lower_learning_rates_where_the_recipe_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(RECIPE, tmp_path, "watchdog.action=rewind", "watchdog.lower=0.1")
    stage = plan.find("on_policy", 0)
    (rate,) = {stage.stage.optimizer.lr}
    collapsing(monkeypatch, 40, unless_below=rate / 2)
    watcher = train_all(plan)
    (told,) = watcher.warnings
    assert "went back to step" in told
    assert "at 0.1 of its learning rates" in told
    (past,) = [json.loads(text) for text in (stage.folder / REWINDS).read_text().splitlines()]
    assert 20 <= past["to"] <= 38
    assert past["lr"] == lowered(stage) == 0.1
    steps = [json.loads(text)["step"] for text in (stage.folder / "steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))
    rates = [r.lr["student"] for r in watcher.records if len(r.lr) == 2][-1]
    assert rates == pytest.approx(0.1 * rate)
    late = {path.name for path in stage.folder.glob("checkpoints/collapsed-*")}
    assert late == {f"collapsed-1-step-{s:06d}" for s in range(past["to"] + 2, past["step"], 2)}
    # Stopped and gone on, it stays at the lower rates.
    assert lowered(planned(RECIPE, tmp_path, "watchdog.action=rewind").find("on_policy", 0)) == 0.1


def test_it_goes_back_so_often_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collapsing(monkeypatch, 40)
    plan = planned(RECIPE, tmp_path, "watchdog.action=rewind", "watchdog.lower=0.9", "watchdog.rewinds=2")
    watcher = Watcher()
    with pytest.raises(FlowmapError, match=r"It has gone back 2 times, .* at 0.81 of its learning rates"):
        train_all(plan, watcher)
    assert len(watcher.warnings) == 2
    # Each time from further back: what it went back to the time before was no good.
    first, second = [json.loads(text) for text in (plan.find("on_policy", 0).folder / REWINDS).read_text().splitlines()]
    assert second["to"] < first["to"]


def test_only_stages_with_a_critic_are_watched(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(HEAD + TEACHER + FORWARD)
    _, warnings = read(path, ("watchdog.action=stop",))
    assert [w for w in warnings if "watchdog" in w and "no stage trains a critic" in w]
    path.write_text(HEAD + EVERYTHING)
    _, warnings = read(path, ("watchdog.rewinds=5",))
    assert [w for w in warnings if "watchdog.rewinds: warning: has no effect: action is 'warn'" in w]
