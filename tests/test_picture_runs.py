"""Runs of Wan2.1-I2V: a picture is asked for everywhere, reaches every network, and exports are what they were."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_video.configs import VideoShardsConfig
from flowmap_wan.configs import Wan21Config
from flowmap_wan.image_config import Wan21I2VConfig
from flowmap_wan.pictures import FEATURES, LATENTS
from flowmap_wan.twin import make_twin
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.demo.question import Question
from flowmap.errors import FlowmapError
from flowmap.launch.measure import evaluate_at
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.plugin import SampleSpec
from flowmap.reading.open import open_run
from flowmap.recipe.read import read
from flowmap.statistics.scores import read_scores
from flowmap.use.encode import encode_recipe
from flowmap.use.export import export_run
from flowmap.use.opened import open_wished
from flowmap.use.pieces import Piece
from flowmap.use.produce import produce
from flowmap.use.sample import sample, sample_run
from flowmap.use.wish import Wish

from .small_runs import OF_VIDEOS, preload
from .video_runs import MEASURED, STAGES, WAN, finished

pytestmark = pytest.mark.usefixtures("one_thread")
CPU, FRAMES, SIZE = torch.device("cpu"), 9, 32
PICTURED = MEASURED.replace(" }", ", context = 1 }").replace(", context = 1, context = 1", ", context = 1")
PICTURED = PICTURED.replace("cells = 4, context = 1", "cells = 4").replace(
    '  { stage = "forward", samplers = ["flow_map"], context = 1 },\n', "", 1
)


def recipe(home: Path, data: str) -> str:
    weights = make_twin(home / "i2v-twin", pictures=True)
    more = 'negative_prompt = "blurry"'
    text = WAN.format(kind="wan21_i2v", data=data, frames=FRAMES, weights=weights, more=more)
    # diffusers' pipeline takes 512 tokens for granted.
    return text.replace("text_length = 32", "text_length = 512") + STAGES


@cache
def raw(home: Path) -> str:
    preload(*OF_VIDEOS)
    return VideoShardsConfig(path="-", frames=FRAMES, height=SIZE, width=SIZE).rehearsed(home).path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A finished run on raw clips, measured."""
    return finished(home, recipe(home, raw(home)) + PICTURED)


@pytest.fixture(scope="module")
def image(home: Path) -> Path:
    file = home / "first.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(file)
    return file


def test_all_contests_are_given_pictures(run: Path) -> None:
    names = {line["sampler"] for line in read_scores(run / "metrics.jsonl")}
    assert names == {"euler-after-1", "flow_map-after-1"}


def test_a_sample_begins_with_a_picture_or_there_is_none(run: Path, image: Path, tmp_path: Path) -> None:
    def made(file: Path, **wish: Any) -> Tensor:
        files, _ = sample_run(run, Wish(**{"calls": 1, "number": 1, "prompts": ("a ball",), **wish}), file)
        return load_file(files[-1])["samples"]

    one = made(tmp_path / "a", image=image)
    assert one.shape == (1, FRAMES, 3, SIZE, SIZE)
    black = tmp_path / "black.png"
    Image.new("RGB", (SIZE, SIZE)).save(black)
    assert float((made(tmp_path / "b", image=black) - one).abs().max()) > 1e-3
    both = made(tmp_path / "c", image=image, prompts=("a ball", "a square"))
    assert float((both[0] - both[1]).abs().max()) > 1e-3
    needs = r"--image: this model makes videos from a picture, the first frame, and cannot do without; give it"
    with pytest.raises(FlowmapError, match=needs):
        made(tmp_path / "d")
    with pytest.raises(FlowmapError, match=needs):
        produce(str(run), Wish(calls=1), [Piece("x", "a ball", 0)], tmp_path / "out")
    done = produce(str(run), Wish(calls=1), [Piece("x", "a ball", 0, image)], tmp_path / "list")
    assert done.made == 1
    side: Any = SimpleNamespace(chosen=Wish(), opened=open_wished(str(run), Wish(), later=True), per_step=1)
    with pytest.raises(FlowmapError, match="First frame: this model makes videos from a picture"):
        Question(calls=(1,), prompt="a ball").wish(side, 1)


