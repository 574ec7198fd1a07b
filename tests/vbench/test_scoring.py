"""Scores are the package's own or refused in a line that names the dimension; what was scored is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flowmap.errors import ClipError
from flowmap.vbench.clips import Clips
from flowmap.vbench.environment import Environment
from flowmap.vbench.failures import explained
from flowmap.vbench.protocol import Protocol
from flowmap.vbench.scoring import DimensionError, Judge

from .support import FLICKERING, fake_environment, looked_at, make_clips, runs, some, tell


class Scene:
    """Two entries of a dimension, their clips, and a judge."""

    def __init__(self, tmp_path: Path, dimension: str = FLICKERING) -> None:
        self.path, self.dimension = tmp_path, dimension
        self.environment: Environment = fake_environment(tmp_path / "environment")
        self.protocol: Protocol = some(tmp_path, dimension)
        make_clips(tmp_path / "clips", self.protocol.names(dimension))
        (tmp_path / "scores").mkdir()
        self.judge = Judge(self.environment, tmp_path / "scores", download=True)

    @property
    def clips(self) -> Clips:
        return looked_at(self.path, self.protocol, self.dimension)

    def score(self) -> float:
        return self.judge.score(self.protocol, self.clips, self.dimension).score

    def refused(self) -> str:
        with pytest.raises(DimensionError) as caught:
            self.score()
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{self.dimension}: ")
        return str(caught.value)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_score_is_kept_while_nothing_changes(scene: Scene) -> None:
    found = scene.judge.score(scene.protocol, scene.clips, FLICKERING)
    assert found.score == pytest.approx(0.2)
    assert list(found.values) == scene.protocol.names(FLICKERING)
    assert list(found.values.values()) == [0.0, 0.1, 0.2, 0.3, 0.4] * 2
    assert scene.score() == found.score
    assert runs(scene.environment) == [FLICKERING]
    make_clips(scene.path / "clips", scene.protocol.names(FLICKERING)[3:4], side=16, frames=3)  # other noise
    scene.score()
    assert len(runs(scene.environment)) == 2
    other = replace(scene.environment, made=scene.environment.made.model_copy(update={"packages": {"vbench": "0.1.6"}}))
    for judge in (replace(scene.judge, environment=other), replace(scene.judge, device="cuda:0")):
        judge.score(scene.protocol, scene.clips, FLICKERING)
    assert len(runs(scene.environment)) == 4
    Path(scene.path / "scores" / f"{FLICKERING}.json").write_text("{")
    scene.score()
    assert len(runs(scene.environment)) == 5


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("raise:CUDA out of memory. Tried", "the device has not enough memory; free it, or --device cpu"),
        ("raise:a new thing\nof two lines", "VBench's package failed: RuntimeError: a new thing of two lines"),
        ("kill", "its scorer was ended by SIGKILL, as a machine does that has no memory left"),
        ("silent", "ended well and wrote no result"),
        ("warn", "did not find 1 of the clips"),
        ("drop", "1 clips without a value, 0 that were not asked for, 0 twice"),
        ("twice", "1 clips without a value, 0 that were not asked for, 1 twice"),
        ("nan", "wrote no usable result (it says NaN)"),
        ("text", "wrote no usable result (it has str instead of a number)"),
        ("broken", "wrote no usable result"),
    ],
)
def test_what_fails_is_one_line_and_is_not_kept(scene: Scene, mode: str, words: str) -> None:
    tell(scene.environment, mode)
    assert words in scene.refused()
    assert not (scene.path / "scores" / f"{FLICKERING}.json").exists()
    tell(scene.environment, "ok")
    assert scene.score() == pytest.approx(0.2)  # and what was left behind is in nobody's way


def test_true_and_false_are_numbers(scene: Scene) -> None:
    tell(scene.environment, "true")
    assert scene.score() == 1.0


def test_one_dimension_may_leave_clips_out_by_design(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "color")
    tell(scene.environment, "drop")
    found = scene.judge.score(scene.protocol, scene.clips, "color")
    assert list(found.values.values())[:2] == [None, 0.1]


def test_what_is_known_to_fail_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    strict = Scene(tmp_path, "scene")
    strict.judge = replace(strict.judge, download=False)
    assert f"1 of its files of weights are not there: {tmp_path}/cache/caption_model" in strict.refused()
    weights = tmp_path / "cache/caption_model/tag2text_swin_14m.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    assert "1 of its files of weights are not there" in strict.refused()  # a failed download leaves an empty one
    made = strict.environment.made.model_copy(update={"broken": {"scene": "scene: no"}})
    strict.judge = replace(strict.judge, environment=replace(strict.environment, made=made))
    assert strict.refused() == "scene: no"
    (strict.path / "clips" / f"{strict.protocol.names('scene')[0]}.mp4").unlink()
    with pytest.raises(ClipError, match=r"1 of its 10 clips cannot be scored: 'scene 21-0\.mp4' is missing"):
        strict.score()
    assert runs(strict.environment) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("NotImplementedError: UnImplemented dimension color!, No module named 'detectron2'", "needs detectron2"),
        ("ModuleNotFoundError: No module named 'pkg_resources'", "setuptools is not one of 77 to 80"),
        ("ImportError: cannot import name 'packaging' from 'pkg_resources' (x)", "setuptools is not one of 77 to 80"),
        ("RuntimeError: operator torchvision::nms does not exist", "torch and torchvision are of different builds"),
        ("UnpicklingError: Weights only load failed. In PyTorch 2.6", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"),
        ("CalledProcessError: Command '['wget', 'x', '-P', 'y']' returned non-zero exit status 4.", "not be fetched"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'wget'", "could not be fetched"),
        ("URLError: <urlopen error [Errno -2] Name or service not known>", "could not be fetched"),
        ("OSError: Can't load tokenizer for 'bert-base-uncased'. If you", "a tokenizer of the hub (bert-base-uncased)"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/c/raft-things.pth'",
            "weights /c/raft-things.pth is",
        ),
        ("ModuleNotFoundError: No module named 'vbench2_beta_i2v.third_party'", "--repository FOLDER"),
        ("NotImplementedError: UnImplemented dimension i2v_background!, No module named 'dreamsim'", "other versions"),
        ("ImportError: cannot import name 'apply_chunking_to_forward' from 'x'", "other versions of its libraries"),
        ("ModuleNotFoundError: No module named 'torch'", "the environment lacks torch"),
        ("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central", "cut off, damaged or"),
        ('RuntimeError: Error(s) in loading state_dict for MUSIQ: Missing key(s) in state_dict: "a"', "another one"),
        ("EOFError: Ran out of input", "no TorchScript archive"),
        ("ZeroDivisionError: division by zero", "found nothing that it could score"),
    ],
)
def test_known_failures_have_a_reason_and_a_remedy(said: str, words: str) -> None:
    line = explained("color", 3, said, "/x/color.log")
    assert line.startswith("color: ")
    assert words in line
    assert re.search(r"; .+ \(all of it: /x/color\.log\)$", line)


def test_a_scorer_that_says_nothing() -> None:
    assert explained("scene", 1, "", "") == "scene: VBench's package failed: its scorer ended with 1 and said nothing"
    assert "SIGSEGV" in explained("scene", -11, "", "")
    assert "signal 99" in explained("scene", -99, "", "")
