"""A run as a user meets it: signals, a full disk, a second run, changed recipes, seeds, --stage and --fresh.

Whatever stops a run, the command that its message ends with, run word for word, finishes it, and the result is
that of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmap.console.signals import Interruption
from flowmap.files.folder import StoppedError
from flowmap.files.manifest import checkpoints
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.processes import Processes
from flowmap.training.records import StepRecord
from flowmap.training.train import _said_once, train
from tests.small_runs import (
    DISCRETE,
    EVALUATION,
    FORWARD,
    HEAD,
    ON_POLICY,
    TEACHER,
    Process,
    Watcher,
    assert_same,
    checkpoints_every,
    flowmap,
    obey,
    planned,
    start,
    trace,
    train_all,
)

RECIPE = HEAD + TEACHER + FORWARD + checkpoints_every(2, keep=9)
STEPS = Path("runs/small/teacher/steps.jsonl")

HANG = """
import os, time
import {module}
original = {module}.{name}
calls = 0
def hang(*args, **options):
    global calls
    calls += 1
    result = original(*args, **options) if {after} else None
    if calls == {call}:
        print("hanging", flush=True)
        end = time.monotonic() + 60
        while not os.path.exists("go") and time.monotonic() < end:
            time.sleep(0.01)
    return result if {after} else original(*args, **options)
{module}.{name} = hang
"""
"""The n-th call of a function hangs before (or after) its work, until there is a file `go` or a minute is over."""


def hanging(where: str, call: int = 1, after: bool = False) -> str:
    module, _, name = where.rpartition(".")
    return HANG.format(module=module, name=name, call=call, after=after)


def held(folder: Path, steps: int) -> Process:
    """A run in `folder` that has logged so many steps of its first stage, and takes no more until there is a `go`."""
    patch = hanging("flowmap.training.train.append_line", steps, after=True)
    process = start(folder, "run", "recipe.toml", patch=patch)
    process.until(lambda: "hanging" in process.text)
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing stopped, with its evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.toml").write_text(RECIPE + EVALUATION)
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 0, text
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the recipe and nothing else."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tame(text: str) -> None:
    """What a user may see: no traceback."""
    assert "Traceback" not in text, text
    assert "Exception" not in text, text


# --- signals


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138), (signal.SIGXCPU, 152)],
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    folder: Path, whole: Path, number: signal.Signals, code: int
) -> None:
    process = held(folder, 3)
    process.send(number)
    process.until(lambda: "again to stop now" in process.text)
    (folder / "go").touch()
    assert process.wait() == code
    tame(process.text)
    done = len(lines(folder / STEPS))
    newest = checkpoints(folder / STEPS.parent)[-1]
    assert newest.step == done < 6
    where = newest.path.relative_to(folder)
    assert process.text.count(f"{number.name}: stopping after this step; again to stop now\n") == 1
    assert process.text.endswith(
        f"error: stopped by {number.name} after step {done} of stage 'teacher'; saved in {where}.\n"
        "To go on: flowmap run recipe.toml\n"
    )
    code, text = obey(folder, process.text)
    assert code == 0
    assert f"teacher: going on after step {done}" in text
    for extra in whole.rglob("step-*"):  # the signal's own checkpoint may be one more
        assert (folder / extra.relative_to(whole)).exists()
    if done % 2:
        shutil.rmtree(newest.path)
    assert_same(folder / "runs", whole / "runs")


def test_a_second_ctrl_c_stops_at_once_and_loses_only_that_step(folder: Path, whole: Path) -> None:
    process = start(folder, "run", "recipe.toml", patch=hanging("flowmap.training.train.append_line", call=4))
    process.until(lambda: "hanging" in process.text)
    process.send(signal.SIGINT)
    process.until(lambda: "again to stop now" in process.text)
    process.send(signal.SIGINT)
    assert process.wait() == 130
    tame(process.text)
    assert process.text.endswith(
        "error: stopped by SIGINT; what was finished is saved.\nTo go on: flowmap run recipe.toml\n"
    )
    assert [c.step for c in checkpoints(folder / STEPS.parent)] == [2]
    assert obey(folder, process.text)[0] == 0
    assert_same(folder / "runs", whole / "runs")


@pytest.mark.parametrize(("where", "call"), [("train.append_line", 6), ("saving.save", 3)])
def test_a_signal_at_the_very_end_of_a_stage_is_not_lost(folder: Path, whole: Path, where: str, call: int) -> None:
    patch = hanging(f"flowmap.training.{where}", call, after=True)
    process = start(folder, "run", "recipe.toml", patch=patch)
    process.until(lambda: "hanging" in process.text)
    process.send(signal.SIGINT)
    process.until(lambda: "again to stop now" in process.text)
    (folder / "go").touch()
    assert process.wait() == 130
    tame(process.text)
    assert "stopped by SIGINT" in process.text
    assert not (folder / "runs" / "small" / "forward").exists()
    assert checkpoints(folder / STEPS.parent)[-1].step == 6
    assert obey(folder, process.text)[0] == 0
    assert_same(folder / "runs", whole / "runs")


@pytest.mark.parametrize(
    ("where", "call", "number", "code"),
    [
        ("flowmap.training.train.open_stage", 2, signal.SIGTERM, 143),
        ("flowmap.launch.run.write_about", 1, signal.SIGINT, 130),
        ("flowmap.use.joint.generate", 4, signal.SIGINT, 130),
        ("flowmap.use.joint.generate", 1, signal.SIGTERM, 143),
        ("flowmap.launch.run.write_report", 1, signal.SIGINT, 130),
    ],
)
def test_a_signal_anywhere_else_loses_nothing(
    folder: Path, whole: Path, where: str, call: int, number: signal.Signals, code: int
) -> None:
    (folder / "recipe.toml").write_text(RECIPE + EVALUATION)
    # --fresh must not be part of going on, or what was done would be set aside.
    process = start(folder, "run", "recipe.toml", "--fresh", patch=hanging(where, call))
    process.until(lambda: "hanging" in process.text)
    process.send(number)
    assert process.wait() == code
    tame(process.text)
    assert process.text.endswith(
        f"error: stopped by {number.name}; what was finished is saved.\nTo go on: flowmap run recipe.toml\n"
    )
    assert obey(folder, process.text)[0] == 0
    assert_same(folder / "runs", whole / "runs")
    assert lines(folder / "runs/small/metrics.jsonl") == lines(whole / "runs/small/metrics.jsonl")
    assert not (folder / "runs/small.old-1").exists()


def test_a_signal_before_anything_is_begun(finished: Path, whole: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = start(finished, "run", "recipe.toml", "--fresh", patch=hanging("flowmap.launch.run.Processes"))
        process.until(lambda process=process: "hanging" in process.text)  # type: ignore[misc]
        process.send(number)
        assert process.wait() == code
        tame(process.text)
    # --fresh has not been done yet, so the same command is the right one.
    assert_same(finished / "runs", whole / "runs")


# --- a folder that goes away


def _moved(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def _replaced(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))
    shutil.copytree(run.with_name("elsewhere"), run)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shutil.rmtree, "is no longer the folder that this run works in"),
        (_moved, "is no longer the folder that this run works in"),
        (_replaced, "is no longer the folder that this run works in"),
        (lambda run: shutil.rmtree(run / "teacher"), "is not there any more"),
        (lambda run: (run / "teacher" / "steps.jsonl").unlink(), "is not there any more"),
        (lambda run: (run / ".lock").unlink(), "it, or its lock, was deleted"),
    ],
)
def test_training_stops_at_the_next_write_when_its_folder_is_gone(
    folder: Path, harm: Callable[[Path], object], words: str
) -> None:
    process = held(folder, 3)
    run = folder / "runs" / "small"
    assert [c.step for c in checkpoints(run / "teacher")] == [2]
    harm(run)
    there = _sizes(folder / "runs")
    (folder / "go").touch()
    assert process.wait() == 1
    tame(process.text)
    assert words in process.text
    assert "To go on: flowmap run recipe.toml" in process.text
    # Nothing was made again, and nothing was written into what stands in its place.
    assert _sizes(folder / "runs") == there


def _sizes(folder: Path) -> dict[Path, int]:
    """Of all files but the lock, which goes with the process that holds it."""
    return {p: p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"}


def test_a_log_whose_folder_is_gone_is_one_sentence(folder: Path) -> None:
    patch = """