def test_weights_are_sampled_and_measured_by_themselves(run: Path, image: Path, tmp_path: Path, home: Path) -> None:
    twin = str(make_twin(home / "i2v-twin", pictures=True))
    wish = Wish(calls=2, prompts=("a ball",), image=image, length=5, height=32, width=32)
    _, summary = sample(twin, wish, tmp_path / "a")
    assert "sampler unipc" in summary
    assert "guidance 5" in summary
    assert "shift 3" in summary
    with pytest.raises(FlowmapError, match="--image: this model makes videos from a picture"):
        sample(twin, Wish(calls=2, prompts=("a ball",), length=5, height=32, width=32), tmp_path / "b")
    # By a recipe that gives nothing to anybody, as those for text-to-video.
    plain = (recipe(home, raw(home)) + MEASURED).replace('type = "wan21_i2v"', 'type = "wan21"')
    plain = plain.replace(twin, str(make_twin(home / "t2v-twin"))).replace('name = "wan21_i2v"', 'name = "text"')
    (tmp_path / "r.toml").write_text(plain)
    measured = evaluate_at(twin, tmp_path / "r.toml", (), tmp_path / "runs", False, Console(quiet=True))
    assert {line["sampler"] for line in read_scores(measured.folder / "metrics.jsonl")} == {"euler-after-1"}


