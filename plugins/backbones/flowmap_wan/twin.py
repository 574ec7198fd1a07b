"""A tiny random Wan2.1 checkpoint in diffusers' layout: transformer, text encoder, tokenizer, VAE."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from flowmap_wan.quiet import no_bars

_TEXT_DIM = 16
_WORDS = (
    "a red green blue yellow white square circle ball moves slowly quickly to the left right up down over grey "
    "video of shape on plain background bright static blurred"
)


def make_twin(folder: Path) -> Path:
    """Make the checkpoint in `folder` unless it is there; returns it. Random weights, the same every time.

    VAE factors (4 in time, 8 in space, 16 channels) and all names of parameters are those of the real one.
    """
    if (folder / "model_index.json").is_file():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with torch.random.fork_rng(devices=[]), no_bars():
        torch.manual_seed(0)
        _write(part)
    part.rename(folder)
    return folder


def make_null(file: Path) -> Path:
    """Make a random null condition of that checkpoint in `file`; returns it."""
    generator = torch.Generator().manual_seed(1)
    save_file({"null": torch.randn(4, _TEXT_DIM, generator=generator)}, file)
    return file


def _write(folder: Path) -> None:
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=_TEXT_DIM,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).save_pretrained(folder / "vae")
    _tokenizer().save_pretrained(folder / "tokenizer")
    UMT5EncoderModel(
        UMT5Config(vocab_size=512, d_model=_TEXT_DIM, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    ).save_pretrained(folder / "text_encoder")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "WanPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=256,
        special_tokens=special,
        unk_token="<unk>",
        initial_alphabet=[*"abcdefghijklmnopqrstuvwxyz ,."],
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
