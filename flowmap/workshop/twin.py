"""Tiny random pipelines in diffusers' layout, which rehearsals use in the place of real ones: always the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flowmap.weights.pipeline import INDEX
from flowmap.workshop.quiet import no_bars

WORDS = (
    "a red green blue yellow white square circle ball moves slowly quickly to the left right up down over grey "
    "video of shape on plain background bright static blurred"
)


def made_once(folder: Path, write: Callable[[Path], None], known_by: str = INDEX) -> Path:
    """Have `write` write a pipeline (or a model that has a file `known_by`) into `folder` unless it is there.

    Returns the folder; what is in it is always the same.
    """
    if (folder / known_by).is_file():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with torch.random.fork_rng(devices=[]), no_bars():
        torch.manual_seed(0)
        write(part)
    part.rename(folder)
    return folder


def write_null(file: Path, width: int) -> Path:
    """Write a random null condition of `width` dimensions into `file`; returns it."""
    generator = torch.Generator().manual_seed(1)
    save_file({"null": torch.randn(4, width, generator=generator)}, file)
    return file


def tokenizer() -> PreTrainedTokenizerFast:
    """One of few words, with at most 256 tokens."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=256,
        special_tokens=special,
        unk_token="<unk>",
        initial_alphabet=[*"abcdefghijklmnopqrstuvwxyz ,."],
        show_progress=False,
    )
    made.train_from_iterator([WORDS] * 4, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
