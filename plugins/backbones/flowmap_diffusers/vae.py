"""Pictures to model space and back: diffusers' autoencoders of images, each by its class.

What a family calls model space is the autoencoder's latent, shifted and scaled to about unit variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor


class Latents(ABC):
    """How one class of autoencoders is asked. Pictures are `[B, 3, H, W]` in [-1, 1], latents `[B, C, h, w]`."""

    @abstractmethod
    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """The mode of the posterior, where there is one: nothing in it is random."""

    @abstractmethod
    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """Pictures, not clamped."""


@final
class Shifted(Latents):
    """`AutoencoderKL` of Stable Diffusion 3 (shift and scale), of DiT and PixArt (scale alone)."""

    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """See Latents.encode."""
        mode: Tensor = vae.encode(pictures).latent_dist.mode()
        return (mode - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See Latents.decode."""
        made: Tensor = vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        return made


@final
class Deep(Latents):
    """`AutoencoderDC` (arXiv 2410.10733), which has no posterior."""

    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """See Latents.encode."""
        latent: Tensor = vae.encode(pictures).latent
        return latent * vae.config.scaling_factor

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See Latents.decode."""
        made: Tensor = vae.decode(latents / vae.config.scaling_factor).sample
        return made


@final
class OneFrame(Latents):
    """`AutoencoderKLQwenImage`, the autoencoder of a video model: a picture is its first frame, each channel scaled."""

    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """See Latents.encode."""
        mean, deviation = self._scale(vae, pictures)
        mode: Tensor = vae.encode(pictures[:, :, None]).latent_dist.mode()
        return ((mode - mean) / deviation)[:, :, 0]

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See Latents.decode."""
        mean, deviation = self._scale(vae, latents)
        made: Tensor = vae.decode(latents[:, :, None] * deviation + mean).sample
        return made[:, :, 0]

    def _scale(self, vae: Any, like: Tensor) -> list[Tensor]:
        told = vae.config.latents_mean, vae.config.latents_std
        return [torch.tensor(values, device=like.device).view(1, -1, 1, 1, 1) for values in told]


@final
class Patched(Latents):
    """`AutoencoderKLFlux2`: 2 x 2 cells are channels of one, and the statistics of a batch norm scale them."""

    def encode(self, vae: Any, pictures: Tensor) -> Tensor:
        """See Latents.encode."""
        mean, deviation = self._scale(vae)
        mode: Tensor = vae.encode(pictures).latent_dist.mode()
        cells = mode.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return (cells - mean) / deviation

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        """See Latents.decode."""
        mean, deviation = self._scale(vae)
        cells = (latents * deviation + mean).unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        made: Tensor = vae.decode(cells.flatten(4, 5).flatten(2, 3)).sample
        return made

    def _scale(self, vae: Any) -> tuple[Tensor, Tensor]:
        mean, variance = vae.bn.running_mean, vae.bn.running_var
        return mean.view(1, -1, 1, 1), torch.sqrt(variance + vae.config.batch_norm_eps).view(1, -1, 1, 1)


LATENTS: Mapping[str, Latents] = {
    "AutoencoderKL": Shifted(),
    "AutoencoderDC": Deep(),
    "AutoencoderKLQwenImage": OneFrame(),
    "AutoencoderKLFlux2": Patched(),
}
