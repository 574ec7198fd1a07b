"""A .pt turned into safetensors by a process without rights: its tables, its parts, and what a pickle cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.convert import convert, main
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError


def table(shift: float = 0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    wide = torch.randn(6, 4) + shift
    return {
        "model.bfloat": torch.randn(5, 7).bfloat16() + shift,
        "model.half": torch.randn(3).half(),
        "model.turned": wide.T,  # not contiguous
        "model.same": wide,  # of the same storage
        "model.number": torch.tensor(3.5),
        "model.empty": torch.zeros(0, 3),
        "model.steps": torch.arange(4),
    }


def saved(what: Any, folder: Path, **fields: Any) -> Path:
    torch.save(what, folder / "their.pt", **fields)
    return folder / "their.pt"


def same(file: Path, wanted: dict[str, Tensor]) -> None:
    found = load_file(file)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "of before torch 1.6"])
def test_a_flat_file(zipped: bool, tmp_path: Path) -> None:
    file = saved(table(), tmp_path, _use_new_zipfile_serialization=zipped)
    assert convert(file, tmp_path / "to.safetensors") == (7, 1)
    same(tmp_path / "to.safetensors", table())


def test_a_table_within_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved({"generator": table(), "generator_ema": table(1), "step": 600, "more": {"inner": table(2)}}, tmp_path)
    to = tmp_path / "to.safetensors"
    assert main([str(file), str(to)]) == 2
    assert capsys.readouterr().err == (
        f"{file}: which table of tensors is meant? There are: generator (7 tensors), generator_ema (7 tensors), "
        "more.inner (7 tensors); name one with --key\n"
    )
    assert not to.exists()
    assert main([str(file), str(to), "--key", "generator_ema"]) == 0
    same(to, table(1))
    assert capsys.readouterr().out == f"7 tensors, 1 file: {to}\n"
    convert(file, tmp_path / "inner.safetensors", "more.inner")
    same(tmp_path / "inner.safetensors", table(2))
    with pytest.raises(FlowmapError, match=r"no table of tensors called 'ema'\. There are: generator \(7 tensors\)"):
        convert(file, tmp_path / "no.safetensors", "ema")
    with pytest.raises(FlowmapError, match="is there already; name a new one"):
        convert(file, to)


def test_a_single_table_needs_no_name(tmp_path: Path) -> None:
    convert(saved({"generator": table(), "step": 3}, tmp_path), tmp_path / "to.safetensors")
    same(tmp_path / "to.safetensors", table())


def test_a_folder_is_in_parts(tmp_path: Path) -> None:
    assert convert(saved(table(), tmp_path), tmp_path / "to", most=120) == (7, 4)
    index = json.loads((tmp_path / "to" / "model.safetensors.index.json").read_text())
    read = {}
    for name in set(index["weight_map"].values()):
        part = load_file(tmp_path / "to" / name)
        assert part.keys() == {key for key, place in index["weight_map"].items() if place == name}
        assert sum(value.nbytes for value in part.values()) <= 120
        read |= part
    assert all(torch.equal(read[key], value) for key, value in table().items())
    assert convert(saved(table(), tmp_path), tmp_path / "one") == (7, 1)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("bytes_left", [20, 1000])
def test_what_is_cut_short_is_said_in_our_words(bytes_left: int, tmp_path: Path) -> None:
    file = saved({"a": torch.ones(2000)}, tmp_path)
    file.write_bytes(file.read_bytes()[:bytes_left])
    with pytest.raises(FlowmapError) as caught:
        convert(file, tmp_path / "to.safetensors")
    told = "it is not read: it is cut short, damaged, or no file of torch.save; compare its size with the published one"
    assert str(caught.value) == f"{file}: {told}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda t: {"a": t, "l": [t, t]}, "2 tensors of it have no name: they stand in lists, or under numbers"),
        (lambda t: {"a": t, 3: t}, "1 tensors of it have no name"),
        (lambda t: {"a": t, "b": {"c": t}}, "which table of tensors is meant? There are: . (1 tensors), b (1 tensors)"),
        (lambda t: {"a": t[:1].expand(10**9)}, "a has fewer numbers in the file than its shape, [1000000000], says"),
        (lambda t: {"a": t.to("meta")}, "a has fewer numbers in the file than its shape, [4], says"),
        (lambda t: {"__metadata__": t}, "a tensor is called __metadata__"),
    ],
)
def test_nothing_is_left_out_or_made_up(content: Callable[[Tensor], Any], why: str, tmp_path: Path) -> None:
    file = saved(content(torch.ones(4)), tmp_path)
    with pytest.raises(FlowmapError) as caught:
        convert(file, tmp_path / "to.safetensors")
    assert str(caught.value).startswith(f"{file}: {why}")
    assert not (tmp_path / "to.safetensors").exists()


def test_the_file_itself_can_be_meant(tmp_path: Path) -> None:
    file = saved({"a": torch.ones(4), "b": {"c": torch.zeros(4)}}, tmp_path)
    assert convert(file, tmp_path / "to.safetensors", ".") == (1, 1)


def test_code_is_refused(tmp_path: Path) -> None:
    file = saved({"a": torch.ones(2), "b": Evil(f"touch {tmp_path}/ran")}, tmp_path)
    with pytest.raises(
        FlowmapError, match=r"their\.pt: it is not read: it has more .*posix\.system.*nothing in it was run"
    ):
        convert(file, tmp_path / "to.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"version https://git-lfs", b"\x80\x02}q\x00."])
def test_no_file_of_torch(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "their.pt").write_bytes(content)
    with pytest.raises(FlowmapError) as caught:
        convert(tmp_path / "their.pt", tmp_path / "to")
    assert str(caught.value).count("\n") == 0
    assert "Traceback" not in str(caught.value)
    assert not (tmp_path / "to").exists()
    with pytest.raises(FlowmapError, match="there is no such file"):
        convert(tmp_path / "no.pt", tmp_path / "to")


_TRIES = """
import os, socket, subprocess, sys, pathlib, pickle, threading, ctypes
sys.path[:0] = {paths}
import torch
from flowmap_wan.rights import give_up_rights
here = pathlib.Path({here!r})
ready, go, late = threading.Event(), threading.Event(), []
def other():
    go.wait()
    try: (here / "thread").write_text("x")
    except OSError as error: late.append(error)
