"""Prompts go through the text encoder at their own length: the numbers are those of prompts padded to the full one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flowmap_wan.checkpoint import Checkpoint, text_precision
from flowmap_wan.codec import WanCodec
from flowmap_wan.configs import Wan21Config
from torch import Tensor
from transformers import AutoTokenizer, UMT5EncoderModel

from flowmap.plugin import SampleSpec

LENGTH = 40
PROMPTS = [
    "a red ball moves slowly to the left over a grey background, bright, static, blurred, up and down and right",
    "a",
    "a red ball",
    "",
    "a blue square moves quickly",
    "a red ball",
    "&amp;  a   yellow\ncircle",
]

CPU = torch.device("cpu")


@pytest.fixture
def codec(wan: Path) -> WanCodec:
    config = Wan21Config(weights=str(wan), text_length=LENGTH)
    return WanCodec(config, SampleSpec((5, 3, 32, 32), text=True), lambda: Checkpoint(wan))


@torch.no_grad()
def padded(wan: Path, prompts: list[str]) -> Tensor:
    """As Wan2.1's own pipeline has it: every prompt by itself, padded to the full length, zero behind its end."""
    tokenizer = AutoTokenizer.from_pretrained(wan / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(wan / "text_encoder")
    found = []
    for prompt in prompts:
        tokens = tokenizer(
            [" ".join(prompt.replace("&amp;", "&").split())],
            padding="max_length",
            max_length=LENGTH,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        found.append(states * tokens.attention_mask[..., None])
    return torch.cat(found)


def test_the_numbers_are_those_of_padded_prompts(codec: WanCodec, wan: Path) -> None:
    ours, theirs = codec.embedded(PROMPTS, CPU), padded(wan, PROMPTS)
    assert ours.shape == theirs.shape == (len(PROMPTS), LENGTH, 16)
    assert float(theirs.abs().max()) > 1
    assert float((ours - theirs).abs().max()) < 1e-5
    # What is behind a prompt's last token is zero to the bit: it is cut off when prompts are stored.
    assert torch.equal(ours == 0, theirs == 0)
    # The longest is cut, the empty one has nothing.
    assert bool(ours[0, -1].any())
    assert not ours[3].any()


def test_only_what_is_there_is_read(codec: WanCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    codec._text_encoder(CPU).register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    tokens = [len(row) for row in codec._tokenizer(PROMPTS[1:3]).input_ids]
    codec.embedded(PROMPTS[1:3], CPU)
    assert sorted(shape[1] for shape in shapes) == sorted(tokens)
    shapes.clear()
    codec.embedded(["a red ball"] * 5, CPU)
    assert shapes == [(1, tokens[1])]
    shapes.clear()
    codec.embedded(["a red ball", "a red up", "a red of"], CPU)
    assert len(shapes) < 3


def test_the_text_encoder_leaves_and_comes_back_the_same(codec: WanCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    before, encoder, moves = codec.embedded(PROMPTS, CPU), codec._text_encoder(CPU), list[str]()
    real = type(encoder).to

    def to(self: UMT5EncoderModel, device: str) -> UMT5EncoderModel:
        moves.append(str(device))
        return real(self, device)

    monkeypatch.setattr(UMT5EncoderModel, "to", to)
    codec.release()
    assert torch.equal(codec.embedded(PROMPTS, CPU), before)
    assert moves == ["cpu", "cpu"]  # to the memory of the CPU, and to the device that asks
    assert codec._text_encoder(CPU) is encoder


def test_no_prompts_are_no_embeddings(codec: WanCodec) -> None:
    assert codec.embedded([], CPU).shape == (0, LENGTH, 16)


def test_the_precision_is_that_of_the_device() -> None:
    assert (text_precision("cuda"), text_precision("cpu"), text_precision("mps")) == ("bfloat16", "float32", "float32")


def test_a_prompt_that_is_cut_is_said(codec: WanCodec, caplog: pytest.LogCaptureFixture) -> None:
    longest = next(n for n in range(1, 99) if len(codec._tokenizer("ball " * n).input_ids) > LENGTH)
    fits, over = ("ball " * (longest - 1)).strip(), ("ball " * (longest + 3)).strip()
    codec.embedded([fits], CPU)
    assert not caplog.messages
    codec.embedded([fits, over], CPU)
    tokens = len(codec._tokenizer(over).input_ids)
    assert caplog.messages == [f"a prompt is cut: '{over[:60]}...' has {tokens} tokens, and {LENGTH} are read"]
