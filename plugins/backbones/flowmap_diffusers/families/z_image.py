"""Z-Image (arXiv 2511.22699). Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from flowmap_diffusers.family import Family, Sizes, Usual
from flowmap_diffusers.lists import lengths, stacked


@final
class ZImage(Family):
    """A velocity towards the data, at times that go there; pictures and the tokens of Qwen3 in lists."""

    model, pipeline = "ZImageTransformer2DModel", "ZImagePipeline"
    owners = {"Z-Image": "Tongyi-MAI"}  # not its Turbo, which is distilled: no velocity
    parts = {"text_encoder": "Qwen3Model", "tokenizer": "Qwen2Tokenizer"}
    common = {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 3840, "n_layers": 30} | {
        "n_refiner_layers": 2, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560,
        "axes_dims": (32, 48, 48), "axes_lens": (1536, 512, 512),
    }  # fmt: skip
    published = {"Z-Image": {}}
    small = {"all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 16, "n_layers": 2} | {
        "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32,
        "axes_dims": (4, 2, 2), "axes_lens": (1024, 64, 64),
    }  # fmt: skip
    width, masked, backwards = "cap_feat_dim", True, True
    blocks, depth, embedder = ("noise_refiner", "context_refiner", "layers"), ("n_layers",), "t_embedder"
    unguided = "guidance_scale=0.0"
    # The pipeline's defaults, whose guidance of 5 is added to the condition's velocity; the scheduler's shift.
    usual = Usual(1024, 50, 6.0, 6.0)

    def patch(self, sizes: Sizes) -> int:
        """See Family.patch."""
        return int(sizes["all_patch_size"][0])

    def longest(self, sizes: Sizes) -> int:
        """See Family.longest: texts are filled up to 32s, and a place before and one after them are taken."""
        return (int(sizes["axes_lens"][0]) - 2) // 32 * 32

    def flaw(self, sizes: Sizes) -> str | None:
        """Those that take pictures beside the text, and tokens of other sizes."""
        if sizes.get("siglip_feat_dim") is not None:
            return "takes pictures besides texts (Z-Image-Omni), which no data here bring"
        return None if sizes.get("all_patch_size", (2,)) == (2,) else "has patches of other sides than 2"

    def velocity(self, transformer: Any, x: Any, t: Any, cond: Mapping[str, Any], guidance: float) -> Any:
        """See Family.velocity."""
        text, mask = cond["text"], cond.get("mask")
        counts = [text.shape[1]] * len(text) if mask is None else lengths(mask)
        captions = [one[:count] for one, count in zip(text.unbind(), counts, strict=True)]
        made = transformer(list(x[:, :, None].unbind()), 1 - t, captions, return_dict=False)[0]
        return -stacked(made)[:, :, 0]

    def texts(self, pipe: Any, prompts: Sequence[str], length: int, device: Any, null: bool) -> Mapping[str, Any]:
        """See Family.texts."""
        text, _ = pipe.encode_prompt(list(prompts), device, False, max_sequence_length=length)
        return {"text": text, "mask": None}
