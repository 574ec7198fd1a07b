"""A checkpoint that is damaged or not complete: one sentence that names the file, before and while anything is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.configs import Wan21Config
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from flowmap.errors import FlowmapError
from flowmap.interfaces import Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.use.opened import open_wished
from flowmap.use.wish import Wish

from .support import draw

SPEC = SampleSpec((5, 3, 32, 32), text=True, fps=16.0)
PARTS = ("transformer", "text_encoder", "vae")
WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
ONE_KEY = {
    "transformer": "blocks.1.attn2.to_k.bias",
    "text_encoder": "encoder.block.0.layer.0.SelfAttention.k.weight",
    "vae": "encoder.conv_out.weight",
}
Change = Callable[[Path], object]


def told(folder: Path) -> list[str]:
    """What `flowmap check` says of a recipe on the checkpoint."""
    config = Wan21Config(weights=str(folder), text_length=16)
    return [finding.message for finding in (*config.missing(), *config.findings(SPEC)) if finding.level == "error"]


def read(folder: Path) -> None:
    """Read all that is read in training, encoding and sampling."""
    backbone = Wan21Config(weights=str(folder), text_length=16).build(SPEC)
    backbone.precompute(Samples(torch.zeros(1, *SPEC.shape), prompts=["a red ball"]), Draw.whole(0, "x", 0, "x", 1))
    backbone.role("student", "flow_map", None, draw())


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


def told_of(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def header_of(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    new = json.dumps(header).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + size :])


def shards(part: Path, change: Callable[[dict[str, Any], Path], object]) -> None:
    """Divide the weights of a part in two, with an index, and change that."""
    (whole,) = part.glob("*.safetensors")
    state = load_file(whole)
    whole.unlink()
    names = sorted(state)
    places = {}
    for number, keys in enumerate((names[::2], names[1::2]), start=1):
        file = part / f"{whole.stem}-0000{number}-of-00002.safetensors"
        save_file({key: state[key] for key in keys}, file, metadata={"format": "pt"})
        places |= dict.fromkeys(keys, file.name)
    index: dict[str, Any] = {"metadata": {}, "weight_map": places}
    change(index, part)
    (part / f"{whole.name}.index.json").write_text(json.dumps(index))


FILES: dict[str, Callable[[Path, str], object]] = {
    "empty": lambda f, _: f.write_bytes(b""),
    "eight bytes": lambda f, _: f.write_bytes(bytes(8)),
    "cut in its header": lambda f, _: f.write_bytes(f.read_bytes()[:300]),
    "cut at its end": lambda f, _: f.write_bytes(f.read_bytes()[:-1]),
    "longer": lambda f, _: f.write_bytes(f.read_bytes() + b"\0"),
    "git-lfs": lambda f, _: pointer(f),
    "a page of the web": lambda f, _: f.write_text("<!DOCTYPE html>" * 99),
    "a deep header": lambda f, _: f.write_bytes((20_000).to_bytes(8, "little") + b"[" * 20_000),
    "a missing key": lambda f, key: edited(f, lambda s: s.pop(key)),
    "another key": lambda f, _: edited(f, lambda s: s.update(odd=torch.zeros(2))),
    "another shape": lambda f, key: edited(f, lambda s: s.update({key: torch.zeros(3, 2)})),
    "no numbers": lambda f, key: edited(f, lambda s: s.update({key: torch.zeros(s[key].shape, dtype=torch.int8)})),
    "negative sizes": lambda f, key: header_of(f, lambda h: h[key].update(shape=[-1])),
    "offsets elsewhere": lambda f, key: header_of(f, lambda h: h[key].update(data_offsets=[7, 9])),
    "a header of numbers": lambda f, key: header_of(f, lambda h: h.update({key: 3})),
    "removed": lambda f, _: f.unlink(),
    "a pickle": lambda f, _: f.rename(f.with_name("pytorch_model.bin")),
    "a folder": lambda f, _: [f.unlink(), f.mkdir()],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", FILES)
def test_weights(damage: str, part: str, copy: Path) -> None:
    file = copy / part / WEIGHTS[part]
    FILES[damage](file, ONE_KEY[part])
    (problem,) = told(copy)
    assert str(file.parent) in problem or f"{part}/{WEIGHTS[part]}" in problem
    assert "hf download" in problem
    assert "\n" not in problem.split(".\n  A folder that diffusers wrote")[0]
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value) == problem
    if damage == "a pickle":
        assert "pytorch_model.bin can run code when it is read, so it is not" in problem
    if damage == "git-lfs":
        assert "is a git-lfs pointer in the place of the file; get that: git lfs pull" in problem


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(value: float, part: str, copy: Path) -> None:
    file, key = copy / part / WEIGHTS[part], ONE_KEY[part]
    edited(file, lambda s: s[key].view(-1)[-1].fill_(value))
    assert told(copy) == []  # a header does not tell
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value).startswith(f"{file}: {key} has numbers that are not finite; the file is damaged.\n")


def without_first(index: dict[str, Any], part: Path) -> None:
    del index["weight_map"][min(index["weight_map"])]


INDICES: dict[str, tuple[Callable[[dict[str, Any], Path], object], str]] = {
    "no map": (lambda i, _: i.pop("weight_map"), "has no weight_map"),
    "an empty map": (lambda i, _: i.update(weight_map={}), "has no weight_map"),
    "a map that is none": (lambda i, _: i.update(weight_map=["a"]), "has no weight_map"),
    "outside": (
        lambda i, _: i["weight_map"].update({min(i["weight_map"]): "../vae/x.safetensors"}),
        "names '../vae/x.safetensors', which is no safetensors file beside it",
    ),
    "absolute": (
        lambda i, _: i["weight_map"].update({min(i["weight_map"]): "/etc/passwd"}),
        "names '/etc/passwd', which is no safetensors file beside it",
    ),
    "a number": (lambda i, _: i["weight_map"].update({min(i["weight_map"]): 3}), "names 3, which is no safetensors"),
    "a file that is not there": (
        lambda i, _: i["weight_map"].update({min(i["weight_map"]): "third.safetensors"}),
        "/third.safetensors",
    ),
    "another place": (
        lambda i, _: i["weight_map"].update({min(i["weight_map"]): max(i["weight_map"].values())}),
        "-00002-of-00002.safetensors, and it is in ",
    ),
    "a key less": (without_first, " is in None, and it is in "),
    "a key more": (lambda i, _: i["weight_map"].update(odd=min(i["weight_map"].values())), "has no odd, which "),
    "a shard absent": (lambda _, part: next(part.glob("*-00001-*")).unlink(), "-00001-of-00002.safetensors"),
    "a shard cut": (
        lambda _, part: (file := next(part.glob("*-00001-*"))).write_bytes(file.read_bytes()[:-9]),
        "-00001-of-00002.safetensors cannot be read",
    ),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", INDICES)
def test_indices(damage: str, part: str, copy: Path) -> None:
    change, words = INDICES[damage]
    shards(copy / part, change)
    (problem,) = told(copy)
    assert words in problem
    assert str(copy) in problem
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value) == problem


@pytest.mark.parametrize("part", PARTS)
def test_an_index_that_is_right(part: str, copy: Path) -> None:
    shards(copy / part, lambda *_: None)
    assert told(copy) == []
    read(copy)


def test_an_index_that_is_no_json(copy: Path) -> None:
    shards(copy / "vae", lambda *_: None)
    file = copy / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text("{")
    (problem,) = told(copy)
    assert problem.startswith(f"{file} is not JSON: ")


CONFIGS: dict[str, Any] = {
    "no JSON": lambda f: f.write_text("{"),
    "no table": lambda f: f.write_text("[1]"),
    "no text": lambda f: f.write_bytes(b"\xff\xfe\x00"),
    "empty": lambda f: f.write_bytes(b""),
    "deep": lambda f: f.write_text("[" * 200_000),
    "git-lfs": pointer,
    "removed": lambda f: f.unlink(),
    "a folder": lambda f: [f.unlink(), f.mkdir()],
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", CONFIGS)
def test_configurations(damage: str, part: str, copy: Path) -> None:
    CONFIGS[damage](copy / part / "config.json")
    (problem,) = told(copy)
    assert f"{part}/config.json" in problem
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert f"{part}/config.json" in str(caught.value)


FIELDS = {"transformer": ("num_layers", "text_dim"), "text_encoder": ("num_layers", "d_kv"), "vae": ("base_dim",)}
VALUES = [-1, 0, 10**12, "2", [2], None, float("nan"), float("inf"), 2.5, True, {"a": 1}]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values(value: Any, part: str, copy: Path) -> None:
    for field in FIELDS[part]:
        kept = (copy / part / "config.json").read_text()
        told_of(copy / part / "config.json", **{field: value})
        (problem,) = told(copy)
        assert problem.startswith(f"{copy / part / 'config.json'}: {field} is ")
        with pytest.raises(FlowmapError) as caught:
            read(copy)
        assert str(caught.value) == problem
        (copy / part / "config.json").write_text(kept)


@pytest.mark.parametrize(
    ("part", "field", "value", "words"),
    [
        ("transformer", "_class_name", None, "_class_name is 'None'"),
        ("vae", "_class_name", "AutoencoderKL", "_class_name is 'AutoencoderKL'"),
        ("vae", "z_dim", 48, "z_dim is '48'"),
        ("vae", "is_residual", True, "is_residual is 'True'"),
        ("vae", "latents_std", [0.0] * 16, "latents_std.0 is '0.0'"),
        ("vae", "latents_mean", [0.0] * 15, "latents_mean is "),
        ("vae", "dim_mult", [1, 2], "dim_mult"),
        ("vae", "temperal_downsample", [True, True, True], "temperal_downsample is [True, True, True]"),
        ("text_encoder", "model_type", "t5", "model_type is 't5'"),
        ("text_encoder", "feed_forward_proj", "gated-gelu-x", "feed_forward_proj is "),
        ("transformer", "eps", 0, "eps is '0'"),
        ("transformer", "num_layers", 3, "parameters differ, first blocks.2."),
        ("transformer", "patch_size", [1, 2], "patch_size.2 is missing"),
        ("transformer", "chunk_partition", [1, -3], "chunk_partition.1 is '-3'"),
        ("transformer", "gate_value", 3, "gate_value is '3'"),
        ("transformer", "qk_norm", "none", "qk_norm is 'none'"),
        ("text_encoder", "num_layers", 2, "parameters differ, first encoder.block.1."),
        ("vae", "num_res_blocks", 2, "parameters differ, first "),
    ],
)
def test_other_fields(part: str, field: str, value: object, words: str, copy: Path) -> None:
    told_of(copy / part / "config.json", **{field: value})
    (problem,) = told(copy)
    assert words in problem
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value) == problem


@pytest.mark.parametrize("part", PARTS)
def test_a_configuration_without_a_class(part: str, copy: Path) -> None:
    file = copy / part / "config.json"
    field = "model_type" if part == "text_encoder" else "_class_name"
    content = json.loads(file.read_text())
    del content[field]
    file.write_text(json.dumps(content))
    (problem,) = told(copy)
    assert problem.startswith(f"{file}: {field} is missing; fetch it again")


TOKENIZERS: dict[str, tuple[Change, str]] = {
    "no vocabulary": (lambda f: (f / "tokenizer.json").unlink(), "missing: tokenizer/tokenizer.json"),
    "no settings": (lambda f: (f / "tokenizer_config.json").unlink(), "missing: tokenizer/tokenizer_config.json"),
    "garbled": (lambda f: (f / "tokenizer.json").write_text('{"x'), "tokenizer.json is not JSON"),
    "cut": (
        lambda f: (f / "tokenizer.json").write_bytes((f / "tokenizer.json").read_bytes()[:-30]),
        "tokenizer.json is not JSON",
    ),
    "git-lfs": (lambda f: pointer(f / "tokenizer.json"), "tokenizer.json is a git-lfs pointer"),
    "without words": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json has no vocabulary"),
    "words of none": (
        lambda f: (f / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": "c"}}}'),
        "tokenizer.json numbers its tokens by what is no number",
    ),
    "garbled settings": (lambda f: (f / "tokenizer_config.json").write_text("["), "tokenizer_config.json is not JSON"),
    "pieces of text": (lambda f: (f / "spiece.model").write_text("no model"), "spiece.model is no SentencePiece model"),
    "pieces by pointer": (lambda f: pointer(f / "spiece.model"), "spiece.model is no SentencePiece model"),
    "too many words": (
        lambda f: told_of(f / "tokenizer.json", added_tokens=[{"id": 600, "content": "x", "special": False}]),
        "has tokens up to 600, and the text encoder 512 of them; they do not belong together",
    ),
    "empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], "missing: tokenizer/"),
    "a file": (lambda f: [shutil.rmtree(f), f.write_text("")], "missing: tokenizer/"),
}


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_tokenizers(damage: str, copy: Path) -> None:
    change, words = TOKENIZERS[damage]
    change(copy / "tokenizer")
    (problem,) = told(copy)
    assert words in problem
    assert str(copy) in problem
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    "content", ['{"tokenizer_class": 3}', '{"added_tokens_decoder": [1]}', '{"pad_token": {"a": []}}']
)
def test_a_tokenizer_that_its_library_cannot_make(content: str, copy: Path) -> None:
    """What the files mean is the library's to say, and what it raises its own; or it makes nothing of such a field."""
    (copy / "tokenizer" / "tokenizer_config.json").write_text(content)
    assert told(copy) == []
    problems = []
    try:
        read(copy)
    except FlowmapError as error:
        problems = [str(error)]
    assert all(text.startswith(f"{copy / 'tokenizer'} cannot be read as a tokenizer (") for text in problems)


