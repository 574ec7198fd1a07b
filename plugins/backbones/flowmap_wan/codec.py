"""Text and video to and from model space: UMT5 and the Wan VAE, through transformers and diffusers."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import ftfy
import torch
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import FlowmapError
from flowmap.phases import each
from flowmap_wan import null, reading
from flowmap_wan.checkpoint import Checkpoint, text_precision

_TOKENS_TOGETHER = 2048
_MOST_PADDED = 1.25  # times the shortest prompt of a group, the longest one


@final
class Codec:
    """The encoders of a checkpoint, read when they are first needed."""

    def __init__(
        self, checkpoint: Checkpoint, text_length: int, negative_prompt: str, null_embedding: str | None
    ) -> None:
        self._checkpoint = checkpoint
        self._length = text_length
        self._negative = negative_prompt
        self._null_file = null_embedding
        self.device = torch.device(torch.accelerator.current_accelerator() or "cpu")

    @cached_property
    def _tokenizer(self) -> Any:
        return reading.tokenizer(self._checkpoint)

    @cached_property
    def _text_encoder(self) -> Any:
        return reading.text_encoder(self._checkpoint, self._precision).to(self.device)

    @cached_property
    def vae(self) -> Any:
        """The Wan VAE, in float32, without gradient."""
        return reading.vae(self._checkpoint, torch.float32).to(self.device)

    @property
    def _precision(self) -> torch.dtype:
        return getattr(torch, text_precision(self.device.type))  # type: ignore[no-any-return]

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings `[B, L, D]` of prompts, zero beyond each prompt's tokens (as Wan2.1 was trained); on the CPU.

        Only the tokens that there are go through the encoder, prompts of about the same length together: it takes no
        notice of what is masked, so that the numbers are those of L padded tokens up to rounding.
        """
        encoder = self._text_encoder
        words = list(dict.fromkeys(_clean(prompt) for prompt in prompts))
        if not words:
            return torch.zeros(0, self._length, encoder.config.d_model)
        found = self._tokenizer(words, max_length=self._length, truncation=True, add_special_tokens=True)
        tokens: list[list[int]] = found.input_ids
        embedded = dict.fromkeys(words, torch.zeros(self._length, encoder.config.d_model))
        for group in each(list(_groups([len(row) for row in tokens])), f"encoding {len(words)} texts", "groups"):
            longest = max(len(tokens[index]) for index in group)
            mask = torch.tensor([[n < len(tokens[i]) for n in range(longest)] for i in group]).long()
            ids = torch.tensor([tokens[i] + [0] * (longest - len(tokens[i])) for i in group])
            states = encoder(ids.to(self.device), mask.to(self.device)).last_hidden_state.float().cpu()
            states = pad(states * mask[..., None], (0, 0, 0, self._length - longest))
            embedded |= {words[i]: row for i, row in zip(group, states, strict=True)}
        return torch.stack([embedded[_clean(prompt)] for prompt in prompts])

    @cached_property
    def null(self) -> Tensor:
        """The embedding `[L, D]` of the null condition of guidance: the negative prompt's, unless a file has it."""
        if self._null_file is None:
            embedding = self.text([self._negative])[0]
            if not bool(embedding.isfinite().all()):
                raise FlowmapError(f"{self._checkpoint.folder}: its embedding of the negative prompt is not finite")
            return embedding
        read: Tensor = null.read(Path(self._null_file), self._length)
        return read

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels `[B, T, 3, H, W]` in [-1, 1] to latents `[B, F, C, h, w]` of about unit variance."""
        mean, deviation = self._scale()
        clips = []
        for clip in each(video.split(1), "encoding video", "clips"):
            moments = self.vae.encode(clip.transpose(1, 2).to(self.device)).latent_dist
            clips.append(((moments.mode() - mean) / deviation).transpose(1, 2))
        return torch.cat(clips)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, F, C, h, w]` to pixels `[B, T, 3, H, W]` in [-1, 1], on the CPU: many of them are large."""
        mean, deviation = self._scale()
        clips = []
        for clip in each(latents.split(1), "decoding video", "clips"):
            scaled = clip.float().transpose(1, 2).to(self.device) * deviation + mean
            clips.append(self.vae.decode(scaled).sample.clamp(-1, 1).transpose(1, 2).cpu())
        return torch.cat(clips)

    def _scale(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of prompts of about the same length, several at a time; empty ones are in none."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        length = lengths[place]
        full = (len(group) + 1) * length > _TOKENS_TOGETHER
        if group and (full or length > _MOST_PADDED * lengths[group[0]]):
            yield group
            group = []
        if length:
            group.append(place)
    if group:
        yield group


def _clean(prompt: str) -> str:
    """Mended encoding, no HTML entities, single spaces: what UMT5 saw when Wan2.1 was trained."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
