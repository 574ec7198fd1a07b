"""A pipeline's folder as diffusers writes it: read, asked as diffusers asks it, and written for diffusers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from flowmap_diffusers.image_config import ImageConfig
from flowmap_diffusers.twin import make_twin
from flowmap_samplers.samplers import Euler, FlowMapEuler
from safetensors.torch import load_file, save_file

from flowmap.errors import FlowmapError
from flowmap.interfaces import Samples, SamplingGrid
from flowmap.maths.path import grid
from flowmap.networks.guidance import GuidedCond

from .support import CPU, KINDS, VELOCITIES, asked_as, draw, guided, length_of, packed, pictures

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["a red ball on the left", "yellow square"]
STEPS, SHIFT, SCALE = 3, 2.0, 4.0


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("twins")


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> type[ImageConfig]:
    return KINDS[request.param]


def twin(kind: type[ImageConfig], folder: Path) -> Path:
    return make_twin(folder / kind.type_name(), kind.family)


def side_of(kind: type[ImageConfig], folder: Path) -> int:
    """Pixels of two tokens."""
    from flowmap_diffusers.checkpoint import Checkpoint

    return 2 * kind.family.patch(kind.family.small) * Checkpoint(folder, kind.family).side()


def opened(kind: type[ImageConfig], folder: Path, **fields: Any) -> tuple[ImageConfig, Any, int]:
    """The configuration of a pipeline in `folder`, its backbone, and the side of pictures."""
    length, side = length_of(kind.type_name()), side_of(kind, folder)
    config = kind(weights=str(folder), text_length=length, **fields)
    spec = pictures(kind, side)
    assert not [finding for finding in (*config.missing(), *config.findings(spec)) if finding.level == "error"]
    return config, config.build(spec), side


def theirs(kind: type[ImageConfig], folder: Path, **more: Any) -> Any:
    """diffusers' own pipeline of the folder, quiet."""
    made = getattr(diffusers, kind.family.pipeline).from_pretrained(folder, **more)
    made.set_progress_bar_config(disable=True)
    return made


def noise(backbone: Any, count: int = 2) -> torch.Tensor:
    return torch.randn(count, *backbone.latent_shape(), generator=torch.Generator().manual_seed(7))


def asked(kind: type[ImageConfig]) -> Any:
    return WORDS if kind.family.parts else torch.tensor([3, 7])


@pytest.mark.parametrize("name", [name for name in VELOCITIES if KINDS[name].family.parts])
def test_our_euler_steps_are_the_pipelines(name: str, twins: Path) -> None:
    """The same picture from the same noise and words, guided: text encoders, transformer, grid and autoencoder."""
    kind = KINDS[name]
    folder = twin(kind, twins)
    _, backbone, side = opened(kind, folder)
    pipe, start = theirs(kind, folder), noise(backbone)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    times = grid(STEPS, SHIFT)
    out = pipe(
        **asked_as(name, WORDS, SCALE),
        height=side,
        width=side,
        num_inference_steps=STEPS,
        sigmas=times[:-1].tolist(),
        latents=packed(name, start),
        max_sequence_length=length_of(name),
        output_type="pt",
    ).images
    teacher = backbone.role("teacher", "velocity", None, draw())
    cond, null = backbone.condition(WORDS, 2, CPU)
    network = guided(name, teacher.network, SCALE)
    with torch.no_grad():
        latents = Euler().sample(network, start, times, GuidedCond(cond, null), draw())
    ours = backbone.decode(latents)[:, 0] / 2 + 0.5
    assert (ours - out).abs().max() < 1e-5
    assert out.std() > 1e-3


def test_pictures_go_to_latents_of_the_shape_it_says(kind: type[ImageConfig], twins: Path) -> None:
    _, backbone, side = opened(kind, twin(kind, twins))
    x = torch.rand(2, 1, 3, side, side) * 2 - 1
    ready = backbone.precompute(Samples(x, prompts=asked(kind)), draw())
    assert ready.x.shape == (2, *backbone.latent_shape())
    assert ready.encoded
    back = backbone.decode(ready.x)
    assert back.shape == x.shape
    assert back.abs().max() <= 1


def test_a_text_is_the_same_in_any_company(kind: type[ImageConfig], twins: Path) -> None:
    """What others are encoded with it, how long they are, and whether the encoders were away, changes nothing."""
    if not kind.family.parts:
        return
    _, backbone, _ = opened(kind, twin(kind, twins))
    both, _ = backbone.condition(WORDS, 2, CPU)
    backbone.release()
    alone, _ = backbone.condition(WORDS[1:], 1, CPU)
    for name, value in alone.tensors.items():
        if name == "text" and "mask" in both.tensors:
            counts = both.tensors["mask"][1].bool()
            assert torch.allclose(value[0][counts], both.tensors[name][1][counts], atol=1e-5)
        else:
            assert torch.allclose(value[0], both.tensors[name][1], atol=1e-5), name
    assert not torch.allclose(both.tensors["text"][0], both.tensors["text"][1], atol=1e-3)


