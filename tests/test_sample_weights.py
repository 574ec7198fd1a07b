"""`flowmap sample FOLDER_OF_WEIGHTS`, and the folders that `flowmap export --format released` writes for it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from flowmap_wan.configs import FarWan21Config, Wan21Config
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.use.export import export_run
from flowmap.use.sample import sample, sample_run
from flowmap.use.wish import Wish

from .small_runs import flowmap
from .video_runs import digits_run, finished, mlp_run, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = pytest.mark.parametrize("kind", ["wan21", "far_wan21"])
FRAMES = {"wan21": 9, "far_wan21": 17}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run of a kind of backbone, with prompts as long as Wan's are."""
    home = tmp_path_factory.mktemp("long")

    @cache
    def made(kind: str) -> Path:
        text = (wan_run(tmp_path_factory.getbasetemp(), kind) / "recipe.lock.toml").read_text()
        text = text.replace("text_length = 32\n", "text_length = 512\n").split("[evaluation]")[0]
        return finished(home, text + '[compute]\ndevice = "cpu"\n')

    return made


@pytest.fixture(scope="module")
def released(run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """That run, exported for AnyFlow's released classes."""
    made = tmp_path_factory.mktemp("released")

    def folder(kind: str) -> Path:
        if not (made / kind).exists():
            export_run(run(kind), made / kind, None, "ema", None, True, "released")
        return made / kind

    return folder


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Wan2.1 checkpoint."""
    return wan_run(tmp_path_factory.getbasetemp(), "wan21").parents[1] / "twin"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(pixels).save(path)
    return path


def tensors(file: Path) -> Tensor:
    return load_file(file)["samples"]


# The same numbers as the run that they were exported from


@KINDS
@pytest.mark.parametrize("given", [False, True])
def test_a_released_folder_makes_the_samples_of_its_run(
    kind: str, given: bool, run: Callable[[str], Path], released: Callable[[str], Path], image: Path, tmp_path: Path
) -> None:
    size = ["--height", "32", "--width", "32", "--length", str(FRAMES[kind])]
    first = ["--image", str(image)] if given else []
    words = ["--prompt", "a ball", "--n", "2", "--nfe", "2", "--seed", "3", *first]
    code, text = flowmap(tmp_path, "sample", str(released(kind)), *words, *size, "--out", "ours")
    assert code == 0, text
    facts = f"weights {released(kind)}, size {FRAMES[kind]} x 32 x 32, shift 1, sampler flow_map, nfe 2, seed 3"
    more = f", frames given 1 of {FRAMES[kind]}" if given else ""
    if given and kind == "wan21":
        more += f", warning --image: {released(kind)} never learned to go on from given frames"
    assert text == f"ours-0.mp4, ours-1.mp4, ours.png and ours.safetensors: {facts}{more}\n"
    wish = Wish(calls=2, number=2, seed=3, prompts=("a ball",), image=image if given else None)
    files, _ = sample_run(run(kind), wish, tmp_path / "theirs")
    ours, theirs = tensors(tmp_path / "ours.safetensors"), tensors(files[-1])
    assert ours.shape == theirs.shape == (2, FRAMES[kind], 3, 32, 32)
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((ours[0] - ours[1]).abs().max()) > 1e-3
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata()["weights"] == str(released(kind))
    with Image.open(tmp_path / "ours.png") as sheet:
        assert sheet.size == (min(8, FRAMES[kind]) * 32, 2 * 32)


def test_a_video_may_end_where_a_chunk_ends(released: Callable[[str], Path], tmp_path: Path) -> None:
    wish = Wish(calls=1, prompts=("a ball",), height=32, width=32)
    short, _ = sample(str(released("far_wan21")), Wish(**{**vars(wish), "length": 9}), tmp_path / "short")
    long, _ = sample(str(released("far_wan21")), wish, tmp_path / "long")
    assert tensors(short[-1]).shape == (1, 9, 3, 32, 32)
    assert tensors(long[-1]).shape == (1, 17, 3, 32, 32)


def test_plain_wan_is_sampled_as_its_authors_do_unless_told_otherwise(twin: Path, tmp_path: Path) -> None:
    wish = {"prompts": ("a ball",), "height": 16, "width": 16, "length": 5}
    _, summary = sample(str(twin), Wish(**wish), tmp_path / "x")
    how = "shift 3, sampler unipc, nfe 50, seed 0, guidance 5.0"
    assert summary == f"weights {twin}, size 5 x 16 x 16, {how}"
    told = {"sampler": "euler", "calls": 2, "cfg_scale": 1.0, "shift": 5.0}
    one, summary = sample(str(twin), Wish(**wish, **told), tmp_path / "y")
    assert summary == f"weights {twin}, size 5 x 16 x 16, shift 5, sampler euler, nfe 2, seed 0"
    # Each of them has its effect.
    for change in ({"cfg_scale": 5.0}, {"shift": 3.0}, {"calls": 3}, {"sampler": "heun"}):
        other, _ = sample(str(twin), Wish(**wish, **{**told, **change}), tmp_path / "z")
        assert float((tensors(one[-1]) - tensors(other[-1])).abs().max()) > 1e-5, change


def test_a_hub_id_in_the_cache(twin: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    hub_id = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    wish = Wish(calls=1, prompts=("a ball",), height=16, width=16, length=1, sampler="euler")
    with pytest.raises(FlowmapError) as caught:
        sample(hub_id, wish, here / "x")
    assert f"no {hub_id} in the hub's cache {here / 'hub'}" in str(caught.value)
    assert f"hf download {hub_id}" in str(caught.value)
    cached = here / "hub" / f"models--{hub_id.replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc\n")
    (cached / "snapshots").mkdir()
    (cached / "snapshots" / "abc").symlink_to(twin)
    _, summary = sample(hub_id, wish, here / "x")
    assert summary.startswith(f"weights {hub_id}, size 1 x 16 x 16")


# Refusals


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"prompts": ()}, "--prompt: say what to show; there are no data whose prompts could be taken"),
        ({"length": 8}, "--length 8 --height 32 --width 32: the VAE takes 4 n + 1 frames, not 8; nearest: 5 or 9"),
        (
            {"height": 30},
            "--length 9 --height 30 --width 32: frames of 30 x 32 are not multiples of 16 (VAE 8, patches 2); nearest: "
            "32 x 32",
        ),
        (
            {"length": 13},
            "--length 13 --height 32 --width 32: [1, 2, 2] sum to 5, and these data have 4 latent frames; chunks end "
            "at 9 or 17 frames",
        ),
        ({"stage": "forward"}, "--stage: is for runs; FOLDER is one set of weights"),
        ({"weights": "raw"}, "--weights: is for runs; FOLDER is one set of weights"),
        ({"train_seed": 1}, "--train-seed: is for runs; FOLDER is one set of weights"),
        (
            {"cfg_scale": 3.0},
            "--guidance 3: sampler 'flow_map' follows the flow map, which cannot be guided (the guidance of training "
            "is in it); leave it out, or take --sampler euler",
        ),
        ({"image": "here.png", "video": "there.mp4"}, "--image and --video: give one of them"),
    ],
)
def test_what_weights_cannot_do_is_said(
    wish: dict[str, Any], message: str, released: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = str(released("far_wan21"))
    asked = {"prompts": ("a ball",), "length": 9, "height": 32, "width": 32, **wish}
    with pytest.raises(FlowmapError) as caught:
        sample(folder, Wish(**asked), tmp_path / "x")
    assert str(caught.value) == message.replace("FOLDER", folder)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_velocity_has_no_flow_map_and_an_unknown_grid_has_to_be_told(twin: Path, tmp_path: Path) -> None:
    wish = {"prompts": ("a ball",), "height": 16, "width": 16, "length": 1}
    with pytest.raises(FlowmapError) as caught:
        sample(str(twin), Wish(**wish, sampler="flow_map"), tmp_path / "x")
    assert str(caught.value) == (
        "--sampler flow_map: it needs a flow map, and these weights are a velocity; try euler or heun"
    )
    bare = tmp_path / "bare"
    shutil.copytree(twin, bare)
    shutil.rmtree(bare / "scheduler")
    with pytest.raises(FlowmapError) as caught:
        sample(str(bare), Wish(**wish), tmp_path / "x")
    assert str(caught.value) == (
        f"--shift: nothing in {bare} says for which sampling grid it was made (in diffusers' layout that is shift, or "
        "flow_shift, in scheduler/scheduler_config.json); give it"
    )
    sample(str(bare), Wish(**wish, shift=3.0, calls=2), tmp_path / "x")


def test_sizes_and_grids_of_runs_are_their_recipes(run: Callable[[str], Path], tmp_path: Path) -> None:
    for option in ("length", "height", "width", "shift"):
        with pytest.raises(FlowmapError) as caught:
            sample(str(run("wan21")), Wish(prompts=("a ball",), **{option: 16}), tmp_path / "x")
        assert str(caught.value) == f"--{option}: is for weights; a run's samples are as its recipe says"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"cfg_scale": math.inf}, "--guidance: must be a finite number, not inf"),
        ({"cfg_scale": math.nan}, "--guidance: must be a finite number, not nan"),
        ({"shift": 1e9}, "--shift: must be at most 1,000, not 1000000000.0"),
        ({"calls": 10**12}, "--nfe: must be at most 10,000, not 1000000000000"),
        ({"number": 0}, "--n: must be at least 1, not 0"),
        (
            {"length": 10**9, "height": -1},
            "--length: must be at most 65,536, not 1000000000\n--height: must be at least",
        ),
        ({"seed": 2**64}, "--seed: must be at most 9,223,372,036,854,775,807"),
        ({"frames": 0}, "--frames: must be at least 1, not 0"),
    ],
)
def test_numbers_that_nothing_can_be_made_of(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowmapError) as caught:
        Wish(**wish)
    assert str(caught.value).startswith(message)


def test_more_samples_than_fit_are_refused_by_their_product(released: Callable[[str], Path], tmp_path: Path) -> None:
    wish = Wish(prompts=("a ball",) * 3, number=10**7, length=9, height=64, width=64)
    with pytest.raises(FlowmapError, match="30,000,000 samples of 9 x 3 x 64 x 64 have 3,317,760,000,000 numbers"):
        sample(str(released("far_wan21")), wish, tmp_path / "x")


def test_a_place_that_is_nothing(here: Path) -> None:
    with pytest.raises(FlowmapError) as caught:
        sample("nothing", Wish(), here / "x")
    assert str(caught.value) == "nothing is no folder, neither of a run nor of weights"


# The released form


@KINDS
def test_the_released_form_is_as_their_pipelines_write_it(kind: str, released: Callable[[str], Path]) -> None:
    """As NVlabs/AnyFlow's save_pretrained writes it (tried with its code, whose forward pass agrees to 5e-7)."""
    folder, causal = released(kind), kind == "far_wan21"
    model = ["far.models.transformer_far_wan_model", "FAR_Wan_Transformer3DModel"]
    index = json.loads((folder / "model_index.json").read_text())
    assert index.pop("_diffusers_version") == diffusers.__version__
    assert index == {
        "_class_name": "FARWanAnyFlowPipeline" if causal else "WanAnyFlowPipeline",
        "scheduler": ["far.schedulers.scheduling_flowmap_euler_discrete", "FlowMapDiscreteScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": model,
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config.pop("_diffusers_version") == diffusers.__version__
    assert config == {
        "_class_name": model[1],
        "init_flowmap_model": True,
        "init_far_model": causal,
        "chunk_partition": [1, 2, 2] if causal else None,
        "full_chunk_limit": 2 if causal else 3,
        "compressed_patch_size": [1, 4, 4],
        "gate_value": 0.25,
        "deltatime_type": "r",
        "patch_size": [1, 2, 2],
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
    }
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler.pop("_diffusers_version") == diffusers.__version__
    assert scheduler == {
        "_class_name": "FlowMapDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "weight_type": "gaussian",
    }
    keys = set(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
    assert ("far_patch_embedding.weight" in keys) == causal
    assert "condition_embedder.delta_embedder.linear_1.weight" in keys
    card = (folder / "README.md").read_text()
    pipeline = index["_class_name"]
    assert f'pipe = {pipeline}.from_pretrained("FOLDER", torch_dtype=' in card
    assert "# with the code of https://github.com/NVlabs/AnyFlow on the path" in card
    assert "import diffusers" not in card


@KINDS
@torch.no_grad()
def test_the_released_form_is_read_back_equal(
    kind: str, run: Callable[[str], Path], released: Callable[[str], Path], tmp_path: Path
) -> None:
    export_run(run(kind), tmp_path / "diffusers", None, "ema", None, True)
    name = "transformer/diffusion_pytorch_model.safetensors"
    one, other = load_file(tmp_path / "diffusers" / name), load_file(released(kind) / name)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    spec = SampleSpec((FRAMES[kind], 3, 32, 32), text=True)
    fields: dict[str, Any] = {"chunks": (1, 2, 2), "full_chunks": 2} if kind == "far_wan21" else {}
    config = (FarWan21Config if fields else Wan21Config)(weights=str(released(kind)), **fields)
    role = config.build(spec).role("student", "flow_map", None, Draw.whole(0, "base", 0, "weights", 1))
    assert all(torch.equal(value, other[key]) for key, value in role.own.items())


def test_random_weights_have_a_released_transformer_alone(tmp_path_factory: Any, tmp_path: Path) -> None:
    _, loading = export_run(
        digits_run(tmp_path_factory.getbasetemp()), tmp_path / "x", None, "ema", None, True, "released"
    )
    assert loading.splitlines()[-2:] == [
        "from far.models.transformer_far_wan_model import FAR_Wan_Transformer3DModel",
        f'transformer = FAR_Wan_Transformer3DModel.from_pretrained("{tmp_path / "x"}/transformer", '
        "torch_dtype=torch.float32)",
    ]
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["README.md", "recipe.toml", "transformer"]


def test_forms_that_are_none(run: Callable[[str], Path], tmp_path_factory: Any, tmp_path: Path) -> None:
    for folder, form, merged, message in (
        (
            run("wan21"),
            "relesed",
            True,
            "--format relesed: unknown format 'relesed'; allowed: diffusers, released, original, comfyui. Did you mean "
            "'released'?",
        ),
        (
            run("wan21"),
            "released",
            False,
            "--keep-lora: AnyFlow's released classes take whole weights only; leave it out",
        ),
        (
            mlp_run(tmp_path_factory.getbasetemp()),
            "released",
            True,
            "backbone 'mlp' has no form that others load; its weights are in the checkpoints of the run",
        ),
    ):
        with pytest.raises(FlowmapError) as caught:
            export_run(folder, tmp_path / "x", None, "ema", None, merged, form)
        assert str(caught.value).startswith(message.split("; its weights")[0])
        assert list(tmp_path.iterdir()) == []
