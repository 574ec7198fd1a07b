"""The null condition of guidance: Wan's own negative prompt, or an embedding from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from flowmap_wan.condition import VideoCond
from flowmap_wan.configs import Wan21Config
from flowmap_wan.settings import NEGATIVE_PROMPT, ArchitectureConfig
from flowmap_wan.twin import make_twin
from safetensors.torch import save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec

PUBLISHED = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，"
    "残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
SPEC = SampleSpec((5, 3, 32, 32), text=True, fps=16.0)
LENGTH, WIDTH = 24, 16


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_twin(tmp_path_factory.mktemp("null") / "twin")


def config(twin: Path, **fields: object) -> Wan21Config:
    return Wan21Config.model_validate({"weights": str(twin), "text_length": LENGTH, **fields})


def null_of(config: Wan21Config) -> Tensor:
    """The null condition of captioned clips, as training gets it."""
    clip = Samples(torch.zeros(1, *SPEC.shape), prompts=["a red ball"])
    prompts = config.build(SPEC).precompute(clip, Draw.whole(0, "x", 0, "x", len(clip.x))).prompts
    assert isinstance(prompts, EncodedText)
    return prompts.null


def test_it_is_the_published_prompt_if_nothing_is_said(twin: Path) -> None:
    assert NEGATIVE_PROMPT == PUBLISHED
    assert torch.equal(null_of(config(twin)), null_of(config(twin, negative_prompt=PUBLISHED)))
    assert not torch.equal(null_of(config(twin)), null_of(config(twin, negative_prompt="static, blurred")))


@pytest.mark.parametrize("shape", [(5, WIDTH), (1, LENGTH, WIDTH)])
def test_it_can_be_an_embedding(shape: tuple[int, ...], twin: Path, tmp_path: Path) -> None:
    """As text encoders give it, in any precision; with zeros behind its last token, as prompts have them."""
    embedding, file = torch.randn(shape, generator=torch.Generator().manual_seed(0)), tmp_path / "null.safetensors"
    save_file({"negative_prompt_embeds": embedding.bfloat16()}, file)
    given = config(twin, null_embedding=str(file))
    assert not list(given.missing())
    null = null_of(given)
    assert null.shape == (LENGTH, WIDTH)
    assert null.dtype == torch.float32
    tokens = shape[-2]
    assert torch.equal(null[:tokens], embedding.bfloat16().float().reshape(tokens, WIDTH))
    assert not null[tokens:].any()


def test_a_file_takes_the_place_of_what_shards_were_encoded_with(twin: Path, tmp_path: Path) -> None:
    file = tmp_path / "null.safetensors"
    save_file({"null": torch.ones(5, WIDTH)}, file)
    shards = EncodedText(torch.zeros(2, LENGTH, WIDTH), torch.full((LENGTH, WIDTH), 7.0))
    _, null = config(twin, null_embedding=str(file)).build(SPEC).condition(shards, 2, torch.device("cpu"))
    assert isinstance(null, VideoCond)
    expected = torch.cat([torch.ones(5, WIDTH), torch.zeros(LENGTH - 5, WIDTH)])
    assert torch.equal(null.text, expected.expand(2, LENGTH, WIDTH))
    _, own = config(twin).build(SPEC).condition(shards, 2, torch.device("cpu"))
    assert isinstance(own, VideoCond)
    assert bool((own.text == 7).all())
    longer = EncodedText(torch.zeros(2, 30, WIDTH), torch.zeros(30, WIDTH))
    with pytest.raises(FlowmapError, match=r"encoded to \[30, 16\]; set backbone.text_length to 30"):
        config(twin, null_embedding=str(file)).build(SPEC).condition(longer, 2, torch.device("cpu"))


def problems(config: Wan21Config) -> list[str]:
    return [f"{'.'.join(map(str, f.field))}: {f.message}" for f in (*config.findings(SPEC), *config.missing())]


FILES: Mapping[str, tuple[Mapping[str, Tensor], str]] = {
    "two": ({"a": torch.zeros(2, WIDTH), "b": torch.zeros(2, WIDTH)}, "holds 2 tensors; the null condition is one"),
    "batch": ({"a": torch.zeros(2, 3, WIDTH)}, "its tensor is [2, 3, 16], and one embedding is [tokens, dimensions]"),
    "empty": ({"a": torch.zeros(0, WIDTH)}, "its tensor is [0, 16], and one embedding is [tokens, dimensions]"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_holds_something_else_is_refused(case: str, twin: Path, tmp_path: Path) -> None:
    tensors, why = FILES[case]
    file = tmp_path / "null.safetensors"
    save_file(dict(tensors), file)
    assert problems(config(twin, null_embedding=str(file))) == [f"null_embedding: {file}: {why}"]


def test_an_embedding_that_does_not_fit_is_refused(twin: Path, tmp_path: Path) -> None:
    wide, long = tmp_path / "wide.safetensors", tmp_path / "long.safetensors"
    save_file({"null": torch.zeros(3, 4096)}, wide)
    save_file({"null": torch.zeros(LENGTH + 1, WIDTH)}, long)
    assert problems(config(twin, null_embedding=str(wide))) == [
        f"null_embedding: {wide} has 4096 dimensions, and the text embeddings of these weights have 16"
    ]
    assert problems(config(twin, null_embedding=str(long))) == [
        f"null_embedding: {long} has 25 tokens, more than text_length = 24; set that to 25"
    ]


def test_a_file_that_is_not_there_or_damaged_is_refused(twin: Path, tmp_path: Path) -> None:
    how = "AnyFlow's negative_embedding .pth is turned into one as `flowmap docs video` says"
    gone, broken = tmp_path / "gone.safetensors", tmp_path / "broken.safetensors"
    broken.write_bytes(b"PK\x03\x04 this is a pickle in a zip")
    assert problems(config(twin, null_embedding=str(tmp_path))) == [
        f"null_embedding: {tmp_path} is a folder; name the file in it"
    ]
    assert problems(config(twin, null_embedding=str(gone))) == [f"null_embedding: there is no file {gone}; {how}"]
    (told,) = problems(config(twin, null_embedding=str(broken)))
    assert told.startswith(f"null_embedding: {broken}: cannot be read as safetensors (")
    assert told.endswith(f"); {how}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_are_refused(
    value: float, precision: torch.dtype, twin: Path, tmp_path: Path
) -> None:
    file = tmp_path / "null.safetensors"
    save_file({"null": torch.full((3, WIDTH), 3e4, dtype=precision)}, file)
    assert not problems(config(twin, null_embedding=str(file)))
    spoiled = torch.full((3, WIDTH), 3e4, dtype=torch.float64)
    spoiled[2, -1] = value
    save_file({"null": spoiled.to(precision)}, file)
    assert problems(config(twin, null_embedding=str(file))) == [
        f"null_embedding: {file}: not all of its numbers are finite"
    ]
    with pytest.raises(FlowmapError, match="not all of its numbers are finite"):
        null_of(config(twin, null_embedding=str(file)))


def test_one_of_both_is_enough(twin: Path, tmp_path: Path) -> None:
    file = tmp_path / "null.safetensors"
    save_file({"null": torch.zeros(3, WIDTH)}, file)
    told = problems(config(twin, null_embedding=str(file), negative_prompt="static"))
    assert told == ["negative_prompt: null_embedding takes the place of negative_prompt; leave one of them out"]
    sizes = ArchitectureConfig(channels=3)
    random = Wan21Config(weights="random", architecture=sizes, null_embedding=str(file))
    assert problems(random) == [
        "null_embedding: has no effect: with random weights the data bring the null condition; leave this out"
    ]


def test_a_rehearsal_has_a_small_one(twin: Path, tmp_path: Path) -> None:
    small = config(twin, null_embedding="null-of-14b.safetensors").rehearsed(tmp_path)
    assert not problems(small)
    assert null_of(small)[:4].any(dim=1).all()
