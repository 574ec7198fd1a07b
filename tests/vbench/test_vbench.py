"""`flowmap vbench` from words to the record: clips that are there, clips that are made, an environment that is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from flowmap.cli import main as cli
from flowmap.errors import FlowmapError
from flowmap.launch.vbench import Order, vbench
from flowmap.use.wish import Wish
from flowmap.vbench import install as installing
from flowmap.vbench.clips import Seen
from flowmap.vbench.dimensions import T2V
from flowmap.vbench.environment import Environment, default_folder, needed, opened
from flowmap.vbench.pins import FULL, SMALL, kit, serves
from flowmap.vbench.protocol import read_protocol
from flowmap.vbench.record import Record, read_record
from flowmap.vbench.table import show
from flowmap.vbench.totals import totals

from .support import FLICKERING, fake_environment, make_clips, runs, some, write_list

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("FLOWMAP_VBENCH", str(tmp_path / "environment"))
    monkeypatch.chdir(tmp_path)
    return fake_environment(tmp_path / "environment")


@pytest.fixture
def call(environment: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr("flowmap.cli.consoles.out", Console(width=200))
    monkeypatch.setattr("flowmap.cli.consoles.err", Console(width=200, stderr=True))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowmap", "vbench", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


class Making:
    """What stands for `flowmap.use.produce`, until it is there: it notes what was asked, and makes what is absent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces: list[tuple[str, str, int, Path | None]] = []
        self.ending = ".mp4"
        module = ModuleType("flowmap.use.produce")
        module.Piece = lambda *fields: fields  # type: ignore[attr-defined]
        module.produce = self.produce  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "flowmap.use.produce", module)

    def produce(
        self, where: str, wish: Wish, pieces: Sequence[tuple[str, str, int, Path | None]], out: Path
    ) -> SimpleNamespace:
        self.pieces = list(pieces)
        out.parent.mkdir(exist_ok=True)
        absent = [name for name, *_ in pieces if not (out / f"{name}.mp4").exists()]
        make_clips(out, absent)
        out.with_name(f"{out.name}.json").write_text(json.dumps({"nfe": wish.calls, "where": where, "pieces": {}}))
        return SimpleNamespace(ending=self.ending)


def test_clips_that_are_there_are_scored(call: Call, environment: Environment, tmp_path: Path) -> None:
    make_clips(tmp_path / "clips", some(tmp_path).names(FLICKERING))
    words = ("--videos", "clips", "--dimensions", FLICKERING, "--subset", "2")
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    # Two prompts of five videos, 0 to 0.4: Student's t at 8 degrees of freedom times the root of 10 * 0.025 / 10^2.
    assert [FLICKERING, "20.00", "11.53", "-115.81", "10"] in lines
    assert "VBench (a part: not comparable)" in out
    assert "No total:" in out
    assert "only 2 of the 946 entries were asked for (--subset 2)" in out
    assert "not asked for: subject_consistency, background_consistency, motion_smoothness" in out
    record = read_record(tmp_path / "clips-vbench")
    assert record is not None
    assert record.total is None
    assert record.made_of["record"] == "none: how the clips were made is not known"
    assert record.made_of["frames, height, width"] == [3, 16, 16]
    assert record.environment["vbench"] == "0.1.5"
    assert call(*words)[0] == 0
    assert runs(environment) == [FLICKERING]


def test_a_dimension_without_its_clips_or_with_a_failure_costs_the_total_and_nothing_else(
    call: Call, environment: Environment, tmp_path: Path
) -> None:
    make_clips(tmp_path / "clips", some(tmp_path).names(FLICKERING))
    code, out, err = call("--videos", "clips", "--dimensions", f"{FLICKERING},scene", "--subset", "4")
    assert code == 1
    assert "scene: 10 of its 10 clips cannot be scored: 'scene 21-0.mp4' is missing" in out
    assert err == "error: no score for scene; the list above says why\n"
    record = read_record(tmp_path / "clips-vbench")
    assert record is not None
    assert "scene" in record.missing


@pytest.mark.slow
def test_a_whole_list_has_a_total_and_loses_it_with_one_clip(environment: Environment, tmp_path: Path) -> None:
    whole = read_protocol(environment.info, T2V)
    one = make_clips(tmp_path / "one", ["a-0"]) / "a-0.mp4"
    seen = Seen(changed=one.stat().st_mtime_ns, bytes=one.stat().st_size, sha256="", frames=3, height=16, width=16)
    clips = tmp_path / "clips"
    clips.mkdir()
    for clip in whole.clips():
        (clips / f"{clip.name}.mp4").hardlink_to(one)
    order = Order(tmp_path / "out", environment.folder, videos=clips, download=True)
    (order.out / "scores").mkdir(parents=True)
    # As if they had been decoded before, which takes a quarter of a minute.
    book = {"clips": {clip.name: seen.model_dump() for clip in whole.clips()}}
    (order.out / "scores" / "clips.json").write_text(json.dumps(book))
    record = vbench(None, Wish(), order)
    assert record is not None
    assert (record.missing, record.incomparable) == ({}, [])
    assert record.total is not None
    found = totals(T2V, dict.fromkeys(T2V.dimensions, 0.2))
    assert found is not None
    assert (record.total.total, record.total.clipped) == pytest.approx((found.total, found.clipped))
    assert record.total.half is not None
    assert "total" in shown(record)
    (clips / "scene 3-2.mp4").unlink()
    record = vbench(None, Wish(), order)
    assert record is not None
    assert record.total is None
    assert set(record.missing) == {"scene", "background_consistency"}
    assert "1 of its 430 clips cannot be scored: 'scene 3-2.mp4' is missing" in shown(record)
    assert len(runs(environment)) == 16