import logging, shutil
import flowmap.launch.run
about = flowmap.launch.run.write_about
def gone(*args):
    about(*args)
    shutil.rmtree("runs")
    logging.getLogger("flowmap.data").warning("skipped something")
flowmap.launch.run.write_about = gone
"""
    code, text = flowmap(folder, "run", "recipe.toml", patch=patch)
    assert code == 1
    tame(text)
    assert "no longer the folder that this run works in" in text or "is not there any more" in text
    assert not (folder / "runs").exists()


def test_what_is_taken_again_stands_once_in_the_tracker(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Killed(BaseException):
        pass

    def die(record: StepRecord) -> None:
        if record.step == 25:
            raise Killed

    text = HEAD + 'compute = { trackers = ["tensorboard"] }\n' + TEACHER.replace("steps = 6", "steps = 40")
    plan = planned(text + checkpoints_every(15), tmp_path)
    # Twice: before the first checkpoint is nothing to go on from, and those steps are taken again too.
    with pytest.raises(Killed):
        train_all(plan, Watcher(at=die))
    shutil.rmtree(plan.stages[0].folder / "checkpoints")
    with pytest.raises(Killed):
        train_all(plan, Watcher(at=die))
    train_all(plan)
    found = EventAccumulator(str(plan.stages[0].folder / "tensorboard"))
    found.Reload()
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("loss/")]
    assert tags
    for tag in tags:
        assert [event.step for event in found.Scalars(tag)] == [10, 20, 30, 40]


# --- another run, a dead run


def test_a_second_run_is_refused_and_harms_nothing(folder: Path, whole: Path) -> None:
    first = held(folder, 3)
    for extra in ([], ["--fresh"], ["--stage", "teacher", "--fresh"]):
        code, text = flowmap(folder, "run", "recipe.toml", *extra)
        assert code in (1, 2)
        assert text == (
            "error: runs/small: another flowmap run is writing here; wait for it, stop it, or give this recipe "
            "another name\n"
        )
    (folder / "go").touch()
    assert first.wait() == 0
    tame(first.text)
    assert [path.name for path in (folder / "runs").iterdir() if path.is_dir()] == ["small"]
    assert [path.name for path in (folder / "runs/small").iterdir() if ".old" in path.name] == []
    assert_same(folder / "runs", whole / "runs")


def test_the_lock_of_a_killed_run_does_not_block(folder: Path, whole: Path) -> None:
    first = held(folder, 2)
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 0, text
    assert_same(folder / "runs", whole / "runs")


# --- what cannot be written

FULL_LINES = """
import flowmap.launch.progress
original = flowmap.launch.progress.ProgressWatcher.begin
def begin(self, plan, done):
    original(self, plan, done)
    if plan.stage.name == "forward":
        path = plan.folder / "steps.jsonl"
        path.unlink()
        path.symlink_to("/dev/full")
