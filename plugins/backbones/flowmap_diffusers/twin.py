"""A tiny random pipeline of any family in diffusers' layout: transformer, text encoders, tokenizers, autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from flowmap.workshop.exporting import write_index
from flowmap.workshop.twin import made_once, tokenizer
from flowmap_diffusers.family import Family

_TOKENS = 512


def make_twin(folder: Path, family: Family) -> Path:
    """Make the pipeline in `folder` unless it is there; returns it. Random weights, the same every time.

    All names of parameters, the factors of the autoencoder and the channels between the parts are those of real ones.
    """
    return made_once(folder, partial(_write, family))


def _write(family: Family, folder: Path) -> None:
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in family.small.items()}
    getattr(diffusers, family.model)(**sizes).save_pretrained(folder / "transformer")
    _VAES[family.vae](family.channels(family.small)).save_pretrained(folder / "vae")
    for part, kind in family.parts.items():
        if part.startswith("tokenizer"):
            _tokenizer(kind).save_pretrained(folder / part)
        else:
            _ENCODERS[kind](int(family.small[family.width])).save_pretrained(folder / part)
    FlowMatchEulerDiscreteScheduler(shift=family.usual.shift).save_pretrained(folder / "scheduler")
    classes = {
        part: ["transformers", "PreTrainedTokenizerFast" if part.startswith("tokenizer") else kind]
        for part, kind in family.parts.items()
    }
    write_index(
        folder,
        family.pipeline,
        classes
        | {
            "transformer": ["diffusers", family.model],
            "vae": ["diffusers", family.vae],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        },
    )


def _clip(width: int) -> Any:
    return transformers.CLIPTextModel(_clip_config(width))


def _clip_config(width: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=_TOKENS, hidden_size=width, intermediate_size=width, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def _clip_projected(width: int) -> Any:
    # Two of them stand side by side in a text of `width` dimensions.
    return transformers.CLIPTextModelWithProjection(_clip_config(width // 2))


def _t5(width: int) -> Any:
    config = transformers.T5Config(
        vocab_size=_TOKENS, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)


def _kl(channels: int) -> Any:
    levels = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    return diffusers.AutoencoderKL(
        down_block_types=levels[0], up_block_types=levels[1], block_out_channels=(4, 4, 4, 4), norm_num_groups=2,
        latent_channels=channels, shift_factor=0.1, scaling_factor=0.8,
    )  # fmt: skip


_ENCODERS: Mapping[str, Callable[[int], Any]] = {
    "CLIPTextModel": _clip,
    "CLIPTextModelWithProjection": _clip_projected,
    "T5EncoderModel": _t5,
}
_VAES: Mapping[str, Callable[[int], Any]] = {"AutoencoderKL": _kl}


def _tokenizer(kind: str) -> Any:
    """One of few words; texts of CLIP have 77 tokens."""
    made = tokenizer()
    made.model_max_length = 77 if kind.startswith("CLIP") else 512
    return made
