"""Sana and Sana 1.5 (arXiv 2410.10629, 2501.18427). Torch-free."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual

_600M = {"num_layers": 28, "num_attention_heads": 36, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}


@final
class Sana(Family):
    """A velocity of latents that stand for 32 x 32 pixels each; Gemma, which is given an instruction with prompts."""

    model, pipeline, vae = "SanaTransformer2DModel", "SanaPipeline", "AutoencoderDC"
    owners = {
        "Sana_600M_512px_diffusers": "Efficient-Large-Model", "Sana_600M_1024px_diffusers": "Efficient-Large-Model",
        "Sana_1600M_512px_diffusers": "Efficient-Large-Model", "Sana_1600M_1024px_diffusers": "Efficient-Large-Model",
        "Sana_1600M_1024px_BF16_diffusers": "Efficient-Large-Model",
        "SANA1.5_1.6B_1024px_diffusers": "Efficient-Large-Model",
        "SANA1.5_4.8B_1024px_diffusers": "Efficient-Large-Model",
    }  # fmt: skip
    parts = {"text_encoder": "Gemma2Model", "tokenizer": "GemmaTokenizerFast"}
    common = {"num_layers": 20, "num_attention_heads": 70, "attention_head_dim": 32, "patch_size": 1} | {
        "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
        "caption_channels": 2304, "in_channels": 32, "out_channels": 32, "sample_size": 32,
    }  # fmt: skip
    published = {
        "1600M": {}, "600M": _600M | {"cross_attention_dim": 1152},
        "SANA1.5_1.6B": {"qk_norm": "rms_norm_across_heads"},
        "SANA1.5_4.8B": {"qk_norm": "rms_norm_across_heads", "num_layers": 60},
    }  # fmt: skip
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 1, "sample_size": 8} | {
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
        "caption_channels": 32, "in_channels": 8, "out_channels": 8, "qk_norm": None,
    }  # fmt: skip
    width, masked, linear, embedder = "caption_channels", True, True, "time_embed.emb.timestep_embedder"
    usual = Usual(1024, 20, 4.5, 3.0)  # the pipeline's defaults; flow_shift of the published schedulers

    def flaw(self, sizes: Sizes) -> str | None:
        """Sana-Sprint, which has no velocity: it goes to the data at once."""
        if sizes.get("guidance_embeds") or sizes.get("timestep_scale", 1.0) != 1.0:
            return "is Sana-Sprint's, a consistency model with times of its own; take the Sana that was distilled"
        return None

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        mask = cond.get("mask")
        return transformer(x, cond["text"], 1000 * t, encoder_attention_mask=mask, return_dict=False)[0]

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts. Prompts follow the pipeline's own instruction, of which the first token is kept."""
        told = None if null else inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
        text, mask, *_ = pipe.encode_prompt(
            prompts, False, device=device, max_sequence_length=length, complex_human_instruction=told
        )
        return {"text": text, "mask": mask}
