"""Comparisons from end to end: shared stages, equal budgets, failures, resumption, the page and its lines."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from rich.console import Console

import flowmap
from flowmap.comparison.allotment import allotted
from flowmap.comparison.budget import equivalents, seconds_per_step, steps_within
from flowmap.comparison.page import write_page
from flowmap.comparison.processes import threads_of
from flowmap.comparison.record import load
from flowmap.comparison.run import _warn, compare
from flowmap.comparison.sentences import sentences
from flowmap.comparison.specification import BudgetConfig
from flowmap.comparison.standings import Standings
from flowmap.comparison.unfold import read_comparison
from flowmap.console.signals import Interruption
from flowmap.errors import FlowmapError
from flowmap.files.json_lines import read_lines
from flowmap.files.shelf import SHELF
from flowmap.planning.tally import Tally
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.statistics.intervals import difference
from flowmap.statistics.spots import Spot
from flowmap.use.evaluate import evaluate
from tests.small_runs import planned, preload_trainings, train_all

FORKSERVER = multiprocessing.get_context("forkserver")
BUDGET = 640

SPEC = f"""
name = "small"
about = "What it can show."
seeds = [0, 1]
processes = 2
against = "map"
budget = {{ by = "calls", amount = {BUDGET} }}

[recipe]
data = "checkerboard"
backbone = {{ type = "mlp", width = 8, depth = 1 }}
compute = {{ threads = 1 }}

[[recipe.stages]]
name = "teacher"
steps = 6
batch = 8
objective = "flow_matching"

[recipe.evaluation]
teacher = "teacher"
teacher_calls = 2
metrics = ["sliced_wasserstein", "frechet_pixels"]
calls = [1, 2]
samples = 16
repeats = 2
real = 200

[stage]
batch = 8
roles.student = {{ from = "teacher" }}
roles.teacher = {{ from = "teacher" }}

[[contestants]]
name = "teacher"
stage = "teacher"
samplers = ["euler", "heun"]

[[contestants]]
name = "map"
samplers = ["flow_map"]
stages = [{{ objective = "flow_map" }}]

[[contestants]]
name = "twin"
samplers = ["flow_map"]
stages = [{{ objective = "flow_map" }}]

[[contestants]]
name = "two"
samplers = ["consistency"]
stages = [
  {{ name = "first", objective = "discrete_flow_map", share = 1 }},
  {{ objective = "consistency", roles.student = {{ from = "first" }}, share = 3 }},
]
"""

BROKEN = """
[[contestants]]
name = "broken"
samplers = ["flow_map"]
stages = [{ objective = "flow_map", optimizer = { lr = 1e3, weight_decay = 1e3 }, clip = 0 }]
"""


def run(
    folder: Path, text: str = SPEC, redo: Sequence[str] = (), fresh: bool = False, overrides: Sequence[str] = ()
) -> str:
    """Run the comparison under `folder`; what it printed."""
    (folder / "spec.toml").write_text(text)
    console = Console(record=True, width=200, file=io.StringIO())
    compare([folder / "spec.toml"], [], folder / "runs", None, False, redo, console)
    return console.export_text()


@pytest.fixture(scope="module", autouse=True)
def _quick_trainings() -> None:
    preload_trainings()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished comparison's folder (under `runs`), and what was printed."""
    folder = tmp_path_factory.mktemp("comparison")
    return folder, run(folder)


