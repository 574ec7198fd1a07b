"""Causal students of others as weights: found by name, sampled with their authors' settings, or refused in one line."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.causal_configs import CausalConfig, CausalWan21Config, CausalWan22Config
from flowmap_wan.configs import Wan21Config
from flowmap_wan.released import RELEASES, release_of
from flowmap_wan.settings import LoraConfig
from flowmap_wan.twin import make_twin
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch
from flowmap.planning.plan import plan_recipe
from flowmap.planning.tables import show
from flowmap.plugin import SampleSpec
from flowmap.recipe.outside import AbsentError, look_up
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.use.networks import Networks
from flowmap.use.opened import open_wished
from flowmap.use.sample import sample
from flowmap.use.student import generate, open_weights
from flowmap.use.wish import Wish

from .rival_folders import one_file, two_experts
from .support import draw

SPEC = SampleSpec((21, 3, 32, 32), text=True, fps=16.0)
FULL = {"base_precision": "float32"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_twin(tmp_path_factory.mktemp("encoders") / "twin")


@pytest.fixture
def folder(encoders: Path, tmp_path: Path) -> Path:
    """Self-Forcing's file beside encoders."""
    return one_file(encoders, tmp_path / "any", "self_forcing_dmd")


@pytest.fixture
def pair(encoders: Path, tmp_path: Path) -> Path:
    """FastVideo's two networks beside encoders."""
    return two_experts(encoders, tmp_path / "CausalWan2.2-I2V-A14B-Preview-Diffusers")


def problems(config: CausalConfig, spec: SampleSpec = SPEC) -> list[str]:
    found = [*config.missing(), *config.findings(spec)]
    return [finding.message for finding in found if finding.level == "error"]


@pytest.mark.parametrize("name", RELEASES)
def test_published_weights_are_known_by_name(name: str) -> None:
    release = RELEASES[name]
    owners = [kind for kind in (CausalWan21Config, CausalWan22Config, Wan21Config) if kind.of_weights(f"some/{name}")]
    assert [kind.type_name() for kind in owners] == [release.type]
    config = owners[0].of_weights(f"some/{name}")
    assert config is not None
    spec = SampleSpec((4 * (release.shape[0] - 1) + 1, 3, *release.shape[1:]), text=True)
    assert not [finding for finding in config.findings(spec) if finding.level == "error"]
    assert config.origin().licence == release.licence
    sampler = LcmConfig(**dict(release.sampler))
    assert sampler.steps(len(release.times)) == len(release.times)
    footprint = config.footprint(spec, "bf16")
    assert footprint is not None
    count = {"1.3B": 1_418_996_800, "14B": 14_288_491_584}[release.size]
    width = {"1.3B": 1536, "14B": 5120}[release.size]
    # wan21 has an embedder of the second time besides, of 256 frequencies.
    count += (256 + width + 2) * width if config.type == "wan21" else 0
    assert footprint.own("flow_map").count == len(config.parts()) * count


