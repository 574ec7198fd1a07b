"""FLUX.1 (Black Forest Labs): [dev] and [Krea], which are guidance-distilled, and [schnell]. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.tokens import packed, places, unpacked


@final
class Flux(Family):
    """A velocity of latents, 2 x 2 a token; T5, and CLIP's vector of the whole text."""

    model, pipeline = "FluxTransformer2DModel", "FluxPipeline"
    owners = dict.fromkeys(("FLUX.1-dev", "FLUX.1-Krea-dev", "FLUX.1-schnell"), "black-forest-labs")
    gated = frozenset(owners) - {"FLUX.1-schnell"}
    parts = {
        "text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel",
        "tokenizer": "CLIPTokenizer", "tokenizer_2": "T5TokenizerFast",
    }  # fmt: skip
    common = {"attention_head_dim": 128, "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38} | {
        "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "patch_size": 1,
    }  # fmt: skip
    published = {"FLUX.1-schnell": {"guidance_embeds": False}, "FLUX.1-": {"guidance_embeds": True}}
    small = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_single_layers": 2} | {
        "in_channels": 64, "joint_attention_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    }  # fmt: skip
    width, pooled = "joint_attention_dim", "pooled_projection_dim"
    blocks, depth = ("transformer_blocks", "single_transformer_blocks"), ("num_layers", "num_single_layers")
    adapted = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    unguided = "guidance_scale={told}"
    # FluxPipeline's defaults for [dev]. It shifts by e^mu, with mu from 0.5 at 256 tokens to 1.15 at 4096: those of
    # 1024 x 1024, where a constant shift is 3.16. [schnell] is made for 4 calls at shift 1.
    usual = Usual(1024, 28, 1.0, 3.16)

    def channels(self, sizes: Sizes) -> int:
        """See Family.channels."""
        return int(sizes["in_channels"]) // 4

    def patch(self, sizes: Sizes) -> int:
        """See Family.patch."""
        return 2

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        height, width, text = x.shape[2] // 2, x.shape[3] // 2, cond["text"]
        ids = places(x, height, width, 3), x.new_zeros(text.shape[1], 3)
        told = t.new_full(t.shape, guidance) if transformer.config.guidance_embeds else None
        return unpacked(
            transformer(packed(x), text, cond["pooled"], t, *ids, told, return_dict=False)[0], height, width
        )

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts."""
        text, pooled, _ = pipe.encode_prompt(prompts, None, device, max_sequence_length=length)
        return {"text": text, "pooled": pooled}
