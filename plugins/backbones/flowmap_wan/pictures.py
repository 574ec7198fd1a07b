"""A picture as Wan2.1-I2V is conditioned on it: latents beside those of the video, and features beside the text.

Every latent frame is made from noise. To its 16 channels come four of a mask (1 in the first frame, 0 in the others)
and the 16 of the latents of a video that is the picture and then zeros, which is grey. Cross-attention adds to what it
finds in the text what it finds in the last hidden states but one of a CLIP encoder of the picture, by keys and values
of their own (Wan2.1, arXiv 2503.20314; diffusers' WanImageToVideoPipeline). Guidance leads away from the negative
prompt under the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Cond, EncodedText
from flowmap.phases import each as one_by_one
from flowmap.workshop.conditions import Conditions
from flowmap.workshop.memo import Text
from flowmap.workshop.pictures import Pictures
from flowmap_wan.codec import WanCodec
from flowmap_wan.condition import as_video
from flowmap_wan.image_encoder import ImageEncoder
from flowmap_wan.pieces import Passes, noised
from flowmap_wan.views import RowView

LATENTS, FEATURES = "picture_latents", "picture_features"
"""What stands beside encoded texts: `[B, F, 16, h, w]` of the VAE, `[B, tokens, D]` of the image encoder."""

_MASKS = 4
_NONE = "this network makes videos from a picture, and was given none: give the first frame, or data with pictures"


@final
@dataclass(frozen=True)
class Pictured(RowView):
    """All frames see each other; `beside` `[B, F, 20, h, w]` stands beside their channels, `features` `[B, M, D]`
    beside the text."""

    beside: Tensor
    features: Tensor

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """See View.run."""
        piece = noised(torch.cat([x, self.beside.to(x)], dim=2), t, r, 0, (0,) * x.shape[1])
        return passes.over([piece], (text, Text(self.features, text.memo)))

    def take(self, index: Tensor) -> Pictured:
        """See RowView.take."""
        return Pictured(self.beside[index], self.features[index])

    def join(self, other: Pictured) -> Pictured:
        """See RowView.join."""
        return Pictured(torch.cat([self.beside, other.beside]), torch.cat([self.features, other.features]))


@final
@dataclass(frozen=True)
class Unseen(RowView):
    """No picture yet: nothing can be made."""

    def run(self, passes: Passes, text: Text, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Raises FlowmapError."""
        raise FlowmapError(_NONE)

    def take(self, index: Tensor) -> Unseen:
        """See RowView.take."""
        return self

    def join(self, other: Unseen) -> Unseen:
        """See RowView.join."""
        return self


def with_picture(texts: Conditions, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """What `texts` makes of `prompts`, with the picture that stands beside them, if one does."""
    cond, null = (as_video(each) for each in texts(prompts, count, device))
    there = isinstance(prompts, EncodedText) and LATENTS in prompts.others
    view = _view(prompts.others, count, device) if there else Unseen()
    return replace(cond, view=view), replace(null, view=view)


def _view(seen: Mapping[str, Tensor], count: int, device: torch.device) -> Pictured:
    latents, features = (seen[name].to(device) for name in (LATENTS, FEATURES))
    mask = latents.new_zeros(len(latents), latents.shape[1], _MASKS, *latents.shape[3:])
    mask[:, 0] = 1
    beside = torch.cat([mask, latents], dim=2)
    return Pictured(*(x.expand(count, *x.shape[1:]) for x in (beside, features)))


def _with(prompts: EncodedText, seen: Mapping[str, Tensor]) -> EncodedText:
    rows = {name: x.to(prompts.text.device).expand(len(prompts), *x.shape[1:]) for name, x in seen.items()}
    # That of guidance is the same picture: what stands here is read by nobody.
    nulls = {name: torch.zeros_like(x[0]) for name, x in rows.items()}
    return replace(prompts, others={**prompts.others, **rows}, null_others={**prompts.null_others, **nulls})


def with_pictures(prompts: EncodedText, latents: tuple[int, ...], tokens: int, width: int) -> EncodedText:
    """`prompts` beside pictures without data: latents `(F, C, h, w)`, and so many features of `width`."""
    return _with(prompts, {LATENTS: torch.zeros(1, *latents), FEATURES: torch.zeros(1, tokens, width)})


@final
class FirstFrames(Pictures):
    """Pictures as the encoders of a checkpoint see them, each before as many `frames` as its video has.

    `width` are the dimensions of a text.
    """

    def __init__(self, codec: WanCodec, encoder: ImageEncoder, frames: int, width: Callable[[], int]) -> None:
        self._codec, self._encoder, self._frames, self._width = codec, encoder, frames, width

    def beside(self, prompts: Any, x: Tensor, device: torch.device) -> EncodedText:
        """See Pictures.beside."""
        if prompts is None:
            prompts = EncodedText(torch.zeros(len(x), 1, self._width()), torch.zeros(1, self._width()))
        if not isinstance(prompts, EncodedText):
            raise FlowmapError(f"this backbone takes texts for prompts, not {type(prompts).__name__}")
        seen = self._seen(x, device)
        return _with(prompts, seen)

    def shown(self, cond: Cond, null: Cond, frames: Tensor) -> tuple[Cond, Cond]:
        """See Pictures.shown."""
        text = as_video(cond).text
        view = _view(self._seen(frames, text.device), len(text), text.device)
        return replace(as_video(cond), view=view), replace(as_video(null), view=view)

    def release(self) -> None:
        """See Pictures.release."""
        self._encoder.release()

    @torch.no_grad()
    def _seen(self, x: Tensor, device: torch.device) -> dict[str, Tensor]:
        """Both, of the first frames of `x` `[B, F, 3, H, W]`, on `device`."""
        latents, features = [], []
        for picture in one_by_one(x[:, :1].split(1), "encoding pictures", "pictures"):
            grey = picture.new_zeros(1, self._frames - 1, *picture.shape[2:])
            latents.append(self._codec.latents(torch.cat([picture, grey], dim=1), device))
            features.append(self._encoder(picture[:, 0], device))
        return {LATENTS: torch.cat(latents), FEATURES: torch.cat(features)}
