"""Text and video to and from model space: UMT5 and the Wan VAE, through transformers and diffusers."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import ftfy
import torch
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText
from flowmap.maths.draw import Draw
from flowmap.phases import each
from flowmap.plugin import SampleSpec
from flowmap.workshop.codec import Codec
from flowmap_wan import null, reading
from flowmap_wan.checkpoint import Checkpoint, text_precision
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.layout import LATENT_CHANNELS

_VAE_SPACE = 8

_TOKENS_TOGETHER = 2048
_MOST_PADDED = 1.25  # times the shortest prompt of a group, the longest one


@final
class WanCodec(Codec):
    """The encoders of the checkpoint that `source` finds, for videos of `spec`, read when they are first needed.

    They compute on the first device they are asked on.
    """

    def __init__(self, config: CommonConfig, spec: SampleSpec, source: Callable[[], Checkpoint]) -> None:
        self._config = config
        self._source = source
        self._spec = spec
        self._null: Tensor | None = None
        self._vaes: dict[torch.device, Any] = {}
        self._text_encoders: dict[torch.device, Any] = {}

    def latent_shape(self) -> tuple[int, ...]:
        """`(F, C, h, w)`: a quarter of the frames (after the first), an eighth of the sides, 16 channels."""
        return latent_shape(self._config, self._spec)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return self._source()

    @cached_property
    def _tokenizer(self) -> Any:
        return reading.tokenizer(self._checkpoint)

    def _text_encoder(self, device: torch.device) -> Any:
        if device not in self._text_encoders:
            precision: torch.dtype = getattr(torch, text_precision(device.type))
            self._text_encoders[device] = reading.text_encoder(self._checkpoint, precision).to(device)
        return self._text_encoders[device]

    def vae(self, device: torch.device) -> Any:
        """The Wan VAE, in float32, without gradient."""
        if device not in self._vaes:
            self._vaes[device] = reading.vae(self._checkpoint, torch.float32).to(device)
        return self._vaes[device]

    def text(self, prompts: Sequence[str], device: torch.device) -> EncodedText:
        """Embeddings of prompts, and that of the null condition, on `device`."""
        return EncodedText(self.embedded(prompts, device).to(device), self.null(device).to(device))

    def null_beside(self, prompts: EncodedText) -> Tensor:
        """The null condition beside `prompts`, `[L, D]`: that of the recipe's file, if it names one."""
        if self._config.null_embedding is None:
            return prompts.null
        null = self.null(prompts.null.device).to(prompts.null)
        if null.shape != prompts.null.shape:
            raise FlowmapError(
                f"{self._config.null_embedding}: makes a null condition of {list(null.shape)}, and the prompts were "
                f"encoded to {list(prompts.null.shape)}; set backbone.text_length to {len(prompts.null)}",
                code=1,
            )
        return null

    @torch.no_grad()
    def embedded(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings `[B, L, D]` of prompts, zero beyond each prompt's tokens (as Wan2.1 was trained); on the CPU.

        Only the tokens that there are go through the encoder, prompts of about the same length together: it takes no
        notice of what is masked, so that the numbers are those of L padded tokens up to rounding.
        """
        encoder, most = self._text_encoder(device), self._config.text_length
        words = list(dict.fromkeys(_clean(prompt) for prompt in prompts))
        if not words:
            return torch.zeros(0, most, encoder.config.d_model)
        found = self._tokenizer(words, max_length=most, truncation=True, add_special_tokens=True)
        tokens: list[list[int]] = found.input_ids
        embedded = dict.fromkeys(words, torch.zeros(most, encoder.config.d_model))
        for group in each(list(_groups([len(row) for row in tokens])), f"encoding {len(words)} texts", "groups"):
            longest = max(len(tokens[index]) for index in group)
            mask = torch.tensor([[n < len(tokens[i]) for n in range(longest)] for i in group]).long()
            ids = torch.tensor([tokens[i] + [0] * (longest - len(tokens[i])) for i in group])
            states = encoder(ids.to(device), mask.to(device)).last_hidden_state.float().cpu()
            states = pad(states * mask[..., None], (0, 0, 0, most - longest))
            embedded |= {words[i]: row for i, row in zip(group, states, strict=True)}
        return torch.stack([embedded[_clean(prompt)] for prompt in prompts])

    def null(self, device: torch.device) -> Tensor:
        """The embedding `[L, D]` of the null condition of guidance: the negative prompt's, unless a file has it.

        It is made once, on `device`.
        """
        if self._null is None:
            self._null = self._read_null(device)
        return self._null

    def _read_null(self, device: torch.device) -> Tensor:
        if self._config.null_embedding is not None:
            read: Tensor = null.read(Path(self._config.null_embedding), self._config.text_length)
            return read
        embedding = self.embedded([self._config.negative_prompt], device)[0]
        if not bool(embedding.isfinite().all()):
            raise FlowmapError(f"{self._checkpoint.folder}: its embedding of the negative prompt is not finite")
        return embedding

    @torch.no_grad()
    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        """Pixels `[B, T, 3, H, W]` in [-1, 1] to latents `[B, F, C, h, w]` of about unit variance.

        They are the mode of the VAE's posterior: nothing in it is random.
        """
        device, clips = draw.device, []
        mean, deviation = self._scale(device)
        for clip in each(x.split(1), "encoding video", "clips"):
            moments = self.vae(device).encode(clip.transpose(1, 2).to(device)).latent_dist
            clips.append(((moments.mode() - mean) / deviation).transpose(1, 2))
        return torch.cat(clips).to(x.device)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents `[B, F, C, h, w]` to pixels `[B, T, 3, H, W]` in [-1, 1], on the CPU: many of them are large."""
        mean, deviation = self._scale(x.device)
        clips = []
        for clip in each(x.split(1), "decoding video", "clips"):
            scaled = clip.float().transpose(1, 2) * deviation + mean
            clips.append(self.vae(x.device).decode(scaled).sample.clamp(-1, 1).transpose(1, 2).cpu())
        return torch.cat(clips)

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.vae(device).config
        mean, deviation = (
            torch.tensor(values, device=device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


def latent_shape(config: CommonConfig, spec: SampleSpec) -> tuple[int, ...]:
    """What samples of `spec` are in model space: see WanCodec.latent_shape."""
    _, _, height, width = spec.shape
    return (config.latent_frames(spec), LATENT_CHANNELS, height // _VAE_SPACE, width // _VAE_SPACE)


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