OTHERS: dict[str, tuple[Change, str]] = {
    "a shift of text": (
        lambda f: told_of(f / "scheduler" / "scheduler_config.json", flow_shift="5"),
        "its shift is '5'; it must be a number above 0",
    ),
    "no scheduler's JSON": (
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text("{"),
        "scheduler_config.json is not JSON",
    ),
    "no index's JSON": (lambda f: (f / "model_index.json").write_text("{"), "model_index.json is not JSON"),
    "an index of numbers": (
        lambda f: told_of(f / "model_index.json", vae=3),
        "model_index.json: vae is 3; it is a library and a class",
    ),
    "an encoder of another width": (
        lambda f: [
            told_of(f / "transformer" / "config.json", text_dim=8),
            edited(
                f / "transformer" / WEIGHTS["transformer"],
                lambda s: s.update(
                    {(k := "condition_embedder.text_embedder.linear_1.weight"): s[k][:, :8].contiguous()}
                ),
            ),
        ],
        "text_dim is 8, and d_model of ",
    ),
}


@pytest.mark.parametrize("damage", OTHERS)
def test_what_else_a_checkpoint_has(damage: str, copy: Path) -> None:
    change, words = OTHERS[damage]
    change(copy)
    (problem,) = told(copy)
    assert words in problem
    with pytest.raises(FlowmapError) as caught:
        read(copy)
    assert str(caught.value) == problem


