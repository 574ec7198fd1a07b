"""What a part of a checkpoint has to have, without the libraries, is what the libraries' own models have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel
from flowmap_wan.layout import (
    Shapes,
    TextEncoderFields,
    TransformerFields,
    VaeFields,
    text_encoder_shapes,
    transformer_shapes,
    vae_shapes,
)
from transformers import UMT5Config, UMT5EncoderModel

from flowmap.weights.shapes import misfit

SMALL = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 20}


def shapes(kind: Any, **fields: Any) -> Shapes:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in kind(**fields).state_dict().items()}


@pytest.mark.parametrize("kind", [WanTransformer3DModel, AnyFlowTransformer3DModel, AnyFlowFARTransformer3DModel])
@pytest.mark.parametrize(
    "fields", [{}, {"num_layers": 3, "cross_attn_norm": False}, {"in_channels": 5, "out_channels": 7, "num_layers": 1}]
)
def test_transformers(kind: Any, fields: dict[str, Any]) -> None:
    fields = {"num_layers": 2, **SMALL, **fields}
    far = kind is AnyFlowFARTransformer3DModel
    more = {"compressed_patch_size": (1, 6, 10)} if far else {}
    told = TransformerFields.model_validate({"_class_name": kind.__name__, **fields, **more})
    found = transformer_shapes(told, kind is not WanTransformer3DModel, far)
    assert found == shapes(kind, **fields, **more)


def test_what_a_configuration_leaves_out_is_as_the_class_has_it() -> None:
    told = TransformerFields.model_validate({"_class_name": "WanTransformer3DModel"})
    assert transformer_shapes(told, False, False) == shapes(WanTransformer3DModel)
    vae = VaeFields.model_validate({"_class_name": "AutoencoderKLWan"})
    assert vae_shapes(vae) == shapes(AutoencoderKLWan)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 1, 1, 1]},
        {"base_dim": 8, "decoder_base_dim": 12, "num_res_blocks": 3, "temperal_downsample": [True, False, True]},
        {"base_dim": 4, "attn_scales": [0.5, 0.25]},
    ],
)
def test_vaes(fields: dict[str, Any]) -> None:
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    found = vae_shapes(VaeFields.model_validate({"_class_name": "AutoencoderKLWan", **told}))
    assert found == shapes(AutoencoderKLWan, **fields)


@pytest.mark.parametrize("proj", ["gated-gelu", "relu"])
def test_text_encoders(proj: str) -> None:
    config = UMT5Config(vocab_size=40, d_model=8, d_kv=3, d_ff=20, num_layers=2, num_heads=4, feed_forward_proj=proj)
    told = TextEncoderFields.model_validate(json.loads(config.to_json_string()))
    with torch.device("meta"):
        model = UMT5EncoderModel(config)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    # One tensor under two names.
    assert found.pop("encoder.embed_tokens.weight") == found["shared.weight"]
    assert text_encoder_shapes(told) == found


def test_a_misfit_is_counted_and_its_first_parameter_named() -> None:
    wanted = {"a": (2,), "b": (3, 4)}
    assert misfit({"a": [2], "b": [3, 4]}, wanted) is None
    assert misfit({"b": [3, 5]}, wanted) == "2 parameters differ, first a is missing"
    assert misfit({"a": [2], "b": [3, 4], "c": []}, wanted) == "1 parameters differ, first c belongs to no such model"
    assert misfit({"a": [2], "b": [4, 3]}, wanted) == "1 parameters differ, first b is [4, 3] instead of [3, 4]"
