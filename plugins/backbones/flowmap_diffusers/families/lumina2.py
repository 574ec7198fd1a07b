"""Lumina-Image 2.0 (arXiv 2503.21758). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.lists import Counted


@final
class Lumina2(Family):
    """A velocity towards the data, at times in [0, 1] that go there; Gemma, which is told what it is with prompts."""

    model, pipeline = "Lumina2Transformer2DModel", "Lumina2Pipeline"
    owners = {"Lumina-Image-2.0": "Alpha-VLLM"}
    parts = {"text_encoder": "Gemma2Model", "tokenizer": "GemmaTokenizerFast"}
    common = {"hidden_size": 2304, "num_layers": 26, "num_refiner_layers": 2, "num_attention_heads": 24} | {
        "num_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": None, "cap_feat_dim": 2304, "in_channels": 16,
        "patch_size": 2, "sample_size": 128, "axes_dim_rope": (32, 32, 32), "axes_lens": (300, 512, 512),
    }  # fmt: skip
    published = {"Lumina-Image-2.0": {}}
    small = {"hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2} | {
        "num_kv_heads": 1, "multiple_of": 8, "cap_feat_dim": 32, "in_channels": 16, "patch_size": 2, "sample_size": 32,
        "axes_dim_rope": (4, 4, 4), "axes_lens": (300, 64, 64),
    }  # fmt: skip
    width, masked, backwards, scale = "cap_feat_dim", True, True, 1.0
    blocks, depth = ("noise_refiner", "context_refiner", "layers"), ("num_layers",)
    embedder = "time_caption_embed.timestep_embedder"
    usual = Usual(1024, 30, 4.0, 6.0)  # the pipeline's defaults, which scale the guided velocity besides; its shift

    def longest(self, sizes: Sizes) -> int:
        """See Family.longest: the picture has the place after the text."""
        return int(sizes["axes_lens"][0]) - 1

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        text = cond["text"]
        mask = Counted(cond["mask"] if "mask" in cond else text.new_ones(text.shape[:2]).long())
        return -transformer(x, 1 - t, text, mask, return_dict=False)[0]

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts. Negative prompts are read without the system prompt: as such, of a prompt nobody needs."""
        words = list(prompts)
        asked = [""] * len(words) if null else words
        made = pipe.encode_prompt(asked, null, words if null else None, device=device, max_sequence_length=length)
        text, mask = made[2:] if null else made[:2]
        return {"text": text, "mask": mask}