def test_an_empty_folder_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.safetensors").write_bytes(b"x")
    (problem,) = told(tmp_path / "empty")
    assert "missing: transformer/config.json, transformer/diffusion_pytorch_model.safetensors" in problem
    said = told(tmp_path / "file.safetensors")
    assert len(said) == 2
    assert "text encoder and VAE: " in said[0]
    assert f"{tmp_path / 'file.safetensors'} cannot be read" in said[1]


@pytest.mark.parametrize("names", ["shared", "embedding", "both"])
def test_an_embedding_under_either_name_or_both(names: str, copy: Path, wan: Path) -> None:
    """Libraries tie the two, and write one or the other."""
    file, shared, other = (
        copy / "text_encoder" / WEIGHTS["text_encoder"],
        "shared.weight",
        "encoder.embed_tokens.weight",
    )
    state = load_file(file)
    value = state.pop(shared, state.pop(other, None))
    assert value is not None
    state |= {"shared": {shared: value}, "embedding": {other: value}, "both": {shared: value, other: value.clone()}}[
        names
    ]
    save_file(state, file)
    assert told(copy) == []
    made = text(copy)
    assert torch.equal(made, text(wan))
    expected = UMT5EncoderModel.from_pretrained(wan / "text_encoder")
    assert torch.equal(expected.shared.weight, value)


