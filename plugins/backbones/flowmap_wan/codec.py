"""Text and video to and from model space: UMT5 and the Wan VAE, through transformers and diffusers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import ftfy
import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap_wan import null
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.quiet import no_bars


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
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._checkpoint.folder / "tokenizer", local_files_only=True)

    @cached_property
    def _text_encoder(self) -> Any:
        from transformers import UMT5EncoderModel

        return self._read(UMT5EncoderModel, "text_encoder", self._precision)

    @cached_property
    def vae(self) -> Any:
        """The Wan VAE, in float32, without gradient."""
        from diffusers import AutoencoderKLWan

        return self._read(AutoencoderKLWan, "vae", torch.float32)

    @property
    def _precision(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def _read(self, kind: Any, part: str, precision: torch.dtype) -> Any:
        self._checkpoint.files(part)
        try:
            with no_bars():
                model = kind.from_pretrained(
                    self._checkpoint.folder, subfolder=part, torch_dtype=precision, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise FlowmapError(f"{self._checkpoint.folder / part} cannot be read: {error}") from None
        return model.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings `[B, L, D]` of prompts, zero beyond each prompt's tokens (as Wan2.1 was trained); on the CPU."""
        encoder = self._text_encoder
        parts = []
        for prompt in prompts:
            tokens = self._tokenizer(
                [_clean(prompt)],
                padding="max_length",
                max_length=self._length,
                truncation=True,
                add_special_tokens=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            mask = tokens.attention_mask.to(self.device)
            states = encoder(tokens.input_ids.to(self.device), mask).last_hidden_state
            parts.append((states * mask[..., None]).float().cpu())
        return torch.cat(parts)

    @cached_property
    def null(self) -> Tensor:
        """The embedding `[L, D]` of the null condition of guidance: the negative prompt's, unless a file has it."""
        if self._null_file is None:
            return self.text([self._negative])[0]
        embedding: Tensor = null.read(Path(self._null_file), self._length)
        return embedding

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Pixels `[B, T, 3, H, W]` in [-1, 1] to latents `[B, F, C, h, w]` of about unit variance."""
        mean, deviation = self._scale()
        clips = []
        for clip in video.split(1):
            moments = self.vae.encode(clip.transpose(1, 2).to(self.device)).latent_dist
            clips.append(((moments.mode() - mean) / deviation).transpose(1, 2))
        return torch.cat(clips)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B, F, C, h, w]` to pixels `[B, T, 3, H, W]` in [-1, 1], on the CPU: many of them are large."""
        mean, deviation = self._scale()
        clips = []
        for clip in latents.split(1):
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


def _clean(prompt: str) -> str:
    """Mended encoding, no HTML entities, single spaces: what UMT5 saw when Wan2.1 was trained."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
