"""`flowmap encode`: what it writes and says, what it refuses, and how it goes on after it was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from flowmap_video.configs import VideoShardsConfig
from flowmap_video.rehearsal import write_clips
from rich.console import Console

from flowmap.cli import main as cli
from flowmap.console.signals import Signalled
from flowmap.files.folder import locked
from flowmap.interfaces import EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import BackboneConfig, Finding, SampleSpec
from flowmap.plugin.catalogue import catalogue
from flowmap.shards.writing import add_file

from .conftest import edited

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """\
name = "video"
data = { type = "video_shards", path = "latents", frames = 5, height = 16, width = 16, fps = 8.0, held_out = 0.4 }
backbone = "fake_video"
compute.device = "cpu"

[[stages]]
name = "teacher"
steps = 1
batch = 2
objective = "flow_matching"
"""
KEYS = [f"{colour}-{shape}" for shape in ("disc", "square") for colour in ("red", "green", "blue", "yellow")]


class FakeBackbone:
    """Only what `flowmap encode` asks of a backbone: latents are means of pixels, texts their lengths."""

    calls = 0
    before: Callable[[int], Any] = staticmethod(lambda call: None)
    """Called before each sample with its number; a test may stop the run there."""

    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        type(self).calls += 1
        type(self).before(self.calls)
        assert not torch.is_grad_enabled()
        assert samples.x.shape == (1, 5, 3, 16, 16)
        text = torch.tensor([float(len(prompt)) for prompt in samples.prompts])
        x = samples.x.mean((3, 4), keepdim=True)
        encoded = EncodedText(text[:, None, None] * torch.tensor([[1.0], [0.0]]), torch.ones(2, 1))
        return Samples(x, prompts=encoded, encoded=True)


class FakeConfig(BackboneConfig):
    """A backbone that does nothing but encode."""

    type: Literal["fake_video"] = "fake_video"
    random_base = True

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return ()

    def build(self, spec: SampleSpec) -> Any:
        return FakeBackbone()


class AbsentConfig(FakeConfig):
    """A backbone whose weights are not here."""

    type: Literal["absent"] = "absent"  # type: ignore[assignment]

    def missing(self) -> Iterable[Finding]:
        yield Finding("error", ("weights",), "no weights at models/wan; download them")


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Encode = Callable[..., Result]


@pytest.fixture
def encode(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], install: Callable[..., None]
) -> Encode:
    """Run `flowmap encode r.toml --from raw` in a folder with two raw tars of four clips each."""
    installed = catalogue().names("data")
    install(FakeConfig, AbsentConfig, *([] if "video_shards" in installed else [VideoShardsConfig]))
    monkeypatch.setattr("flowmap.cli.consoles.out", Console(width=200))
    monkeypatch.setattr("flowmap.cli.consoles.err", Console(width=200, stderr=True))
    monkeypatch.setattr(FakeBackbone, "calls", 0)
    (here / "r.toml").write_text(RECIPE)
    write_clips(here / "raw", 5, 16, 8.0, "captions")

    def run(*words: str, raw: str = "raw") -> Result:
        monkeypatch.setattr(sys, "argv", ["flowmap", "encode", "r.toml", "--from", raw, *words])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capsys.readouterr())

    return run


def stop_before(call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fake backbone raise at its call number `call`."""

    def check(number: int) -> None:
        if number == call:
            raise error

    monkeypatch.setattr(FakeBackbone, "before", staticmethod(check))


def names(folder: str = "latents") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def members(tar: str) -> list[str]:
    with tarfile.open(tar) as opened:
        return opened.getnames()


WHOLE = ["000.tar", "001.tar", "encoded.json", "encoder.json", "null.safetensors"]


