"""The original names of Wan's parameters, and diffusers': held to diffusers' own converter and to released networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from flowmap_wan.original import PREFIXES, of_diffusers, of_original, prefix_of
from safetensors import safe_open

RIVALS = Path(__file__).parents[1] / "golden" / "rivals"
SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 8,
    "freq_dim": 16,
    "ffn_dim": 48,
    "num_layers": 12,  # two digits
    "cross_attn_norm": True,
}
MODELS = {
    "text": {"in_channels": 16, "out_channels": 16},
    "image": {"in_channels": 36, "out_channels": 16, "image_dim": 24, "added_kv_proj_dim": 32},
    "two images": {
        "in_channels": 36,
        "out_channels": 16,
        "image_dim": 24,
        "added_kv_proj_dim": 32,
        "pos_embed_seq_len": 10,
    },
}


def keys_of(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return [key.removeprefix("w.") for key in list(opened.keys()) if key.startswith("w.")]


def diffusers_keys(model: str) -> set[str]:
    with torch.device("meta"):
        return set(WanTransformer3DModel(**SIZES, **MODELS[model]).state_dict())


@pytest.mark.parametrize("model", MODELS)
def test_every_name_of_diffusers_has_one_of_its_own_and_comes_back(model: str) -> None:
    ours = {key: of_original(key) for key in diffusers_keys(model)}
    assert None not in ours.values()
    assert len(set(ours.values())) == len(ours)
    assert all(name is not None and of_diffusers(name) == key for key, name in ours.items())


@pytest.mark.parametrize("model", MODELS)
def test_it_is_what_diffusers_makes_of_it(model: str) -> None:
    # Its converter leaves the places of two images as they are.
    names = {key: name for key in diffusers_keys(model) if (name := of_original(key)) and "pos_embed" not in key}
    tensors = {name: torch.tensor(float(number)) for number, name in enumerate(names.values())}
    converted = convert_wan_transformer_to_diffusers(dict(tensors))
    assert converted.keys() == names.keys()
    assert all(converted[key] is tensors[name] for key, name in names.items())


@pytest.mark.parametrize(
    ("file", "prefix"),
    [("self_forcing", "model."), ("causvid", "model."), ("krea", "model."), ("lightx2v_sf", "model."), ("rcm", "net.")],
)
def test_released_names_are_all_those_of_the_model(file: str, prefix: str) -> None:
    found = keys_of(RIVALS / f"{file}.safetensors")
    assert prefix_of(found) == prefix
    ours = {of_diffusers(key.removeprefix(prefix)) for key in found}
    assert ours == {key for key in diffusers_keys("text") if not key.startswith("blocks.") or key.split(".")[1] in "01"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_found_though_some_names_are_unknown(prefix: str) -> None:
    names = [name for key in diffusers_keys("text") if (name := of_original(key))]
    unknown = ["blocks.0.self_attn.proj_l.weight", "scaled_fp8"]
    assert prefix_of(prefix + name for name in [*names, *unknown]) == prefix


def test_other_names_are_none_of_ours() -> None:
    assert prefix_of(diffusers_keys("text")) is None
    assert prefix_of([]) is None
    for name in (
        "blocks.0.self_attn.proj_l.weight",
        "blocks.0.modulation.weight",
        "blocks.x.ffn.0.weight",
        "head.modulation.bias",
        "modulation",
        "time_embedding.1.weight",
        "blocks.0.ffn.0.weight_scale",
        "",
    ):
        assert of_diffusers(name) is None, name