def disturbed_student(backbone: Any) -> Any:
    student = backbone.role("student", "flow_map", None, draw())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.own.values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return student


@pytest.mark.parametrize("name", [name for name in VELOCITIES if KINDS[name].family.parts])
def test_an_exported_student_is_a_two_time_model_or_nothing(name: str, twins: Path, tmp_path: Path) -> None:
    """diffusers loads it with its code, samples what we sample, and refuses it without."""
    kind = KINDS[name]
    _, backbone, side = opened(kind, twin(kind, twins), lora={"rank": 2, "alpha": 4.0}, gate=0.6)
    student, folder = disturbed_student(backbone), tmp_path / "out"
    folder.mkdir()
    how = backbone.export(student, folder, "diffusers", True, SamplingGrid(SHIFT, 4))
    assert "trust_remote_code=True" in how
    # As it was trained, and not as the pipeline would have it.
    assert f"height={side}, width={side}, max_sequence_length={length_of(name)}" in how
    # What it says to ask, as the code beside it does, is what is asked below.
    said = [f"{key}={value}" for key, value in asked_as(name, WORDS, 1.0).items() if key.endswith("_scale")]
    code = (folder / "two_times.py").read_text()
    assert any(asked in how and asked in code for asked in said)
    with pytest.raises((ValueError, RuntimeError)):
        getattr(diffusers, kind.family.model).from_pretrained(folder / "transformer")
    with pytest.raises((ValueError, RuntimeError, AttributeError, OSError)):
        getattr(diffusers, kind.family.pipeline).from_pretrained(folder)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    cond, _ = backbone.condition(WORDS, 2, CPU)
    start = noise(backbone)
    for steps in (1, 4):
        out = pipe(
            **asked_as(name, WORDS, 1.0),
            height=side,
            width=side,
            num_inference_steps=steps,
            latents=packed(name, start),
            max_sequence_length=length_of(name),
            output_type="pt",
        ).images
        with torch.no_grad():
            latents = FlowMapEuler().sample(student.network, start, grid(steps, SHIFT), cond, draw())
        ours = backbone.decode(latents)[:, 0] / 2 + 0.5
        assert (ours - out).abs().max() < 1e-4
    # Somebody puts another scheduler in its place: its steps, and no others, say what r is.
    other = FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe.scheduler = other
    kept = pipe.transformer
    other.set_timesteps(sigmas=[1.0, 0.25])
    with torch.no_grad():
        embedder = kept.get_submodule(kind.family.embedder)
        proj = getattr(kept.get_submodule(kind.family.embedder.rpartition(".")[0]), "time_proj", None)
        seen = kind.family.time(torch.tensor([1.0, 0.25]))
        given = kept.with_r(proj, embedder, (seen[:1] if proj is None else proj(seen[:1]),))[0]
        assert torch.allclose(given, seen if proj is None else proj(seen))
    again, read, _ = opened(kind, folder)
    found = again.pretrained()
    assert found is not None
    assert (found.kind, found.shift) == ("flow_map", SHIFT)
    assert found.spec is not None
    assert found.spec.shape == (1, 3, side, side)
    claimed = kind.of_weights(str(folder))
    assert claimed is not None
    assert (claimed.text_length, claimed.gate, claimed.share()) == (length_of(name), 0.6, 0.6)
    # Whatever a recipe says of it, the weights have their own; said, where it was set.
    assert kind(weights=str(folder)).share() == 0.6
    (warning,) = kind(weights=str(folder), text_length=length_of(name), gate=0.1).findings(pictures(kind, side))
    assert (warning.level, warning.field) == ("warning", ("gate",))
    base = read.role("student", "flow_map", None, draw())
    x, t, r = start, torch.tensor([0.8, 0.5]), torch.tensor([0.1, 0.3])
    same = base.network.mean_velocity(x, t, r, cond)
    assert torch.allclose(same, student.network.mean_velocity(x, t, r, cond), rtol=1e-4, atol=1e-5)
    (folder / "student.json").unlink()
    (flaw,) = kind(weights=str(folder), text_length=16).findings(pictures(kind, side))
    assert "has no student.json" in flaw.message


