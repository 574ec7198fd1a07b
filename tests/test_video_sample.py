"""`flowmap sample` of video models: from prompts, an image, the beginning of a video; and its mp4 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.reading.open import open_run
from flowmap.use import joint
from flowmap.use.sample import sample_run
from flowmap.use.wish import Wish
from flowmap.video import clip_as, image_as, to_float, write_mp4
from flowmap.workshop.backbone import ModuleBackbone

from .video_runs import digits_run, mlp_run, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, SIZE, FPS = 17, 32, 16


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_run(tmp_path_factory.getbasetemp(), "far_wan21")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, a clip longer than the model's, one of a higher rate, one of five frames, and a text."""
    folder = tmp_path_factory.mktemp("files")
    dice = np.random.default_rng(0)
    small = dice.integers(0, 255, (30, 5, 6, 3), dtype=np.uint8)
    clip = small.repeat(8, 1).repeat(8, 2)
    Image.fromarray(clip[0]).save(folder / "image.png")
    write_mp4(folder / "clip.mp4", clip, FPS)
    write_mp4(folder / "fast.mp4", clip, 24)
    write_mp4(folder / "short.mp4", clip[:5], FPS)
    (folder / "text.txt").write_text("no pictures here")
    return folder


def sampled(run: Path, out: Path, **wish: Any) -> Tensor:
    made, _ = sample_run(run, Wish(**{"calls": 1, "number": 2, **wish}), out)
    return load_file(made[-1])["samples"]


