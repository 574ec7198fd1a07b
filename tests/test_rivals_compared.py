"""Other projects' students beside ours, all tiny: one comparison, by the same prompts, noise and counted calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.twin import make_twin
from rich.console import Console

from flowmap.comparison.run import compare

from .small_runs import OF_VIDEOS, preload
from .wan.rival_folders import one_file, two_experts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

NEAREST = "levels = 'nearest'"
CONTESTANTS = {
    "causvid": ("autoregressive_checkpoint", f"times = [1000, 757, 522], warped = false, shift = 8, {NEAREST}"),
    "self-forcing": ("self_forcing_dmd", f"times = [1000, 750, 500, 250], shift = 5, {NEAREST}"),
    "lightx2v": ("Wan2.1-T2V-14B-CausVid", f"times = [999, 862, 603, 250], warped = false, shift = 8, {NEAREST}"),
    "krea": ("krea-realtime-video-14b", f"times = [1000, 666, 333, 0], shift = 5, {NEAREST}"),
    "rcm": (
        "rCM_Wan2.1_T2V_1.3B_480p",
        "times = [987.654320987654, 933.781, 852.895, 608.979], start = 'scaled', time_input = 'bfloat16'",
    ),
}
SPECIFICATION = """
name = "rivals"
seeds = [0]
against = "ours"
budget = {{ by = "steps", amount = 2 }}

[recipe]
compute.device = "cpu"

[recipe.data]
type = "video_shards"
path = "{data}"
frames = {frames}
height = 32
width = 32
fps = 16.0
held_out = 0.4

[recipe.backbone]
type = "wan21"
weights = "{weights}"
text_length = 32
lora = {{ rank = 3, alpha = 6.0 }}

[recipe.evaluation]
teacher = "{weights}"
teacher_sampler = "euler"
teacher_calls = 2
teacher_cfg_scale = 2.0
calls = [3, 4, 8]
samples = 2
repeats = 2
real = 2
noise = "common"
metrics = [{{ type = "sliced_wasserstein", to = "teacher", cells = 4 }}]

[[contestants]]
name = "ours"
samplers = ["flow_map"]
stages = [{{ objective = "flow_map", batch = 2 }}]

[[contestants]]
name = "teacher"
stage = "base"
samplers = ["unipc"]
cfg_scale = 5.0
"""
RIVAL = """
[[contestants]]
name = "{name}"
stage = "{folder}"
samplers = [{{ type = "lcm", {fields} }}]
"""
# The undistilled image-to-video teacher: it is given the first frame of held-out clips, which the others are not.
PICTURED = """
[[contestants]]
name = "i2v-teacher"
stage = "base"
samplers = ["unipc"]
context = 1
cfg_scale = 5.0
recipe = {{ backbone = {{ type = "wan21_i2v", weights = "{folder}", text_length = 32 }} }}
"""
# With an image it begins with a chunk of one frame; here all have chunks of three.
EXPERTS = """
[[contestants]]
name = "causal-wan22"
stage = "base"
recipe = {{ backbone = {{ type = "causal_wan22", weights = "{folder}", first_chunk = 3, text_length = 32 }} }}

[[contestants.samplers]]
type = "lcm"
times = [1000, 850, 700, 550, 350, 275, 200, 125]
shift = 12
levels = "nearest"
boundary = 875
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preload(*OF_VIDEOS)
    return tmp_path_factory.mktemp("rivals")


def raw(home: Path, frames: int) -> str:
    return VideoShardsConfig(path="-", frames=frames, height=32, width=32).rehearsed(home).path


def test_one_comparison_has_all_of_them_beside_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    weights, frames = make_twin(home / "twin"), 21
    text = SPECIFICATION.format(data=raw(home, frames), frames=frames, weights=weights)
    for name, (published, fields) in CONTESTANTS.items():
        folder = one_file(weights, home / published, published, prefix="net." if name == "rcm" else "model.")
        text += RIVAL.format(name=name, folder=folder, fields=fields)
    text += EXPERTS.format(folder=two_experts(weights, home / "CausalWan2.2-I2V-A14B-Preview-Diffusers"))
    text += PICTURED.format(folder=make_twin(home / "i2v", pictures=True))
    (home / "rivals.toml").write_text(text)
    compare([home / "rivals.toml"], (), home / "runs", None, False, (), Console(quiet=True))
    assert "Given the first frames of held-out samples, and so more than the others are: i2v-teacher (1)." in " ".join(
        (home / "runs/rivals/comparison.html").read_text().split()
    )
    lines = [json.loads(line) for line in (home / "runs/rivals/comparison.jsonl").read_text().splitlines()]
    # One teacher for all: a floor, and samples to compare with, that are the same whatever backbone a contestant has.
    scores = [line for line in lines if line["kind"] == "score"]
    assert len({(line["metric"], line["floor"]) for line in scores}) == len({line["metric"] for line in scores})
    rows = {(line["contestant"], line["calls"]) for line in lines if line["kind"] == "score"}
    expected = {"causvid": {3}, "self-forcing": {4}, "lightx2v": {4}, "krea": {4}, "rcm": {4}, "causal-wan22": {8}}
    expected |= {name: {3, 4, 8} for name in ("ours", "teacher", "i2v-teacher")}
    assert rows == {(name, calls) for name, several in expected.items() for calls in several}
