"""`flowmap encode` by several processes: the bytes of one, faults counted once, and going on after a kill."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.twin import make_twin

from flowmap.shards.writing import add_file

from .process_runs import shared
from .small_runs import OF_VIDEOS, flowmap, preload
from .test_run import tame
from .video_runs import STAGES, WAN

WORDS = ("encode", "recipe.toml", "--from", "raw")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, weights, and five raw tars; in two of them a clip is damaged."""
    preload(*OF_VIDEOS, "flowmap.use.encode")
    folder = tmp_path_factory.mktemp("encode")
    weights = make_twin(folder / "twin")
    (made,) = {Path(VideoShardsConfig(path="-", frames=9, height=32, width=32).rehearsed(folder).path)}
    (folder / "raw").mkdir()
    (source, *_) = sorted(made.glob("*.tar"))
    for number in range(5):
        with tarfile.open(source) as old, tarfile.open(folder / "raw" / f"{number}.tar", "w") as new:
            for member in old.getmembers()[:4]:
                content = old.extractfile(member)
                assert content is not None
                new.addfile(member, BytesIO(content.read()))
            if number in (2, 3):
                add_file(new, "bad.mp4", b"no video")
                add_file(new, "bad.txt", b"a ball")
    text = WAN.format(kind="wan21", data="latents", frames=9, weights=weights, more="")
    (folder / "recipe.toml").write_text(text + STAGES)
    return folder


@pytest.fixture(scope="module")
def alone(home: Path) -> dict[str, bytes]:
    code, said = flowmap(home, *WORDS, "--to", "alone")
    assert code == 0, said
    assert "in 5 parts, 2 faults, listed in" in said
    return contents(home / "alone")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SLOW_FIRST = """
import os, time
import flowmap.shards.encoded as encoded
add = encoded.ShardWriter.add
def slow(self, *args):
    time.sleep(0.3 * (os.environ["RANK"] == "0"))
    add(self, *args)
encoded.ShardWriter.add = slow
"""
"""Of two processes the second has found its fault, in part 3, before the first comes to part 2."""


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_write_the_bytes_of_one(number: int, home: Path, alone: dict[str, bytes]) -> None:
    code, said = shared(home, *WORDS, "--to", f"of-{number}", number=number, patch=SLOW_FIRST)
    assert code == 0, said
    assert said.count("skipped") == 2
    assert said.count("in 5 parts, 2 faults, listed in") == 1
    assert said.count("has all 5 parts") == 1
    assert contents(home / f"of-{number}") == alone
    assert len([json.loads(line) for line in alone["faults.jsonl"].splitlines()]) == 2


KILLED = """
import os, signal
import flowmap.shards.encoded as encoded
add = encoded.ShardWriter.add
count = 0
def dying(self, *args):
    global count
    count += 1
    add(self, *args)
    if count == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
encoded.ShardWriter.add = dying
"""


def test_after_a_kill_another_number_of_processes_goes_on(home: Path, alone: dict[str, bytes]) -> None:
    code, said = shared(home, *WORDS, "--to", "killed", patch=KILLED)
    assert code != 0
    tame(said)
    tars = {name: content for name, content in contents(home / "killed").items() if name[0] in "01234"}
    assert len(tars) < 5
    assert tars.items() <= alone.items()
    code, said = flowmap(home, *WORDS, "--to", "killed")
    assert code == 0, said
    assert {name: content for name, content in contents(home / "killed").items() if name[0] != "."} == alone