def differ(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


# The files


def test_each_sample_is_a_playable_mp4(far: Path, tmp_path: Path) -> None:
    made, summary = sample_run(far, Wish(calls=1, number=2, prompts=("a ball",)), tmp_path / "new" / "x.mp4")
    assert [file.name for file in made] == ["x-0.mp4", "x-1.mp4", "x.png", "x.safetensors"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [file.name for file in made]
    assert summary == "stage forward, weights ema, shift 1, sampler flow_map, nfe 1, seed 0"
    samples = load_file(made[-1])["samples"]
    assert samples.shape == (2, FRAMES, 3, SIZE, SIZE)
    assert bool(samples.isfinite().all())
    assert float(samples.abs().max()) <= 1
    for file, sample in zip(made, samples, strict=False):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            assert (stream.height, stream.width, stream.average_rate) == (SIZE, SIZE, FPS)
            shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        assert len(shown) == FRAMES
        # H.264 keeps little of noise, but its mean colours.
        pixels = (sample.permute(0, 2, 3, 1).numpy() + 1) * 127.5
        assert np.abs(shown.mean((1, 2)) - pixels.mean((1, 2))).mean() < 8


def test_one_sample_is_one_file_without_a_number(far: Path, tmp_path: Path) -> None:
    made, _ = sample_run(far, Wish(calls=1, prompts=("a ball",)), tmp_path / "x.mp4")
    assert [file.name for file in made] == ["x.mp4", "x.png", "x.safetensors"]


def test_videos_of_one_channel_are_drawn_as_their_data_draw_them(digits: Path, tmp_path: Path) -> None:
    made, _ = sample_run(digits, Wish(calls=1), tmp_path / "x")
    assert [file.name for file in made[:-2]] == [f"x-{n}.mp4" for n in range(4)]
    assert load_file(made[-1])["samples"].shape == (4, 5, 1, 8, 8)
    fps = open_run(digits).recipe.data.spec().fps
    with av.open(str(made[0])) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].average_rate == fps
    assert len(frames) == 5
    assert frames[0].height % 2 == frames[0].width % 2 == 0


def test_the_metadata_say_what_was_given(far: Path, files: Path, tmp_path: Path) -> None:
    wish = Wish("teacher", calls=1, number=1, video=files / "clip.mp4", frames=9, cfg_scale=2.0)
    made, summary = sample_run(far, wish, tmp_path / "x")
    assert summary == (
        "stage teacher, weights ema, shift 1, sampler euler, nfe 1, seed 0, guidance 2.0, frames given 9 of 17"
    )
    with safe_open(made[-1], "pt") as file:
        facts = file.metadata()
    assert facts.pop("times") == "[1.0, 0.0]"
    assert facts.pop("sampler settings") == '{"type": "euler"}'
    assert ", ".join(f"{key} {facts[key]}" for key in sorted(facts)) == ", ".join(sorted(summary.split(", ")))


# Prompts


def test_every_prompt_has_its_number_of_samples_in_order(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Batch] = []
    real = joint.generate

    def generate(*args: Any, **named: Any) -> Tensor:
        starts.append(args[5])
        return real(*args, **named)

    monkeypatch.setattr(joint, "generate", generate)
    samples = sampled(far, tmp_path / "x", prompts=("a ball", "a red square"))
    assert len(samples) == 4
    (start,) = starts
    backbone = open_run(far).recipe.backbone.build(open_run(far).recipe.data.spec())
    expected, _ = backbone.condition(["a ball", "a ball", "a red square", "a red square"], 4, torch.device("cpu"))
    assert torch.equal(start.cond.text, expected.text)  # type: ignore[attr-defined]
    assert differ(start.cond.text[1], start.cond.text[2])  # type: ignore[attr-defined]
    assert torch.equal(start.null.text[0], start.null.text[3])  # type: ignore[attr-defined]
    assert len({float(sample.sum()) for sample in samples}) == 4


def test_another_prompt_gives_another_sample_from_the_same_noise(far: Path, tmp_path: Path) -> None:
    ball, square = (sampled(far, tmp_path / "x", prompts=(prompt,)) for prompt in ("a ball", "a red square"))
    assert not torch.equal(ball, square)
    assert torch.equal(sampled(far, tmp_path / "x", prompts=("a ball",)), ball)
    assert differ(sampled(far, tmp_path / "x", prompts=("a ball",), seed=1), ball)


@pytest.mark.parametrize(("stage", "sampler"), [("teacher", None), ("forward", "euler")])
def test_guidance_changes_the_samples(stage: str, sampler: str | None, far: Path, tmp_path: Path) -> None:
    settings = {"stage": stage, "sampler": sampler, "calls": 2, "prompts": ("a ball",)}
    plain, one, four = (
        sampled(far, tmp_path / "x", **settings, **w) for w in ({}, {"cfg_scale": 1.0}, {"cfg_scale": 4.0})
    )
    assert torch.equal(plain, one)
    assert differ(four, plain)


# Images and videos


def in_model_space(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is decoded, from now on."""
    seen: list[Tensor] = []
    real = ModuleBackbone.decode

    def decode(self: ModuleBackbone, x: Tensor) -> Tensor:
        seen.append(x)
        return real(self, x)

    monkeypatch.setattr(ModuleBackbone, "decode", decode)
    return seen


@pytest.mark.parametrize(
    ("wish", "given", "latents"),
    [
        ({"image": "image.png"}, 1, 1),
        ({"video": "clip.mp4", "frames": 1}, 1, 1),
        ({"video": "clip.mp4", "frames": 9}, 9, 3),
        ({"video": "clip.mp4"}, 9, 3),
        ({"video": "fast.mp4"}, 9, 3),
        ({"video": "short.mp4"}, 1, 1),
    ],
)
def test_what_is_given_comes_first_read_as_the_run_s_own_clips(
    wish: dict[str, Any],
    given: int,
    latents: int,
    far: Path,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = in_model_space(monkeypatch)
    wish = {key: files / value if key in ("image", "video") else value for key, value in wish.items()}
    sampled(far, tmp_path / "x", prompts=("a ball",), **wish)
    x = torch.cat(seen)
    assert x.shape == (2, 5, 16, 4, 4)
    backbone = open_run(far).recipe.backbone.build(open_run(far).recipe.data.spec())
    spec = SampleSpec((FRAMES, 3, SIZE, SIZE), fps=FPS, frame_choice="rate", fit="stretch")
    pixels = image_as(wish["image"], spec) if "image" in wish else clip_as(wish["video"], given, spec)
    expected = backbone.precompute(Samples(to_float(pixels)[None]), Draw.whole(0, "x", 0, "x", 1)).x[0]
    assert len(expected) == latents
    assert torch.equal(x[:, :latents], expected.expand(2, *expected.shape))
    assert differ(x[0, latents:], x[1, latents:])


def test_an_image_decides_what_follows(digits: Path, files: Path, tmp_path: Path) -> None:
    """Where there is no VAE, the first frame of the samples is the picture itself, in grey."""
    made = sampled(digits, tmp_path / "x", image=files / "image.png")
    grey = to_float(image_as(files / "image.png", SampleSpec((1, 1, 8, 8)))).mean(1, keepdim=True)
    assert torch.equal(made[:, :1], grey.expand(2, 1, 1, 8, 8))
    free = sampled(digits, tmp_path / "x")
    assert differ(made[:, 1:], free[:, 1:])


def test_without_a_prompt_the_data_s_own_are_taken(far: Path, files: Path, tmp_path: Path) -> None:
    made = sampled(far, tmp_path / "x", image=files / "image.png")
    assert made.shape == (2, FRAMES, 3, SIZE, SIZE)


# Refusals


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"video": "clip.mp4", "frames": 5}, "--frames 5: 5 context frames cannot be given: .* nearest: 1 or 9$"),
    ({"video": "clip.mp4", "frames": 17}, "--frames 17: .*possible are 1, 9; nearest: 1 or 9$"),
    ({"video": "short.mp4", "frames": 9}, "short.mp4: it has 5 frames chosen by rate for 16 fps, 9 are needed$"),
    ({"video": "none.mp4"}, "none.mp4: there is no such file$"),
    ({"video": "none.mp4", "frames": 9}, "none.mp4: there is no such file$"),
    ({"video": "text.txt"}, "text.txt: it cannot be read as a video"),
    ({"image": "none.png"}, "none.png: there is no such file$"),
    ({"image": "text.txt"}, "text.txt: cannot be read as an image"),
    ({"image": "image.png", "video": "clip.mp4"}, "--image and --video: give one of them$"),
    ({"image": "image.png", "frames": 1}, "--frames: says how much of --video is given; there is none$"),
    ({"frames": 9}, "--frames: says how much of --video is given; there is none$"),
    ({"cfg_scale": 2.0}, "--guidance 2: sampler 'flow_map' .*cannot be guided .* or take --sampler euler$"),
]


@pytest.mark.parametrize(("wish", "words"), REFUSED)
def test_what_cannot_be_done_is_said_and_nothing_written(
    wish: dict[str, Any], words: str, far: Path, files: Path, tmp_path: Path
) -> None:
    wish = {key: files / value if key in ("image", "video") else value for key, value in wish.items()}
    with pytest.raises(FlowmapError, match=words) as caught:
        sampled(far, tmp_path / "new" / "x", **wish)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_what_other_models_cannot_do(points: Path, digits: Path, files: Path, tmp_path: Path) -> None:
    for run, wish, words in (
        (points, {"prompts": ("a",)}, "--prompt: the data of this run have no captions"),
        (points, {"image": files / "image.png"}, "--image and --video: this model does not make videos"),
        (points, {"video": files / "clip.mp4"}, "--image and --video: this model does not make videos"),
        (digits, {"prompts": ("a",)}, "--prompt: .*(captions|text encoder)"),
    ):
        with pytest.raises(FlowmapError, match=words) as caught:
            sampled(run, tmp_path / "x", **wish)
        assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_none(points: Path, here: Path) -> None:
    for name in ("", ".", "/"):
        with pytest.raises(FlowmapError, match=r"^--out .*: give a name for the files, such as samples$"):
            sampled(points, Path(name))


def test_the_folder_of_a_stage_is_not_that_of_a_run(points: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="forward is the folder of one stage; give the run's folder"):
        sampled(points / "forward", tmp_path / "x")
    with pytest.raises(FlowmapError, match=r"nothing is not the folder of a run; .*small is one$"):
        sampled(points / "nothing", tmp_path / "x")