@pytest.fixture
def again(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it, to go on from."""
    shutil.copytree(finished[0], tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def standings(folder: Path) -> Standings:
    return load(folder / "runs" / "small")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(folder / "runs" / "small" / "comparison.jsonl") if line["kind"] == kind]


def test_what_several_build_on_is_trained_once(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    root = folder / "runs" / "small"
    for seed in ("seed-0", "seed-1"):
        teachers = {(root / name / seed / "teacher").resolve() for name in ("teacher", "map", "twin", "two")}
        assert len(teachers) == 1
        assert (root / "map" / seed / "student").resolve() == (root / "twin" / seed / "student").resolve()
        assert not (root / "two" / seed / "student").is_symlink()
    # One teacher and one map per seed.
    assert len(list((root / "shared").glob("*/*/steps.jsonl"))) == 4
    assert len(re.findall("shared: teacher", printed)) == 2


def test_what_others_wait_for_is_trained_first(tmp_path: Path) -> None:
    """By seeds, a core would have nothing to do while each seed's teacher is trained."""
    text = (
        SPEC.split('[[contestants]]\nname = "twin"', maxsplit=1)[0]
        .replace('"frechet_pixels"', "")
        .replace("heun", "unipc")
    )
    printed = run(tmp_path, text.replace("processes = 2", "processes = 1"))
    order = re.findall(r"✓ (.*): \d+ s", printed)
    assert order[:2] == ["shared: teacher, seed 0", "shared: teacher, seed 1"]
    assert sorted(order[2:]) == ["map, seed 0", "map, seed 1", "teacher, seed 0", "teacher, seed 1"]


def test_what_another_comparison_has_trained_is_taken_over(again: Path) -> None:
    """A teacher of equal configuration is the same, to the last digit; but not one that is damaged, or set aside."""
    root = again / "runs"
    damaged = next((root / "small/shared/seed-1").glob("teacher-*/checkpoints/*/*.safetensors"))
    shutil.copytree(root / "small", root / "small.old-1", symlinks=True)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    text = SPEC.split('[[contestants]]\nname = "twin"', maxsplit=1)[0].replace('name = "small"', 'name = "other"')
    printed = run(again, text)
    (first,) = (root / "small/shared/seed-0").glob("teacher-*")
    assert f"shared: teacher, seed 0: the same is in {first}; taken over from there\n" in printed
    assert printed.count("taken over") == 1
    (copy,) = (root / "other/shared/seed-0").glob("teacher-*")
    assert (copy / "steps.jsonl").read_bytes() == (first / "steps.jsonl").read_bytes()  # with its times
    found, expected = (load(root / name) for name in ("other", "small"))
    map_ = next(row for row in found.rows if found.label(row) == "map")
    assert found.at(found.metric, 1)[map_].mean == expected.at(expected.metric, 1)[map_].mean
    assert "taken over" not in run(again, text, fresh=True)


def test_the_teacher_s_samples_are_made_once_per_seed_and_change_no_number(finished: tuple[Path, str]) -> None:
    root = finished[0] / "runs" / "small"
    shelves = {run.resolve() for run in root.glob(f"*/seed-*/{SHELF}")}
    assert shelves == {(root / "shared" / SHELF).resolve()}
    kept = list((root / "shared" / SHELF).glob("*.safetensors"))
    assert len(kept) == 2
    for name, seed in (("map", 0), ("twin", 1)):
        alone = finished[0] / "alone"
        shutil.copytree(root / name / f"seed-{seed}", alone / f"seed-{seed}", ignore=shutil.ignore_patterns(SHELF))
        recipe, _ = read(root / name / f"seed-{seed}.toml")
        before = (alone / f"seed-{seed}" / "metrics.jsonl").read_text()
        (alone / f"seed-{seed}" / "metrics.jsonl").unlink()
        evaluate(make_plan(recipe, alone), torch.device("cpu"), lambda text: None)
        assert (alone / f"seed-{seed}" / "metrics.jsonl").read_text() == before
        shutil.rmtree(alone)


@pytest.mark.slow
def test_the_harness_favours_nobody(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Another order, another name, and one more contestant: the same scores and sentences."""
    head, *contestants = SPEC.split("[[contestants]]")
    alias = contestants[2].replace('"twin"', '"alias"')
    idle = contestants[0].replace('"teacher"\nstage', '"idle"\nstage').replace('"euler", "heun"', '"unipc"')
    others = [contestants[3], idle, alias, contestants[1], contestants[0]]
    run(tmp_path, "[[contestants]]".join([head, *others]))
    before, after = standings(finished[0]), standings(tmp_path)
    for place, spots in before.spots.items():
        for row, spot in spots.items():
            name = row.contestant.replace("twin", "alias")
            assert after.spots[place][row._replace(contestant=name)].values == spot.values
    first, second = (
        [t for t in sentences(found) if " against map: " in t and not t.startswith(("teacher", "idle"))]
        for found in (before, after)
    )
    assert first
    assert [t.replace("twin", "alias") for t in first] == second[::-1]


def test_budgets_are_equal_in_the_ledger(finished: tuple[Path, str]) -> None:
    """To half a step: the ledger of what was run against the budget."""
    found = standings(finished[0])
    for spent in found.spent:
        if spent.contestant == "teacher":
            assert not spent.calls
            continue
        for seed in found.seeds:
            steps = sum(spent.steps.values())
            # Of two stages each is rounded to its own nearest step.
            assert abs(spent.calls[seed] - BUDGET) <= len(spent.steps) * 0.75 * BUDGET / steps
    first, second = (next(s for s in found.spent if s.contestant == "two").steps[name] for name in ("first", "student"))
    assert second > 2 * first


def test_contestants_see_the_same_training_and_the_same_noise(finished: tuple[Path, str]) -> None:
    """Twins are the same to the last digit, so that what differs between others is what the specification names."""
    found = standings(finished[0])
    for metric in found.metrics:
        for calls in found.calls(metric):
            spots = {row.contestant: spot for row, spot in found.at(metric, calls).items() if row.sampler == "flow_map"}
            assert spots["map"].values == spots["twin"].values
    twins = [
        d for d in lines(finished[0], "difference") if {d["a"]["contestant"], d["b"]["contestant"]} == {"map", "twin"}
    ]
    assert len(twins) == 4
    assert all((d["mean"], d["verdict"], d["count"], d["over"]) == (0, "same", 2, "seeds") for d in twins)


def test_the_lines_hold_everything(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    # Heun needs two calls: five rows at two calls, four at one, by two metrics.
    assert len(lines(folder, "score")) == 2 * (4 + 5)
    assert len(lines(folder, "difference")) == 2 * (6 + 10)
    score = lines(folder, "score")[0]
    assert {len(values) for values in score["values"].values()} == {2}
    assert [line["contestant"] for line in lines(folder, "cost")] == ["teacher", "map", "twin", "two"]
    assert [line["text"] for line in lines(folder, "finding")] == sentences(standings(folder))
    assert lines(folder, "failure") == []


def test_the_page_says_it_in_words_and_needs_nothing_else(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    page = (folder / "runs" / "small" / "comparison.html").read_text()
    assert "What it can show." in page
    for sentence in sentences(standings(folder)):
        assert sentence in re.sub(r"\s+", " ", printed)
    assert "twin against map: does not differ at any number of calls." in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert page.count("<img") == 2 + 2 * 4 + 1  # real, teacher; four rows at two calls, and Heun


def test_a_finished_comparison_is_not_run_again(again: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in again.rglob("steps.jsonl")}
    run(again)
    assert {path: path.stat().st_mtime_ns for path in again.rglob("steps.jsonl")} == before


def test_a_comparison_from_python_is_the_same(again: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in again.rglob("steps.jsonl")}
    found = flowmap.compare(again / "spec.toml", runs=again / "runs")
    assert {path: path.stat().st_mtime_ns for path in again.rglob("steps.jsonl")} == before
    assert sentences(found) == sentences(standings(again))
    assert found.folder == again / "runs" / "small"


def test_a_contestant_that_comes_later_shares_what_is_there(again: Path) -> None:
    teachers = {path: path.stat().st_mtime_ns for path in again.rglob("shared/**/steps.jsonl")}
    late = '[[contestants]]\nname = "late"\nsamplers = ["flow_map"]\nstages = [{ objective = "discrete_flow_map" }]\n'
    run(again, SPEC + late)
    assert {path: path.stat().st_mtime_ns for path in teachers} == teachers
    assert "late" in {row.contestant for row in standings(again).rows}


def test_a_failure_takes_no_other_down_and_is_said(again: Path) -> None:
    with pytest.raises(
        FlowmapError, match=r"2 of \d+ trainings failed:\n  broken, seeds 0 and 1: stage 'student'"
    ) as error:
        run(again, SPEC + BROKEN)
    assert "To go on: " in str(error.value)
    assert error.value.code == 1
    found = standings(again)
    assert {f.contestant for f in found.failures} == {"broken"}
    assert {row.contestant for row in found.rows} == {"teacher", "map", "twin", "two"}
    page = (again / "runs" / "small" / "comparison.html").read_text()
    assert "Some trainings failed" in page
    # Mended, it goes on.
    run(again, SPEC + BROKEN.replace("lr = 1e3, weight_decay = 1e3", "lr = 1e-3"))
    assert standings(again).failures == ()


def test_a_torn_line_of_what_is_finished_costs_that_training_and_no_other(again: Path) -> None:
    path = again / "runs" / "small" / "finished.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole)[:-9])
    printed = run(again)
    assert [line for line in printed.splitlines() if line.startswith(("✓", "✗"))] != []
    assert printed.count("✓") == 1
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(whole)
    path.write_bytes(b"".join(whole) + b"[1]\n")
    with pytest.raises(FlowmapError, match=rf"finished\.jsonl, line {len(whole) + 1}: damaged, .*; delete the line"):
        run(again)
    path.write_bytes(b"".join(whole))
    budgets = path.with_name("budget.jsonl")
    budgets.write_text(budgets.read_text().replace('"steps": ', '"steps": -', 1))
    with pytest.raises(FlowmapError, match=r"budget\.jsonl, line 1: damaged, 'steps'"):
        run(again)


RCM = """
[[contestants]]
name = "regularised"
samplers = ["flow_map"]
stages = [{ objective = "rcm", roles.critic.from = "teacher" }]
"""


def test_what_is_doubtful_once_steps_are_known_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC + RCM)
    comparison, _ = read_comparison([tmp_path / "spec.toml"])
    steps = {seed: {"student": 3} for seed in comparison.seeds}
    entrants = tuple(replace(e, steps=steps) if e.name == "regularised" else e for e in comparison.entrants)
    console = Console(record=True, width=300, file=io.StringIO())
    _warn(replace(comparison, entrants=entrants), console)
    line = (SPEC + RCM).splitlines().index('stages = [{ objective = "rcm", roles.critic.from = "teacher" }]') + 1
    told = console.export_text().splitlines()
    assert [text for text in told if "critic_steps" in text] == [
        f"{tmp_path / 'spec.toml'}:{line}: contestants.regularised.stages.0.objective.critic_steps: warning: the stage "
        "has 3 steps, of which the student takes the first alone; use fewer of the critic, or more steps "
        "(contestant regularised)"
    ]


def test_what_fails_before_all_others_is_the_reason_of_theirs(tmp_path: Path) -> None:
    diverging = "optimizer = { lr = 1e3, weight_decay = 1e3 }\nclip = 0\n"
    text = SPEC.replace('objective = "flow_matching"\n', f'objective = "flow_matching"\n{diverging}')
    with pytest.raises(FlowmapError, match="shared: teacher, seeds 0 and 1: stage 'teacher'") as error:
        run(tmp_path, text)
    assert "two, seeds 0 and 1: 'shared: teacher' failed, on which it builds" in str(error.value)


def test_a_comparison_does_not_work_in_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs/small").mkdir(parents=True)
    (tmp_path / "runs/small/recipe.lock.toml").write_text("")
    with pytest.raises(FlowmapError, match=r"small is the folder of a run; give the comparison another name"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "runs/small").iterdir()] == ["recipe.lock.toml"]
    # Nor among the seeds of one.
    with pytest.raises(FlowmapError, match=r"small/seed-0 lies in the folder of a run"):
        compare(
            [tmp_path / "spec.toml"], ["name=seed-0"], tmp_path / "runs/small", None, False, [], Console(quiet=True)
        )


@pytest.mark.slow
def test_another_configuration_is_refused_until_the_contestant_starts_over(again: Path) -> None:
    changed = SPEC.replace('objective = "consistency", roles', 'objective = "consistency", clip = 0.5, roles')
    with pytest.raises(FlowmapError, match=r"clip: was 1.0, is now 0.5\n.*--redo two") as error:
        run(again, changed)
    assert "--stage" not in str(error.value)
    run(again, changed, redo=["two"])
    assert (again / "runs" / "small" / "two.old-1").is_dir()
    with pytest.raises(FlowmapError, match=r"--redo too: unknown contestant 'too'.*Did you mean 'two'"):
        run(again, changed, redo=["too"])


def test_a_page_is_written_anew_from_the_folder_alone(again: Path) -> None:
    root = again / "runs" / "small"
    before = (root / "comparison.html").read_text()
    (root / "comparison.html").unlink()
    assert write_page(root).read_text() == before


@pytest.mark.slow
def test_several_recipes_are_compared_as_they_are(finished: tuple[Path, str], tmp_path: Path) -> None:
    comparison = read_comparison([finished[0] / "spec.toml"])[0]
    paths = []
    for entrant in comparison.entrants[1:]:
        recipe = entrant.recipe.model_copy(
            update={"stages": tuple(s.model_copy(update={"steps": 3}) for s in entrant.recipe.stages)}
        )
        paths.append(tmp_path / f"{entrant.name}.toml")
        paths[-1].write_text(tomli_w.dumps(recipe.as_tables()))
    console = Console(record=True, width=200, file=io.StringIO())
    compare([paths[0], paths[2]], [], tmp_path / "runs", 1, False, [], console)
    found = load(tmp_path / "runs" / "map-vs-two")
    assert {row.contestant for row in found.rows} == {"map", "two"}
    assert len(list((tmp_path / "runs" / "map-vs-two" / "shared").glob("seed-*/teacher-*"))) == 2
    paths[2].write_text(re.sub(r"\bcalls = \[[^\]]*\]", "calls = [1, 4]", paths[2].read_text()))
    with pytest.raises(FlowmapError, match=r"evaluation\.calls differs"):
        read_comparison([paths[0], paths[2]])


# -- budgets


def test_equivalents_by_hand() -> None:
    calls = {
        "student": {"grad": 1, "no_grad": 2, "grad_samples": 10, "no_grad_samples": 7},
        "teacher": {"grad": 0, "no_grad": 1, "grad_samples": 0, "no_grad_samples": 100},
    }
    assert equivalents(calls, recomputes=False) == 3 * 10 + 7 + 100
    assert equivalents(calls, recomputes=True) == 4 * 10 + 7 + 100


@pytest.mark.parametrize("amount", [100, 333, 4000])
def test_a_budget_buys_the_steps_that_come_nearest(finished: tuple[Path, str], amount: int) -> None:
    """Against counting: a flow-map step at batch 8 is 8 with gradient and 2 x 4 without."""
    recipe = read_comparison([finished[0] / "spec.toml"])[0].entrants[1].recipe
    per_step = 3 * 8 + 2 * 4
    assert steps_within(recipe, "student", BudgetConfig(by="calls", amount=float(amount)), 1.0) == round(
        amount / per_step
    )
    assert steps_within(recipe, "student", BudgetConfig(by="calls", amount=2.0 * amount), 0.5) == round(
        amount / per_step
    )
    assert steps_within(recipe, "student", BudgetConfig(by="steps", amount=float(amount)), 0.5) == round(amount / 2)


def test_a_budget_in_seconds_buys_what_the_measured_pace_does(
    finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_comparison([finished[0] / "spec.toml"])[0].entrants[1].recipe
    assert seconds_per_step(recipe, "student") > 0
    monkeypatch.setattr("flowmap.comparison.budget.seconds_per_step", lambda recipe, stage: 0.02)
    assert steps_within(recipe, "student", BudgetConfig(by="seconds", amount=3.0), 0.5) == 75


def test_a_budget_that_pays_for_nothing_is_refused(finished: tuple[Path, str], tmp_path: Path) -> None:
    recipe = read_comparison([finished[0] / "spec.toml"])[0].entrants[1].recipe
    with pytest.raises(FlowmapError, match="contestant 'map': 3 calls do not pay for one step of stage 'student'"):
        steps_within(recipe, "student", BudgetConfig(by="calls", amount=3.0), 1.0)
    comparison = read_comparison([finished[0] / "spec.toml"], ["budget.amount=3"])[0]
    with pytest.raises(FlowmapError, match="contestant 'map': 3 calls do not pay"):
        allotted(comparison, tmp_path, 2, FORKSERVER, Console(file=io.StringIO()))


def test_a_measured_budget_is_not_measured_again(again: Path) -> None:
    """What a pace bought when the comparison was begun is what is trained, however fast the machine is later."""
    root = again / "runs" / "small"
    known = read_lines(root / "budget.jsonl")
    assert {line["key"].split("/")[0] for line in known} == {"map", "twin", "two"}
    changed = [line | {"steps": line["steps"] + 1} if line["stage"] == "first" else line for line in known]
    (root / "budget.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))
    with pytest.raises(FlowmapError, match=r"stages\.first.steps: was"):
        run(again)


def test_every_seed_s_own_draws_are_counted(tmp_path: Path) -> None:
    """Rollouts of random length cost each seed something else; each gets the steps that its own budget buys."""
    rolls = (
        '[[contestants]]\nname = "rolls"\nsamplers = ["flow_map"]\nstages = [{ objective = "backward_simulation" }]\n'
    )
    (tmp_path / "spec.toml").write_text(
        SPEC.split("[[contestants]]", maxsplit=1)[0].replace('against = "map"\n', "") + rolls
    )
    comparison = read_comparison([tmp_path / "spec.toml"], ["budget.amount=9000", "seeds=[0, 1, 2, 3]"])[0]
    (entrant,) = allotted(comparison, tmp_path, 2, FORKSERVER, Console(file=io.StringIO())).entrants
    assert len({entrant.steps[seed]["student"] for seed in range(4)}) > 1
    for seed in range(4):
        steps, spent = entrant.steps[seed]["student"], [0]
        tally = Tally(make_plan(entrant.of_seed(seed), tmp_path).find("student", seed))
        for _ in range(steps + 1):
            tally.step()
            spent.append(equivalents({name: asdict(calls) for name, calls in tally.calls.items()}, False))
        off = [abs(spent[n] - 9000) for n in (steps - 1, steps, steps + 1)]
        assert off[1] == min(off)


def test_asdict_of_the_ledger_is_what_equivalents_take() -> None:
    from flowmap.training.ledger import Calls

    calls = Calls()
    calls.add(5, with_gradient=True)
    calls.add(5, with_gradient=False, passes=2)
    assert equivalents({"student": asdict(calls)}, recomputes=False) == 25


# -- a contestant against itself


@pytest.mark.slow
def test_a_contestant_against_itself_differs_as_often_as_the_interval_says(tmp_path: Path) -> None:
    """Forty trainings of one student, dealt 4000 times into two sides of three seeds each."""
    text = f"""
name = "self"
seeds = [{", ".join(map(str, range(40)))}]
data = "checkerboard"
backbone = {{ type = "mlp", width = 8, depth = 1 }}
compute = {{ threads = 1 }}

[[stages]]
name = "teacher"
steps = 30
batch = 32
objective = "flow_matching"
optimizer = {{ lr = 1e-2 }}

[[stages]]
name = "student"
steps = 30
batch = 32
objective = "flow_map"
roles.student = {{ from = "teacher" }}

[evaluation]
teacher = "teacher"
teacher_calls = 4
metrics = ["sliced_wasserstein"]
calls = [2]
samples = 200
repeats = 2
real = 400
contests = [{{ stage = "student", samplers = ["flow_map"] }}]
"""
    plan = planned(text, tmp_path)
    train_all(plan)
    evaluate(plan, torch.device("cpu"), lambda text: None)
    values = {line["seed"]: tuple(line["values"]) for line in read_lines(plan.folder / "metrics.jsonl")}
    assert len(values) == 40
    rng, trials, wrong = np.random.default_rng(0), 4000, 0
    for _ in range(trials):
        one, other = rng.permutation(40)[:6].reshape(2, 3)
        dealt = ({i: values[s] for i, s in enumerate(side)} for side in (one, other))
        sides = [Spot(side, dict.fromkeys(side, 0.0)) for side in dealt]
        wrong += difference(*sides).verdict != "same"
    assert 0.03 < wrong / trials < 0.075


# -- stopping


def process_that_logs_to(log: Path) -> int:
    """The process whose standard output is `log`."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/1") == str(log):
                return int(pid)
    raise AssertionError(f"nothing writes to {log}")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks for a process in /proc")
def test_ctrl_c_stops_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """The signal comes to one training only: the others are stopped too, and nothing that was finished is lost."""
    text = SPEC.replace("steps = 6", "steps = 20000")
    (tmp_path / "spec.toml").write_text(text)
    console = Console(record=True, width=200, file=io.StringIO())
    steps = tmp_path / "runs" / "small" / "teacher" / "seed-1" / "teacher" / "steps.jsonl"

    def interrupt() -> None:
        while not steps.exists() or not steps.stat().st_size:  # before its first step it has nothing to save
            time.sleep(0.05)
        os.kill(process_that_logs_to(tmp_path / "runs" / "small" / "teacher" / "seed-1.log"), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(FlowmapError, match=r"stopped; what was finished is saved.\nTo go on: .*compare") as caught:
        compare([tmp_path / "spec.toml"], [], tmp_path / "runs", None, False, [], console)
    assert caught.value.code == 130
    assert len(list(steps.parent.glob("checkpoints/step-*"))) == 1


def test_a_training_that_starts_as_ctrl_c_comes_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others, begun = multiprocessing.active_children(), ForkServerProcess.start
    started: list[ForkServerProcess] = []

    def start(self: ForkServerProcess) -> None:
        begun(self)
        if not started and (tmp_path / "runs/small/comparison.json").exists():  # trainings, not those who count
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    with pytest.raises(FlowmapError, match="stopped; what was finished is saved") as caught:
        run(tmp_path, SPEC.replace("steps = 6", "steps = 20000"))
    assert caught.value.code == 130
    assert len(started) == 1
    assert not started[0].is_alive()
    assert multiprocessing.active_children() == others


def test_processes_count_what_one_does_and_keep_it_as_they_go(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    comparison = read_comparison([tmp_path / "spec.toml"], ["seeds=[0, 1]"])[0]
    said = io.StringIO()
    alone = allotted(comparison, tmp_path / "alone", 1, FORKSERVER, Console(file=said))
    together = allotted(comparison, tmp_path / "together", 2, FORKSERVER, Console(file=io.StringIO()))
    assert together == alone
    assert len(said.getvalue().splitlines()) == len(read_lines(tmp_path / "alone" / "budget.jsonl"))
    # What was counted is not counted again.
    again = io.StringIO()
    assert allotted(comparison, tmp_path / "together", 2, FORKSERVER, Console(file=again)) == alone
    assert not again.getvalue()


def test_what_was_counted_before_one_that_cannot_be_paid_for_is_kept(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    comparison = read_comparison([tmp_path / "spec.toml"])[0]
    last = comparison.entrants[-1]
    poor = replace(last, own=dict.fromkeys(last.own, 1e-6))
    short = replace(comparison, entrants=(*comparison.entrants[:-1], poor))
    with pytest.raises(FlowmapError, match="do not pay for one step"):
        allotted(short, tmp_path, 2, FORKSERVER, Console(file=io.StringIO()))
    kept = {line["key"].split("/")[0] for line in read_lines(tmp_path / "budget.jsonl")}
    assert kept == {entrant.name for entrant in comparison.entrants[:-1] if entrant.own}


def test_a_process_that_is_killed_while_it_counts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    monkeypatch.setattr("flowmap.comparison.allotment._alone", _killed)
    with pytest.raises(FlowmapError, match="was killed; is there enough memory"):
        allotted(read_comparison([tmp_path / "spec.toml"])[0], tmp_path, 2, FORKSERVER, Console(file=io.StringIO()))


def test_ctrl_c_ends_the_counting_and_all_who_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    comparison = read_comparison([tmp_path / "spec.toml"])[0]
    others = multiprocessing.active_children()
    counting = tmp_path / "counting"
    monkeypatch.setattr("flowmap.comparison.allotment._bought", partial(_endless, counting))

    def interrupt() -> None:
        while not counting.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    with Interruption().raising():
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            allotted(comparison, tmp_path / "runs", 2, FORKSERVER, Console(file=io.StringIO()))
    assert multiprocessing.active_children() == others
    assert read_lines(tmp_path / "runs" / "budget.jsonl") == []


def _endless(counting: Path, budget: BudgetConfig, purchase: object) -> int:
    counting.touch()
    time.sleep(600)
    return 0


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("told", "processes", "threads"), [("", 2, 4), ("3", 2, 3), ("16", 2, 4), ("0", 1, 1), ("4,2", 8, 1)]
)
def test_trainings_share_processors_and_take_no_more_than_they_may(
    told: str, processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads_of(processes) == threads
