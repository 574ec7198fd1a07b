"""Checkpoints: complete, bit for bit, refused when damaged, and never a pickle."""

from __future__ import annotations

import errno
import json
import math
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.files.manifest import Checkpoint, checkpoints, read_manifest
from flowmap.phases import Phase, listening
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import checkpoint
from flowmap.training.checkpoint import read_weights, restore, save
from flowmap.training.processes import Processes
from flowmap.training.stage import Stage, open_stage
from flowmap.training.train import Interruption, train
from flowmap.training.verify import clean, verify
from tests.small_runs import (
    FORWARD,
    HEAD,
    ON_POLICY,
    TEACHER,
    Watcher,
    assert_same,
    checkpoints_every,
    planned,
    tensors,
    train_all,
)
from tests.test_folder import deaths

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    train_all(planned(HEAD + TEACHER + FORWARD + ON_POLICY + checkpoints_every(1, keep=3), folder))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _stage(folder: Path, name: str) -> Stage:
    """The stage as it is before its first step, in a run that holds those before it."""
    plan = planned((folder / "recipe.toml").read_text(), folder)
    return open_stage(plan.find(name, 0), Processes(ComputeConfig(device="cpu")))


def test_a_checkpoint_holds_all_that_its_trained_roles_are_made_of(run: Path) -> None:
    newest = checkpoints(run / "runs" / "small" / "on_policy")[-1]
    assert newest.step == 5
    assert sorted(f.name for f in newest.path.iterdir()) == [
        "critic.optimizer.safetensors",
        "critic.safetensors",
        "manifest.json",
        "student.ema.safetensors",
        "student.optimizer.safetensors",
        "student.safetensors",
    ]
    stage = _stage(run, "on_policy")
    for name in ("student", "critic"):
        own = stage.roles[name].own
        saved = read_weights(newest, name, "raw")
        assert {k: (v.shape, v.dtype) for k, v in saved.items()} == {k: (v.shape, v.dtype) for k, v in own.items()}
        moments = {k for k in tensors(newest.path) if k.startswith(f"{name}.optimizer")}
        assert len(moments) == 3 * len(own)
    assert read_weights(newest, "student", "ema").keys() == stage.roles["student"].own.keys()


def test_what_is_restored_is_what_was_saved(run: Path, tmp_path: Path) -> None:
    newest = checkpoints(run / "runs" / "small" / "on_policy")[-1]
    stage = _stage(run, "on_policy")
    restore(newest, stage.optimizers, stage.roles)
    (tmp_path / "again").mkdir()
    seal = read_manifest(newest).steps
    again = save(tmp_path / "again", newest.step, stage.optimizers, stage.roles, keep=1, steps=seal)
    ours, theirs = tensors(again.path), tensors(newest.path)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {f.name: f.read_bytes() for f in again.path.iterdir()} == {
        f.name: f.read_bytes() for f in newest.path.iterdir()
    }


def test_saving_and_checking_say_how_far_they_are_to_the_last_byte(run: Path, tmp_path: Path) -> None:
    stage = _stage(run, "on_policy")
    restore(checkpoints(run / "runs" / "small" / "on_policy")[-1], stage.optimizers, stage.roles)
    (tmp_path / "again").mkdir()
    told: dict[str, Phase] = {}

    class Listener:
        def begin(self, phase: Phase) -> None:
            told[phase.what] = phase

        def end(self, phase: Phase) -> None:
            pass

    with listening(Listener()):
        made = save(tmp_path / "again", 5, stage.optimizers, stage.roles, keep=1)
        verify(made)
    size = sum(file.stat().st_size for file in made.path.glob("*.safetensors"))
    assert 0 < told["writing"].total < size  # without headers
    assert told["hashing"].total == told["checking again, step 5"].total == size
    for phase in told.values():
        assert phase.done == phase.total, phase.what


def test_only_the_newest_are_kept(run: Path) -> None:
    assert [c.step for c in checkpoints(run / "runs" / "small" / "teacher")] == [4, 5, 6]


def test_a_role_that_was_never_stepped_has_no_moments_yet(run: Path, tmp_path: Path) -> None:
    stage = _stage(run, "on_policy")
    (tmp_path / "x").mkdir()
    first = save(tmp_path / "x", 1, stage.optimizers, stage.roles, keep=1)
    verify(first)
    restore(first, stage.optimizers, stage.roles)
    assert all(not optimizer.state for optimizer in stage.optimizers.values())


# --- damage


