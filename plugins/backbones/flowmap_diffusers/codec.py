"""Text and pictures to and from model space: the encoders of a pipeline's folder, asked as diffusers' pipeline does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText
from flowmap.maths.draw import Draw
from flowmap.phases import each, phase
from flowmap.weights.pipeline import Pipeline
from flowmap.workshop.codec import Codec
from flowmap.workshop.parts import OnDevices
from flowmap_diffusers.checkpoint import text_precision
from flowmap_diffusers.encoders import quiet, read_encoder, read_vae, tokenizer_of
from flowmap_diffusers.family import Family
from flowmap_diffusers.vae import LATENTS

_AT_ONCE = 4


@final
class ImageCodec(Codec):
    """The encoders in the folder that `source` finds, read when they are first needed.

    Texts are cut at `length` tokens; the null condition is the prompt `negative`. Latents are of `shape`.
    """

    def __init__(
        self, family: Family, shape: tuple[int, ...], length: int, negative: str, source: Callable[[], Pipeline]
    ) -> None:
        self._family, self._shape, self._length, self._negative, self._source = family, shape, length, negative, source
        self._vae = OnDevices(lambda device: read_vae(self._folder, family.vae))
        self._text_encoders = {
            part: OnDevices(partial(self._read_text_encoder, part, kind))
            for part, kind in family.parts.items()
            if not _tokenizes(part)
        }
        self._nulls: dict[torch.device, dict[str, Tensor]] = {}

    @cached_property
    def _folder(self) -> Pipeline:
        return self._source()

    def latent_shape(self) -> tuple[int, ...]:
        """`(1, C, h, w)`."""
        return self._shape

    @torch.no_grad()
    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        """Pictures `[B, 1, 3, H, W]` in [-1, 1] to latents `[B, 1, C, h, w]`: the mode of the posterior."""
        device, latents = draw.device, LATENTS[self._family.vae]
        parts = each(x.split(_AT_ONCE), "encoding pictures", "batches")
        made = [latents.encode(self._vae(device), part[:, 0].to(device)) for part in parts]
        return torch.cat(made)[:, None].to(x.device)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Latents `[B, 1, C, h, w]` to pictures `[B, 1, 3, H, W]` in [-1, 1], on the CPU."""
        latents = LATENTS[self._family.vae]
        parts = each(x.split(_AT_ONCE), "decoding pictures", "batches")
        made = [latents.decode(self._vae(x.device), part[:, 0].float()).clamp(-1, 1).cpu() for part in parts]
        return torch.cat(made)[:, None]

    def text(self, prompts: Sequence[str], device: torch.device) -> EncodedText:
        """What the text encoders make of prompts, and of the null condition, on `device`."""
        if not self._family.parts:
            raise FlowmapError("this backbone takes class labels, and is given texts", code=1)
        if device not in self._nulls:
            self._nulls[device] = {k: x[0] for k, x in self._encoded([self._negative], device, null=True).items()}
        null, words = self._nulls[device], list(dict.fromkeys(prompts))
        rows = torch.tensor([words.index(prompt) for prompt in prompts], dtype=torch.int64, device=device)
        made = {name: x[rows] for name, x in self._encoded(words, device, null=False).items()} if words else {}
        made = made or {name: x[None][:0] for name, x in null.items()}
        return EncodedText(made.pop("text"), null["text"], made, {k: x for k, x in null.items() if k != "text"})

    @torch.no_grad()
    def _encoded(self, words: Sequence[str], device: torch.device, null: bool) -> dict[str, Tensor]:
        """The tensors `[B, ...]` of texts, each filled up to the full length, with a mask where the family has one."""
        size, found = self._family.texts_at_once, []
        groups, pipe = [words[place : place + size] for place in range(0, len(words), size)], self._pipe(device)
        for group in each(groups, f"encoding {len(words)} texts", "groups"):
            told = self._family.texts(pipe, list(group), self._length, device, null)
            found.append(_padded(told, len(group), self._family.tokens(self._length)))
        joined = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        odd = next((name for name, x in joined.items() if not bool(x.float().isfinite().all())), None)
        if odd is not None:
            raise FlowmapError(
                f"{self._folder.folder}: the text encoders made '{odd}' with numbers that are not finite"
            )
        return joined

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {part: tokenizer_of(self._folder, part) for part in self._family.parts if _tokenizes(part)}

    def _read_text_encoder(self, part: str, kind: str, device: torch.device) -> Any:
        precision: torch.dtype = getattr(torch, text_precision(device.type))
        with phase(f"reading {part}"):
            return read_encoder(self._folder, part, kind).to(precision)

    def release(self) -> None:
        """The text encoders leave their accelerator; the VAE, less than a GB, stays."""
        for encoder in self._text_encoders.values():
            encoder.release()

    def _pipe(self, device: torch.device) -> Any:
        """diffusers' pipeline with the text encoders alone."""
        encoders = {part: encoder(device) for part, encoder in self._text_encoders.items()}
        with quiet():
            # Some pipelines are of more parts, which texts do not need and a machine need not have.
            made = getattr(importlib.import_module("diffusers"), self._family.pipeline)
            return made(**self._tokenizers, **encoders, transformer=None, vae=None, scheduler=None)


def _tokenizes(part: str) -> bool:
    return part.startswith("tokenizer")


def _padded(told: Any, count: int, length: int) -> dict[str, Tensor]:
    """What a family made of texts as tensors of one length, float32 on where they were made; masks int64."""
    text, others = told["text"], {name: x for name, x in told.items() if name != "text"}
    masked = "mask" in others
    if isinstance(text, list | tuple):
        others["mask"] = torch.stack([_counting(len(x), length, x.device) for x in text])
        text = torch.stack([pad(x, (0, 0, 0, length - len(x))) for x in text])
    elif masked:
        mask = others["mask"]
        mask = torch.ones(text.shape[:2], dtype=torch.int64, device=text.device) if mask is None else mask.long()
        others["mask"] = pad(mask, (0, length - text.shape[1]))
        text = pad(text, (0, 0, 0, length - text.shape[1]))
    made = {"text": text, **others}
    assert all(len(x) == count for x in made.values()), "a row of each for every text"
    return {name: x if name == "mask" else x.float() for name, x in made.items()}


def _counting(used: int, length: int, device: torch.device) -> Tensor:
    return (torch.arange(length, device=device) < used).long()
