"""A tiny random Wan2.1 checkpoint in diffusers' layout: transformer, text encoder, tokenizer, VAE, an image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from flowmap.workshop.exporting import write_index
from flowmap.workshop.twin import made_once, tokenizer, write_null

TEXT_DIM = 16
"""Dimensions of a text embedding of it."""
_HEADS, _HEAD_DIM = 2, 12


def make_twin(folder: Path, pictures: bool = False) -> Path:
    """Make the checkpoint in `folder` unless it is there; returns it. Random weights, the same every time.

    It is of a model that begins with `pictures`, or of one that does not. VAE factors (4 in time, 8 in space, 16
    channels) and all names of parameters are those of the real one.
    """
    return made_once(folder, _write_image if pictures else _write)


def make_null(file: Path) -> Path:
    """Make a random null condition of that checkpoint in `file`; returns it."""
    return write_null(file, TEXT_DIM)


def _write_image(folder: Path) -> None:
    width, size = 16, 28
    seen = {"in_channels": 36, "image_dim": width, "added_kv_proj_dim": _HEADS * _HEAD_DIM}
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=size,
            patch_size=14,
            hidden_act="gelu",
        )
    ).save_pretrained(folder / "image_encoder")
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder / "image_processor"
    )
    parts = {
        "image_encoder": ["transformers", "CLIPVisionModel"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
    }
    _write(folder, "WanImageToVideoPipeline", parts, seen)


def _write(
    folder: Path,
    pipeline: str = "WanPipeline",
    more: Mapping[str, list[str]] = MappingProxyType({}),
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> None:
    WanTransformer3DModel(
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_DIM,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        **sizes,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).save_pretrained(folder / "vae")
    tokenizer().save_pretrained(folder / "tokenizer")
    UMT5EncoderModel(
        UMT5Config(vocab_size=512, d_model=TEXT_DIM, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    ).save_pretrained(folder / "text_encoder")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(
        folder / "scheduler"
    )
    parts = {
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    write_index(folder, pipeline, parts | more)
