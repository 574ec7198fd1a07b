"""What a plan knows of published weights that are not here."""

from __future__ import annotations

import diffusers
import pytest
import torch

from .support import KINDS

PUBLISHED = {
    # Parameters of the transformer, in billions, as their authors or model cards give them.
    # The paper's 675 million, and 27 more copies of the embedders of times and classes, of 2.8 million each.
    "DiT-XL-2-256": ("dit", 0.749, 0.751),
    "FLUX.1-dev": ("flux", 11.901408320 - 1e-9, 11.901408320 + 1e-9),
    "FLUX.1-schnell": ("flux", 11.89, 11.90),
    "FLUX.2-dev": ("flux2", 32.2, 32.3),
    "Qwen-Image": ("qwen_image", 20.43, 20.435),
    "Lumina-Image-2.0": ("lumina2", 2.6, 2.62),
    "PixArt-Sigma-XL-2-1024-MS": ("pixart", 0.6, 0.612),
    "PixArt-XL-2-1024-MS": ("pixart", 0.6, 0.612),
    "SANA1.5_4.8B_1024px_diffusers": ("sana", 4.7, 4.8),
    "Sana_1600M_1024px_diffusers": ("sana", 1.604, 1.605),
    "Sana_600M_512px_diffusers": ("sana", 0.59, 0.592),
    "Z-Image": ("z_image", 6.154908735, 6.154908737),
    "stable-diffusion-3-medium-diffusers": ("sd3", 2.02, 2.04),
    "stable-diffusion-3.5-large": ("sd3", 8.0, 8.2),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_sizes_are_known_by_name(name: str) -> None:
    """What a plan without weights says of the real models."""
    kind, least, most = PUBLISHED[name]
    family = KINDS[kind].family
    sizes = KINDS[kind](weights=f"{family.owners[name]}/{name}").sizes()
    assert sizes is not None
    with torch.device("meta"):
        model = getattr(diffusers, family.model)(**sizes)
    assert least < sum(p.numel() for p in model.parameters()) / 1e9 < most