def test_it_says_what_it_did_and_how_to_go_on(encode: Encode) -> None:
    done = encode()
    size = sum(Path(f"latents/{tar}").stat().st_size for tar in ("000.tar", "001.tar"))
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "000.tar: 4 samples, 0 faults; 1 of 2 parts\n"
        "001.tar: 4 samples, 0 faults; 2 of 2 parts\n"
        "✓ encoded 8 samples in 2 parts, 0 faults\n"
        f"✓ latents has all 2 parts, {size / 1000:.3g} kB\n"
        "To go on: flowmap run r.toml\n"
    )
    assert names() == WHOLE
    data = VideoShardsConfig(path="latents", frames=5, height=16, width=16, fps=8.0, held_out=0.4).build()
    samples = data.batch(Draw.whole(0, "s", 0, "t", 4))
    assert samples.encoded
    assert samples.x.shape == (4, 5, 3, 1, 1)
    assert samples.prompts.text.shape == (4, 2, 1)


def test_another_folder_is_part_of_how_to_go_on(encode: Encode) -> None:
    done = encode("--to", "some/where else", "--set", "data.faults=3")
    assert done.code == 0
    assert names("some/where else") == WHOLE
    assert done.out.splitlines()[-1] == (
        "To go on: flowmap run r.toml --set data.faults=3 --set 'data.path=some/where else'"
    )


def test_a_second_run_does_nothing(encode: Encode) -> None:
    encode()
    stamps = {path.name: path.stat().st_mtime_ns for path in Path("latents").iterdir()}
    again = encode()
    assert (again.code, FakeBackbone.calls) == (0, 8)
    assert again.out.splitlines()[0] == "2 of 2 parts are in latents already; skipped"
    assert "encoded" not in again.out
    assert {path.name: path.stat().st_mtime_ns for path in Path("latents").iterdir()} == stamps


