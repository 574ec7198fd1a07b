"""A tiny random Wan2.1 checkpoint in diffusers' layout: transformer, text encoder, tokenizer, VAE."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from flowmap.workshop.exporting import write_index
from flowmap.workshop.twin import made_once, tokenizer, write_null

TEXT_DIM = 16
"""Dimensions of a text embedding of it."""


def make_twin(folder: Path) -> Path:
    """Make the checkpoint in `folder` unless it is there; returns it. Random weights, the same every time.

    VAE factors (4 in time, 8 in space, 16 channels) and all names of parameters are those of the real one.
    """
    return made_once(folder, _write)


def make_null(file: Path) -> Path:
    """Make a random null condition of that checkpoint in `file`; returns it."""
    return write_null(file, TEXT_DIM)


def _write(folder: Path) -> None:
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
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
    write_index(folder, "WanPipeline", parts)