flowmap.launch.progress.ProgressWatcher.begin = begin
"""

FULL_DISK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0, "not allowed"
os.mkdir("runs")
assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0, "not allowed"
assert libc.mount(b"tmpfs", b"runs", b"tmpfs", 0, b"size=100k") == 0, "not allowed"
"""


NOT_ROOT = """
import os
import flowmap.launch.run
original = flowmap.launch.run.Processes
def processes(compute):
    os.geteuid() or os.seteuid(65534)
    return original(compute)
flowmap.launch.run.Processes = processes
"""
"""Permissions do not bind root."""


def test_a_disk_that_is_full_for_a_line(folder: Path, whole: Path) -> None:
    code, text = flowmap(folder, "run", "recipe.toml", patch=FULL_LINES)
    path = folder / "runs/small/forward/steps.jsonl"
    assert code == 1
    tame(text)
    assert text.endswith(
        f"error: cannot write {path.relative_to(folder)}: the disk is full; free some space. "
        "What was saved before is untouched.\nTo go on: flowmap run recipe.toml\n"
    )
    path.unlink()
    assert obey(folder, text)[0] == 0
    assert_same(folder / "runs", whole / "runs")


def test_a_disk_that_is_really_full(folder: Path) -> None:
    words = ["run", "recipe.toml", "--set", "checkpoints.every=1", "--set", "checkpoints.keep=99"]
    code, text = flowmap(folder, *words, patch=FULL_DISK)
    if "not allowed" in text:
        pytest.skip("needs the right to mount a file system of its own")
    assert code == 1
    tame(text)
    assert re.search(r"error: cannot write runs/small/\S+: the disk is full; free some space. What was saved", text)


