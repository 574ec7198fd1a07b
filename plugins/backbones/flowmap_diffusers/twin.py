"""A tiny random pipeline of any family in diffusers' layout: transformer, text encoders, tokenizers, autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers
from tokenizers.processors import TemplateProcessing

from flowmap.workshop.exporting import write_index
from flowmap.workshop.twin import made_once, tokenizer
from flowmap_diffusers.family import Family
from flowmap_diffusers.schedulers import scheduler_of

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
    scheduler = scheduler_of(family, family.usual.shift)
    scheduler.save_pretrained(folder / "scheduler")
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
            "scheduler": ["diffusers", type(scheduler).__name__],
        },
    )


def _clip(width: int) -> Any:
    # Two of them stand side by side in a text of `width` dimensions.
    half = width // 2
    config = transformers.CLIPTextConfig(
        vocab_size=_TOKENS, hidden_size=half, intermediate_size=half, projection_dim=half, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config)


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


def _decoder(kind: str, width: int) -> Any:
    """A language model without its head, of the class of transformers called `kind`."""
    config = getattr(transformers, kind.replace("Model", "Config"))(
        vocab_size=_TOKENS, hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=2048, pad_token_id=0,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def _dc(channels: int) -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=channels, attention_head_dim=2, scaling_factor=0.8, decoder_act_fns="silu",
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
    )  # fmt: skip


_ENCODERS: Mapping[str, Callable[[int], Any]] = {
    "CLIPTextModelWithProjection": _clip,
    "Gemma2Model": partial(_decoder, "Gemma2Model"),
    "Qwen3Model": partial(_decoder, "Qwen3Model"),
    "T5EncoderModel": _t5,
}
_VAES: Mapping[str, Callable[[int], Any]] = {"AutoencoderDC": _dc, "AutoencoderKL": _kl}
_CHAT = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} to{% endif %}"
)


def _tokenizer(kind: str) -> Any:
    """One of few words; texts of CLIP have 77 tokens. Every text ends with a token: none is empty."""
    made = tokenizer()
    end = made.eos_token, made.eos_token_id
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    made.chat_template = _CHAT if kind.startswith("Qwen") else None
    made.model_max_length = 77 if kind.startswith("CLIP") else 512
    return made