def test_causvids_files_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("autoregressive_checkpoint", "autoregressive_checkpoint_warp_4step_cfg2"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "model.safetensors"
        file.touch()
        assert release_of(str(file)) is RELEASES[name]
        assert release_of(str(tmp_path / name)) is RELEASES[name]


def test_a_folder_is_sampled_as_its_authors_do(folder: Path) -> None:
    outside = look_up(str(folder))
    assert outside.backbone.type == "causal_wan21"
    told = outside.pretrained
    assert (told.kind, told.view, told.sampler, told.calls, told.shift) == ("flow_map", "forced", "lcm", 4, 5.0)
    assert told.to_data
    assert not told.diagonal
    assert folder / "self_forcing_dmd.safetensors" in told.files
    assert folder / "vae" / "config.json" in told.files
    assert made(folder, ["a red ball"]).shape == (1, *SPEC.shape)


def test_a_folder_with_krea_reencodes_by_its_vae(folder: Path) -> None:
    (folder / "self_forcing_dmd.safetensors").rename(folder / "krea-realtime-video-14b.safetensors")
    spec = SampleSpec((45, 3, 32, 32), text=True)
    clip = made(folder, ["a red ball"], spec)
    assert clip.shape == (1, *spec.shape)
    assert bool(clip.isfinite().all())


def test_what_nobody_trains_may_be_held_in_half(folder: Path) -> None:
    """14B in float32 is 57 GB; a recipe that trains refuses it, one that only samples holds the file's numbers."""
    half = CausalWan21Config(weights=str(folder), base_precision="bfloat16")
    assert problems(half) == []
    assert [finding.field for finding in half.training_findings()] == [("base_precision",)]
    assert not [*half.model_copy(update={"lora": LoraConfig(rank=1)}).training_findings()]
    held, full = (
        {k: v.detach() for k, v in role_of(config).items()} for config in (half, half.model_copy(update=FULL))
    )
    assert {v.dtype for v in full.values()} == {torch.float32}
    assert {v.dtype for k, v in held.items() if ".to_q.weight" in k or ".ffn." in k} == {torch.bfloat16}
    assert {v.dtype for k, v in held.items() if "time_embedder" in k or "scale_shift_table" in k} == {torch.float32}
    for key, value in held.items():
        assert torch.equal(value, full[key].to(value.dtype))


def role_of(config: CausalConfig) -> Mapping[str, Tensor]:
    return config.build(SPEC).role("student", "flow_map", None, draw()).own


def test_a_pair_goes_on_from_an_image(pair: Path) -> None:
    spec = SampleSpec((25, 3, 32, 32), text=True)
    outside = look_up(str(pair))
    assert outside.backbone.contexts(spec) == {1: 1, 13: 4}
    assert made(pair, ["a red ball"], spec, given=1).shape == (1, *spec.shape)


def test_an_image_that_no_chunk_ends_after_is_refused_with_what_would_take_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights are read; and what is said to help does."""
    monkeypatch.setattr("flowmap.use.opened.open_weights", None)
    told = "--image: 1 context frames cannot be given: possible are 9, 21, 33, 45, 57, 69; nearest: 9 or 21; or set "
    hint = "set first_chunk = {} in a recipe's backbone, and let videos have {} frames"
    with pytest.raises(FlowmapError) as caught:
        open_wished(str(folder), Wish(prompts=("a ball",), image=folder / "any.png"))
    assert str(caught.value) == told.removesuffix("set ") + hint.format(1, "73 or 85")
    config = CausalWan21Config(weights=str(folder))
    for frames, given, first, lengths in ((81, 1, 1, (73, 85)), (25, 1, 1, (25,)), (81, 5, 2, (77, 89))):
        spec = SampleSpec((frames, 3, 32, 32), text=True)
        assert config.context_hint(spec, given) == hint.format(first, " or ".join(map(str, lengths)))
        for length in lengths:
            longer = SampleSpec((length, 3, 32, 32), text=True)
            started = config.model_copy(update={"first_chunk": first})
            assert problems(started, longer) == []
            assert started.contexts(longer)[given] == first
    spec = SampleSpec((81, 3, 32, 32), text=True)
    assert [config.context_hint(spec, given) for given in (2, 13, 14)] == [""] * 3
    for change in ({"first_chunk": 2}, {"context": "recomputed"}):
        assert config.model_copy(update=change).context_hint(spec, 1) == ""


def made(weights: Path, prompts: list[str], spec: SampleSpec = SPEC, given: int = 0) -> Tensor:
    outside = look_up(str(weights)).sized(spec)
    told, data = outside.pretrained, cast(Any, None)
    ready = open_weights(outside, 0, data, Networks(outside.backbone, spec, torch.device("cpu"), ComputeConfig()))
    backbone = ready.backbone
    cond, null = backbone.condition(prompts, 1, ready.device)
    start = Batch(torch.zeros(1, given, *backbone.latent_shape()[1:]), cond, null)
    return generate(ready, LcmConfig(**dict(told.sampler_fields)), told.calls, None, draw(), start)


def test_what_is_not_here_is_said_with_how_to_get_it() -> None:
    with pytest.raises(AbsentError, match="hf download gdhe17/Self-Forcing"):
        look_up("some/self_forcing_dmd")
    config = CausalWan21Config(weights="some/self_forcing_dmd")
    assert any("Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in why for why in problems(config))


def test_a_pickle_is_not_read(folder: Path) -> None:
    (folder / "self_forcing_dmd.safetensors").rename(folder / "self_forcing_dmd.pt")
    (why,) = problems(CausalWan21Config(weights=str(folder)))
    assert "self_forcing_dmd.pt is a pickle" in why
    assert "python -m flowmap_wan.convert" in why


def test_half_of_a_pair_is_refused(pair: Path) -> None:
    shutil.rmtree(pair / "transformer_2")
    (why,) = problems(CausalWan22Config(weights=str(pair)), SampleSpec((25, 3, 32, 32), text=True))
    assert "half of a pair: it has no transformer_2/" in why


def test_networks_of_different_sizes_are_no_pair(pair: Path) -> None:
    file = pair / "transformer_2" / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(file).items() if "blocks.1." not in key}, file)
    (why,) = problems(CausalWan22Config(weights=str(pair)), SampleSpec((25, 3, 32, 32), text=True))
    assert "different sizes" in why


def test_the_same_network_twice_is_no_pair(pair: Path) -> None:
    name = "diffusion_pytorch_model.safetensors"
    shutil.copy(pair / "transformer" / name, pair / "transformer_2" / name)
    (why,) = problems(CausalWan22Config(weights=str(pair)), SampleSpec((25, 3, 32, 32), text=True))
    assert "hold the same network twice; they are no pair" in why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.blocks.1.norm3.bias": None}, "first model.blocks.1.norm3.bias is missing"),
        ({"model.blocks.0.self_attn.proj_z.weight": torch.zeros(2)}, "proj_z.weight belongs to no such model"),
        ({"model.head.modulation": torch.zeros(1, 3, 128)}, "model.head.modulation is [1, 3, 128] instead of"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_a_key_that_is_wrong_is_named(folder: Path, change: dict[str, Tensor | None], said: str) -> None:
    file = folder / "self_forcing_dmd.safetensors"
    changed = {key: value for key, value in (load_file(file) | change).items() if value is not None}
    save_file(changed, file)
    config = CausalWan21Config(weights=str(folder))
    (why,) = problems(config)
    assert said in why
    with pytest.raises(FlowmapError, match="parameters differ"):
        config.build(SPEC).role("student", "flow_map", None, draw())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"chunk": 4}, "6 latent frames are no whole chunks of 4; nearest: 13 or 29 frames of data"),
        ({"first_chunk": 1}, "no whole chunks of 1 and then 3; nearest: 13 or 25 frames"),
        ({"window": 4, "sink": 2}, "must hold the sink of 2 and a chunk of 3: 5 frames or more"),
        ({"sink": 2}, "is a part of the window"),
        ({"context": "recomputed", "window": 6}, "is for context = 'written'"),
    ],
    ids=str,
)
def test_fields_that_do_not_fit_are_said(folder: Path, fields: dict[str, Any], said: str) -> None:
    (why,) = problems(CausalWan21Config(weights=str(folder), **fields))
    assert said in why


def test_two_networks_are_not_adapted(pair: Path) -> None:
    config = CausalWan22Config(weights=str(pair), lora=LoraConfig(rank=2))
    assert problems(config, SampleSpec((25, 3, 32, 32), text=True)) == [
        "two networks cannot be adapted here; leave this out"
    ]


@pytest.mark.parametrize("kind", [CausalWan21Config, CausalWan22Config])
def test_the_twin_of_a_rehearsal_is_whole(kind: type[CausalConfig], tmp_path: Path) -> None:
    config = kind(weights="some/where").rehearsed(tmp_path)
    assert not problems(
        config, SampleSpec((37, 3, 32, 32) if kind is CausalWan22Config else (33, 3, 32, 32), text=True)
    )
    assert config.pretrained() is not None


RECIPE = """
name = "r"
[data]
type = "video_shards"
path = "none"
frames = 21
height = 32
width = 32
fps = 16.0
[backbone]
type = "causal_wan21"
weights = "{folder}"
[[stages]]
name = "student"
steps = 10
batch = 4
objective.type = "{objective}"
[evaluation]
calls = [4]
samples = 4
repeats = 2
teacher = "base"
teacher_calls = 4
teacher_sampler = {list}
metrics = ["sliced_wasserstein"]
[[evaluation.contests]]
stage = "base"
samplers = [{sampler}]
"""
LIST = '{ type = "lcm", times = [1000, 750, 500, 250], shift = 5, levels = "nearest" }'


@pytest.mark.parametrize(
    ("sampler", "warned"), [(LIST, 0), ('"consistency"', 0), ('"flow_map"', 1), ('"euler"', 1), ('"gamma"', 1)]
)
def test_a_sampler_of_what_they_do_not_know_is_warned_of(
    sampler: str, warned: int, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "r.toml"
    told = {"folder": str(folder), "objective": "consistency_training", "list": LIST, "sampler": sampler}
    file.write_text(RECIPE.format(**told))
    found = [why for why in read(file)[1] if "jumps to data and knows nothing between" in why]
    assert len(found) == warned


def test_a_map_between_any_two_times_is_not_trained(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    told = {"folder": str(folder), "list": LIST, "sampler": LIST}
    file.write_text(RECIPE.format(**told, objective="flow_map"))
    with pytest.raises(FlowmapError, match="trains a map between any two times, and networks of 'causal_wan21' have"):
        read(file)
    file.write_text(RECIPE.format(**told, objective="consistency_training"))
    read(file)


STEPPED = "role 'teacher' is a velocity, and the base weights are none: they jump to data; name an earlier stage"


@pytest.mark.parametrize("objective", ["dmd2", "self_forcing", "scm"])
def test_what_jumps_is_no_teacher_that_gives_a_velocity(objective: str, folder: Path, tmp_path: Path) -> None:
    """Nor is it one that a critic begins as, which learns it."""
    file, told = tmp_path / "r.toml", {"folder": str(folder), "list": LIST, "sampler": LIST, "objective": objective}
    file.write_text(RECIPE.format(**told))
    with pytest.raises(FlowmapError) as caught:
        read(file)
    assert STEPPED in str(caught.value)
    # A stage that trains a velocity can be the teacher,
    stage = '[[stages]]\nname = "real"\nsteps = 9\nbatch = 4\nobjective = {{ type = "flow_matching", view = "whole" }}'
    text = RECIPE.replace("[[stages]]", f"{stage}\n\n[[stages]]", 1)
    text = text.replace("[evaluation]", 'roles.teacher.from = "real"\n\n[evaluation]')
    file.write_text(text.format(**told))
    warned = [line for line in read(file)[1] if "begins as a velocity, and the base weights are none" in line]
    assert any("role 'student'" in line for line in warned)
    assert any("role 'critic'" in line for line in warned) == (objective != "scm")
    # and so can plain Wan, from which the student then begins too.
    (folder / "self_forcing_dmd.safetensors").rename(folder / "plain.safetensors")
    text = RECIPE.replace('weights = "{folder}"', 'weights = "{folder}"\none_time_weights = "velocity"')
    text = text.replace("teacher_sampler = {list}", 'teacher_sampler = "euler"').replace("[{sampler}]", '["euler"]')
    file.write_text(text.format(**told))
    assert not [line for line in read(file)[1] if "velocity" in line]


def test_a_start_on_times_of_another_shift_is_said(folder: Path, tmp_path: Path) -> None:
    file, said = tmp_path / "r.toml", "jump along times of shift 5, and is sampled, and exported, on those of shift 1"
    told = {"folder": str(folder), "list": LIST, "sampler": LIST, "objective": "consistency_training"}
    file.write_text(RECIPE.format(**told))
    assert any(said in line for line in read(file)[1])
    for change in (
        ("objective.type = ", "objective.schedule = 'grid'\nobjective.shift = 5\nobjective.type = "),
        ("calls = [4]", "shift = 5\ncalls = [4]"),
    ):
        file.write_text(RECIPE.replace(*change).format(**told))
        assert not any("times of shift" in line for line in read(file)[1])


def test_weights_are_taken_for_what_their_names_say(folder: Path) -> None:
    (why,) = problems(CausalWan21Config(weights=str(folder), one_time_weights="velocity"))
    assert "jump to data, and are no velocity; take 'jump'" in why
    plain = CausalWan21Config(weights="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert any("is a velocity, and does not jump to data; take 'velocity'" in why for why in problems(plain))


def test_a_named_file_that_is_damaged_is_one_line_and_its_list_has_no_other_shift(folder: Path, tmp_path: Path) -> None:
    wish = Wish(prompts=("a ball",), length=9, height=32, width=32)
    with pytest.raises(FlowmapError, match=r"--shift 3.*goes along a list of times of its own"):
        open_wished(str(folder), replace(wish, shift=3.0))
    assert "shift" not in open_wished(str(folder), wish).facts
    file = folder / "self_forcing_dmd.safetensors"
    save_file({f"{key}_x": value for key, value in load_file(file).items()}, file)
    with pytest.raises(FlowmapError) as caught:
        open_wished(str(folder), wish)
    assert "self_forcing_dmd.safetensors" in str(caught.value)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "any.pt").touch()
    with pytest.raises(FlowmapError, match=r"No pickle is read, for one can run code: `flowmap docs rivals`"):
        look_up(str(tmp_path / "pickled"))


def test_a_head_of_another_size_than_published_is_refused(folder: Path) -> None:
    (folder / "any.txt").touch()
    config = CausalWan21Config(weights=str(folder), head_dim=64)
    assert problems(config) == [
        "heads of these weights (gdhe17/Self-Forcing) have 128 dimensions, as no shape tells; leave this out, or "
        "rename weights that are others"
    ]
    (folder / "self_forcing_dmd.safetensors").rename(folder / "mine.safetensors")
    assert problems(config) == []


def test_samples_along_a_grid_of_what_jumps_say_so(folder: Path, tmp_path: Path) -> None:
    wish = Wish(calls=1, number=1, prompts=("a ball",), length=9, height=32, width=32)
    for sampler, said in ((None, False), ("flow_map", True)):
        _, summary = sample(
            str(folder), replace(wish, sampler=sampler, calls=None if sampler is None else 1), tmp_path / "x"
        )
        assert ("jumps to data and knows nothing between, which sampler 'flow_map' asks for" in summary) == said


DAMAGED = """
name = "bad"
data = {{ type = "video_shards", path = "{data}", frames = 9, height = 32, width = 32, fps = 16.0 }}
backbone = {{ type = "causal_wan21", weights = "{weights}" }}

[evaluation]
teacher = "base"
teacher_sampler = {{ type = "lcm", times = [1000, 500] }}
metrics = ["sliced_wasserstein"]
contests = [{{ stage = "base", samplers = [{{ type = "lcm", times = [1000, 500] }}] }}]
"""


def test_a_damaged_file_is_one_error_though_an_evaluation_names_it_too(folder: Path, tmp_path: Path) -> None:
    file = folder / "self_forcing_dmd.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    path = tmp_path / "recipe.toml"
    path.write_text(DAMAGED.format(data=tmp_path, weights=folder))
    with pytest.raises(FlowmapError) as caught:
        read(path)
    assert str(caught.value).count(f"{file} cannot be read") == 1
    assert "backbone.weights" in str(caught.value)


COMPARED = """
name = "two"
seeds = [0]

[recipe]
data = {{ type = "video_shards", path = "none", frames = 21, height = 32, width = 32, fps = 16.0 }}
backbone = {{ type = "wan21", weights = "{twin}", text_length = 32 }}

[recipe.evaluation]
teacher = "{teacher}"
teacher_sampler = "{sampler}"
metrics = ["sliced_wasserstein"]

[[contestants]]
name = "teacher"
stage = "base"
samplers = ["unipc"]

[[contestants]]
name = "rival"
stage = "base"
samplers = [{{ type = "lcm", times = [1000, 500] }}]
recipe = {{ backbone = {{ type = "causal_wan21", weights = "{folder}", text_length = 32 }} }}
"""


def test_contestants_are_not_measured_by_bases_of_their_own(encoders: Path, folder: Path, tmp_path: Path) -> None:
    """'base' would be the rival itself, by whose samples it would be the best of all."""
    path, told = tmp_path / "c.toml", {"twin": encoders, "folder": folder, "sampler": "unipc"}
    path.write_text(COMPARED.format(teacher="base", **told))
    with pytest.raises(FlowmapError) as caught:
        read_comparison([path])
    assert "backbone: its 'base' is another network than that of 'teacher', and evaluation.teacher = 'base'" in str(
        caught.value
    )
    path.write_text(COMPARED.format(teacher=encoders, **told))
    comparison, _ = read_comparison([path])
    assert [entrant.name for entrant in comparison.entrants] == ["teacher", "rival"]


PLANNED = """
name = "rival"
data = {{ type = "video_shards", path = "none", frames = 81, height = 480, width = 832, fps = 16.0 }}
backbone = {{ type = "{type}", weights = "{weights}", base_precision = "bfloat16"{more} }}

[evaluation]
teacher = "base"
teacher_sampler = {{ type = "lcm", times = [1000, 500] }}
teacher_calls = 2
metrics = ["sliced_wasserstein"]
contests = [{{ stage = "base", samplers = [{{ type = "lcm", times = [1000, 500] }}] }}]
"""


@pytest.mark.parametrize(
    ("kind", "weights", "more", "parameters", "gigabytes"),
    [
        ("causal_wan21", "others/self_forcing_dmd.safetensors", "", 1_418_996_800, (8, 9)),
        ("causal_wan22", "CausalWan2.2-I2V-A14B-Preview-Diffusers", ", first_chunk = 3", 28_576_983_168, (100, 110)),
    ],
)
def test_a_plan_of_what_is_only_sampled(
    kind: str, weights: str, more: str, parameters: int, gigabytes: tuple[int, int], tmp_path: Path
) -> None:
    """By its published name: the weights need not be here."""
    path = tmp_path / "r.toml"
    path.write_text(PLANNED.format(type=kind, weights=weights, more=more))
    planned = plan_recipe(path)
    assert planned.stages == ()
    assert planned.evaluation is not None
    assert planned.evaluation.parameters == pytest.approx(parameters, rel=1e-6)
    assert gigabytes[0] < planned.evaluation.total / 1e9 < gigabytes[1]
    with Console(width=200, record=True, quiet=True) as console:
        show(planned, console)


def test_latents_of_another_vae_are_refused(folder: Path) -> None:
    file = folder / "self_forcing_dmd.safetensors"
    held = load_file(file)
    name = "model.patch_embedding.weight"
    held[name] = held[name][:, :7].contiguous()
    save_file(held, file)
    why = f"{folder} takes latents of 7 channels, and Wan2.1's VAE makes 16; take weights of Wan2.1"
    assert problems(CausalWan21Config(weights=str(folder))) == [why]
    assert why in problems(Wan21Config(weights=str(folder)))  # type: ignore[arg-type]