@pytest.mark.parametrize("where", ["runs", "runs/small", "runs/small/teacher", "runs/small/teacher/checkpoints"])
def test_a_file_where_a_folder_is_needed(folder: Path, where: str) -> None:
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_text("precious")
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 1
    tame(text)
    assert "a file stands where a folder is needed; move it or choose another folder" in text
    assert (folder / where).read_text() == "precious"


def test_a_folder_that_may_not_be_written(folder: Path) -> None:
    (folder / "runs").mkdir(mode=0o555)
    folder.chmod(0o755)
    code, text = flowmap(folder, "run", "recipe.toml", patch=NOT_ROOT)
    assert code == 1
    tame(text)
    assert "error: cannot write runs/small: it is not writable; change its permissions or choose another" in text
    assert list((folder / "runs").iterdir()) == []


def test_a_tracker_that_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate.tracking

    plan = planned(RECIPE, tmp_path, 'compute.trackers=["tensorboard"]', "stages.teacher.steps=10")
    full = OSError(28, "No space left on device")

    def fail(*args: object, **options: object) -> None:
        raise full

    monkeypatch.setattr(accelerate.tracking.TensorBoardTracker, "log", fail)
    with pytest.raises(StoppedError, match="the disk is full"):
        train(plan.stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())


def test_a_tracker_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that has not come to be nothing can be closed: what went wrong is said, and not that."""
    from torch.utils import tensorboard

    plan = planned(RECIPE, tmp_path, 'compute.trackers=["tensorboard"]')

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard, "SummaryWriter", fail)
    with pytest.raises(StoppedError, match="the disk is full"):
        train(plan.stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())


def test_a_tracker_s_thread_that_cannot_write_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", fail)
    plan = planned(RECIPE, tmp_path, 'compute.trackers=["tensorboard"]', "stages.teacher.steps=10")
    with pytest.raises(StoppedError, match="the disk is full"):
        train(plan.stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    assert "Traceback" not in "".join(capfd.readouterr())


def test_no_other_thread_that_fails_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda ended: shown.append(ended.exc_type))

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with _said_once():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert shown == [OSError]


# --- what is done is not done again


def test_finished_stages_are_skipped(finished: Path, whole: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in finished.glob("runs/small/*/**/*") if f.is_file()}
    code, text = flowmap(finished, "run", "recipe.toml")
    assert code == 0
    assert "✓ teacher: finished before, 6 steps" in text
    assert "✓ forward: finished before, 4 steps" in text
    assert {f: f.stat().st_mtime_ns for f in finished.glob("runs/small/*/**/*") if f.is_file()} == before


def test_leftovers_of_a_kill_are_cleaned_even_in_a_finished_stage(finished: Path) -> None:
    stage = finished / "runs/small/teacher"
    shutil.copytree(stage / "checkpoints/step-000006", stage / "checkpoints/.part-gone-step-000002")
    shutil.copytree(stage / "checkpoints/step-000006", stage / "checkpoints/.part-step-000007")
    (stage / ".part-steps.jsonl").write_text("")
    assert flowmap(finished, "run", "recipe.toml", "--stage", "teacher")[0] == 0
    assert list(stage.rglob(".part-*")) == []


def test_a_changed_recipe_is_refused_with_what_differs_and_nothing_is_written(finished: Path) -> None:
    before = {f: f.read_bytes() for f in (finished / "runs").rglob("*") if f.is_file()}
    change = ["--set", "stages.teacher.optimizer.lr=0.5", "--set", "stages.teacher.ema.decay=0.5"]
    code, text = flowmap(finished, "run", "recipe.toml", *change)
    assert code == 2
    assert text == (
        "error: runs/small/teacher holds stage 'teacher' of another configuration (6 steps done):\n"
        "  stages.teacher.ema.decay: was 0.999, is now 0.5\n"
        "  stages.teacher.optimizer.lr: was 0.001, is now 0.5\n"
        "Undo the change, give the recipe another name, or start over with --fresh, which sets the old folder aside "
        "(only what changed: --fresh --stage teacher --stage forward).\n"
    )
    assert {f: f.read_bytes() for f in (finished / "runs").rglob("*") if f.is_file()} == before
    # Also when only the later stage is asked for: it would start from another teacher than it says.
    code, text = flowmap(finished, "run", "recipe.toml", "--stage", "forward", "--fresh", *change)
    assert code == 2
    assert "holds stage 'teacher' of another configuration" in text
    assert {f: f.read_bytes() for f in (finished / "runs").rglob("*") if f.is_file()} == before
    # And what the message offers works.
    code, text = flowmap(finished, "run", "recipe.toml", *change, "--fresh", "--stage", "teacher", "--stage", "forward")
    assert code == 0
    assert "the old runs/small/teacher is now runs/small/teacher.old-1" in text
    assert "the old runs/small/forward is now runs/small/forward.old-1" in text
    assert flowmap(finished, "run", "recipe.toml", *change)[0] == 0


def test_a_field_that_an_older_version_did_not_have_is_no_change_at_its_default(finished: Path) -> None:
    for stage in ("teacher", "forward"):
        lock = finished / f"runs/small/{stage}/recipe.lock.toml"
        text = lock.read_text()
        assert text.count("weight_decay = 0.0\n") > 0
        # Nor had it a digest, which stands in the second line of the head.
        head, _, tables = text.split("\n", 2)
        lock.write_text("\n".join((head, tables.replace("weight_decay = 0.0\n", ""))))
    code, text = flowmap(finished, "run", "recipe.toml")
    assert code == 0
    assert "teacher: finished before" in text
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "stages.teacher.optimizer.weight_decay=0.5")
    assert code == 2
    assert "stages.teacher.optimizer.weight_decay: was 0.0, is now 0.5" in text


def test_the_seed_the_data_the_backbone_and_the_precision_are_part_of_a_stage(finished: Path) -> None:
    for change, shown in (
        ("seeds=[1]", "seed: was 0, is now 1"),
        ('data="gaussian"', "data.type: was checkerboard, is now gaussian"),
        ("backbone.depth=2", "backbone.depth: was 1, is now 2"),
        ("compute.precision=bf16", "precision: was no, is now bf16"),
    ):
        code, text = flowmap(finished, "run", "recipe.toml", "--set", change)
        assert code == 2
        assert f"  {shown}\n" in text


def test_what_a_finished_stage_does_not_depend_on_may_change(finished: Path, whole: Path) -> None:
    text = (finished / "recipe.toml").read_text()
    changed = text.replace("repeats = 3", "repeats = 2").replace("every = 2", "every = 3") + DISCRETE
    (finished / "recipe.toml").write_text(
        changed.replace('steps = 4\nbatch = 8\nobjective = "discrete', 'steps = 3\nbatch = 4\nobjective = "discrete')
    )
    code, text = flowmap(finished, "run", "recipe.toml")
    assert code == 0, text
    assert "teacher: finished before" in text
    assert "forward: finished before" in text
    assert "discrete: 3 steps" in text
    assert (finished / "runs/small/discrete/checkpoints/step-000003").exists()


def test_a_stage_without_its_lock_is_not_silently_overwritten(finished: Path) -> None:
    lock = finished / "runs/small/teacher/recipe.lock.toml"
    for damage in (lambda: lock.write_text("seed = "), lock.unlink):
        damage()
        code, text = flowmap(finished, "run", "recipe.toml")
        assert code == 1
        tame(text)
        assert "runs/small/teacher/recipe.lock.toml cannot be read" in text
        assert len(checkpoints(finished / "runs/small/teacher")) == 3


def test_a_damaged_line_of_steps_is_named(folder: Path) -> None:
    process = held(folder, 3)
    process.send(signal.SIGINT)
    (folder / "go").touch()
    process.wait()
    damaged = (folder / STEPS).read_text().replace("{", "", 1)
    (folder / STEPS).write_text(damaged)
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 1
    tame(text)
    assert "teacher/steps.jsonl: line 1: damaged" in text


# --- --fresh and --stage


def test_fresh_sets_the_old_run_aside(finished: Path, whole: Path) -> None:
    before = trace(finished / "runs/small")
    code, text = flowmap(finished, "run", "recipe.toml", "--fresh")
    assert code == 0
    assert "the old runs/small is now runs/small.old-1" in text
    assert trace(finished / "runs/small.old-1") == before
    assert_same(finished / "runs/small", whole / "runs/small")
    assert lines(finished / "runs/small/metrics.jsonl") == lines(whole / "runs/small/metrics.jsonl")


def test_fresh_takes_what_was_refused(finished: Path) -> None:
    code, _ = flowmap(finished, "run", "recipe.toml", "--fresh", "--set", "stages.teacher.steps=3")
    assert code == 0
    assert [c.step for c in checkpoints(finished / "runs/small/teacher")] == [2, 3]
    assert checkpoints(finished / "runs/small.old-1/teacher")[-1].step == 6


def test_one_stage_alone(folder: Path, whole: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE + ON_POLICY)
    for words, needs, missing in (
        (["--stage", "forward"], "forward", "teacher"),
        (["--stage", "on_policy", "--fresh"], "on_policy", "forward"),
    ):
        code, text = flowmap(folder, "run", "recipe.toml", *words)
        assert code in (1, 2)
        fresh = " --fresh" if "--fresh" in words else ""
        assert text.endswith(
            f"error: stage '{needs}' starts from stage '{missing}', which is not finished in runs/small/{missing}.\n"
            f"To go on: flowmap run recipe.toml --stage {missing} && flowmap run recipe.toml --stage {needs}{fresh}\n"
        )
        assert not (folder / "runs/small").exists()
    code, text = flowmap(folder, "run", "recipe.toml", "--stage", "forward")
    code, text = obey(folder, text)
    assert code == 0
    assert "trained forward; run without --stage to finish" in text
    assert sorted(p.name for p in (folder / "runs/small").iterdir()) == [
        "about.json",
        "forward",
        "recipe.lock.toml",
        "teacher",
    ]
    assert_same(folder / "runs", whole / "runs")
    code, text = flowmap(folder, "run", "recipe.toml", "--stage", "teachr")
    assert code == 2
    assert "teacher" in text


def test_an_interrupted_source_is_not_finished(folder: Path, whole: Path) -> None:
    process = held(folder, 2)
    process.send(signal.SIGKILL)
    process.wait()
    code, text = flowmap(folder, "run", "recipe.toml", "--stage", "forward")
    assert code == 1
    assert "'teacher', which is not finished" in text
    assert obey(folder, text)[0] == 0
    assert_same(folder / "runs", whole / "runs")


def test_one_stage_anew(finished: Path, whole: Path) -> None:
    code, text = flowmap(finished, "run", "recipe.toml", "--stage", "forward", "--fresh")
    assert code == 0
    assert "the old runs/small/forward is now runs/small/forward.old-1" in text
    assert "teacher" not in text
    assert_same(finished / "runs/small/forward", whole / "runs/small/forward")
    assert_same(finished / "runs/small/forward.old-1", whole / "runs/small/forward")


def test_several_seeds_are_several_trainings(tmp_path: Path) -> None:
    watcher = train_all(planned(RECIPE, tmp_path, "seeds=[3, 5]"))
    assert [name for name, _ in watcher.begun] == ["teacher", "forward", "teacher", "forward"]
    one, other = (trace(tmp_path / "runs/small" / f"seed-{seed}") for seed in (3, 5))
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)
    # Each as if it were alone.
    (tmp_path / "alone").mkdir()
    train_all(planned(RECIPE, tmp_path / "alone", "seeds=[5]"))
    assert_same(tmp_path / "runs/small/seed-5", tmp_path / "alone/runs/small")


def test_a_seed_more_does_not_train_the_first_again(finished: Path, whole: Path) -> None:
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "seeds=[0, 1]")
    assert code == 2
    assert text.startswith(
        "error: runs/small/teacher holds a stage of seed 0, where a run of one seed has it; one of several has it in "
        "runs/small/seed-0, and would train it again. Move it:\n"
        "  mkdir -p -- runs/small/seed-0 && mv -- runs/small/teacher runs/small/forward runs/small/seed-0\n"
    )
    assert_same(finished / "runs/small", whole / "runs/small")
    subprocess.run(text.splitlines()[1], shell=True, cwd=finished, check=True)
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "seeds=[0, 1]", "--set", "evaluation.samples=16")
    assert code == 0, text
    assert_same(finished / "runs/small/seed-0", whole / "runs/small")
    # And back.
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "seeds=[1]")
    assert code == 2
    assert "runs/small/seed-1/teacher holds a stage of seed 1, where a run of several has it" in text
    subprocess.run(text.splitlines()[1], shell=True, cwd=finished, check=True)
    before = trace(finished / "runs/small/teacher")
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "seeds=[1]")
    assert code == 0, text
    assert trace(finished / "runs/small/teacher") == before


def test_a_seed_that_was_not_trained_is_nobody_s_loss(finished: Path) -> None:
    code, text = flowmap(finished, "run", "recipe.toml", "--set", "seeds=[1, 2]", "--stage", "teacher")
    assert code == 0, text


def test_a_run_does_not_work_in_the_folder_of_a_comparison(folder: Path) -> None:
    for name in ("comparison.json", "budget.jsonl"):
        (folder / "runs/small").mkdir(parents=True)
        (folder / "runs/small" / name).write_text("{}\n")
        for words in ([], ["--stage", "teacher", "--fresh"]):
            code, text = flowmap(folder, "run", "recipe.toml", *words)
            assert (code, text) == (
                2,
                "error: runs/small is the folder of a comparison; give the recipe another name, or another folder by "
                "--runs (--fresh sets the comparison aside)\n",
            )
        assert [path.name for path in (folder / "runs/small").iterdir()] == [name]
        shutil.rmtree(folder / "runs")


@pytest.mark.parametrize(("name", "what"), [("comparison.json", "comparison"), ("recipe.lock.toml", "run")])
def test_a_run_does_not_work_within_a_comparison_or_a_run(name: str, what: str, folder: Path) -> None:
    (folder / "runs/other").mkdir(parents=True)
    (folder / "runs/other" / name).write_text("{}\n")
    for words in ([], ["--fresh"]):
        code, text = flowmap(folder, "run", "recipe.toml", "--runs", "runs/other", *words)
        told = f"error: runs/other/small lies in the {what} runs/other; give another folder by --runs\n"
        assert (code, text) == (2, told)
    assert [path.name for path in (folder / "runs/other").iterdir()] == [name]


# --- damage, met by whoever reads


def _break(folder: Path, name: str = "student.ema.safetensors") -> None:
    file = folder / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "words",
    [
        ["run", "recipe.toml"],
        ["run", "recipe.toml", "--stage", "forward", "--fresh"],
        ["sample", "runs/small", "--stage", "teacher", "--n", "2", "--nfe", "1", "--sampler", "euler"],
    ],
)
def test_a_damaged_finished_stage_is_refused_by_all_who_read_it(finished: Path, whole: Path, words: list[str]) -> None:
    broken = finished / "runs/small/teacher/checkpoints/step-000006"
    _break(broken)
    code, text = flowmap(finished, *words)
    assert code == 1
    tame(text)
    assert "step-000006 is damaged: the contents of student.ema.safetensors do not match their checksum" in text
    assert "step-000004, is whole." in text
    assert not (finished / "runs/small/forward.old-1").exists()
    code, said = obey(finished, text)
    assert code == 0, said
    shutil.rmtree(broken.with_name("damaged-1-step-000006"))
    shutil.rmtree(finished / "runs/small/forward.old-1", ignore_errors=True)
    assert_same(finished / "runs", whole / "runs")
    code, text = flowmap(finished, *words)
    assert code == 0, text


def test_a_damaged_checkpoint_of_an_unfinished_stage(folder: Path, whole: Path) -> None:
    process = held(folder, 5)
    process.send(signal.SIGKILL)
    process.wait()
    stage = folder / "runs/small/teacher"
    for newest in reversed(checkpoints(stage)):  # the last of them, then all of them
        _break(newest.path)
    code, text = flowmap(folder, "run", "recipe.toml")
    assert code == 1
    assert "No earlier one is whole: the stage will start over." in text
    assert obey(folder, text)[0] == 0
    for aside in stage.glob("checkpoints/damaged-*"):
        shutil.rmtree(aside)
    assert_same(folder / "runs", whole / "runs")


# --- small things


def test_tensorboard_gets_the_losses_when_asked(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plan = planned(RECIPE, tmp_path, 'compute.trackers=["tensorboard"]', "stages.teacher.steps=20")
    watcher = Watcher()
    train(plan.stages[0], Processes(ComputeConfig(device="cpu")), watcher, Interruption())
    (events,) = (tmp_path / "runs/small/teacher").rglob("events.out.tfevents*")
    found = EventAccumulator(str(events)).Reload()
    assert {"loss/flow_matching", "gradient_norm/student", "lr/student"} <= set(found.Tags()["scalars"])
    seen = {event.step: event.value for event in found.Scalars("loss/flow_matching")}
    assert seen == pytest.approx({r.step: r.losses["flow_matching"] for r in watcher.records if r.step % 10 == 0})
    (tmp_path / "none").mkdir()
    train_all(planned(RECIPE, tmp_path / "none"))
    assert list((tmp_path / "none").rglob("events.out*")) == []


def test_the_command_that_goes_on_is_the_one_that_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmap.console import commands

    program = tmp_path / "bin" / "flowmap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(commands.sys, "argv", [str(program), "run"])
    monkeypatch.setenv("PATH", os.defpath)
    words = (Path("a recipe.toml"), ["a.b=[1, 2]"], ["x"], Path("else where"))
    typed = "run 'a recipe.toml' --set 'a.b=[1, 2]' --stage x --runs 'else where'"
    assert commands.command_line(*words) == f"{program} {typed}"
    monkeypatch.setenv("PATH", str(program.parent))
    assert commands.command_line(*words) == f"flowmap {typed}"
    monkeypatch.setattr(commands.sys, "argv", ["/x/flowmap/__main__.py", "run"])
    assert commands.command_line(*words) == f"{commands.sys.executable} -m flowmap {typed}"


def test_a_signal_that_comes_within_a_finaliser_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    """Python prints what a finaliser raises and goes on: the work would too, and the user would see a traceback."""

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        dying = Dying()
        del dying
        time.sleep(5)

    interruption = Interruption()
    with pytest.raises(StoppedError, match="stopped by SIGTERM") as caught, interruption.listening():
        work()
    assert caught.value.code == 128 + signal.SIGTERM
    assert "Traceback" not in capfd.readouterr().err