def shown(record: Record) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        show(record, console)
    return captured.get()


def test_clips_are_asked_for_by_the_protocol(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = Making(monkeypatch)
    entries = json.loads(environment.info.read_text())
    augmented = [{**entry, "aug_prompt_en": f"more {entry['prompt_en']}"} for entry in entries]
    order = Order(
        tmp_path / "out",
        environment.folder,
        dimensions=(FLICKERING,),
        subset=2,
        prompts=write_list(tmp_path / "aug.json", augmented),
    )
    record = vbench("weights", Wish(calls=4, seed=7), order)
    assert record is not None
    assert record.rows[FLICKERING].score == pytest.approx(0.2)
    name, prompt, seed, image = making.pieces[1]
    assert (name, prompt, image) == (f"{FLICKERING} 18-1", f"more {FLICKERING} 18", None)
    assert seed == 100_000 * 18 + 1 + 7
    assert len(making.pieces) == 10
    assert record.made_of["record"] == {"nfe": 4, "where": "weights"}
    assert (record.made_of["prompts"], record.made_of["S"]) == ("aug.json", 7)
    record = vbench("weights", Wish(calls=4, seed=7), Order(**{**vars(order), "flickering": 25}))
    assert record is not None
    assert "static_filter" in record.missing[FLICKERING]
    assert len(making.pieces) == 50
    making.ending = ".png"
    with pytest.raises(FlowmapError, match="weights makes images, and VBench judges videos"):
        vbench("weights", Wish(calls=4, seed=7), order)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a run or weights to make clips from, or --videos FOLDER"),
        (("x", "--videos", "y"), "--videos y: is for clips that are there, of which x makes none; leave one out"),
        (("--videos", "y", "--out", "y/z"), "--out y/z: lies in the folder of the clips"),
        (("x", "--device", "tpu"), "--device tpu: the package computes on cpu or cuda"),
        (("x", "--environment", "a b"), "a b'"),
        (("--videos", "nowhere"), "nowhere: the clips cannot be listed"),
        (("x", "--dimensions", "flicker"), "VBench has no 'flicker'"),
        (("x", "--flickering", "7"), "--flickering 7: 5 or 25 are possible"),
        (("x", "--i2v"), "the list of prompts for images is in no package"),
        (("x", "--info", "missing.json"), "missing.json cannot be read"),
        (("x", "--nfe", "4", "--seed", "1", "--environment", "none"), "make it: flowmap vbench --install"),
        (("--install", "--dimensions", "camera_motion"), "there is no 'camera_motion'"),
    ],
)
def test_mistakes_are_one_line(call: Call, words: tuple[str, ...], said: str) -> None:
    code, _, err = call(*words)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_the_environment_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLOWMAP_VBENCH", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder() == tmp_path / "flowmap" / "vbench-0.1.5"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "flowmap" / "vbench-0.1.5"
    monkeypatch.setenv("FLOWMAP_VBENCH", "/x")
    assert default_folder() == Path("/x")


def test_kits() -> None:
    assert kit([FLICKERING], None) is SMALL
    assert kit([FLICKERING, "scene"], None) is FULL
    built = kit(["color"], "/d2")
    assert built.steps[-1] == ("--no-build-isolation", "--no-deps", "/d2")
    assert serves(FULL.name, SMALL)
    assert serves(built.name, FULL)
    assert not serves(SMALL.name, FULL)
    assert not serves(FULL.name, built)


def test_a_half_made_environment_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip fails at its second step, and the folder counts as not made; then it is made from nothing."""
    asked: list[list[str]] = []
    fails = True

    def run(python: Path, arguments: list[str], log: Path, cwd: Path | None = None) -> int:
        asked.append([str(word) for word in arguments])
        if fails and "--no-deps" in arguments:
            log.write_text("Collecting vbench\nERROR: No matching distribution found for vbench==0.1.5\n")
            return 1
        return 0

    monkeypatch.setattr(installing, "run_isolated", run)
    folder = tmp_path / "environment"
    with pytest.raises(FlowmapError, match=r"No matching distribution found for vbench==0\.1\.5") as caught:
        installing.install(folder, [FLICKERING], None, None)
    assert "\n" not in str(caught.value)
    assert opened(folder) is None
    with pytest.raises(FlowmapError, match="what is there was not finished"):
        needed(folder)
    (folder / "left").write_text("over")
    fails = False
    with pytest.raises(FlowmapError, match="does not run"):
        installing.install(folder, [FLICKERING], None, None)
    assert not (folder / "left").exists()


def test_a_python_that_the_pins_have_no_wheels_for(tmp_path: Path) -> None:
    wrong = tmp_path / "python"
    wrong.write_text("#!/bin/sh\necho 3 12\n")
    wrong.chmod(0o755)
    with pytest.raises(FlowmapError, match=r"this is Python 3\.12; 3\.10 or 3\.11 is needed: transformers 4\.33\.2"):
        installing.install(tmp_path / "environment", [FLICKERING], str(wrong), None)
    with pytest.raises(FlowmapError, match="this is no Python that runs"):
        installing.install(tmp_path / "environment", [FLICKERING], "no-such-python", None)


def test_a_folder_of_something_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FlowmapError, match="is no environment that flowmap has made"):
        installing.install(tmp_path, [FLICKERING], None, None)
    assert (tmp_path / "mine.txt").exists()