def test_a_contest_without_a_picture_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(recipe(home, raw(home)) + MEASURED)
    with pytest.raises(FlowmapError) as caught:
        read(tmp_path / "r.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all("cannot do without; set context = 1" in line for line in lines)


def test_training_on_encoded_shards_is_that_on_raw_clips(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(recipe(home, str(tmp_path / "encoded")))
    encode_recipe(file, raw(home), None, (), Console(quiet=True), quiet=True)
    facts = json.loads((tmp_path / "encoded" / "encoded.json").read_text())
    assert facts["others"] == {FEATURES: [[5, 16], "float"], LATENTS: [[3, 16, 4, 4], "float"]}
    ready, _ = read(file)
    file.write_text(recipe(home, raw(home)))
    clips, _ = read(file)
    found = []
    for one in (ready, clips):
        backbone = one.backbone.build(one.data.spec())
        batch = backbone.encode(one.data.build().batch(Draw.whole(0, "x", 0, "x", 2)), Draw.whole(0, "x", 0, "y", 2))
        network = backbone.role("teacher", "velocity", None, Draw.whole(0, "x", 0, "z", 1)).network
        with torch.no_grad():
            t = torch.tensor([0.8, 0.3])
            found.append([network.velocity(batch.x0, t, cond) for cond in (batch.cond, batch.null)])
    for mine, theirs in zip(*found, strict=True):
        assert float((mine - theirs).abs().max()) < 1e-5
    assert isinstance(ready.backbone, Wan21I2VConfig)


@pytest.mark.parametrize(("stage", "steps"), [("forward", 3), ("forward", 1), ("teacher", None)])
@torch.no_grad()
def test_diffusers_samples_an_export(stage: str, steps: int | None, run: Path, image: Path, tmp_path: Path) -> None:
    _, how = export_run(run, tmp_path / "out", stage, "ema", None, True, None, steps)
    pipe = WanImageToVideoPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    opened = open_wished(str(run), Wish(stage=stage))
    backbone, network = opened.contestant.backbone, opened.contestant.network
    pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None, None] / 127.5 - 1
    cond = backbone.pictured(*backbone.condition(["a ball"], 1, CPU), pixels)[0]
    noise = Draw.whole(0, "x", 0, "x", 1).normal("noise", backbone.latent_shape())
    if steps is None:
        t = torch.tensor([0.7])
        text = pipe.encode_prompt("a ball", do_classifier_free_guidance=False, max_sequence_length=512)[0]
        view: Any = cond
        seen = torch.cat([noise, view.view.beside], 2).transpose(1, 2)
        theirs = pipe.transformer(seen, 1000 * t, text, pipe.encode_image(Image.open(image)), return_dict=False)[0]
        assert float((network.velocity(noise, t, cond) - theirs.transpose(1, 2)).abs().max()) < 1e-5
        return
    assert f"num_inference_steps={steps}, guidance_scale=1" in how
    ours = sampled(opened, noise, cond, steps)
    theirs = pipe(
        Image.open(image),
        "a ball",
        height=SIZE,
        width=SIZE,
        num_frames=FRAMES,
        num_inference_steps=steps,
        guidance_scale=1.0,
        latents=noise.transpose(1, 2),
        output_type="latent",
    ).frames.transpose(1, 2)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    with pytest.raises(FlowmapError, match="--keep-lora: a flow map of pictures"):
        export_run(run, tmp_path / "apart", stage, "ema", None, False, None, steps)


def sampled(opened: Any, noise: Tensor, cond: Any, steps: int) -> Tensor:
    who = opened.contestant
    times, draw = grid(steps, who.shift), Draw.whole(0, "x", 0, "x", 1)
    result: Tensor = FlowMapEuler().sample(who.network, noise, times, cond, draw)
    return result


def test_the_original_form_says_what_it_is(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", "forward", "ema", None, True, "original", 2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["in_dim"], config["out_dim"]) == ("i2v", 36, 16)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    wanted = {"img_emb.proj.1.weight", "blocks.0.cross_attn.k_img.weight", "blocks.1.cross_attn.norm_k_img.weight"}
    assert wanted <= load_file(file).keys()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nlibrary_name: wan\n" in card
    assert f"Videos have {FRAMES} frames of {SIZE} x {SIZE}, and are made at 16 frames per second." in card
    assert open_run(run).recipe.backbone.listed_forms == {"diffusers", "original", "comfyui"}


@pytest.mark.parametrize("form", ["original", "comfyui", "diffusers"])
def test_an_export_makes_what_its_run_makes(form: str, run: Path, home: Path, tmp_path: Path) -> None:
    """It says itself that it begins with a picture, and is a flow map on one list of times."""
    folder = tmp_path / "out"
    export_run(run, folder, "forward", "ema", None, True, form, 3)
    if form != "diffusers":
        for part in ("text_encoder", "tokenizer", "vae", "image_encoder", "image_processor"):
            shutil.copytree(home / "i2v-twin" / part, folder / part)
    # Of another shape than the clips: how it is made to fit counts.
    picture = tmp_path / "wide.png"
    noise = np.random.default_rng(1).integers(0, 255, (SIZE, 3 * SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    wish: dict[str, Any] = {"number": 1, "seed": 3, "prompts": ("a ball",), "image": picture}
    found, said = {}, ""
    for where, own in ((run, {"stage": "forward", "calls": 3}), (folder, {})):
        files, said = sample(str(where), Wish(**wish, **own), tmp_path / where.name)
        found[where] = load_file(files[-1])["samples"]
    assert f"size {FRAMES} x {SIZE} x {SIZE}, shift 1, sampler euler, nfe 3, " in said
    assert "u(x, t, t)" not in said
    assert found[run].shape == found[folder].shape
    assert float((found[run] - found[folder]).abs().max()) < 1e-4
    with pytest.raises(FlowmapError, match="was exported for one list of times, 3 steps"):
        open_wished(str(folder), Wish(**wish, calls=4))


def test_a_file_of_pictures_is_taken_for_no_other(run: Path, home: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", "forward", "ema", None, True, "comfyui", 2)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    spec = SampleSpec((FRAMES, 3, SIZE, SIZE), text=True)
    told = {"weights": str(file), "encoders_from": str(home / "i2v-twin"), "head_dim": 12}

    def wrong(config: Any) -> list[str]:
        return [f.message for f in (*config.missing(), *config.findings(spec)) if f.level == "error"]

    assert wrong(Wan21I2VConfig(**told)) == []
    assert any("is a network of 'wan21_i2v', as flowmap exported it" in why for why in wrong(Wan21Config(**told)))
    # Of somebody else, who says nothing.
    save_file(load_file(file), file)
    assert wrong(Wan21I2VConfig(**told)) == []
    assert any("use a text-to-video one, or backbone 'wan21_i2v'" in why for why in wrong(Wan21Config(**told)))
    text = {key: value for key, value in load_file(file).items() if "img" not in key}
    patches = next(key for key in text if key.endswith("patch_embedding.weight"))
    save_file(text | {patches: text[patches][:, :16].contiguous()}, file)
    (why,) = wrong(Wan21I2VConfig(**told))
    assert "makes videos from text alone; use backbone type 'wan21'" in why
