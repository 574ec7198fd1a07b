"""FLUX.2 [dev] (Black Forest Labs), which is guidance-distilled. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.tokens import counted, places


@final
class Flux2(Family):
    """A velocity of latents, a cell a token; three layers of Mistral 3, whose frame counts among a text's tokens."""

    model, pipeline = "Flux2Transformer2DModel", "Flux2Pipeline"
    owners, gated = {"FLUX.2-dev": "black-forest-labs"}, frozenset({"FLUX.2-dev"})
    parts = {"text_encoder": "Mistral3ForConditionalGeneration", "tokenizer": "PixtralProcessor"}
    vae = "AutoencoderKLFlux2"
    common = {"attention_head_dim": 128, "num_attention_heads": 48, "num_layers": 8, "num_single_layers": 48} | {
        "in_channels": 128, "joint_attention_dim": 15360, "axes_dims_rope": (32, 32, 32, 32), "patch_size": 1,
    }  # fmt: skip
    published = {"FLUX.2-dev": {"guidance_embeds": True}}
    small = {"attention_head_dim": 8, "num_attention_heads": 2, "num_layers": 1, "num_single_layers": 2} | {
        "in_channels": 128, "joint_attention_dim": 48, "axes_dims_rope": (2, 2, 2, 2), "guidance_embeds": True,
    }  # fmt: skip
    width = "joint_attention_dim"
    blocks, depth = ("transformer_blocks", "single_transformer_blocks"), ("num_layers", "num_single_layers")
    embedder = "time_guidance_embed.timestep_embedder"
    adapted = (
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("to_qkv_mlp_proj", "to_out"),
    )
    unguided = "guidance_scale={told}"
    # Flux2Pipeline's defaults. It shifts by e^mu, with a mu that falls with the tokens' number and with the calls: 2.02
    # for 50 calls at the 4096 of 1024 x 1024, where a constant shift is 7.56.
    usual = Usual(1024, 50, 1.0, 7.56)

    def patch(self, sizes: Sizes) -> int:
        """See Family.patch."""
        return 1

    def flaw(self, sizes: Sizes) -> str | None:
        """See Family.flaw."""
        why = "embeds no guidance, as FLUX.2 [klein], whose texts Qwen 3 reads; this backbone is FLUX.2 [dev]"
        return None if sizes.get("guidance_embeds", True) else why

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        text, told = cond["text"], t.new_full(t.shape, guidance)
        order = t.new_zeros(text.shape[1], 4)
        order[:, 3] += counted(x, text.shape[1])
        ids = places(x, *x.shape[2:], 4), order
        made = transformer(x.flatten(2).transpose(1, 2), text, t, *ids, told, return_dict=False)[0]
        return made.transpose(1, 2).unflatten(2, x.shape[2:])

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts."""
        text, _ = pipe.encode_prompt(prompts, device, max_sequence_length=length)
        return {"text": text}
