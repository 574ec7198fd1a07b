"""`flowmap sample --prompts`: a list of samples, shared by processes: no kill and no order changes a sample.

What each file is to be is what `flowmap sample --prompt` makes of the same prompt and seed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flowmap_wan.twin import make_twin
from PIL import Image

from flowmap.errors import FlowmapError
from flowmap.files.folder import locked
from flowmap.use import produce as producing
from flowmap.use import produced as folders
from flowmap.use.pieces import alike, read_pieces
from flowmap.use.produce import Piece, produce
from flowmap.use.sample import sample, sample_run
from flowmap.use.wish import Wish
from flowmap.video import read_clip
from flowmap.workshop.backbone import ModuleBackbone

from .process_runs import shared
from .small_runs import OF_VIDEOS, flowmap, preload
from .test_run import tame
from .video_runs import digits_run, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")

WISH = Wish(calls=1, length=5, height=32, width=32)
WORDS = ("--nfe", "1", "--length", "5", "--height", "32", "--width", "32")
PIECES = [
    Piece("a red fox-0", "a red fox", 0),
    Piece("a red fox-1", "a red fox", 1),
    Piece("façade, 3.5 m (left)", "façade, 3.5 m (left)", 0),
    Piece("d", "a ball", -7),
    Piece("e", "", 0),
    Piece("f", "a ball", 0),
    Piece("x" * 200, "a very long name", 3),
]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preload(*OF_VIDEOS, "flowmap.use.produce")
    return make_twin(tmp_path_factory.mktemp("weights") / "twin")


@pytest.fixture(scope="module")
def made(twin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `PIECES` are."""
    out = tmp_path_factory.mktemp("made") / "clips"
    done = produce(str(twin), WISH, PIECES, out)
    assert (done.made, done.there, done.ending) == (len(PIECES), 0, ".mp4")
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    assert {path.name for path in out.parent.iterdir() if path.name.startswith(".part-")} == set()
    return {path.name: path.read_bytes() for path in out.iterdir()}


def listed(folder: Path, pieces: Sequence[Piece] = PIECES) -> tuple[str, ...]:
    """A file of prompts in `folder`, and the words that ask for them."""
    lines = [json.dumps({"name": p.name, "prompt": p.prompt, "seed": p.seed}) for p in pieces]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return "--prompts", "list.jsonl", "--out", "clips"


# --- each is what `flowmap sample` makes


def test_each_file_is_what_sample_makes_of_the_prompt_and_the_seed(
    twin: Path, made: dict[str, bytes], tmp_path: Path
) -> None:
    assert made.keys() == {f"{piece.name}.mp4" for piece in PIECES}
    for piece in PIECES:
        sample(str(twin), replace(WISH, prompts=(piece.prompt,), seed=piece.seed, number=1), tmp_path / "one")
        assert (tmp_path / "one.mp4").read_bytes() == made[f"{piece.name}.mp4"], piece
    assert len(set(made.values())) == len(PIECES)


def test_order_company_and_what_is_there_change_no_sample(
    twin: Path, made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producing, "_TEXTS_TOGETHER", 2)
    out = tmp_path / "clips"
    assert produce(str(twin), WISH, PIECES[3:5], out).made == 2
    done = produce(str(twin), WISH, PIECES[::-1], out)
    assert (done.made, done.there) == (len(PIECES) - 2, 2)
    assert contents(out) == made


