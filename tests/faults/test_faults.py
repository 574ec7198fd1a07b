"""The harness of faults: a few of each kind hold, and what is broken on purpose turns up in its column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.faults import attempts, inputs, running
from tests.faults.damage import Damaged, _damage, of_run
from tests.faults.disks import disks
from tests.faults.folders import folders
from tests.faults.kills import kills
from tests.faults.scenes import Scene, scenes
from tests.faults.tally import Outcome, Tally
from tests.small_runs import preload_trainings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _quick_processes() -> None:
    preload_trainings()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "home"


@pytest.fixture(scope="module")
def made(home: Path) -> dict[str, Scene]:
    return scenes(home)


@pytest.fixture(scope="module")
def damaged(home: Path, made: dict[str, Scene]) -> dict[str, Damaged]:
    return folders(home, made)


def verdicts(outcomes: Iterator[Outcome]) -> list[str]:
    return [outcome.verdict for outcome in outcomes]


def wrong(outcomes: Iterator[Outcome]) -> list[Outcome]:
    found = list(outcomes)
    assert found
    return [outcome for outcome in found if outcome.wrong]


# --- a few of each kind


def test_kills(made: dict[str, Scene]) -> None:
    assert not wrong(kills(made["run"], 0, 3))


@pytest.mark.slow
def test_disks(made: dict[str, Scene]) -> None:
    assert not wrong(disks(made["run"], 0, 4))


@pytest.mark.slow
def test_damage(damaged: dict[str, Damaged]) -> None:
    assert not wrong(damaged["finished run"].cases(0, 6))


@pytest.mark.parametrize("name", ["recipes", "--set", "shards", "clips", "images", "captions", "checkpoints"])
def test_inputs(name: str, tmp_path: Path) -> None:
    assert not wrong(inputs.inputs(name, tmp_path, 0, 12))


# --- what is broken turns up

LINE_DROPPED = """
import flowmap.training.train
kept = flowmap.training.train.append_line
flowmap.training.train.append_line = lambda path, line: line["step"] == 2 or kept(path, line)
"""
ACCEPTED = """
import flowmap.training.train, flowmap.training.stage
flowmap.training.train.verify = flowmap.training.stage.verify = lambda checkpoint: None
"""
RAISING = """
import flowmap.launch.run
def carry_out(*words):
    raise KeyError("broken")
flowmap.launch.run.carry_out = carry_out
"""
NO_END = "while True: pass\n"
SWALLOWED = """
import flowmap.use.evaluate
def save(folder, name, picture, save=flowmap.use.evaluate.save_picture):
    try:
        save(folder, name, picture)
    except Exception:
        pass
flowmap.use.evaluate.save_picture = save
"""


def test_a_line_that_is_dropped_is_lost_or_makes_another_result(made: dict[str, Scene]) -> None:
    found = verdicts(kills(made["run"], 1, 4, LINE_DROPPED))
    assert {"lost", "silent"} & set(found)
    assert "traceback" not in found


def test_damage_that_is_accepted_is_silent(damaged: dict[str, Damaged]) -> None:
    words = ("sample", "runs/small", "--out", "out")
    one = replace(damaged["finished run"], inside="runs/small/forward/checkpoints/step-000004", commands=(words,))
    assert "silent" in verdicts(one.cases(0, 12, ACCEPTED))


def test_a_write_that_fails_unheard_is_silent(made: dict[str, Scene]) -> None:
    made["evaluate"].whole  # noqa: B018 - its operations are listed then
    place = next(
        n for n, line in enumerate(made["evaluate"].operations, 1) if line.startswith("write") and "png" in line
    )
    folder = made["evaluate"].copied("unheard")
    ended = made["evaluate"].run(folder, SWALLOWED + running.injected(folder, "EIO", place))
    # All later writes of this disk fail too, and some are heard of.
    assert ended.code == 1
    assert "pictures" in made["evaluate"].difference(folder)


def test_a_traceback_is_told_from_an_error(made: dict[str, Scene]) -> None:
    assert verdicts(disks(made["run"], 0, 1, RAISING)) == ["traceback"]
    assert verdicts(kills(made["run"], 0, 1, RAISING)) == ["traceback"]


def test_what_does_not_end_hangs(made: dict[str, Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    made["run"].whole  # noqa: B018 - it takes its time
    monkeypatch.setattr(running, "BUSY_SECONDS", 0.2)
    assert verdicts(disks(made["run"], 0, 1, NO_END)) == ["hang"]
    monkeypatch.setattr(running, "BUSY_SECONDS", 100)
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.5)
    assert verdicts(disks(made["run"], 0, 1, "import time\ntime.sleep(1000)\n")) == ["hang"]


@pytest.mark.parametrize(
    ("attempt", "verdict"),
    [
        (attempts.fail, "silent"),
        (attempts.refuse, "traceback"),
        (attempts.die, "traceback"),
        (attempts.never, "hang"),
    ],
)
def test_inputs_that_are_not_met(
    attempt: Callable[[int], None], verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BUSY_SECONDS", 0.05)
    found = verdicts(inputs.tried("input: a", "a", 0, 3, partial(attempts.same, attempt), tmp_path))
    # Each is tried, whatever becomes of the one before.
    assert found == (["hang"] * 3 if attempt is attempts.never else ["right", verdict, "right"])


@pytest.mark.slow
def test_an_input_that_waits_for_ever_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "IDLE_SECONDS", 8)
    found = verdicts(inputs.tried("input: a", "a", 0, 3, partial(attempts.same, attempts.wait), tmp_path))
    assert found == ["right", "hang", "right"]


# --- what is counted


def test_the_table_has_a_line_for_each_kind_and_all_that_went_wrong(tmp_path: Path) -> None:
    tally, other = Tally(), Tally()
    for kind, verdict in (("a", "right"), ("a", "right"), ("a", "left out"), ("b", "lost")):
        tally.add(Outcome(kind, "case", verdict))  # type: ignore[arg-type]
    tally.save(tmp_path / "tally.json")
    other.merge(Tally.load(tmp_path / "tally.json"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in other.table().splitlines() if "|" in line]
    assert rows[0] == ["kind", "tried", "right", "lost", "silent", "traceback", "hang"]
    assert rows[2:] == [["a", "2", "2", *"0000"], ["b", "1", "0", "1", *"000"], ["all", "3", "2", "1", *"000"]]
    assert "1 that fell where nothing can be checked" in other.table()
    assert not other.clean
    assert not Tally().clean


def test_the_same_seed_damages_the_same_place() -> None:
    content = bytes(range(200))
    assert _damage(content, Random("3")) == _damage(content, Random("3"))
    assert len({_damage(content, Random(str(seed)))[0] for seed in range(20)}) > 10


def test_only_times_of_steps_are_left_out() -> None:
    line = b'{"step": 1, "losses": {"a": 2.0}, "seconds": 0.5, "peak_bytes": 7}\n'
    times, losses = line.replace(b"0.5", b"0.4"), line.replace(b"2.0", b"3.0")
    assert of_run("a/steps.jsonl", line, times, ())
    assert not of_run("a/steps.jsonl", line, losses, ())
    assert not of_run("a/steps.jsonl", line, None, ())
    score = b'{"value": 2.0, "values": [1.0, 3.0], "floor": 1.0}\n'
    assert of_run("metrics.jsonl", score, score.replace(b'"floor": 1', b'"floor": 2'), ())
    assert not of_run("metrics.jsonl", score, score.replace(b'"value": 2', b'"value": 3'), ())
    assert not of_run("checkpoints/step-000001/student.safetensors", b"a", b"b", ())
