"""PixArt-alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.noise_prediction import FREQUENCY, step_of, velocity_of

_SIDE = 8  # pixels of a cell of latents


@final
class PixArt(Family):
    """The noise in latents; T5, and of alpha's large pictures their height, width and ratio."""

    model, pipeline, also = "PixArtTransformer2DModel", "PixArtAlphaPipeline", ("Transformer2DModel",)
    owners = dict.fromkeys(("PixArt-XL-2-512x512", "PixArt-XL-2-1024-MS", "PixArt-Sigma-XL-2-1024-MS"), "PixArt-alpha")
    parts = {"text_encoder": "T5EncoderModel", "tokenizer": "T5Tokenizer"}
    common = {"num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8} | {
        "num_layers": 28, "cross_attention_dim": 1152, "patch_size": 2, "caption_channels": 4096, "sample_size": 128,
    }  # fmt: skip
    published = {
        "Sigma": {"use_additional_conditions": False, "interpolation_scale": 2},
        "PixArt-XL-2-1024": {}, "PixArt-XL-2-512": {"sample_size": 64},
    }  # fmt: skip
    small = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 8} | {
        "num_layers": 2, "cross_attention_dim": 24, "patch_size": 2, "caption_channels": 32, "sample_size": 8,
        "use_additional_conditions": True,
    }  # fmt: skip
    width, masked, embedder, is_velocity = "caption_channels", True, "adaln_single.emb.timestep_embedder", False
    frequency = FREQUENCY
    usual = Usual(1024, 20, 4.5, 1.0)  # the pipelines' defaults; nothing shifts their times

    def flaw(self, sizes: Sizes) -> str | None:
        """The same class had the sizes of DiT once."""
        norm = sizes.get("norm_type", "ada_norm_single")
        return None if norm == "ada_norm_single" else f"has norm_type {norm!r}, and a PixArt has 'ada_norm_single'"

    def time(self, t: Any) -> Any:
        """See Family.time: steps of the table of DDPM."""
        return step_of(t)

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        height, width = (t.new_full((len(x), 1), _SIDE * side) for side in x.shape[-2:])
        size = {"resolution": height.new_empty(len(x), 2), "aspect_ratio": height / width}
        size["resolution"][:, :1], size["resolution"][:, 1:] = height, width

        def noise(z: Any, tau: Any) -> Any:
            made = transformer(z, cond["text"], tau, size, encoder_attention_mask=cond.get("mask"))
            return made.sample

        return velocity_of(noise, x, t)

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts. Without the cleaning of web captions, which takes a library that few have."""
        text, mask, *_ = pipe.encode_prompt(prompts, False, device=device, max_sequence_length=length)
        return {"text": text, "mask": mask}