def test_embeddings_that_differ_are_no_one_thing(copy: Path) -> None:
    file = copy / "text_encoder" / WEIGHTS["text_encoder"]
    state = load_file(file)
    state["encoder.embed_tokens.weight"] = state["shared.weight"] + 1
    save_file(state, file)
    with pytest.raises(
        FlowmapError, match=r"shared\.weight and encoder\.embed_tokens\.weight are one embedding, and d"
    ):
        read(copy)


def text(folder: Path) -> Any:
    backbone = Wan21Config(weights=str(folder), text_length=16).build(SPEC)
    return backbone.precompute(
        Samples(torch.zeros(1, *SPEC.shape), prompts=["a red ball"]), Draw.whole(0, "x", 0, "x", 1)
    ).prompts.text


def without_shard(_: object, part: Path) -> None:
    next(part.glob("*-00001-*")).unlink()


SAMPLED: dict[str, Change] = {
    "a pointer": lambda f: pointer(f / "vae" / WEIGHTS["vae"]),
    "no JSON": lambda f: (f / "transformer" / "config.json").write_text("{"),
    "no class": lambda f: (f / "transformer" / "config.json").write_text("{}"),
    "a class that is a number": lambda f: told_of(f / "transformer" / "config.json", _class_name=3),
    "a class that is a list": lambda f: told_of(f / "transformer" / "config.json", _class_name=["Wan"]),
    "sizes that are text": lambda f: told_of(f / "transformer" / "config.json", num_layers="2"),
    "no shard": lambda f: shards(f / "text_encoder", without_shard),
    "no index": lambda f: (f / "model_index.json").write_text("["),
    "no pipeline": lambda f: [shutil.rmtree(f / "transformer"), told_of(f / "model_index.json", _class_name=[1])],
    "no shift": lambda f: told_of(f / "scheduler" / "scheduler_config.json", flow_shift=[5]),
    "a garbled vocabulary": lambda f: (f / "tokenizer" / "tokenizer.json").write_text("x"),
    "no numbers": lambda f: edited(
        f / "transformer" / WEIGHTS["transformer"], lambda s: s[ONE_KEY["transformer"]].fill_(float("nan"))
    ),
    "a licence of bytes": lambda f: [(f / "README.md").write_bytes(b"\xff\xfe"), (f / "vae" / "config.json").unlink()],
    "chunks of none": lambda f: told_of(
        f / "transformer" / "config.json", _class_name="AnyFlowFARTransformer3DModel", chunk_partition=["a"]
    ),
}


@pytest.mark.parametrize("damage", SAMPLED)
def test_weights_that_are_asked_for_directly(damage: str, copy: Path) -> None:
    """As `flowmap sample` and `evaluate` take them, and an evaluation may name them."""
    SAMPLED[damage](copy)
    wish = Wish(prompts=("a red ball",), length=5, height=32, width=32, calls=1)
    with pytest.raises(FlowmapError) as caught:
        open_wished(str(copy), wish)
    assert str(copy) in str(caught.value)
