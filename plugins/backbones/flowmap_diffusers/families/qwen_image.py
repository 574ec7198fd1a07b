"""Qwen-Image (arXiv 2508.02324). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.tokens import packed, unpacked

_EDITING = ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


@final
class QwenImage(Family):
    """A velocity of latents, 2 x 2 a token; Qwen2.5-VL, asked to describe the picture, whose padding is masked."""

    model, pipeline = "QwenImageTransformer2DModel", "QwenImagePipeline"
    owners = dict.fromkeys(("Qwen-Image", "Qwen-Image-2512"), "Qwen")
    parts = {"text_encoder": "Qwen2_5_VLForConditionalGeneration", "tokenizer": "Qwen2Tokenizer"}
    vae = "AutoencoderKLQwenImage"
    common = {"attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584, "num_layers": 60} | {
        "axes_dims_rope": (16, 56, 56), "in_channels": 64, "out_channels": 16, "patch_size": 2,
    }  # fmt: skip
    published = {"Qwen-Image": {"guidance_embeds": False}}
    small = {"attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 32, "num_layers": 2} | {
        "axes_dims_rope": (2, 2, 4), "in_channels": 64, "out_channels": 16, "patch_size": 2,
    }  # fmt: skip
    width, masked = "joint_attention_dim", True
    adapted = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    scale, frequency = 1.0, 1000.0  # its sinusoids multiply by 1000 themselves
    unguided = "true_cfg_scale=1.0"
    # QwenImagePipeline's defaults. It gives guided velocities, token by token, the length of those with the prompt,
    # which we do not; and it shifts by e^mu, with mu from 0.5 at 256 tokens to 0.9 at 8192: 0.69 at the 4096 of
    # 1024 x 1024, where a constant shift is 2 (and 2.3 at 1328 x 1328); the last time is moved to 0.02 as well.
    usual = Usual(1024, 50, 4.0, 2.0)

    def channels(self, sizes: Sizes) -> int:
        """See Family.channels."""
        return int(sizes["in_channels"]) // 4

    def flaw(self, sizes: Sizes) -> str | None:
        """See Family.flaw."""
        odd = next((name for name in _EDITING if sizes.get(name)), None)
        return odd and f"has {odd}, as models that edit pictures or draw layers have; this backbone is of texts alone"

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        height, width = x.shape[2] // 2, x.shape[3] // 2
        shapes = [[(1, height, width)]] * len(x)
        made = transformer(packed(x), cond["text"], cond.get("mask"), t, shapes, return_dict=False)[0]
        return unpacked(made, height, width)

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts."""
        text, mask = pipe.encode_prompt(prompts, device, max_sequence_length=length)
        return {"text": text, "mask": mask}