@pytest.mark.parametrize("name", sorted(KINDS))
def test_damage_is_named(name: str, twins: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    folder = tmp_path / "broken"
    shutil.copytree(twin(kind, twins), folder)
    config = kind(weights=str(folder), text_length=16)
    spec = pictures(kind, side_of(kind, folder))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    (first, *_) = [key for key in sorted(whole) if "to_q" in key]
    save_file({key: value for key, value in whole.items() if key != first}, file, metadata={"format": "pt"})
    with pytest.raises(FlowmapError, match=first.replace(".", r"\.")):
        config.build(spec).role("teacher", "velocity", None, draw())
    save_file(whole, file, metadata={"format": "pt"})
    told = folder / "transformer" / "config.json"
    fields = json.loads(told.read_text())
    told.write_text(json.dumps(fields | {"_class_name": "UNet2DModel"}))
    messages = [finding.message for finding in config.findings(spec)]
    assert any("names UNet2DModel" in message and kind.family.model in message for message in messages)
    told.write_text(json.dumps(fields))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (gone,) = config.missing()
    assert "vae/diffusion_pytorch_model.safetensors" in gone.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": None}, "patch_size is missing"),
        ({"patch_size": "two"}, "patch_size is a whole number from 1 to 100,000; here it is 'two'"),
        ({"num_layers": 0}, "num_layers is a whole number from 1 to 100,000; here it is 0"),
        ({"dual_attention_layers": 3}, "dual_attention_layers is a list of whole numbers"),
    ],
)
def test_sizes_that_cannot_be_are_named(change: dict[str, Any], words: str, twins: Path, tmp_path: Path) -> None:
    """Of a folder that others wrote, and nothing else is said of it."""
    kind, folder = KINDS["sd3"], tmp_path / "odd"
    shutil.copytree(twin(kind, twins), folder)
    file = folder / "transformer" / "config.json"
    told = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    (finding,) = kind(weights=str(folder), text_length=16).findings(pictures(kind, 32))
    assert f"{file}: {words}" in finding.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scaling_factor": 0}, "scaling_factor is 0; it is a number above 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan; it is a number above 0"),
        ({"scaling_factor": None}, "scaling_factor is None; it is a number above 0"),
        ({"shift_factor": "x"}, "shift_factor is 'x'; it is a number"),
    ],
)
def test_scales_of_latents_that_cannot_be_are_named(
    change: dict[str, Any], words: str, twins: Path, tmp_path: Path
) -> None:
    """A scale of 0 would train on zeros, and end well."""
    kind, folder = KINDS["sd3"], tmp_path / "odd"
    shutil.copytree(twin(kind, twins), folder)
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    (finding,) = kind(weights=str(folder), text_length=16).findings(pictures(kind, 32))
    assert f"{file}: {words}" in finding.message


def test_images_beyond_the_places_of_a_transformer_are_refused(twins: Path) -> None:
    config = KINDS["sd3"](weights=str(twin(KINDS["sd3"], twins)), text_length=16)
    (finding,) = config.findings(pictures(KINDS["sd3"], 1024))
    assert "larger than the transformer's positions reach, 512 x 512" in finding.message
    assert list(config.findings(pictures(KINDS["sd3"], 512))) == []


def test_weights_of_another_family_say_which_backbone_is_theirs(twins: Path) -> None:
    """Though files that this family would need are not there either."""
    folder = twin(KINDS["flux"], twins)
    config = KINDS["sd3"](weights=str(folder))
    assert list(config.missing()) == []
    (finding,) = config.findings(pictures(KINDS["sd3"], 32))
    assert "names FluxTransformer2DModel, and this backbone is made of a SD3Transformer2DModel" in finding.message
    assert finding.message.endswith("backbone 'flux' is of those")


def test_gated_weights_say_how_to_come_by_them() -> None:
    (finding,) = KINDS["sd3"](weights="stabilityai/stable-diffusion-3-medium-diffusers").missing()
    assert "hf download stabilityai/stable-diffusion-3-medium-diffusers" in finding.message
    assert "accept their licence" in finding.message
    assert "hf auth login" in finding.message


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_shift_that_depends_on_the_size_is_that_of_the_usual_one(name: str, twins: Path, tmp_path: Path) -> None:
    """Beside it schedulers name a constant that nobody uses (that of FLUX.1 [dev] is 3)."""
    kind, folder = KINDS[name], tmp_path / "dynamic"
    shutil.copytree(twin(kind, twins), folder)
    found = kind(weights=str(folder)).pretrained()
    assert found is not None
    assert found.shift == kind.family.usual.shift
    told = folder / "scheduler" / "scheduler_config.json"
    for fields, shift in (({"shift": 7.0}, 7.0), ({"shift": 7.0, "use_dynamic_shifting": True}, found.shift)):
        told.write_text(json.dumps(fields))
        again = kind(weights=str(folder)).pretrained()
        assert again is not None
        assert again.shift == shift


@pytest.mark.parametrize(
    ("name", "size", "value", "why"),
    [("flux2", "guidance_embeds", False, r"\[klein\]"), ("qwen_image", "zero_cond_t", True, "edit pictures")],
)
def test_relatives_that_are_asked_otherwise_are_refused(
    name: str, size: str, value: bool, why: str, twins: Path, tmp_path: Path
) -> None:
    """Of the same class as the transformer of the family."""
    kind, folder = KINDS[name], tmp_path / "relative"
    shutil.copytree(twin(kind, twins), folder)
    told = folder / "transformer" / "config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {size: value}))
    config = kind(weights=str(folder), text_length=16)
    (finding,) = config.findings(pictures(kind, side_of(kind, folder)))
    assert re.search(why, finding.message)
