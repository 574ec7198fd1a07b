"""A run that is killed again and again ends as the run that was left alone: every bit of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowmap.files.manifest import checkpoints
from flowmap.training.verify import verify
from tests.small_runs import EVERYTHING, HEAD, Process, assert_same, checkpoints_every, flowmap, start

RECIPE = HEAD + EVERYTHING + checkpoints_every(1, keep=99)
STAGES = ("teacher", "forward", "discrete", "consistency", "on_policy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.toml").write_text(RECIPE)
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 0, text
    return folder


def _steps(folder: Path) -> int:
    """Lines written so far, in all stages."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("runs/small/*/steps.jsonl"))


def _all_visible_checkpoints_are_whole(folder: Path) -> int:
    found = [c for name in STAGES for c in checkpoints(folder / "runs/small" / name)]
    for checkpoint in found:
        verify(checkpoint)
    return len(found)


def _kill(folder: Path, process: Process, dice: random.Random) -> bool:
    """Kill -9 a few steps on, at any moment of a step; whether it was still alive.

    Counted in steps, not in seconds: a fast machine must not be done before it is killed.
    """
    goal = _steps(folder) + dice.randint(1, 4)
    try:
        process.until(lambda: _steps(folder) >= goal)
    except AssertionError:
        assert process.wait() == 0, process.text  # it had fewer steps left, or only the report
        return False
    time.sleep(dice.random() * 0.03)
    process.send(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_kill_9_at_random_moments(whole: Path, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    kills = leftovers = 0
    while kills < 12 and _kill(tmp_path, start(tmp_path, "run", "recipe.toml"), dice):
        kills += 1
        seen = _all_visible_checkpoints_are_whole(tmp_path)
        # A checkpoint stands for every step but the one in hand.
        assert seen >= _steps(tmp_path) - 1
        leftovers += len(list(tmp_path.rglob(".part-*")))
    assert kills >= 3
    code, text = flowmap(tmp_path, "run", "recipe.toml")
    assert code == 0, text
    assert_same(tmp_path / "runs", whole / "runs")
    assert list(tmp_path.rglob(".part-*")) == []


def test_the_runs_compared_are_worth_comparing(whole: Path) -> None:
    """Every stage learned something at every step, and both roles of the last one are saved."""
    for name in STAGES:
        found = checkpoints(whole / "runs/small" / name)
        lines = [json.loads(line) for line in (whole / "runs/small" / name / "steps.jsonl").read_text().splitlines()]
        assert [c.step for c in found] == [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        contents = [(c.path / "student.safetensors").read_bytes() for c in found]
        assert len(set(contents)) == len(found) > 3
    roles = {file.name for file in found[-1].path.glob("*.safetensors")}
    assert {"student.safetensors", "student.ema.safetensors", "critic.safetensors"} < roles
    assert {"student.optimizer.safetensors", "critic.optimizer.safetensors"} < roles


@pytest.mark.parametrize("tail", [b'{"step": 5, "loss', b"\x00\x00", b'{"step": 5}\n{"ste'])
def test_lines_after_the_last_checkpoint_are_written_anew(whole: Path, tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    process = start(tmp_path, "run", "recipe.toml")
    process.until(lambda: _steps(tmp_path) >= 3)
    process.send(signal.SIGKILL)
    process.wait()
    steps = tmp_path / "runs/small/teacher/steps.jsonl"
    saved = checkpoints(steps.parent)[-1].step
    kept = steps.read_bytes().split(b"\n")[:saved]
    # As if more steps had been taken since, and the machine had died in the middle of a line.
    steps.write_bytes(b"\n".join(kept) + b"\n" + tail.replace(b"5", b"%d" % (saved + 1)))
    code, text = flowmap(tmp_path, "run", "recipe.toml")
    assert code == 0, text
    assert_same(tmp_path / "runs", whole / "runs")


@pytest.mark.slow
def test_kill_9_of_the_command_itself(whole: Path, tmp_path: Path) -> None:
    """The same with nothing in between: the shell's command, started anew each time."""
    dice = random.Random(0)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flowmap", "run", "recipe.toml"]
    for _ in range(4):
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
            before = _steps(tmp_path)
            while _steps(tmp_path) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(dice.random() * 0.2)
            process.kill()
        _all_visible_checkpoints_are_whole(tmp_path)
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert_same(tmp_path / "runs", whole / "runs")
