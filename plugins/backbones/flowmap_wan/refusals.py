"""Files that are no Wan text-to-video transformer as it is read here: what each is, and what would work. Torch-free.

A table of marks in names, shapes and dtypes, read from headers alone. The first that fits is said; a file that none
fits is compared with the model, key by key (flowmap_wan.foreign).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flowmap.weights.names import OF_TORCH

Header = Mapping[str, Mapping[str, Any]]
"""By the name of each tensor its dtype and shape."""

_QUANTISED = frozenset(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "I8", "U8", "I4", "U4"))
_BIG = "{}; take the file in bfloat16, float16 or float32"
_TASK = "{}; use text-to-video weights"
_PICTURES = "{}; use a text-to-video one, or backbone 'wan21_i2v' for Wan2.1's"
_TOOL = "{}; what is read is a Wan2.1 transformer, by Wan's original names or diffusers'"
_PART = "{}; name the file of the transformer, and the folder with the encoders as backbone.encoders_from"


@final
@dataclass(frozen=True)
class _Rule:
    """What a file is whose header `fits`, and in what sentence that is said."""

    what: str
    sentence: str
    fits: Callable[[Header], bool]


def _named(pattern: str) -> Callable[[Header], bool]:
    found = re.compile(pattern)
    return lambda header: any(found.search(name) for name in header)


def _typed(dtypes: frozenset[str]) -> Callable[[Header], bool]:
    return lambda header: any(tensor["dtype"] in dtypes for tensor in header.values())


def _patches(channels: int) -> Callable[[Header], bool]:
    """Whether its patches are of so many channels."""

    def fits(header: Header) -> bool:
        shapes = [t["shape"] for name, t in header.items() if name.endswith("patch_embedding.weight")]
        return any(len(shape) == 5 and shape[1] == channels for shape in shapes)

    return fits


_RULES = (
    _Rule(
        "a training state saved whole ({})",
        "{}; write one network of it, by python -m flowmap_wan.convert with --key, such as generator_ema",
        _named(r"^(?:generator|generator_ema|critic|fake_score|real_score|optimizer|optim|state)\.|\.exp_avg(?:_sq)?$"),
    ),
    _Rule("TurboDiffusion's, with SLA layers ({})", "{}; take rCM's of that size", _named(r"\.proj_l\.")),
    _Rule("quantised by bitsandbytes ({})", _BIG, _named(r"\.(?:absmax|quant_map|SCB)$|\.quant_state\.")),
    _Rule("quantised to int8 ({})", _BIG, _named(r"\.int8_weight$")),
    _Rule("quantised to fp8, with scales ({})", _BIG, _named(r"(?:^|\.)scaled_fp8$|\.(?:weight_scale|scale_weight)$")),
    _Rule("quantised ({})", _BIG, _typed(_QUANTISED)),
    _Rule("VACE's, which is given control videos ({})", _TASK, _named(r"(?:^|\.)vace_")),
    _Rule("a first-and-last-frame model ({})", _TASK, _named(r"(?:img_emb\.emb_pos|image_embedder\.pos_embed)$")),
    _Rule(
        "Wan's separate image-to-video model ({})",
        _PICTURES,
        _named(r"(?:^|\.)img_emb\.|\.k_img\.|image_embedder\.|\.add_k_proj\."),
    ),
    _Rule("an image-to-video model: its patches have 36 channels", _PICTURES, _patches(36)),
    _Rule("Wan2.2's 5B model: its patches have 48 channels, of another VAE", "{}; take Wan2.1's", _patches(48)),
    _Rule("a camera, speech or animation model of Wan ({})", _TASK, _named(r"control_adapter\.|audio_|face_adapter\.")),
    _Rule("HunyuanVideo's, or another with double_blocks ({})", _TOOL, _named(r"(?:^|\.)double_blocks\.\d+\.")),
    _Rule("LTX-Video's ({})", _TOOL, _named(r"(?:^|\.)patchify_proj\.")),
    _Rule("an image or video model with transformer_blocks ({})", _TOOL, _named(r"(?:^|\.)transformer_blocks\.\d+\.")),
    _Rule("a text encoder ({})", _PART, _named(r"^encoder\.block\.\d+\.layer\.|^blocks\.\d+\.attn\.|token_embedding")),
    _Rule("a VAE ({})", _PART, _named(r"^(?:decoder|encoder)\.(?:conv|mid|up|down|middle)")),
)

_HALF = re.compile(
    r"(?:high|low)[-_ ]?noise|transformer_2\b|(?:^|[-_.])(?:high|low)(?:[-_.]|$)|wan2\.?[2_]2.*a14b", re.I
)
_PUBLISHED = {(30, 1536): "Wan2.1's 1.3B", (40, 5120): "Wan2.1's 14B, or Wan2.2's pair", (30, 3072): "Wan2.2's 5B"}
_LORA = re.compile(r"\.lora_(A|down)(?:\.default)?\.weight$")
_ADAPTED = re.compile(r"\.lora_(?:A|B|down|up)\b|\.(?:alpha|diff|diff_b|dora_scale)$|\.lokr_|\.hada_")
_BLOCK = re.compile(r"blocks[._](\d+)[._]")


def refusal(file: Path, header: Header, pictures: bool = False) -> str | None:
    """Why the transformer in `file` is not read, as far as its name and its `header` tell; None if they say nothing.

    What begins with a picture is read where `pictures` are wanted, and nothing else is.
    """
    adapted = [name for name in header if _ADAPTED.search(name)]
    if 2 * len(adapted) > len(header):
        return f"{file} is {_lora(header)}, and no whole weights; merge it into the weights it is for, and name those"
    seen = False
    for rule in _RULES:
        if pictures and rule.sentence == _PICTURES:
            seen = seen or rule.fits(header)
        elif rule.fits(header):
            first = next((name for name in sorted(header) if rule.fits({name: header[name]})), "")
            return f"{file} is " + rule.sentence.format(rule.what.format(first))
    if pictures and not seen:
        return f"{file} makes videos from text alone; use backbone type 'wan21' or 'far_wan21' for it"
    if _HALF.search(file.name) or re.search(r"(?:high|low)_noise", file.parent.name):
        return (
            f"{file} is by its name half of a pair of networks, one for high noise and one for low; name the folder of "
            "both, as backbone 'causal_wan22', or rename a file that is whole"
        )
    return None


def _lora(header: Header) -> str:
    """What a LoRA is for: its rank, and the base's blocks and width as far as they show."""
    blocks = [int(found[1]) for name in header if (found := _BLOCK.search(name))]
    ranks = sorted({min(t["shape"]) for name, t in header.items() if _LORA.search(name) and t["shape"]})
    widths = [max(t["shape"]) for name, t in header.items() if _LORA.search(name) and re.search(r"attn\w*[._]", name)]
    rank = f" of rank {' and '.join(map(str, ranks[:3]))}" if ranks else ""
    base = f" for a network of {1 + max(blocks)} blocks" if blocks else ""
    if not (widths and base):
        return f"a LoRA{rank}{base}"
    whose = _PUBLISHED.get((1 + max(blocks), max(widths)))
    return f"a LoRA{rank}{base} and {max(widths)} channels" + (f" ({whose})" if whose else "")


def unread(file: Path) -> str | None:
    """Why a file that is there is no safetensors file, by its ending or its first bytes; None if it may be one."""
    begin = b""
    if file.is_file():
        with file.open("rb") as opened:
            begin = opened.read(8)
    if file.suffix in OF_TORCH or begin.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        whole = file.with_suffix(".safetensors") if file.suffix in OF_TORCH else file.with_name("whole.safetensors")
        return (
            f"{file} is a pickle, which can run code when it is read, so it is not; turn it into safetensors, in a "
            f"process without rights: python -m flowmap_wan.convert {file} {whole}"
        )
    if file.suffix == ".gguf" or begin.startswith(b"GGUF"):
        return f"{file} is " + _BIG.format("quantised for llama.cpp (GGUF)").replace("the file", "the .safetensors")
    return None
