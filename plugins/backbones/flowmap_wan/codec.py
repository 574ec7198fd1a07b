"""Text and video to and from model space: UMT5 and the Wan VAE, through transformers and diffusers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText
from flowmap.maths.draw import Draw
from flowmap.phases import each
from flowmap.plugin import SampleSpec
from flowmap.workshop.codec import Codec
from flowmap.workshop.null import NullText
from flowmap.workshop.parts import OnDevices, read_model, read_tokenizer, weights_of, with_both_names
from flowmap.workshop.texts import cleaned, embeddings, say_cut
from flowmap_wan.checkpoint import Checkpoint, text_precision
from flowmap_wan.common_config import CommonConfig
from flowmap_wan.layout import LATENT_CHANNELS, TextEncoderFields, VaeFields

_VAE_SPACE = 8


@final
class WanCodec(Codec):
    """The encoders of the checkpoint that `source` finds, for videos of `spec`, read when they are first needed.

    They compute on the first device they are asked on.
    """

    def __init__(self, config: CommonConfig, spec: SampleSpec, source: Callable[[], Checkpoint]) -> None:
        self._config = config
        self._source = source
        self._spec = spec
        self._full: set[str] = set()
        self._text_encoder = OnDevices(self._read_text_encoder)
        self.vae = OnDevices(self._read_vae)
        self.null = NullText(
            config.null_file(),
            config.text_length,
            lambda device: self.embedded([config.negative_prompt], device)[0],
            lambda: self._checkpoint.folder,
        )

    def latent_shape(self) -> tuple[int, ...]:
        """`(F, C, h, w)`: a quarter of the frames (after the first), an eighth of the sides, 16 channels."""
        return latent_shape(self._config, self._spec)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return self._source()

    @cached_property
    def _tokenizer(self) -> Any:
        folder = self._checkpoint.pipeline
        return read_tokenizer(folder, "tokenizer", folder.fields("text_encoder", TextEncoderFields).vocab_size)

    def _read_text_encoder(self, device: torch.device) -> Any:
        from transformers import UMT5Config, UMT5EncoderModel

        folder = self._checkpoint.pipeline
        fields = folder.fields("text_encoder", TextEncoderFields).model_dump(exclude={"model_type"})
        state = with_both_names(folder, "text_encoder", weights_of(folder, "text_encoder"))
        precision: torch.dtype = getattr(torch, text_precision(device.type))
        model = read_model("text encoder", lambda: UMT5EncoderModel(UMT5Config(**fields)), state, precision)
        model.tie_weights()
        return model

    def _read_vae(self, device: torch.device) -> Any:
        from diffusers import AutoencoderKLWan

        folder = self._checkpoint.pipeline
        fields = folder.fields("vae", VaeFields).model_dump(exclude={"class_name"}, exclude_none=True)
        # diffusers joins these to lists.
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
        return read_model("VAE", lambda: AutoencoderKLWan(**fields), weights_of(folder, "vae"), torch.float32)

    def text(self, prompts: Sequence[str], device: torch.device) -> EncodedText:
        """Embeddings of prompts, and that of the null condition, on `device`."""
        return EncodedText(self.embedded(prompts, device).to(device), self.null.on(device).to(device))

    def release(self) -> None:
        """The text encoder, 11 GB of bfloat16, leaves its accelerator; the VAE, half a GB, stays."""
        self._text_encoder.release()

    @torch.no_grad()
    def embedded(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Embeddings `[B, L, D]` of prompts, zero beyond each prompt's tokens (as Wan2.1 was trained); on the CPU."""
        encoder, most = self._text_encoder(device), self._config.text_length
        width = encoder.config.d_model
        words = list(dict.fromkeys(cleaned(prompt) for prompt in prompts))
        if not words:
            return torch.zeros(0, most, width)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            states: Tensor = encoder(ids.to(device), mask.to(device)).last_hidden_state
            return states

        tokens = self._tokenizer(words, max_length=most, truncation=True, add_special_tokens=True).input_ids
        full = [word for word, row in zip(words, tokens, strict=True) if len(row) == most and word not in self._full]
        if full:
            self._full.update(full)
            say_cut(dict(zip(full, map(len, self._tokenizer(full).input_ids), strict=True)), most)
        made = dict(zip(words, embeddings(tokens, encode, most, width), strict=True))
        return torch.stack([made[cleaned(prompt)] for prompt in prompts])

    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        """See `latents`: nothing in it is random."""
        return self.latents(x, draw.device).to(x.device)

    @torch.no_grad()
    def latents(self, x: Tensor, device: torch.device) -> Tensor:
        """Pixels `[B, T, 3, H, W]` in [-1, 1] to latents `[B, F, C, h, w]` of about unit variance, on `device`.

        They are the mode of the VAE's posterior.
        """
        clips = []
        mean, deviation = self._scale(device)
        for clip in each(x.split(1), "encoding video", "clips"):
            moments = self.vae(device).encode(clip.transpose(1, 2).to(device)).latent_dist
            clips.append(((moments.mode() - mean) / deviation).transpose(1, 2))
        return torch.cat(clips)

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
