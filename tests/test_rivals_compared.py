"""Other projects' students beside ours, all tiny: one comparison, by the same prompts, noise and counted calls."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.twin import make_twin
from rich.console import Console

from flowmap.comparison.run import compare
from flowmap.comparison.unfold import read_comparison
from flowmap.launch import run as launch

from .small_runs import OF_VIDEOS, preload
from .wan.rival_folders import one_file, two_experts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PAGE = (Path(__file__).parents[1] / "docs/compare-with-others.md").read_text()
SPECIFICATION = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
"""That of the page, as it stands there."""

SMALLER = {
    "recipe.compute.device": "cpu",
    "recipe.backbone.lora": "{ rank = 3, alpha = 6.0 }",
    "recipe.backbone.text_length": 32,
    "recipe.data.height": 32,
    "recipe.data.width": 32,
    "recipe.data.held_out": 0.4,
    "recipe.evaluation.teacher_calls": 2,
    "recipe.evaluation.calls": [2],
    "recipe.evaluation.samples": 2,
    "recipe.evaluation.repeats": 2,
    "recipe.evaluation.real": 2,
    "recipe.evaluation.metrics": "[{ type = 'sliced_wasserstein', to = 'teacher', cells = 4 }]",
    "contestants.causal-wan22.recipe.backbone.text_length": 32,
    "contestants.i2v-teacher.recipe.backbone.text_length": 32,
}
OURS = """
name = "anyflow_far_1.3b"
compute.device = "cpu"

[data]
type = "video_shards"
path = "{data}"
frames = 81
height = 32
width = 32
held_out = 0.4

[backbone]
type = "far_wan21"
weights = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
text_length = 32
lora = {{ rank = 3, alpha = 6.0 }}

[[stages]]
name = "forward"
steps = 1
batch = 2
objective = "flow_map"
"""
TAKEN = {
    "ours": {2: (8, 23, 23)},
    "self-forcing": {4: (7, 34, 34)},
    "causvid": {3: (7, 27, 27)},
    "lightx2v": {9: (7, 69, 69)},
    "krea": {5: (7, 41, 41)},
    "rcm": {4: (1, 4, 4)},
    "causal-wan22": {8: (7, 62, 68)},
    "teacher": {2: (1, 4, 4)},
    "i2v-teacher": {2: (1, 4, 4)},
}
"""By contestant and calls asked for: chunks, network calls and passes of one sample."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the page has downloaded, tiny."""
    preload(*OF_VIDEOS)
    home = tmp_path_factory.mktemp("rivals")
    weights = make_twin(home / "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    shutil.copytree(weights, home / "Wan-AI/Wan2.1-T2V-14B-Diffusers")
    make_twin(home / "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", pictures=True)
    others = home / "others"
    for folder, name, prefix in (
        ("CausVid/autoregressive_checkpoint", "model", "model."),
        ("Wan2.1-T2V-14B-CausVid", "causal_model", ""),
        ("krea", "krea-realtime-video-14b", "model."),
    ):
        one_file(weights, others / folder, name, prefix)
    for name, prefix in (("self_forcing_dmd", "model."), ("rCM_Wan2.1_T2V_1.3B_480p", "net.")):
        one_file(weights, home / name, name, prefix)
        (home / name / f"{name}.safetensors").rename(others / f"{name}.safetensors")
    two_experts(weights, others / "CausalWan2.2-I2V-A14B-Preview-Diffusers")
    return home


def test_the_comparison_of_the_page_has_all_of_them_beside_ours(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    data = VideoShardsConfig(path="-", frames=81, height=32, width=32).rehearsed(home).path
    (home / "ours.toml").write_text(OURS.format(data=data))
    launch.run_recipe(Path("ours.toml"), (), (), False, Path("runs"), Console(quiet=True))
    (home / "rivals.toml").write_text(SPECIFICATION)
    overrides = [f"{field}={value}" for field, value in {**SMALLER, "recipe.data.path": data}.items()]
    _, warnings = read_comparison([Path("rivals.toml")], overrides, absent="error")
    assert not [line for line in warnings if "samplers" in line or "published" in line]
    compare([Path("rivals.toml")], overrides, Path("runs"), None, False, (), Console(quiet=True))
    folder = home / "runs/rivals"
    page = " ".join((folder / "comparison.html").read_text().split())
    assert "Given the first frames of held-out samples, and so more than the others are: i2v-teacher (1)." in page
    lines = [json.loads(line) for line in (folder / "comparison.jsonl").read_text().splitlines()]
    # One teacher for all: a floor, and samples to compare with, that are the same whatever backbone a contestant has.
    scores = [line for line in lines if line["kind"] == "score"]
    assert len({(line["metric"], line["floor"]) for line in scores}) == len({line["metric"] for line in scores})
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for line in scores:
        took = tuple(line[key] for key in ("chunks", "calls_in_all", "passes_in_all"))
        found.setdefault(line["contestant"], {})[line["calls"]] = took
    assert found == TAKEN
    said = [line["text"] for line in lines if line["kind"] == "finding"]
    told = "At 4 calls of each chunk totals differ, by 8.5 times at most. Network passes of one sample: 4 (rcm) and 34 "
    assert any(text.startswith(told) for text in said)
    assert any(text.startswith("At 2 calls of each chunk totals differ, by 5.75 times at most.") for text in said)
