"""Files and folders that are whole or absent, one writer at a time, errors that say what is lost."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError

from flowmap.errors import FlowmapError
from flowmap.files.folder import (
    LOCKED,
    SKIP_PREFIX,
    StoppedError,
    clear,
    locked,
    make_folder,
    remove_folder,
    set_aside,
    writing,
)
from flowmap.files.json_lines import append_line, read_lines, rewrite_lines
from flowmap.files.whole import write_together, write_whole, write_whole_folder
from flowmap.statistics.scores import Number


class Death(BaseException):
    """The process ends here: nothing after it may tidy up."""


class Reaper:
    """Kills at the n-th call that touches the disk, and keeps a diary of those calls."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.diary: list[tuple[str, str]] = []
        self._at = at
        self._dead = False
        for owner, name in (
            (os, "fsync"),
            (os, "rename"),
            (os, "replace"),
            (os, "mkdir"),
            (os, "rmdir"),
            (os, "unlink"),
        ):
            patch.setattr(owner, name, self._watched(name, getattr(owner, name)))
        # Inside pathlib they are bound already.
        for name in ("rename", "replace", "mkdir"):
            patch.setattr(Path, name, self._watched(name, getattr(Path, name)))
        # With dir_fd, shutil would go around the names above.
        patch.setattr(shutil, "_use_fd_functions", False)

    def _watched(self, name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if self._dead or len(self.diary) == self._at:
                self._dead = True
                raise Death
            self.diary.append((name, str(args[0])))
            return original(*args, **options)

        return call


def deaths(patch: pytest.MonkeyPatch, work: Callable[[int], None]) -> Iterator[int]:
    """Do `work(n)` dying at its n-th disk operation, for n = 0, 1, ... until it survives; yields each n after."""
    n = 0
    while True:
        with patch.context() as inner:
            Reaper(inner, n)
            try:
                work(n)
            except Death:
                died = True
            else:
                died = False
        yield n
        if not died:
            assert n > 3
            return
        n += 1


def test_a_text_file_is_the_old_or_the_new_one_wherever_the_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for n in deaths(monkeypatch, lambda n: write_whole(tmp_path / str(n) / "new" / "file", "new" * 10_000)):
        file = tmp_path / str(n) / "new" / "file"
        seen.add(file.read_text()[:3] if file.exists() else "")
        assert not file.exists() or len(file.read_text()) == 30_000
    assert seen == {"", "new"}
    path = tmp_path / "file"
    for _ in deaths(monkeypatch, lambda n: write_whole(path, f"{n:05}" * 10_000)):
        text = path.read_text() if path.exists() else ""
        assert not text or text == text[:5] * 10_000


def test_a_folder_is_there_whole_or_not_at_all_wherever_the_process_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")

    def path(n: int) -> Path:
        return tmp_path / str(n) / "checkpoints" / "whole"

    seen = []
    for n in deaths(monkeypatch, lambda n: write_whole_folder(path(n), fill)):
        seen.append(path(n).exists())
        if path(n).exists():
            assert sorted(p.name for p in path(n).iterdir()) == ["a", "b"]
        # And the next attempt gets over what this one left.
        if not path(n).exists():
            write_whole_folder(path(n), fill)
        assert [p.name for p in path(n).parent.iterdir()] == ["whole"]
    assert seen[0] is False
    assert seen[-1] is True


def test_everything_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[int, str] = {}
    order: list[str] = []
    real_open, real_fsync, real_rename = os.open, os.fsync, Path.rename

    def note_open(path: str | Path, *args: int, **options: int) -> int:
        descriptor = real_open(path, *args, **options)
        opened[descriptor] = Path(path).name
        return descriptor

    def fill(folder: Path) -> None:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", lambda d: (order.append(opened[d]), real_fsync(d))[1])
    monkeypatch.setattr(Path, "rename", lambda s, t: (order.append("rename"), real_rename(s, t))[1])
    (tmp_path / "run").mkdir()
    write_whole_folder(tmp_path / "run" / "checkpoints" / "x", fill)
    # The new folder's entries in those above it, then what is in it, then its name.
    assert order[:2] == ["run", "checkpoints"]
    assert sorted(order[2:4]) == ["a", "b"]
    assert order[4:] == [".part-x", "rename", "checkpoints"]


def test_a_folder_is_deleted_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(100):
        folder = tmp_path / f"{n}" / "checkpoint"
        folder.mkdir(parents=True)
        for name in "abc":
            (folder / name).write_text(name)
    for n in deaths(monkeypatch, lambda n: remove_folder(tmp_path / f"{n}" / "checkpoint")):
        left = list((tmp_path / f"{n}").iterdir())
        for path in left:
            assert path.name.startswith(SKIP_PREFIX) or len(list(path.iterdir())) == 3
    assert left == []


def test_lines_come_back_and_a_torn_last_one_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert read_lines(path) == []
    rewrite_lines(path, [{"step": 1}])
    append_line(path, {"step": 2, "loss": 0.1})
    assert read_lines(path) == [{"step": 1}, {"step": 2, "loss": 0.1}]
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert read_lines(path) == [{"step": 1}, {"step": 2, "loss": 0.1}][: whole[:cut].count(b"\n")]
    path.write_bytes(whole + b'{"step": \xff\x00')
    assert len(read_lines(path)) == 2


@pytest.mark.parametrize("damage", [b"\x00\x00\x00\n", b'{"step": 1}{"step"\n', b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    with pytest.raises(FlowmapError, match=r"steps\.jsonl, line 2: damaged"):
        read_lines(path)


def test_a_full_disk_under_a_line_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(StoppedError) as caught:
        append_line(path, {"step": 1})
    assert str(caught.value) == (
        f"cannot write {path}: the disk is full; free some space. What was saved before is untouched."
    )
    assert caught.value.code == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(errno.EACCES, "Permission denied"), "not writable; change its permissions or choose another"),
        (OSError(errno.EPERM, "Operation not permitted"), "not writable"),
        (OSError(errno.EROFS, "Read-only file system"), "not writable"),
        (OSError(errno.ENOTDIR, "Not a directory"), "a file stands where a folder is needed"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ],
)
def test_a_failing_write_says_why_and_that_nothing_is_lost(error: Exception, words: str) -> None:
    with pytest.raises(StoppedError, match=words) as caught, writing(Path("runs/x")):
        raise error
    assert "cannot write runs/x" in str(caught.value)
    assert "What was saved before is untouched" in str(caught.value)


def test_a_failed_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoppedError, match="disk is full"):
        write_whole_folder(tmp_path / "checkpoint", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoppedError, match="a file stands where a folder is needed"):
        write_whole(tmp_path / "runs" / "x" / "file", "")
    with pytest.raises(StoppedError, match="a file stands where a folder is needed"), locked(tmp_path / "runs" / "x"):
        pass
    with pytest.raises(StoppedError, match="a file stands where a folder is needed"):
        write_whole(tmp_path / "runs" / "file", "")


