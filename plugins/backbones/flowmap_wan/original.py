"""Names of Wan's parameters: those of the original code, which other tools read, and those of diffusers. Torch-free.

One table, read in both directions, so that what is written is what is read. It has every module of Wan2.1 and Wan2.2
for text and for images (the image encoder's projections, the keys and values of images, the places of two images);
what it does not know has no name in the other form. The original's norm2 and norm3 are diffusers' norm3 and norm2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_TOP: Mapping[str, str] = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
}
_TOP_TENSORS: Mapping[str, str] = {
    "head.modulation": "scale_shift_table",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
}
_BLOCK: Mapping[str, str] = {
    **{
        f"{theirs}.{a}": f"{ours}.{b}"
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for a, b in {
            "q": "to_q",
            "k": "to_k",
            "v": "to_v",
            "o": "to_out.0",
            "norm_q": "norm_q",
            "norm_k": "norm_k",
        }.items()
    },
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm1": "norm1",
    "norm2": "norm3",
    "norm3": "norm2",
}
_BLOCK_TENSORS: Mapping[str, str] = {"modulation": "scale_shift_table"}

_IN_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")
_OF_MODULE = re.compile(r"(.+)(\.(?:weight|bias))")
PREFIXES = ("", "model.diffusion_model.", "model.", "net.", "diffusion_model.", "module.")
"""What files put before all names: nothing, or ComfyUI's, Self-Forcing's, rCM's, that of LoRA, and PyTorch's DDP's."""


def of_diffusers(name: str) -> str | None:
    """What diffusers calls the parameter that the original code calls `name`; None if it has no such parameter."""
    return _renamed(name, _TOP, _TOP_TENSORS, _BLOCK, _BLOCK_TENSORS)


def of_original(name: str) -> str | None:
    """What the original code calls the parameter that diffusers calls `name`; None if it has no such parameter."""
    return _renamed(name, *(_turned(table) for table in (_TOP, _TOP_TENSORS, _BLOCK, _BLOCK_TENSORS)))


def prefix_of(names: Iterable[str]) -> str | None:
    """What stands before all `names` of a file under the original names; None if they are not such names.

    Names that the table does not know are left to whoever compares them with a model: here most have to be known.
    """
    given = list(names)
    known = {
        prefix: sum(name.startswith(prefix) and of_diffusers(name.removeprefix(prefix)) is not None for name in given)
        for prefix in PREFIXES
    }
    best = max(PREFIXES, key=lambda prefix: known[prefix])
    return best if 2 * known[best] > len(given) else None


def _renamed(
    name: str,
    top: Mapping[str, str],
    top_tensors: Mapping[str, str],
    block: Mapping[str, str],
    block_tensors: Mapping[str, str],
) -> str | None:
    within = _IN_BLOCK.fullmatch(name)
    begin, rest = (within[1], within[2]) if within else ("", name)
    tensors, modules = (block_tensors, block) if within else (top_tensors, top)
    if rest in tensors:
        return begin + tensors[rest]
    parts = _OF_MODULE.fullmatch(rest)
    if parts is None or parts[1] not in modules:
        return None
    return begin + modules[parts[1]] + parts[2]


def _turned(table: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in table.items()}
