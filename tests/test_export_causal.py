"""A causal student that jumps to data, trained from another project's file, and written as that project writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_samplers.samplers import ConsistencyMultistep
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.causal_configs import CausalWan21Config
from flowmap_wan.twin import make_twin
from safetensors.torch import load_file

from flowmap.errors import FlowmapError
from flowmap.interfaces import as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.rollout import rollout
from flowmap.reading.open import open_run
from flowmap.use.export import export_run
from flowmap.use.student import open_contestant
from tests.video_runs import finished
from tests.wan.rival_folders import one_file

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
RECIPE = """
name = "continued"
seeds = [0]
compute = {{ device = "cpu", threads = 1 }}
data = {{ type = "video_shards", path = "{data}", frames = 21, height = 32, width = 32, fps = 16.0, held_out = 0.4 }}

[backbone]
type = "causal_wan21"
weights = "{weights}"
text_length = 32
lora = {{ rank = 2, alpha = 4.0 }}

[[stages]]
name = "student"
steps = 2
batch = 2
optimizer.lr = 0.01
objective = "consistency_training"
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run from Self-Forcing's file, with adapters."""
    home = tmp_path_factory.mktemp("continued")
    data = VideoShardsConfig(path="-", frames=21, height=32, width=32).rehearsed(home).path
    weights = one_file(make_twin(home / "twin"), home / "self_forcing_dmd", "self_forcing_dmd")
    return finished(home, RECIPE.format(data=data, weights=weights))


def test_it_is_read_as_the_files_that_it_began_from(run: Path, tmp_path: Path) -> None:
    _, how = export_run(run, tmp_path / "out", None, "raw", None, True, None, 2)
    file = tmp_path / "out" / "model.safetensors"
    before: Any = open_run(run).recipe.backbone
    began = load_file(Path(before.weights) / "self_forcing_dmd.safetensors")
    made = load_file(file)
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in began.items()}
    assert not torch.equal(made["model.blocks.0.ffn.0.weight"], began["model.blocks.0.ffn.0.weight"])
    times = json.loads((tmp_path / "out" / "times.json").read_text())
    assert (times["flowmap.sampler"], json.loads(times["flowmap.timesteps"])) == ("lcm", [1000, 500])
    assert "times = [1000, 500], warped = false" in how
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It jumps to data" in card
    assert "any number of steps" not in card
    # The sampler of the run, and the list of the file on the file: the same noise, the same latents.
    who = open_contestant(open_run(run).find("student", 0), "raw", CPU)
    reread = CausalWan21Config(weights=str(file), encoders_from=str(before.weights), text_length=32)
    other = reread.build(open_run(run).recipe.data.spec())
    theirs = other.role("student", "flow_map", None, Draw.whole(0, "x", 0, "x", 1))
    listed = LcmConfig(times=tuple(json.loads(times["flowmap.timesteps"])), warped=False)
    found = []
    with torch.no_grad():
        for backbone, network, sampler, along in (
            (who.backbone, as_flow_map(who.network), ConsistencyMultistep(), grid(2, who.shift)),
            (other, as_flow_map(theirs.network), listed.build(), torch.tensor(listed.own_times().times)),
        ):
            draw = Draw.whole(0, "export", 0, "test", 1)
            cond, _ = backbone.condition(["a ball"], 1, CPU)
            noise = draw.normal("noise", backbone.latent_shape())
            found.append(rollout(sampler, network, noise, along, cond, backbone.chunking(), draw))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-3


def test_adapters_are_not_kept(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="--keep-lora: Self-Forcing's code reads whole weights only; leave it out"):
        export_run(run, tmp_path / "out", None, "ema", None, False)
    assert not (tmp_path / "out").exists()
