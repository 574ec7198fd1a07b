"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Usual

_MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}


@final
class Sd3(Family):
    """A velocity of latents; two CLIP encoders and T5, and the CLIP vectors of the whole text besides."""

    model, pipeline = "SD3Transformer2DModel", "StableDiffusion3Pipeline"
    owners = dict.fromkeys(
        ("stable-diffusion-3-medium-diffusers", "stable-diffusion-3.5-medium", "stable-diffusion-3.5-large"),
        "stabilityai",
    )
    gated = frozenset(owners)
    parts = {
        "text_encoder": "CLIPTextModelWithProjection", "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast",
    }  # fmt: skip
    common = {"attention_head_dim": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 2048} | {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "sample_size": 128,
    }  # fmt: skip
    published = {
        "3-medium": _MEDIUM | {"pos_embed_max_size": 192},
        "3.5-medium": _MEDIUM
        | {"pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
        "3.5-large": {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432}
        | {"pos_embed_max_size": 192, "qk_norm": "rms_norm"},
    }
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16} | {
        "joint_attention_dim": 32, "pooled_projection_dim": 32, "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "sample_size": 32, "pos_embed_max_size": 32, "qk_norm": None, "dual_attention_layers": (),
    }  # fmt: skip
    width, pooled = "joint_attention_dim", "pooled_projection_dim"
    uneven = ("dual_attention_layers",)
    adapted = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    usual = Usual(1024, 28, 7.0, 3.0)  # the pipeline's defaults; the scheduler's shift (section 5.3.2)

    def tokens(self, length: int) -> int:
        """CLIP's, which are always 77, and T5's."""
        return 77 + length

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        return transformer(x, cond["text"], cond["pooled"], 1000 * t, return_dict=False)[0]

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts."""
        text, _, pooled, _ = pipe.encode_prompt(
            prompts, None, None, device, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return {"text": text, "pooled": pooled}