thread = threading.Thread(target=other); thread.start()
give_up_rights()
go.set(); thread.join()
assert late, "another thread writes"
def refused(what, do):
    try:
        do()
    except OSError:
        return
    sys.exit(what + " was let through")
refused("write", lambda: (here / "new").write_text("x"))
refused("append", lambda: open(here / "there", "a"))
refused("write without making", lambda: os.open(here / "there", os.O_WRONLY))
refused("read and write", lambda: os.open(here / "there", os.O_RDWR))
refused("truncate", lambda: os.truncate(here / "there", 0))
refused("remove", lambda: (here / "there").unlink())
refused("move", lambda: (here / "there").rename(here / "moved"))
refused("folder", lambda: (here / "folder").mkdir())
refused("link", lambda: (here / "link").symlink_to(here / "there"))
refused("rights", lambda: (here / "there").chmod(0o777))
refused("network", lambda: socket.socket())
refused("local socket", lambda: socket.socket(socket.AF_UNIX))
refused("program", lambda: subprocess.run(["/bin/true"]))
refused("program in our place", lambda: os.execv("/bin/true", ["true"]))
refused("signal", lambda: os.kill(os.getppid(), 0))
assert os.system("touch " + str(here / "ran")) != 0
io_uring = ctypes.CDLL(None, use_errno=True).syscall(425, 1, ctypes.create_string_buffer(256))
assert io_uring == -1
assert (here / "there").read_text() == "as before"
print("done", float(torch.randn(300, 300).matmul(torch.randn(300, 300)).mean()) < 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_without_rights_nothing_is_written_sent_or_started(tmp_path: Path) -> None:
    """What `weights_only` lets through by a bug can still do nothing."""
    (tmp_path / "there").write_text("as before")
    code = _TRIES.format(paths=[path for path in sys.path if path], here=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done True\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_what_is_safetensors_already_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(FlowmapError, match="is called a safetensors file already"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
