"""Transformers as other projects write them: known by their shapes, read whole, or refused by the key that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from flowmap_wan.foreign import Foreign, foreign_at
from flowmap_wan.original import PREFIXES, of_original
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowmap.errors import FlowmapError

SIZES = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 8}
SIZES |= {"freq_dim": 16, "ffn_dim": 48, "num_layers": 3}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return WanTransformer3DModel(**SIZES).state_dict()


def original(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{of_original(key)}": value for key, value in state.items()}


def written(state: dict[str, Tensor], folder: Path, name: str = "any.safetensors") -> Foreign:
    save_file(state, folder / name)
    found = foreign_at(folder / name)
    assert found is not None
    return found


@pytest.mark.parametrize("prefix", PREFIXES)
def test_original_names_are_read_under_any_prefix(state: dict[str, Tensor], prefix: str, tmp_path: Path) -> None:
    found = written(original(state, prefix), tmp_path)
    assert found.flaw(16) is None
    assert {key: found.sizes(16)[key] for key in SIZES} == SIZES
    assert found.sizes(16)["patch_size"] == (1, 2, 2)
    read = found.read(16)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_diffusers_names_are_read_as_they_are(state: dict[str, Tensor], tmp_path: Path) -> None:
    read = written(state, tmp_path).read(16)
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_what_is_wrong_is_named_as_the_file_names_it(state: dict[str, Tensor], tmp_path: Path) -> None:
    theirs = original(state, "model.")
    missing = {key: value for key, value in theirs.items() if key != "model.blocks.1.norm3.bias"}
    assert "model.blocks.1.norm3.bias is missing" in (written(missing, tmp_path).flaw(16) or "")
    extra = theirs | {"model.blocks.0.self_attn.odd.weight": torch.zeros(2)}
    assert "first model.blocks.0.self_attn.odd.weight belongs to no" in (written(extra, tmp_path).flaw(16) or "")
    odd = theirs | {"model.head.modulation": torch.zeros(1, 3, 32)}
    assert "model.head.modulation is [1, 3, 32] instead of [1, 2, 32]" in (written(odd, tmp_path).flaw(16) or "")
    none = {key: value for key, value in theirs.items() if "patch" not in key}
    assert "model.patch_embedding.weight is missing" in (written(none, tmp_path).flaw(16) or "")
    with pytest.raises(FlowmapError, match=r"model\.patch_embedding\.weight is missing"):
        written(none, tmp_path).read(16)


def test_one_parameter_has_one_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    both = original(state, "") | {"blocks.0.attn1.to_q.weight": state["blocks.0.attn1.to_q.weight"].clone()}
    assert "blocks.0.attn1.to_q.weight twice" in (written(both, tmp_path).flaw(16) or "")


def test_heads_must_divide_the_width(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert "32 channels are not whole heads of 128" in (written(original(state, ""), tmp_path).flaw() or "")


def test_other_names_are_those_of_no_wan(tmp_path: Path) -> None:
    found = written({"trunk.0.kernel": torch.zeros(2)}, tmp_path)
    assert "(first: trunk.0.kernel)" in (found.flaw(16) or "")


def test_a_folder_has_one_file_or_an_index(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert foreign_at(tmp_path) is None
    theirs = original(state, "model.")
    names = sorted(theirs)
    parts = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: theirs[key] for key in keys}, tmp_path / file)
    with pytest.raises(FlowmapError, match="2 files"):
        foreign_at(tmp_path)
    told = {key: file for file, keys in parts.items() for key in keys}
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": told}))
    found = foreign_at(tmp_path)
    assert found is not None
    assert found.read(16).keys() == state.keys()
    (tmp_path / "a-2.safetensors").unlink()
    again = foreign_at(tmp_path)
    assert again is not None
    assert "a-2.safetensors is missing" in (again.flaw(16) or "")
    save_file(load_file(tmp_path / "a-1.safetensors"), tmp_path / "b.txt")
    assert foreign_at(tmp_path / "b.txt") is None