def _flip(file: Path, where: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    file.write_bytes(bytes(data))


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def _size(checkpoint: Path, size: object) -> None:
    _edit(checkpoint / "manifest.json", lambda m: m["files"][_PARTS[0]].update(bytes=size))


def _name(checkpoint: Path, name: str) -> None:
    """A manifest made by hand, with the right size and checksum of a file that is elsewhere."""

    def rename(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop(_PARTS[0])

    _edit(checkpoint / "manifest.json", rename)


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


_PARTS = ("student.safetensors", "student.ema.safetensors", "student.optimizer.safetensors")

DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda c: (c / _PARTS[0]).write_bytes((c / _PARTS[0]).read_bytes()[:-1]), _PARTS[0]),
    "empty": (lambda c: (c / _PARTS[1]).write_bytes(b""), f"{_PARTS[1]} has 0 bytes instead of"),
    "longer": (lambda c: (c / _PARTS[2]).write_bytes((c / _PARTS[2]).read_bytes() + b"\0"), _PARTS[2]),
    "missing": (lambda c: (c / _PARTS[1]).unlink(), f"{_PARTS[1]} is missing"),
    "a folder": (lambda c: ((c / _PARTS[1]).unlink(), (c / _PARTS[1]).mkdir()), _PARTS[1]),
    "header": (lambda c: _flip(c / _PARTS[0], 0.0), f"the contents of {_PARTS[0]} do not match their checksum"),
    "middle": (lambda c: _flip(c / _PARTS[1], 0.5), f"the contents of {_PARTS[1]} do not match"),
    "last byte": (lambda c: _flip(c / _PARTS[2], 1.0), f"the contents of {_PARTS[2]} do not match"),
    "a pickle": (lambda c: (c / _PARTS[0]).write_bytes(pickle.dumps(_Bomb())), _PARTS[0]),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "manifest.json cannot be read"),
    "empty manifest": (lambda c: (c / "manifest.json").write_text(""), "manifest.json cannot be read"),
    "half a manifest": (
        lambda c: (c / "manifest.json").write_text((c / "manifest.json").read_text()[:99]),
        "manifest.json cannot be read",
    ),
    "garbled manifest": (lambda c: (c / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest.json cannot be read"),
    "manifest is a list": (lambda c: (c / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
    "files is a list": (lambda c: _edit(c / "manifest.json", lambda m: m.update(files=[])), "cannot be read"),
    "a file is a number": (lambda c: _edit(c / "manifest.json", lambda m: m["files"].update(x=1)), "cannot be read"),
    "no sizes": (lambda c: _edit(c / "manifest.json", lambda m: m["files"].update(x={})), "cannot be read"),
    "another step": (lambda c: _edit(c / "manifest.json", lambda m: m.update(step=7)), "step 7, not 1 and"),
    "another format": (lambda c: _edit(c / "manifest.json", lambda m: m.update(format=2)), "of format 2 and step"),
    "deep manifest": (lambda c: (c / "manifest.json").write_text("[" * 100_000), "manifest.json cannot be read"),
    "huge manifest": (lambda c: (c / "manifest.json").write_text(" " * 2_000_000), "cannot be read: has more than"),
    "infinite size": (lambda c: _size(c, math.inf), "manifest.json cannot be read"),
    "size that is no number": (lambda c: _size(c, math.nan), "manifest.json cannot be read"),
    "size as text": (lambda c: _size(c, "7"), "manifest.json cannot be read"),
    "huge size": (lambda c: _size(c, 10**30), "manifest.json cannot be read"),
    "negative size": (lambda c: _size(c, -1), "manifest.json cannot be read"),
    "step as text": (lambda c: _edit(c / "manifest.json", lambda m: m.update(step="6")), "cannot be read: 'step'"),
    "no checksum": (
        lambda c: _edit(c / "manifest.json", lambda m: m["files"].update({_PARTS[0]: {"bytes": 1}})),
        "sha256",
    ),
    "a name with NUL": (lambda c: _name(c, "a\0b.safetensors"), "manifest.json cannot be read"),
    "an empty name": (lambda c: _name(c, ""), "manifest.json cannot be read"),
    "a name above": (lambda c: _name(c, "../step-000005/student.safetensors"), "manifest.json cannot be read"),
    "a name from the root": (lambda c: _name(c, "/etc/hostname"), "manifest.json cannot be read"),
    "a name too long": (lambda c: _name(c, "x" * 5000 + ".safetensors"), "manifest.json cannot be read"),
    "a file that is not named": (
        lambda c: _edit(c / "manifest.json", lambda m: m["files"].pop(_PARTS[0])),
        f"{_PARTS[0]} is not in its manifest.json",
    ),
    "no file is named": (
        lambda c: _edit(c / "manifest.json", lambda m: m.update(files={})),
        "is not in its manifest.json",
    ),
    "seal of no steps": (lambda c: _edit(c / "manifest.json", lambda m: m.update(steps=[])), "cannot be read: 'steps'"),
    "a file, no folder": (lambda c: (shutil.rmtree(c), c.write_text("")), "manifest.json cannot be read"),
    "an empty folder": (lambda c: (shutil.rmtree(c), c.mkdir()), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_refused_and_the_one_before_it_offered(
    run: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    stage = run / "runs" / "small" / "teacher"
    *_, before, newest = checkpoints(stage)
    verify(newest)
    damaging, words = DAMAGES[damage]
    damaging(newest.path)
    with pytest.raises(StoppedError) as caught:
        verify(newest)
    assert f"checkpoint {newest.path} is damaged: " in str(caught.value)
    assert words in str(caught.value)
    assert f"It is not used. The one before it, {before.path}, is whole." in str(caught.value)
    assert caught.value.first == f"mv {newest.path} {newest.path.with_name('damaged-1-step-000006')}"
    assert caught.value.code == 1
    assert not Path("exploded").exists()


def test_an_extra_file_is_no_damage(run: Path) -> None:
    newest = checkpoints(run / "runs" / "small" / "teacher")[-1]
    (newest.path / ".DS_Store").write_bytes(b"")
    verify(newest)


def test_every_flipped_bit_of_the_tensors_is_found(run: Path) -> None:
    newest = checkpoints(run / "runs" / "small" / "teacher")[-1]
    file = newest.path / "student.safetensors"
    whole = file.read_bytes()
    for place in range(0, len(whole), 97):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(bytes(data))
        with pytest.raises(StoppedError):
            verify(newest)
    file.write_bytes(whole)
    verify(newest)


def test_several_damaged_ones_are_all_moved_away(run: Path) -> None:
    oldest, middle, newest = checkpoints(run / "runs" / "small" / "teacher")
    for one in (middle, newest):
        _flip(one.path / "student.safetensors", 0.5)
    newest.path.with_name("damaged-1-step-000006").mkdir()
    with pytest.raises(StoppedError) as caught:
        verify(newest)
    assert f"The one before it, {oldest.path}, is whole" in str(caught.value)
    moves = [command.split()[1:] for command in caught.value.first.split(" && ")]
    assert [Path(source) for source, _ in moves] == [newest.path, middle.path]
    assert [Path(target).name for _, target in moves] == ["damaged-2-step-000006", "damaged-1-step-000005"]
    _flip(oldest.path / "student.safetensors", 0.5)
    with pytest.raises(StoppedError, match="No earlier one is whole: the stage will start over") as caught:
        verify(newest)
    assert caught.value.first.count("mv ") == 3


def test_a_damaged_older_one_does_not_matter(run: Path) -> None:
    oldest, *_, newest = checkpoints(run / "runs" / "small" / "teacher")
    _flip(oldest.path / "student.safetensors", 0.5)
    verify(newest)


def test_no_pickle_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    newest = checkpoints(run / "runs" / "small" / "teacher")[-1]
    (newest.path / "student.safetensors").write_bytes(pickle.dumps(_Bomb()))
    # Even if the manifest was forged to fit.
    with pytest.raises(FlowmapError, match=r"student\.safetensors is no safetensors file"):
        read_weights(newest, "student", "raw")
    torch.save({"weight": torch.zeros(1)}, newest.path / "student.safetensors")
    with pytest.raises(FlowmapError, match=r"student\.safetensors is no safetensors file"):
        read_weights(newest, "student", "raw")
    (newest.path / "student.safetensors").unlink()
    with pytest.raises(FlowmapError, match=r"student\.safetensors does not exist"):
        read_weights(newest, "student", "raw")
    assert not Path("exploded").exists()


# FID's network is published as a pickle and nothing else, and known by the digest of that very file. torch reads of it
# tensors in containers alone, or refuses.
WAN = "plugins/backbones/flowmap_wan"
EXCEPT = {
    # Tensors alone; the second in a process without rights.
    "plugins/metrics/flowmap_metrics/inception_weights.py": 'torch.load(file, map_location="cpu", weights_only=True)',
    f"{WAN}/unpickle.py": "",
    # What processes of one run tell each other, and no file.
    "flowmap/use/joint.py": "found: tuple[Tensor, Tensor, Tensor, Cond] = torch.load(",
    # Words about files that are not read.
    f"{WAN}/convert.py": "",
    f"{WAN}/refusals.py": "",
    f"{WAN}/rights.py": "",
}


def test_nothing_in_flowmap_can_read_a_pickle() -> None:
    forbidden = re.compile(
        r"torch\.load\b|\b(c?pickle|dill|joblib|shelve|marshal|cloudpickle)\b|allow_pickle=True|read_pickle|load_state\("
    )
    sources = [*(ROOT / "flowmap").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert len(sources) > 40
    found = {
        f"{file.relative_to(ROOT)}:{number}"
        for file in sources
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if forbidden.search(line) and "No pickle is" not in line
        if EXCEPT.get(str(file.relative_to(ROOT)), "nothing") not in line
    }
    assert found == set()
    sources = {name: (ROOT / f"{WAN}/{name}.py").read_text() for name in ("convert", "refusals", "rights", "unpickle")}
    reading = [line.strip() for text in sources.values() for line in text.splitlines() if "torch.load(" in line]
    assert len(reading) == 1
    assert "weights_only=True" in reading[0]


# --- restoring into something else


def test_weights_of_another_network_change_nothing(run: Path) -> None:
    newest = checkpoints(run / "runs" / "small" / "teacher")[-1]
    stage = _stage(run, "teacher")
    before = {name: p.clone() for name, p in stage.roles["student"].own.items()}
    wrong = read_weights(newest, "student", "raw")
    for change in (
        lambda w: {k: v for k, v in w.items() if k != "out.bias"},
        lambda w: {**w, "extra": torch.zeros(1)},
        lambda w: {**w, "out.bias": torch.zeros(1)},  # would be broadcast
    ):
        save_file(change(wrong), newest.path / "student.safetensors")
        with pytest.raises(
            FlowmapError, match=r"does not fit this network: 1 parameters differ, first (out\.bias|extra)"
        ):
            restore(newest, stage.optimizers, stage.roles)
        assert all(torch.equal(p, before[name]) for name, p in stage.roles["student"].own.items())


def _state(stage: Stage) -> dict[str, torch.Tensor]:
    """Everything that restoring changes."""
    found: dict[str, torch.Tensor] = {}
    for name, optimizer in stage.optimizers.items():
        role = stage.roles[name]
        found |= {f"{name}/{key}": p.detach().clone() for key, p in role.own.items()}
        found |= {f"{name}/ema/{key}": p.clone() for key, p in (role.average or {}).items()}
        for key, parameter in role.own.items():
            found |= {f"{name}/{key}/{m}": torch.as_tensor(v).clone() for m, v in optimizer.state[parameter].items()}
    return found


MISFITS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "a moment is missing": (
        "critic.optimizer",
        lambda t: {k: v for k, v in t.items() if k != "out.bias/exp_avg_sq"},
        "out.bias/exp_avg_sq is missing",
    ),
    "a count is missing": (
        "critic.optimizer",
        lambda t: {k: v for k, v in t.items() if k != "out.bias/step"},
        "out.bias/step is missing",
    ),
    "a moment of another shape": (
        "critic.optimizer",
        lambda t: {**t, "out.bias/exp_avg": torch.zeros(1)},
        "out.bias/exp_avg is none of its moments",
    ),
    "a moment of another parameter": (
        "critic.optimizer",
        lambda t: {**t, "nobody/step": torch.zeros(())},
        "nobody/step is none of its moments",
    ),
    "another optimizer's moment": (
        "critic.optimizer",
        lambda t: {**t, "out.bias/momentum_buffer": torch.zeros(2)},
        "out.bias/momentum_buffer is none of its moments",
    ),
    "weights of another shape": ("critic", lambda t: {**t, "out.bias": torch.zeros(1)}, "does not fit this network"),
    "weights of another type": (
        "critic",
        lambda t: {**t, "out.bias": t["out.bias"].double()},
        "1 parameters differ, first out.bias",
    ),
    "no average of one": (
        "student.ema",
        lambda t: {k: v for k, v in t.items() if k != "out.bias"},
        "1 parameters differ, first out.bias",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_is_restored_whole_or_not_at_all(run: Path, misfit: str) -> None:
    """Whatever part of whichever role does not fit: not even the roles before it are touched."""
    newest = checkpoints(run / "runs" / "small" / "on_policy")[-1]
    stage = _stage(run, "on_policy")
    assert list(stage.optimizers) == ["student", "critic"]
    restore(newest, stage.optimizers, stage.roles)
    with torch.no_grad():
        for role in stage.roles.values():
            for parameter in role.own.values():
                parameter.add_(1)
    before = _state(stage)
    name, change, words = MISFITS[misfit]
    file = newest.path / f"{name}.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(FlowmapError, match=re.escape(words)) as caught:
        restore(newest, stage.optimizers, stage.roles)
    assert str(file) in str(caught.value)
    after = _state(stage)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


# --- dying and failing while saving


def test_no_more_than_keep_are_left_wherever_a_save_died(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kill may come between the new checkpoint and the removal of the old one."""
    plan = planned((run / "recipe.toml").read_text().replace("keep = 3", "keep = 2"), run)
    folder = plan.stages[0].folder
    before = checkpoints(folder)
    assert len(before) == 3
    # As after a kill: one more than there should be.
    train(plan.stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    assert checkpoints(folder) == before[-2:]


def test_the_older_ones_are_kept_while_the_newest_is_damaged(run: Path) -> None:
    plan = planned((run / "recipe.toml").read_text().replace("keep = 3", "keep = 1"), run)
    folder = plan.stages[0].folder
    before = checkpoints(folder)
    _flip(before[-1].path / "student.safetensors", 0.5)
    with pytest.raises(StoppedError, match="is damaged"):
        train(plan.stages[0], Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    assert checkpoints(folder) == before


def test_a_checkpoint_makes_no_stage_s_folder_anew(run: Path) -> None:
    folder = run / "runs" / "small" / "teacher"
    stage = _stage(run, "teacher")
    shutil.rmtree(folder)
    with pytest.raises(StoppedError, match="is not there any more"):
        save(folder, 7, stage.optimizers, stage.roles, keep=1)
    assert not folder.exists()


def test_the_last_good_checkpoint_survives_a_death_at_any_point_of_a_save(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run / "runs" / "small" / "teacher"
    stage = _stage(run, "teacher")
    restore(checkpoints(folder)[-1], stage.optimizers, stage.roles)
    steps = {6}
    for n in deaths(monkeypatch, lambda n: save(folder, 7 + n, stage.optimizers, stage.roles, keep=1)):
        found = checkpoints(folder)
        # Whatever is seen is whole, and the newest is the one before or the one being saved.
        for one in found:
            verify(one)
        assert found[-1].step in (max(steps), 7 + n)
        steps.add(found[-1].step)
        clean(folder)
        assert {p.name for p in (folder / "checkpoints").iterdir()} == {c.path.name for c in found}
    assert max(steps) == 7 + n
    assert len(checkpoints(folder)) == 1


def test_leftovers_are_no_checkpoints_and_are_cleaned(run: Path) -> None:
    folder = run / "runs" / "small" / "teacher"
    before = checkpoints(folder)
    shutil.copytree(before[-1].path, before[-1].path.with_name(".part-step-000009"))
    shutil.copytree(before[-1].path, before[-1].path.with_name(".part-gone-step-000001"))
    (folder / ".part-steps.jsonl").write_text("{")
    (folder / "checkpoints" / "notes.txt").write_text("mine")
    assert checkpoints(folder) == before
    clean(folder)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "notes.txt",
        *(c.path.name for c in before),
    ]
    assert not (folder / ".part-steps.jsonl").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_while_saving_loses_nothing(run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    folder = run / "runs" / "small" / "teacher"
    stage = _stage(run, "teacher")
    before = checkpoints(folder)
    saved: list[Path] = []

    def fail_at_the_second(values: dict[str, torch.Tensor], file: Path) -> None:
        if saved:
            raise error
        saved.append(file)
        save_file(values, file)

    monkeypatch.setattr(checkpoint, "save_file", fail_at_the_second)
    with pytest.raises(StoppedError, match=r"step-000007: the disk is full; free some space\. What was saved"):
        save(folder, 7, stage.optimizers, stage.roles, keep=1)
    assert checkpoints(folder) == before
    assert len(list((folder / "checkpoints").iterdir())) == len(before)
    for one in before:
        verify(one)


def test_two_runs_of_one_recipe_are_the_same(run: Path, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    train_all(planned((run / "recipe.toml").read_text(), tmp_path / "second"))
    assert_same(run / "runs", tmp_path / "second" / "runs")


def test_a_checkpoint_is_ordered_by_its_number(tmp_path: Path) -> None:
    for name in ("step-1000000", "step-000999", "step-000010", "step-12", "step-000011.old", "damaged-1-step-000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert checkpoints(tmp_path) == [
        Checkpoint(tmp_path / "checkpoints" / f"step-{step:06d}", step) for step in (10, 999, 1_000_000)
    ]
    assert checkpoints(tmp_path / "nothing") == []