_HOLD = """
import sys
from pathlib import Path
from flowmap.files.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_writer_at_a_time_and_a_dead_one_does_not_block(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FlowmapError, match="another flowmap run is writing here"), locked(folder):
            pass
        with locked(tmp_path / "other run"):
            pass
        holder.kill()
    with locked(folder):
        pass
    with locked(folder):
        pass


def test_a_folder_is_set_aside_under_the_first_free_name(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "x") is None
    for number in (1, 2):
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "file").write_text(str(number))
        assert set_aside(tmp_path / "x") == tmp_path / f"x.old-{number}"
    assert [(tmp_path / f"x.old-{n}" / "file").read_text() for n in (1, 2)] == ["1", "2"]
    assert not (tmp_path / "x").exists()


# --- folders that vanish, and folders of several names


def _moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def _replaced(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    shutil.copytree(folder.with_name("moved"), folder)


def _unlocked(folder: Path) -> None:
    (folder / LOCKED).unlink()


def _locked_anew(folder: Path) -> None:
    (folder / LOCKED).unlink()
    (folder / LOCKED).touch()


@pytest.mark.parametrize("harm", [shutil.rmtree, _moved, _replaced, _unlocked, _locked_anew])
@pytest.mark.parametrize("stage", ["", "stage"])
def test_nothing_is_written_into_a_folder_that_is_not_the_one_it_was(
    tmp_path: Path, harm: Callable[[Path], None], stage: str
) -> None:
    run = tmp_path / "runs" / "x"
    folder = run / stage
    work: list[Callable[[], object]] = [
        lambda: write_whole(folder / "text", "new"),
        lambda: rewrite_lines(folder / "lines", [{"step": 2}]),
        lambda: append_line(folder / "lines", {"step": 2}),
        lambda: write_whole_folder(folder / "checkpoints" / "step", lambda part: None),
        lambda: write_together({folder / "text": lambda part: part.write_text("new")}),
        lambda: make_folder(folder / "more" / "below"),
    ]
    with locked(run):
        make_folder(folder)
        for do in work:
            do()
        harm(run)
        there = sorted(tmp_path.rglob("*"))
        for do in work[:-1]:
            with pytest.raises(StoppedError, match="no longer the folder that this run works in") as caught:
                do()
            assert caught.value.code == 1
        if not run.exists():
            with pytest.raises(FileNotFoundError):
                work[-1]()
        # Neither what was lost was made again, nor what stands there now was touched.
        assert sorted(tmp_path.rglob("*")) == there


def test_a_stage_that_vanishes_is_not_begun_again_under_its_own_lines(tmp_path: Path) -> None:
    with locked(tmp_path / "x"):
        write_whole(tmp_path / "x" / "stage" / "lines", "")
        shutil.rmtree(tmp_path / "x" / "stage")
        with pytest.raises(StoppedError, match="is not there any more: deleted or renamed"):
            append_line(tmp_path / "x" / "stage" / "lines", {"step": 1})
        assert not (tmp_path / "x" / "stage").exists()


def test_a_folder_under_two_names_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("disk/run")
    (tmp_path / "mounted").symlink_to("disk")
    names = ["disk/run", "alias", "mounted/run", "disk/../disk/run"]
    for one in names:
        for other in names:
            with (
                locked(tmp_path / one),
                pytest.raises(FlowmapError, match="another flowmap run is writing here"),
                locked(tmp_path / other),
            ):
                pass


def test_what_is_set_aside_under_a_lock_is_begun_anew_and_held(tmp_path: Path) -> None:
    run = tmp_path / "x"
    with locked(run):
        # Nothing but the lock is nothing to keep.
        assert set_aside(run) is None
        write_whole(run / "old", "")
        assert set_aside(run) == tmp_path / "x.old-1"
        write_whole(run / "new", "")
        assert sorted(p.name for p in run.iterdir()) == [LOCKED, "new"]
        with pytest.raises(FlowmapError, match="another flowmap run"), locked(tmp_path / "y" / ".." / "x"):
            pass
        with locked(tmp_path / "x.old-1"):
            pass
    with locked(run):
        pass


def test_a_folder_into_which_nothing_was_written_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="refused"), locked(tmp_path / "runs" / "x"):
        raise FlowmapError("refused")
    assert list((tmp_path / "runs").iterdir()) == []
    (tmp_path / "runs" / "x").mkdir()
    with locked(tmp_path / "runs" / "x"):
        pass
    assert (tmp_path / "runs" / "x").is_dir()  # it was there before
    with locked(tmp_path / "runs" / "y"):
        write_whole(tmp_path / "runs" / "y" / "file", "")
        assert sorted(p.name for p in (tmp_path / "runs" / "y").iterdir()) == [LOCKED, "file"]
    assert [p.name for p in (tmp_path / "runs" / "y").iterdir()] == ["file"]


def test_what_is_cleared_is_held_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with locked(tmp_path / "x"):
        write_whole(tmp_path / "x" / "deep" / "file", "")
        (tmp_path / "x" / "link").symlink_to(tmp_path / "kept")
        clear(tmp_path / "x")
        assert [p.name for p in (tmp_path / "x").iterdir()] == [LOCKED]
        write_whole(tmp_path / "x" / "file", "")
    assert (tmp_path / "kept").is_dir()


def test_the_lock_of_another_is_not_removed(tmp_path: Path) -> None:
    """Of a run whose folder was replaced meanwhile: what stands there is not its own."""
    with locked(tmp_path / "x"):
        _replaced(tmp_path / "x")
    assert (tmp_path / "x" / LOCKED).exists()


# --- lines


@pytest.mark.parametrize("torn", [b"", b'{"st', b"x" * 9000, b'{"step": 2}'])
@pytest.mark.parametrize("before", [b"", b'{"step": 1}\n', b'{"step": 1}\n' * 1000])
def test_a_line_is_never_joined_to_one_that_was_cut_off(tmp_path: Path, before: bytes, torn: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before + torn)
    append_line(path, {"step": 3})
    append_line(path, {"step": 4})
    assert path.read_bytes() == before + b'{"step": 3}\n{"step": 4}\n'


def test_a_write_that_takes_only_a_part_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    path.touch()
    real = io.FileIO

    class Slow(real):  # type: ignore[misc, valid-type]
        def write(self, content: bytes) -> int:
            return int(super().write(content[:3]))

    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: Slow(self, mode))
    append_line(path, {"step": 1, "loss": 0.5})
    monkeypatch.undo()
    assert read_lines(path) == [{"step": 1, "loss": 0.5}]


def test_lines_are_json_whatever_numbers_they_have(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    path = tmp_path / "lines"
    line = {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1e308, "e": (0.1, 1)}
    rewrite_lines(path, [line])
    append_line(path, line)
    for text in path.read_text().splitlines():
        found = json.loads(text, parse_constant=refuse)
        assert found == {"a": "NaN", "b": ["Infinity", {"c": "-Infinity"}], "d": 1e308, "e": [0.1, 1]}


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True)
    step: int
    loss: Number


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[1]", "valid dictionary|object"),
        (b"1", "object"),
        (b"null", "object"),
        (b"{}", "'step': field required"),
        (b'{"step": 1}', "'loss': field required"),
        (b'{"step": "1", "loss": 1}', "'step': input should be a valid integer"),
        (b'{"step": true, "loss": 1}', "'step'"),
        (b'{"step": 1.5, "loss": 1}', "'step'"),
        (b'{"step": 1, "loss": null}', "'loss': input should be a valid number"),
        (b'{"step": 1, "loss": "x"}', "'loss'"),
        (b'{"step": 1, "loss": [1]}', "'loss'"),
        (b'{"step": ' + b"1" * 5000 + b', "loss": 1}', "number out of range|'step'"),
        (b'{"step": ' + b"[" * 50_000, "recursion limit"),
        (b'{"step": 1, "loss": 1, "\xff": 1}', "invalid|unicode"),
    ],
)
def test_a_line_of_another_shape_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"step": 1, "loss": 1}\n' + line + b"\n")
    with pytest.raises(FlowmapError, match=r"lines, line 2: damaged, ") as caught:
        read_lines(path, _Shape)
    assert re.search(words, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 600


def test_what_json_does_not_have_comes_back_as_the_number_that_it_was(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    rewrite_lines(path, [{"step": 1, "loss": value} for value in (math.nan, math.inf, -math.inf, 0.1)])
    path.write_bytes(path.read_bytes() + b'{"step": 1, "loss": NaN}\n')  # as older versions wrote it
    found = [line["loss"] for line in read_lines(path, _Shape)]
    assert [math.isnan(found[0]), *found[1:4], math.isnan(found[4])] == [True, math.inf, -math.inf, 0.1, True]


def test_a_whole_tree_is_on_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[int, Path] = {}
    order: list[str] = []
    real_open, real_fsync, real_rename = os.open, os.fsync, Path.rename

    def note_open(path: str | Path, *args: int, **options: int) -> int:
        descriptor = real_open(path, *args, **options)
        opened[descriptor] = Path(path)
        return descriptor

    def fill(folder: Path) -> None:
        for inner in ("transformer/a", "transformer/deep/b", "c"):
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            (folder / inner).write_text(inner)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", lambda d: (order.append(opened[d].name), real_fsync(d))[1])
    monkeypatch.setattr(Path, "rename", lambda s, t: (order.append("rename"), real_rename(s, t))[1])
    write_whole_folder(tmp_path / "x", fill)
    before = order[: order.index("rename")]
    assert {"a", "b", "c", "deep", "transformer", ".part-x"} <= set(before)
    assert before.index("b") < before.index("deep") < before.index("transformer") < before.index(".part-x")


def test_several_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a").write_text("old")
    with pytest.raises(StoppedError, match="b: the disk is full"):
        write_together({tmp_path / "a": lambda part: part.write_text("new"), tmp_path / "b": fail})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a", "old")]
    write_together({tmp_path / n: lambda part: part.write_text("new") for n in "ab"})
    assert sorted((p.name, p.read_text()) for p in tmp_path.iterdir()) == [("a", "new"), ("b", "new")]