def test_prompts_are_read_together_and_each_once(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each `release`, which costs a way to the CPU and back."""
    seen: list[str] = []
    real = ModuleBackbone.condition
    monkeypatch.setattr(ModuleBackbone, "condition", lambda self, *a: (seen.extend(a[0]), real(self, *a))[1])
    monkeypatch.setattr(ModuleBackbone, "release", lambda self: seen.append("|"))
    produce(str(twin), WISH, PIECES, tmp_path / "clips")
    assert seen == [*dict.fromkeys(piece.prompt for piece in PIECES), "|"]


@pytest.mark.slow
def test_images_and_models_without_prompts(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(image)
    far = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    pieces = [Piece("given", "a ball", 2, image), Piece("free", "a ball", 2)]
    produce(str(far), Wish(calls=1), pieces, tmp_path / "clips")
    for piece in pieces:
        wish = Wish(calls=1, number=1, prompts=("a ball",), seed=2, image=piece.image)
        sample_run(far, wish, tmp_path / "one")
        assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / f"clips/{piece.name}.mp4").read_bytes()
    digits = digits_run(tmp_path_factory.getbasetemp())
    produce(str(digits), Wish(calls=1), [Piece("b", "", 5), Piece("a", "", 4)], tmp_path / "digits")
    for name, seed in (("a", 4), ("b", 5)):
        sample_run(digits, Wish(calls=1, number=1, seed=seed), tmp_path / "one")
        assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / f"digits/{name}.mp4").read_bytes()


# --- several processes


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_so_many_processes_make_the_same_files(number: int, twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    code, said = shared(tmp_path, "sample", str(twin), *listed(tmp_path), *WORDS, number=number)
    assert code == 0, said
    assert said.count("✓") == 1
    assert f"clips has all 7 samples: weights {twin}, size 5 x 32 x 32" in said
    assert contents(tmp_path / "clips") == made


def test_more_processes_than_samples(twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    code, said = shared(tmp_path, "sample", str(twin), *listed(tmp_path, PIECES[:1]), *WORDS)
    assert code == 0, said
    assert contents(tmp_path / "clips") == {"a red fox-0.mp4": made["a red fox-0.mp4"]}


@pytest.mark.slow
def test_two_pairs_that_share_each_sample(twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    words = ("sample", str(twin), *listed(tmp_path), *WORDS, "--together", "2")
    code, said = shared(tmp_path, *words, number=4)
    assert code == 0, said
    for name, content in contents(tmp_path / "clips").items():
        (tmp_path / "one.mp4").write_bytes(made[name])
        ours, theirs = (
            read_clip(path, 5, 32, 32, 16).int() for path in (tmp_path / "clips" / name, tmp_path / "one.mp4")
        )
        assert int((ours - theirs).abs().max()) <= 2, name
        assert content


def test_groups_that_cannot_be_are_refused(twin: Path, tmp_path: Path) -> None:
    words = ("sample", str(twin), *listed(tmp_path), *WORDS)
    code, said = shared(tmp_path, *words, "--together", "2", number=3)
    assert (code, said) == (2, "error: --together 2: 3 processes are no whole groups of 2\n")
    code, said = flowmap(tmp_path, "sample", str(twin), "--prompt", "a", *WORDS, "--together", "2")
    assert (code, said) == (2, "error: --together 2: without --prompts all processes share each sample; leave it out\n")
    assert not (tmp_path / "clips").exists()


KILLED = """
import os, signal
import flowmap.use.produced as produced
put = produced.Produced.put
count = 0
def dying(self, name, fill):
    global count
    count += 1
    if count == 2 and os.environ.get("RANK", "0") in {ranks}:
        def half(part):
            fill(part)
            part.write_bytes(part.read_bytes()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        return put(self, name, half)
    return put(self, name, fill)
produced.Produced.put = dying
"""
"""Those processes are killed while they write their second file."""


@pytest.mark.parametrize(
    "ranks", [("1",), pytest.param(("0",), marks=pytest.mark.slow), pytest.param(("0", "1"), marks=pytest.mark.slow)]
)
def test_after_a_kill_the_same_command_goes_on(
    ranks: tuple[str, ...], twin: Path, made: dict[str, bytes], tmp_path: Path
) -> None:
    words = ("sample", str(twin), *listed(tmp_path), *WORDS)
    code, said = shared(tmp_path, *words, patch=KILLED.format(ranks=ranks))
    assert code != 0
    tame(said)
    there = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    assert 0 < len(there) < len(PIECES)
    assert there.items() <= made.items()
    before = {name: (tmp_path / "clips" / name).stat().st_mtime_ns for name in there}
    code, said = flowmap(tmp_path, *words)
    assert code == 0, said
    assert f"has all 7 samples ({len(there)} were there)" in said
    assert contents(tmp_path / "clips") == made
    assert before == {name: (tmp_path / "clips" / name).stat().st_mtime_ns for name in there}


FAILING = """
import flowmap.cli.main
flowmap.cli.main._GRACE_SECONDS = 1
import os
import flowmap.use.produce as producing
generate = producing.generate
def wrong(*args):
    return generate(*args) * (float("nan") if args[4].seed == 3 else 1)
producing.generate = wrong
"""
"""The sample of seed 3, the last of all, is no number."""


def test_one_sample_that_fails_is_named_and_no_other_lost(twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    words = ("sample", str(twin), *listed(tmp_path), *WORDS)
    code, said = shared(tmp_path, *words, patch=FAILING)
    assert code == 1
    tame(said)
    assert said.count(f"error: process 1: the sample of '{'x' * 200}' has values that are no finite numbers") == 1
    there = contents(tmp_path / "clips")
    assert len(there) == len(PIECES) - 1
    assert there.items() <= made.items()


def test_ctrl_c_keeps_what_is_finished(twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    words = ("sample", str(twin), *listed(tmp_path), *WORDS)
    patch = KILLED.format(ranks=("0",)).replace("SIGKILL", "SIGINT")
    code, said = flowmap(tmp_path, *words, patch=patch)
    assert code == 128 + signal.SIGINT
    assert said == "error: interrupted; samples that were finished are kept. Run the same command again to go on\n"
    assert contents(tmp_path / "clips") == {"a red fox-0.mp4": made["a red fox-0.mp4"]}


# --- going on with something else


def refusal(*arguments: Any) -> str:
    with pytest.raises(FlowmapError) as caught:
        produce(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_settings_are_refused_by_name(twin: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "clips"
    produce(str(twin), WISH, PIECES[:1], out)
    before = (tmp_path / "clips.json").read_text()
    for wish, what in (
        (replace(WISH, calls=2), "calls was 1 when these samples were begun, and is 2 now"),
        (replace(WISH, shift=1.0), "shift was 3.0 when"),
        (replace(WISH, cfg_scale=2.0), "guidance was 5.0 when"),
        (replace(WISH, sampler="euler"), 'sampler was {"type": "unipc"} when'),
        (replace(WISH, length=9), "shape was [5, 3, 32, 32] when"),
    ):
        said = refusal(str(twin), wish, PIECES[:2], out)
        assert f"clips.json: {what}" in said
        assert "go on as they were begun, or name another folder with --out" in said
    other = make_twin(tmp_path / "other")
    (other / "transformer" / "config.json").write_text((other / "transformer" / "config.json").read_text() + " ")
    assert "fingerprint was" in refusal(str(other), WISH, PIECES[:2], out)
    for piece, what in (
        (replace(PIECES[0], seed=8), "the seed of 'a red fox-0' was 0 there, and is 8 now"),
        (replace(PIECES[0], prompt="a fox"), 'the prompt of \'a red fox-0\' was "a red fox" there, and is "a fox" now'),
    ):
        assert what in refusal(str(twin), WISH, [piece], out)
    assert (tmp_path / "clips.json").read_text() == before
    assert contents(out) == {"a red fox-0.mp4": made["a red fox-0.mp4"]}
    moved = shutil.move(twin, tmp_path / "moved")
    try:
        assert produce(str(moved), WISH, PIECES[:2], out).there == 1
    finally:
        shutil.move(moved, twin)


def test_the_record_says_how_and_which(twin: Path, tmp_path: Path) -> None:
    produce(str(twin), WISH, PIECES[:1], tmp_path / "clips")
    produce(str(twin), WISH, PIECES[2:3], tmp_path / "clips")
    record = json.loads((tmp_path / "clips.json").read_text())
    settings = record["settings"]
    assert settings["torch"] == torch.__version__
    assert {"fingerprint", "sampler", "calls", "shift", "guidance", "shape", "precision", "diffusers", "flowmap"} < set(
        settings
    )
    assert record["pieces"] == {
        piece.name: {"prompt": piece.prompt, "seed": piece.seed, "image": None} for piece in (PIECES[0], PIECES[2])
    }


@pytest.mark.parametrize("name", ["stranger.mp4", "a red fox-0.mp4", ".DS_Store"])
def test_files_that_are_in_no_record_are_refused(name: str, twin: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    out.mkdir()
    (out / name).write_bytes(b"")
    assert f"{name} was there before; move it away" in refusal(str(twin), WISH, PIECES, out)
    (out / name).unlink()
    produce(str(twin), WISH, PIECES[1:2], out)
    (out / name).write_bytes(b"")
    assert f"{name} is not one of the samples that" in refusal(str(twin), WISH, PIECES, out)
    assert len(list(out.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no record of samples"),
        ("{}", "is no record of samples ('format': field required)"),
        ('{"format": 2, "where": "", "settings": {}, "pieces": {}}', "is of format 2"),
    ],
)
def test_a_damaged_record_is_refused(text: str, message: str, twin: Path, tmp_path: Path) -> None:
    (tmp_path / "clips.json").write_text(text)
    assert message in refusal(str(twin), WISH, PIECES, tmp_path / "clips")


def test_two_at_once_are_refused(twin: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".part-clips"):
        said = refusal(str(twin), WISH, PIECES, tmp_path / "clips")
    assert "another flowmap run is writing here; wait for it, stop it, or name another folder with --out" in said
    assert not (tmp_path / "clips").exists()


def test_what_a_list_says_itself_is_refused_beside_it(twin: Path, tmp_path: Path) -> None:
    for wish, what in ((Wish(prompts=("a",)), "--prompt"), (Wish(number=2), "--n"), (Wish(classes=(1,)), "--class")):
        assert refusal(str(twin), wish, PIECES, tmp_path / "x").startswith(f"{what}: does not go with a list")


# --- odd lists


def test_lists_that_cannot_be_made_into_files(twin: Path, tmp_path: Path) -> None:
    for pieces, message in (
        ([], "the list of samples to make is empty"),
        ([Piece("a", "a", 0), Piece("a", "b", 0)], "two pieces (0 and 1, counted from 0) are called 'a'"),
        ([Piece("a/b", "a", 0)], "piece 0: the name 'a/b' has a '/', a NUL or a line break in it"),
        ([Piece("..", "a", 0)], "piece 0: the name '..' is empty or begins with a dot"),
        ([Piece("", "a", 0)], "piece 0: the name '' is empty or begins with a dot"),
        (
            [Piece("a", "a", 0), Piece("ä" * 125, "a", 0)],
            "has 5 bytes more than a file's name can have",
        ),
        ([Piece("a\ud800", "a", 0)], "piece 0: its name or prompt has half of a character in it"),
        ([Piece("a", "a", 0, tmp_path / "no.png")], f"piece 0: there is no image {tmp_path / 'no.png'}"),
    ):
        assert message in refusal(str(twin), WISH, pieces, tmp_path / "clips")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_one_on_some_disks(
    twin: Path, made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VBench asks for both. This disk tells them apart; of one that does not, `exists` says so."""
    names = ["A red fox", "a red fox", "café", "cafe\u0301", "cafe"]
    assert list(alike(names)) == [("A red fox", "a red fox"), ("café", "cafe\u0301")]
    pieces = [Piece(name, "a red fox", 0) for name in names]
    produce(str(twin), WISH, pieces[:2], tmp_path / "clips")
    assert set(contents(tmp_path / "clips").values()) == {made["a red fox-0.mp4"]}
    monkeypatch.setattr(folders, "_is_one", lambda one, other: True)
    said = refusal(str(twin), WISH, pieces, tmp_path / "other")
    assert said.startswith("'A red fox' and 'a red fox' are one file on the disk of")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "p.txt has no prompt in it"),
        ("p.txt", "\n \n", "p.txt has no prompt in it"),
        ("p.txt", "a\nb".encode("utf-16"), "p.txt is not UTF-8 text (byte 1); give a file with one prompt a line"),
        ("p.jsonl", '{"prompt": "a"}\n\n["b"]\n', "p.jsonl, line 3: input should be an object"),
        ("p.jsonl", '{"prompt": "a", "sed": 1}', "p.jsonl, line 1: 'sed': unknown field 'sed'; allowed: prompt, "),
        ("p.jsonl", '{"seed": 1}', "p.jsonl, line 1: 'prompt': field required"),
        ("p.jsonl", '{"prompt": "a", "seed": 1.5}', "p.jsonl, line 1: 'seed': input should be a valid integer"),
        ("p.jsonl", "a red fox", "p.jsonl, line 1: invalid JSON"),
        ("p.jsonl", '{"prompt": "a", "name": "x/y"}', "p.jsonl, line 1: the name 'x/y' has a '/'"),
        ("p.jsonl", '{"prompt": "a", "name": "0001"}\n{"prompt": "b"}', "two pieces (0 and 1, counted from 0) are"),
        ("p.jsonl", '{"prompt": "a", "image": "no.png"}', "p.jsonl, line 1: there is no image no.png"),
    ],
)
def test_files_of_prompts_that_are_none(name: str, content: str | bytes, message: str, here: Path) -> None:
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FlowmapError) as caught:
        read_pieces(Path(name), 0)
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert name in str(caught.value)


