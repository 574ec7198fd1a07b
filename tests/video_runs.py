"""Runs of video models, small enough for tests: Wan's twin with adapters, and moving digits from random weights.

Each is made once, however many files ask for it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from unittest.mock import patch

from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.twin import make_twin
from rich.console import Console

from flowmap.launch import run as launch
from tests.small_runs import FORWARD, HEAD, OF_VIDEOS, TEACHER, preload

STAGES = """
[[stages]]
name = "teacher"
steps = 2
batch = 2
objective = "flow_matching"
optimizer = { lr = 0.05 }
ema = { decay = 0.5, start = 1 }

[[stages]]
name = "forward"
steps = 2
batch = 2
objective = "flow_map"
optimizer = { lr = 0.05 }
ema = { decay = 0.5, start = 1 }
"""

WAN = """
name = "{kind}"
compute.device = "cpu"

[data]
type = "video_shards"
path = "{data}"
frames = {frames}
height = 32
width = 32
fit = "stretch"
fps = 16.0
frame_choice = "rate"
held_out = 0.4

[backbone]
type = "{kind}"
weights = "{weights}"
text_length = 32
lora = {{ rank = 3, alpha = 6.0 }}
{more}
"""
FAR = "chunks = [1, 2, 2]\nfull_chunks = 2"

MEASURED = """
[evaluation]
teacher = "teacher"
teacher_sampler = "euler"
teacher_calls = 2
teacher_cfg_scale = 2.0
calls = [1]
samples = 2
repeats = 2
real = 2
metrics = [{ type = "sliced_wasserstein", to = "teacher", cells = 4 }]
contests = [
  { stage = "teacher", samplers = ["euler"], cfg_scale = 4.0 },
  { stage = "forward", samplers = ["flow_map"] },
  { stage = "forward", samplers = ["flow_map"], context = 1 },
]
"""

DIGITS = """
name = "digits"
data = { type = "moving_digits", frames = 5, size = 8 }
compute.device = "cpu"

[backbone]
type = "far_wan21"
weights = "random"
chunks = [1, 2, 2]
full_chunks = 2
compressed_patch_size = [1, 4, 4]
architecture = { layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, patch = [1, 2, 2] }
"""


@cache
def wan_run(home: Path, kind: str) -> Path:
    """The folder of a finished run of `kind` on the twin of Wan in `home`, which is made if need be."""
    preload(*OF_VIDEOS)
    frames, more = (17, FAR) if kind == "far_wan21" else (9, "first_frame = 0.5")
    folder = home / "video-runs"
    folder.mkdir(exist_ok=True)
    weights = make_twin(folder / "twin")
    data = VideoShardsConfig(path="-", frames=frames, height=32, width=32).rehearsed(folder).path
    text = WAN.format(kind=kind, data=data, frames=frames, weights=weights, more=more)
    return finished(folder, text + STAGES + MEASURED)


@cache
def digits_run(home: Path) -> Path:
    """The folder of a finished run of a causal model on moving digits."""
    return finished(home, DIGITS + STAGES + MEASURED)


@cache
def mlp_run(home: Path) -> Path:
    """The folder of a finished run of a model of points."""
    return finished(home, HEAD + TEACHER + FORWARD)


def finished(home: Path, text: str) -> Path:
    """The folder of the finished run of the recipe `text`."""
    recipe = home / f"{abs(hash(text))}.toml"
    recipe.write_text(text)
    # The report takes longer than all the rest.
    with patch.object(launch, "write_report", lambda folder: folder / "report.html"):
        return launch.run_recipe(recipe, (), (), False, home / "runs", Console(quiet=True)).folder