def test_ctrl_c_keeps_finished_parts_and_the_same_command_goes_on(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode("--to", "uninterrupted")
    monkeypatch.setattr(FakeBackbone, "calls", 0)
    stop_before(6, KeyboardInterrupt(), monkeypatch)
    stopped = encode()
    assert stopped.code == 130
    assert stopped.err == (
        "error: interrupted; 1 of 2 parts are finished and kept in latents. Run the same command again to go on\n"
    )
    assert names() == ["000.tar", "encoded.json", "encoder.json", "null.safetensors"]
    first = Path("latents/000.tar").stat().st_mtime_ns
    resumed = encode()
    assert resumed.code == 0
    assert resumed.out.splitlines()[:2] == [
        "1 of 2 parts are in latents already; skipped",
        "001.tar: 4 samples, 0 faults; 1 of 1 parts",
    ]
    assert Path("latents/000.tar").stat().st_mtime_ns == first
    for name in names("uninterrupted"):
        assert Path("latents", name).read_bytes() == Path("uninterrupted", name).read_bytes()


def test_another_signal_is_named_and_its_number_is_in_the_code(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_before(6, Signalled(signal.SIGTERM), monkeypatch)
    stopped = encode()
    assert stopped.code == 128 + signal.SIGTERM
    assert stopped.err.startswith("error: stopped by SIGTERM; 1 of 2 parts are finished and kept in latents. ")


@pytest.mark.parametrize("call", [2, 7])
def test_no_half_file_counts_after_a_kill(call: int, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(number: int) -> None:
        if number == call:  # what a kill at this moment would leave on the disk
            shutil.copytree("latents", "killed")

    monkeypatch.setattr(FakeBackbone, "before", staticmethod(leave))
    encode()
    half = [".part-000.tar"] if call == 2 else [".part-001.tar", "000.tar"]
    assert [name for name in names("killed") if name.endswith(".tar")] == half
    resumed = encode("--to", "killed")
    assert resumed.code == 0
    for name in WHOLE:
        assert Path("killed", name).read_bytes() == Path("latents", name).read_bytes()
    assert names("killed") == WHOLE


def spoil(tar: str, change: Callable[[dict[str, bytes]], Any]) -> None:
    with tarfile.open(tar) as opened:
        files = {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
    change(files)
    with tarfile.open(tar, "w") as writing:
        for name, content in files.items():
            add_file(writing, name, content)


def test_faults_are_shown_counted_and_listed(encode: Encode) -> None:
    spoil("raw/000.tar", lambda files: [files.pop("red-disc.json"), files.update({"blue-disc.mp4": b"junk"})])
    whole = Path("raw/001.tar").read_bytes()
    Path("raw/001.tar").write_bytes(whole[: len(whole) // 2])
    done = encode()
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].startswith("skipped raw/001.tar: it is cut off within ")
    assert lines[1].startswith("skipped raw/000.tar: blue-disc: it cannot be read as a video")
    assert lines[2] == "skipped raw/000.tar: red-disc: it has no .json, where its caption would be"
    assert lines[3] == "000.tar: 4 samples, 2 faults; 1 of 2 parts"
    kept = len(members("latents/001.tar")) // 2
    assert kept in (1, 2)
    assert any(line.startswith(f"✓ encoded {2 + kept} samples in 2 parts, ") for line in lines)
    assert any(line.endswith(", listed in latents/faults.jsonl") for line in lines)
    listed = [json.loads(line) for line in Path("latents/faults.jsonl").read_text().splitlines()]
    assert [line["key"] for line in listed][:2] == ["blue-disc", "red-disc"]
    assert {line["tar"] for line in listed} == {"000.tar", "001.tar"}
    assert members("latents/000.tar")[::2] == ["green-disc.safetensors", "yellow-disc.safetensors"]


def test_tars_that_were_written_one_behind_the_other_are_encoded_whole(encode: Encode) -> None:
    whole = Path("raw/000.tar").read_bytes() + Path("raw/001.tar").read_bytes()
    Path("raw/001.tar").unlink()
    Path("raw/000.tar").write_bytes(whole)
    done = encode()
    assert (done.code, done.err) == (0, "")
    assert "✓ encoded 8 samples in 1 parts, 0 faults\n" in done.out
    assert members("latents/000.tar")[::2] == [f"{key}.safetensors" for key in sorted(KEYS)]


def test_what_is_wrong_with_a_whole_tar_is_counted_too(encode: Encode) -> None:
    with Path("raw/000.tar").open("ab") as file:
        file.write(b"junk" * 300)
    done = encode()
    assert done.code == 0
    assert "are no tar" in done.out.splitlines()[0]
    assert "✓ encoded 8 samples in 2 parts, 1 fault, listed in latents/faults.jsonl\n" in done.out
    (line,) = map(json.loads, Path("latents/faults.jsonl").read_text().splitlines())
    assert (line["tar"], line["key"]) == ("000.tar", "")


def test_names_that_are_no_utf8_are_encoded_and_trained_on(encode: Encode) -> None:
    with tarfile.open("raw/000.tar") as old:
        files = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
    with tarfile.open("raw/000.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as new:
        for name, content in files:
            add_file(new, "caf\xe9-" + name, content)
    os.rename("raw/000.tar", b"raw/caf\xe9.tar")
    done = encode()
    assert done.code == 0
    assert "✓ encoded 8 samples in 2 parts, 0 faults\n" in done.out
    assert members(os.fsdecode(b"latents/caf\xe9.tar"))[0].startswith("caf\\xe9-")
    data = VideoShardsConfig(path="latents", frames=5, height=16, width=16, fps=8.0, held_out=0.4).build()
    assert len(data.reference("train", 9).x) + len(data.reference("held_out", 9).x) == 8


def test_nothing_that_could_be_encoded_is_an_error(encode: Encode) -> None:
    for tar, keys in (("000", KEYS[:4]), ("001", KEYS[4:])):
        spoil(f"raw/{tar}.tar", lambda files, keys=keys: [files.pop(f"{key}.json") for key in keys])
    for _ in range(2):
        stopped = encode()
        assert stopped.code == 1
        assert stopped.err == "error: no sample could be encoded: 8 faults, listed in latents/faults.jsonl\n"
        assert names() == ["encoder.json", "faults.jsonl"]


def test_too_many_faults_stop_it(encode: Encode) -> None:
    spoil("raw/001.tar", lambda files: [files.pop(f"{key}.json") for key in KEYS[4:6]])
    stopped = encode("--set", "data.faults=1")
    assert stopped.code == 1
    assert stopped.err == (
        "error: data: 2 unusable samples or shards, more than the 1 of data.faults:\n"
        "  raw/001.tar: green-square: it has no .json, where its caption would be\n"
        "  raw/001.tar: red-square: it has no .json, where its caption would be\n"
        "Repair or remove them, or raise data.faults.\n"
    )
    assert [name for name in names() if name.endswith(".tar")] == ["000.tar"]
    assert encode("--set", "data.faults=2").code == 0


def test_a_part_without_a_usable_sample_is_finished_all_the_same(encode: Encode) -> None:
    spoil("raw/000.tar", lambda files: [files.pop(f"{key}.json") for key in KEYS[:4]])
    assert encode().code == 0
    assert members("latents/000.tar") == []
    assert encode().out.splitlines()[-3] == "2 of 2 parts are in latents already; skipped"


def message(result: Result) -> str:
    assert (result.code, result.out) == (2, "")
    return result.err.removeprefix("error: ").strip()


def test_data_that_are_no_archive_are_refused(encode: Encode) -> None:
    Path("r.toml").write_text(edited((RECIPE.splitlines()[1], 'data = "digits"'), text=RECIPE))
    assert message(encode()) == "r.toml: data 'digits' is not read from files that could be encoded ahead"


def test_all_that_is_missing_is_said_at_once(encode: Encode) -> None:
    Path("r.toml").write_text(edited(('"fake_video"', '"absent"'), text=RECIPE))
    lines = message(encode(raw="none")).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("--from none: no .tar file or folder matches 'none'")
    assert lines[1] == "backbone.weights: no weights at models/wan; download them"
    assert not Path("latents").exists()


def test_the_raw_folder_is_not_written_into(encode: Encode) -> None:
    Path("link").symlink_to("raw")
    for raw, to in (("raw", "raw"), ("raw/*.tar", "link"), ("link", str(Path("raw").resolve()))):
        assert message(encode("--to", to, raw=raw)) == (
            f"--from {raw}: the encoded parts would go into {to} too; choose another folder with --to"
        )
    assert names("raw") == ["000.tar", "001.tar"]


def test_a_pattern_is_no_folder_to_write_into(encode: Encode) -> None:
    shown = message(encode("--set", "data.path=latents/*.tar"))
    assert shown == "r.toml: data.path is 'latents/*.tar', which is no folder to write into; give one with --to"
    assert "is a file; the encoded parts need a folder" in message(encode("--to", "r.toml"))


def test_encoded_input_is_refused(encode: Encode) -> None:
    encode()
    assert message(encode("--to", "twice", raw="latents")) == (
        "latents: these shards are encoded already; name the folder of raw ones"
    )


def test_a_folder_for_another_recipe_is_refused(encode: Encode) -> None:
    encode("--to", "latents")
    Path("latents/001.tar").unlink()
    shown = encode("--set", "data.fps=4")
    assert shown.code == 2
    assert "data.fps = 4.0, the shards were made with 8.0" in shown.err


def test_two_at_once_are_refused(encode: Encode) -> None:
    with locked(Path("latents")):
        assert message(encode()).startswith("latents: another flowmap run is writing here")


def test_a_folder_that_cannot_be_written_is_said(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowmap.shards.encoded.add_file", full)
    stopped = encode()
    assert stopped.code == 1
    assert stopped.err == (
        "error: cannot write latents/000.tar: the disk is full; free some space. What was saved before is untouched.\n"
        "To go on: run the same command again\n"
    )
    assert not [name for name in names() if name.endswith(".tar")]


def test_on_a_terminal_there_is_a_bar(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowmap.cli.consoles.out", Console(width=200, force_terminal=True))
    spoil("raw/000.tar", lambda files: files.pop("red-disc.json"))
    shown = encode()
    assert shown.code == 0
    assert "8/8" in shown.out
    assert "samples, 1 fault" in shown.out
    assert "1 faults" not in shown.out
    assert "1 of 2 parts" not in shown.out