def test_files_of_prompts(here: Path) -> None:
    (here / "p.txt").write_bytes('\ufeffa red fox\r\n\r\n  zwei Füchse\u2028, \n{"prompt": 1}\n'.encode())
    assert read_pieces(Path("p.txt"), 4) == [
        Piece("0000", "a red fox", 4),
        Piece("0001", "zwei Füchse\u2028,", 4),
        Piece("0002", '{"prompt": 1}', 4),
    ]
    os.mkdir("sub")
    (here / "sub" / "x.png").touch()
    (here / "sub" / "p.jsonl").write_text(
        '{"prompt": "a", "image": "x.png"}\n{"prompt": "b", "seed": -1, "name": "n.1"}'
    )
    assert read_pieces(Path("sub/p.jsonl"), 4) == [
        Piece("0000", "a", 4, Path("sub/x.png")),
        Piece("n.1", "b", -1),
    ]
    with pytest.raises(FlowmapError, match=r"^no\.txt cannot be read: No such file"):
        read_pieces(Path("no.txt"), 0)


CODED = """
import sys
from pathlib import Path
import numpy as np
from flowmap.video import write_mp4
dice = np.random.default_rng(0)
write_mp4(Path(sys.argv[1]), dice.integers(0, 255, (17, 12, 12, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2), 16)
"""


def test_the_same_frames_make_the_same_file_whatever_was_in_memory(tmp_path: Path) -> None:
    """MALLOC_PERTURB_ is what fresh memory is filled with."""
    for name in ("70", "140"):
        words = [sys.executable, "-c", CODED, str(tmp_path / name)]
        subprocess.run(words, check=True, env={**os.environ, "MALLOC_PERTURB_": name})
    assert (tmp_path / "70").read_bytes() == (tmp_path / "140").read_bytes()
