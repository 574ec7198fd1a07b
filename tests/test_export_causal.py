"""A causal student that jumps to data, trained from another project's file, and written as that project writes one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_samplers.samplers import ConsistencyMultistep
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.causal_configs import CausalWan21Config
from flowmap_wan.twin import make_twin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import as_flow_map
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.rollout import rollout
from flowmap.reading.open import open_run
from flowmap.recipe.outside import look_up
from flowmap.recipe.read import read
from flowmap.use.export import export_run
from flowmap.use.sample import sample
from flowmap.use.student import open_contestant
from flowmap.use.wish import Wish
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
{rules}

[[stages]]
name = "student"
steps = 2
batch = 2
optimizer.lr = 0.01
objective = "{objective}"
"""
LISTED = """
[evaluation]
teacher = "base"
teacher_sampler = { type = "lcm", times = [1000, 500] }
teacher_calls = 2
calls = [3]
samples = 2
repeats = 2
real = 2
metrics = [{ type = "sliced_wasserstein", to = "teacher", cells = 4 }]
contests = [{ stage = "student", samplers = [{ type = "lcm", times = [1000, 700, 300], shift = 5 }] }]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Self-Forcing's file beside encoders, and clips."""
    home = tmp_path_factory.mktemp("continued")
    for name in ("self_forcing_dmd", "plain"):
        one_file(make_twin(home / "twin"), home / name, name)
    return home


def made(home: Path, name: str = "continued", rules: str = "", objective: str = "consistency_training") -> Path:
    """A finished run from that file, with adapters, by `rules`."""
    data = VideoShardsConfig(path="-", frames=21, height=32, width=32).rehearsed(home).path
    # Its teacher is the base, which has to be a velocity.
    begun = "plain" if objective == "self_forcing" else "self_forcing_dmd"
    told = {"data": data, "weights": home / begun, "rules": rules, "objective": objective}
    more = LISTED if name == "listed" else ""
    return finished(home, RECIPE.format(**told).replace('"continued"', f'"{name}"') + more)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return made(home)


@pytest.fixture
def exported(run: Path, home: Path, tmp_path: Path) -> Path:
    """The file of an export, beside encoders."""
    return exported_of(run, home, tmp_path / "out")


def exported_of(run: Path, home: Path, out: Path) -> Path:
    export_run(run, out, None, "ema", None, True)
    for part in ("text_encoder", "tokenizer", "vae"):
        shutil.copytree(home / "twin" / part, out / part)
    return out


def clip(where: Path, out: Path, **wish: Any) -> tuple[Tensor, str]:
    """What `flowmap sample` makes at a seed, and what it says."""
    files, said = sample(str(where), Wish(number=1, seed=3, prompts=("a red ball",), **wish), out)
    return load_file(files[-1])["samples"], said


RULES = {
    "continued": ("", "consistency_training"),
    "window": ("window = 4\nsink = 1", "consistency_training"),
    "chunks": ("chunk = 2\nfirst_chunk = 4", "consistency_training"),
    "krea": (
        'context = "recomputed"\ncontext_frames = 2\npadded_attention = false\none_time_weights = "velocity"',
        "self_forcing",
    ),
    "listed": ("", "consistency_training"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "window" else pytest.mark.slow) for name in RULES]
)
def test_an_export_makes_what_its_run_makes(name: str, home: Path, tmp_path: Path) -> None:
    """The file alone says what it is: the backbone and its rules, the sampler and its list, the size of a clip."""
    run = made(home, name, *RULES[name])
    folder = exported_of(run, home, tmp_path / "out")
    before, _ = clip(run, tmp_path / "run")
    after, said = clip(folder, tmp_path / "file")
    calls = 3 if name == "listed" else 4
    assert f"size 21 x 32 x 32, sampler lcm, nfe {calls}, seed 3" in said
    assert after.shape == before.shape
    assert float((after - before).abs().max()) < 1e-5
    if name in ("window", "chunks", "krea"):
        assert all(
            word in (folder / "README.md").read_text() for word in RULES[name][0].splitlines() if "weights" not in word
        )


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
    assert "times = [1000.0, 500.0], warped = false" in how
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


CHECKED = """
name = "checked"
data = {{ type = "video_shards", path = "none", frames = 21, height = 32, width = 32, fps = 16.0 }}

[backbone]
weights = "{file}"
encoders_from = "{encoders}"
{fields}

[evaluation]
teacher = "base"
teacher_sampler = {sampler}
teacher_calls = 4
metrics = ["sliced_wasserstein"]
contests = [{{ stage = "base", samplers = [{sampler}] }}]
"""
LIST = '{ type = "lcm", times = [1000, 750, 500, 250], warped = false }'


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('type = "wan21"', "says of itself that it is a network of 'causal_wan21', as flowmap exported it; take type"),
        ('type = "wan21"\none_time_weights = "jump"', ""),
        (
            'type = "far_wan21"\nchunks = [1, 3, 2]',
            "take type = 'causal_wan21', or one_time_weights = 'jump', to go on",
        ),
        ('type = "causal_wan21"', "text_length: is 512, and {file} was exported with 32; the networks differ"),
        ('type = "causal_wan21"\ntext_length = 32', ""),
    ],
    ids=str,
)
def test_a_recipe_that_takes_it_for_something_else_is_refused(
    fields: str, said: str, exported: Path, home: Path, tmp_path: Path
) -> None:
    path, file = tmp_path / "r.toml", exported / "model.safetensors"
    path.write_text(CHECKED.format(file=file, encoders=home / "twin", fields=fields, sampler=LIST))
    if not said:
        read(path)
        return
    with pytest.raises(FlowmapError) as caught:
        read(path)
    assert said.format(file=file) in str(caught.value)


def test_what_it_says_wins_over_its_name(exported: Path, tmp_path: Path) -> None:
    """Self-Forcing's name would mean shift 5 and its list."""
    renamed = tmp_path / "self_forcing_dmd"
    exported.rename(renamed)
    (renamed / "model.safetensors").rename(renamed / "self_forcing_dmd.safetensors")
    told = look_up(str(renamed)).pretrained
    assert (told.sampler, told.shift, told.calls) == ("lcm", 1.0, 4)
    assert told.sampler_fields["times"] == [1000, 750, 500, 250]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"flowmap.backbone": None},
            "did not write down which network it is, and by which rules it is sampled; export",
        ),
        ({"flowmap.backbone": '{"type": "causal_wan21", "window": "x"}'}, "its metadata say what cannot be; export it"),
        ({"flowmap.backbone": "[]"}, "its metadata say what cannot be; export it again"),
        ({"flowmap.shift": "-1"}, "its metadata say what cannot be; export it again"),
        ({"flowmap.steps": None}, "its metadata say what cannot be; export it again"),
        ({"flowmap.network": "velocity"}, "its metadata say what cannot be; export it again"),
        ({"flowmap.video": '{"frames": 21}'}, "its metadata say what cannot be; export it again"),
    ],
)
def test_a_file_that_does_not_say_all_is_refused(change: dict[str, str | None], said: str, exported: Path) -> None:
    file = exported / "model.safetensors"
    with safe_open(file, "pt") as opened:
        about = opened.metadata() | change
    save_file(load_file(file), file, {name: value for name, value in about.items() if value is not None})
    with pytest.raises(FlowmapError) as caught:
        look_up(str(exported))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
