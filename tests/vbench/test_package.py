"""The real package in the small environment, end to end on moving digits: the same as the package called by hand."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flowmap_datasets.configs import MovingDigitsConfig
from flowmap_datasets.moving_digits import MovingDigits

from flowmap.errors import FlowmapError
from flowmap.launch.vbench import Order, vbench
from flowmap.maths.draw import Draw
from flowmap.use.wish import Wish
from flowmap.vbench.dimensions import T2V
from flowmap.vbench.environment import Environment
from flowmap.vbench.install import install
from flowmap.vbench.protocol import Protocol, part, read_protocol
from flowmap.vbench.record import Record
from flowmap.video.clips import to_uint8, write_mp4

from .support import FLICKERING
from .test_clips import faststart

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CACHE = Path(tempfile.gettempdir()) / "flowmap-tests" / "vbench"
BY_HAND = """
import sys
from unittest.mock import MagicMock
for n in ("torch", "torch.distributed", "torchvision", "torchvision.transforms", "decord"): sys.modules[n] = MagicMock()
sys.modules["torch"].distributed = sys.modules["torch.distributed"]
sys.modules["torch.distributed"].is_initialized.return_value = False
from vbench import VBench
videos, info, out = sys.argv[1:]
VBench("cpu", info, out).evaluate(videos_path=videos, name="hand", dimension_list=["temporal_flickering"])
"""


@pytest.fixture(scope="module")
def environment() -> Environment:
    """The small environment, made once on each machine."""
    try:
        return install(CACHE, [FLICKERING], None, None)
    except FlowmapError as error:
        pytest.skip(f"pip cannot install VBench's package here: {error}")


@pytest.fixture
def protocol(environment: Environment) -> Protocol:
    return part(read_protocol(environment.info, T2V), [FLICKERING], subset=2)


@pytest.fixture
def clips(protocol: Protocol, tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    names = protocol.names(FLICKERING)
    data = MovingDigits(MovingDigitsConfig(frames=17, size=32, speed=3.0))
    for name, video in zip(names, data.batch(Draw.whole(0, "clips", 0, "vbench", len(names))).x, strict=True):
        write_mp4(folder / f"{name}.mp4", to_uint8(video).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().copy(), 8)
    return folder


def by_hand(environment: Environment, clips: Path, protocol: Protocol, tmp_path: Path) -> tuple[float, int, str]:
    """The package's own score, how many clips it is over, and what it printed: it ends with 0 whatever happens."""
    info = tmp_path / "info.json"
    info.write_text(json.dumps([dict(entry.said) for entry in protocol.entries]))
    done = subprocess.run(
        [environment.python, "-I", "-c", BY_HAND, clips, info, tmp_path / "hand"],
        capture_output=True,
        text=True,
        check=True,
    )
    score, values = json.loads((tmp_path / "hand" / "hand_eval_results.json").read_text())[FLICKERING]
    return score, len(values), done.stdout


def judged(environment: Environment, clips: Path, tmp_path: Path) -> Record:
    order = Order(tmp_path / "out", environment.folder, dimensions=(FLICKERING,), subset=2, videos=clips)
    record = vbench(None, Wish(), order)
    assert record is not None
    return record


def test_the_score_is_the_package_s_to_the_last_digit(
    environment: Environment, protocol: Protocol, clips: Path, tmp_path: Path
) -> None:
    record = judged(environment, clips, tmp_path)
    score, count, _ = by_hand(environment, clips, protocol, tmp_path)
    assert record.rows[FLICKERING].score == score
    assert record.rows[FLICKERING].clips == count == 10
    assert 0.9 < score < 1
    assert record.rows[FLICKERING].half
    assert (record.total, record.missing, len(record.not_asked)) == (None, {}, 15)


def test_the_real_list_is_the_one_that_is_counted(environment: Environment) -> None:
    whole = read_protocol(environment.info, T2V)
    assert (len(whole.entries), len({entry.prompt for entry in whole.entries})) == (946, 944)
    assert len(whole.clips()) == 4720
    assert len(part(whole, list(T2V.dimensions), flickering=25).clips()) == 6220


def test_it_scores_what_is_left_of_clips_and_flowmap_does_not(
    environment: Environment, protocol: Protocol, clips: Path, tmp_path: Path
) -> None:
    """Each of these the package passes over: it ends with 0 and a score over less than it was given."""
    names = protocol.names(FLICKERING)
    path = clips / f"{names[0]}.mp4"
    faststart(path)
    whole = path.read_bytes()
    for content, kept in ((b"", 9), (whole[: int(0.95 * len(whole))], 10)):
        path.write_bytes(content)
        assert by_hand(environment, clips, protocol, tmp_path)[1] == kept
        record = judged(environment, clips, tmp_path)
        assert not record.rows
        assert f"1 of its 10 clips cannot be scored: {path.name}" in record.missing[FLICKERING]
    path.unlink()
    _, kept, said = by_hand(environment, clips, protocol, tmp_path)
    assert (kept, said.count("WARNING!!!")) == (9, 1)
    assert f"'{path.name}' is missing" in judged(environment, clips, tmp_path).missing[FLICKERING]


def test_one_frame_is_no_number_there_and_refused_here(
    environment: Environment, protocol: Protocol, clips: Path, tmp_path: Path
) -> None:
    for name in protocol.names(FLICKERING):
        write_mp4(clips / f"{name}.mp4", np.zeros((1, 32, 32, 3), np.uint8), 8)
    score, _, _ = by_hand(environment, clips, protocol, tmp_path)
    assert math.isnan(score)
    assert "has 1 frames of 32 x 32, which gives no number" in judged(environment, clips, tmp_path).missing[FLICKERING]


def test_a_file_of_another_type_would_make_every_clip_missing(
    environment: Environment, protocol: Protocol, clips: Path, tmp_path: Path
) -> None:
    """Which file is listed first is the disk's choice: alone with one clip, other files come first for some name."""
    for number in range(64):
        (clips / f"other {number}.json").write_text("{}")
    try:
        _, kept, _ = by_hand(environment, clips, protocol, tmp_path)
        assert kept in (0, 10)
    except (subprocess.CalledProcessError, KeyError):
        pass
    with pytest.raises(FlowmapError, match="64 of its files are no clips of this benchmark"):
        judged(environment, clips, tmp_path)
