"""Differences are measured in training: when, in which files, on the console, and without leaving a trace."""

from __future__ import annotations

import json
import re
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flowmap.console.signals import Interruption
from flowmap.files.folder import StoppedError
from flowmap.files.manifest import checkpoints
from flowmap.recipe.step_length import NAME
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.processes import Processes
from flowmap.training.train import train
from tests.process_runs import shared
from tests.small_runs import HEAD, TEACHER, Watcher, assert_same, checkpoints_every, flowmap, planned, train_all

FORWARD = """
[[stages]]
name = "forward"
steps = {steps}
batch = 8
objective = {objective}
roles.student.from = "teacher"
"""
FLOW_MAP = '{ type = "flow_map", tangent.step = 0.005 }'
FAST = HEAD.replace('"mlp"', '"mlp", frequency = 1000')


FAST_TEACHER = TEACHER.replace("steps = 6", "steps = 200").replace("warmup = 2", "lr = 0.1, warmup = 2")
"""It learns to use its fast features."""


def text(head: str = HEAD, steps: int = 12, objective: str = FLOW_MAP) -> str:
    return (
        head
        + (FAST_TEACHER if head == FAST else TEACHER)
        + FORWARD.format(steps=steps, objective=objective)
        + checkpoints_every(50, keep=99)
    )


def lines(folder: Path, stage: str = "forward") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs/small" / stage / "steps.jsonl").read_text().splitlines()]


def measured(folder: Path) -> dict[int, float]:
    """The measured errors of the stage `forward`, by step."""
    return {line["step"]: line["raw"][NAME] for line in lines(folder) if NAME in line["raw"]}


def test_the_first_and_the_tenth_step_are_measured_and_what_is_right_is_not_doubted(tmp_path: Path) -> None:
    watcher = train_all(planned(text(), tmp_path))
    found = measured(tmp_path)
    assert list(found) == [1, 10]
    assert all(1e-5 < error < 0.05 for error in found.values())
    assert not [record for record in watcher.records if record.doubts]
    assert not [line for line in lines(tmp_path) + lines(tmp_path, "teacher") if "doubts" in line]
    assert not [line for line in lines(tmp_path, "teacher") if NAME in line["raw"]]


@pytest.mark.parametrize(
    ("objective", "updates"),
    [
        ('{ type = "flow_map", tangent.batched = false }', [1, 10]),
        # At the first update its student does not depend on r yet: there is no derivative that could be off.
        ('{ type = "lagrangian", velocity = "self", tangent.method = "central" }', [10]),
        ('{ type = "scm", velocity = "data", tangent.method = "central" }', [1, 10]),
        ('{ type = "backward_simulation", rollout_steps = [1, 2], forward = "flow_map" }', [1, 10]),
    ],
)
def test_every_objective_that_takes_differences_is_measured(objective: str, updates: list[int], tmp_path: Path) -> None:
    train_all(planned(text(steps=10, objective=objective), tmp_path))
    assert list(measured(tmp_path)) == updates


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_of_forward_mode_nothing_is_measured(tmp_path: Path) -> None:
    train_all(planned(text(steps=2, objective='{ type = "flow_map", tangent.method = "jvp" }'), tmp_path))
    assert measured(tmp_path) == {}


def test_updates_are_counted_by_the_turn(tmp_path: Path) -> None:
    """The student's second turn is at the fourth step, the tenth at the 28th: by the step they would be the 10th."""
    objective = (
        '{ type = "rcm", start = 0, critic_steps = 2, forward = { type = "scm", velocity = "data", '
        'tangent.method = "central" } }'
    )
    train_all(planned(text(steps=28, objective=objective), tmp_path))
    assert list(measured(tmp_path)) == [1, 28]


def test_a_measured_step_is_the_step_that_it_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, averages, moments, losses and counted calls, to the bit; even where all lengths are tried."""
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    for folder in (watched, plain):
        folder.mkdir()
    records = train_all(planned(text(FAST), watched)).records
    assert any(record.doubts for record in records)
    monkeypatch.setattr("flowmap.training.tangent_error.due", lambda update: False)
    train_all(planned(text(FAST), plain))
    ours, theirs = lines(watched), lines(plain)
    for line in ours:
        line["raw"].pop(NAME, None)
    for line in (*ours, *theirs):
        line.pop("seconds"), line.pop("peak_bytes")
    assert ours == theirs
    for one, other in zip(
        checkpoints(watched / "runs/small/forward"), checkpoints(plain / "runs/small/forward"), strict=True
    ):
        assert all(
            (one.path / file.name).read_bytes() == file.read_bytes() for file in other.path.glob("*.safetensors")
        )


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_all_rows_are_measured_however_the_batch_is_cut(micro_batch: int, tmp_path: Path) -> None:
    """Micro-batches have the rows with r = t first: those of the first one have no derivative."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    train_all(planned(text(FAST, steps=1), whole))
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "runs/small/forward")
    train_all(planned(text(FAST, steps=1), cut, f"compute.micro_batch={micro_batch}"))
    assert measured(cut)[1] == pytest.approx(measured(whole)[1], rel=1e-3)


def test_a_resumed_run_writes_the_same_lines(tmp_path: Path) -> None:
    """Stopped before each of the two steps that are measured, and right after."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    train(planned(text(FAST), whole).stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    shutil.copytree(whole, stopped)
    every = "checkpoints.every=1"
    train_all(planned(text(FAST), whole, every))
    plan = planned(text(FAST), stopped, every)
    for stop in (1, 9, 10, None):
        interruption = Interruption()
        watcher = Watcher()

        def look(record: Any, stop: int | None = stop, interruption: Interruption = interruption) -> None:
            if record.step == stop:
                interruption.noted = signal.SIGINT

        for stage in plan.stages:
            watcher.at = look if stage.stage.name == "forward" else lambda record: None
            with nullcontext() if stop is None or stage.stage.name == "teacher" else pytest.raises(StoppedError):
                train(stage, Processes(ComputeConfig(device="cpu")), watcher, interruption)
    assert list(measured(stopped)) == [1, 10]
    assert_same(whole / "runs", stopped / "runs")


def test_the_user_is_told_above_the_bar_and_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text(FAST))
    code, said = flowmap(tmp_path, "run", "recipe.toml")
    assert code == 0, said
    told = re.findall(r"^forward, step \d+: a derivative by a difference over .*$", said, re.M)
    (line,) = told
    assert "stages.forward.objective.tangent.step = 0.005 is " in line
    log = (tmp_path / "runs/small/flowmap.log").read_text()
    assert f"WARNING flowmap.training: {line}" in log
    assert max(measured(tmp_path).values()) > 0.1


@pytest.mark.slow
def test_several_processes_measure_together_and_one_speaks(tmp_path: Path) -> None:
    """With few rows a process has none that move: it makes the same calls, or the others wait for ever."""
    (tmp_path / "recipe.toml").write_text(text(FAST, steps=3).replace("batch = 8", "batch = 2"))
    code, said = shared(tmp_path, "run", "recipe.toml", "--set", "compute.micro_batch=1")
    assert code == 0, said
    assert said.count("a derivative by a difference over") == 1
    assert (tmp_path / "runs/small/flowmap.log").read_text().count("a derivative by") == 1
    assert list(measured(tmp_path)) == [1]
