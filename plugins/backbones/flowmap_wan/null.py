"""The null condition as a file: one embedding in safetensors, such as AnyFlow's released one after conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from flowmap.errors import FlowmapError
from flowmap.recipe.hub import header

_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_EXPONENT = 0x7F80


def shape_of(path: Path) -> tuple[int, int]:
    """Tokens and dimensions of the embedding in `path`, from its header alone.

    Raises FlowmapError unless the file holds one tensor `[L, D]`, or `[1, L, D]` as text encoders give it.
    """
    with _opened(path, "np") as file:
        shape = [int(size) for size in file.get_slice(_name(path, file)).get_shape()]
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2 or 0 in shape:
        raise FlowmapError(f"{path}: its tensor is {shape}, and one embedding is [tokens, dimensions]")
    return shape[0], shape[1]


def finite(path: Path) -> bool:
    """Whether all numbers in `path` are finite in float32, known without torch; `shape_of` has taken the file."""
    (tensor,) = header(path).values()
    kind = _KINDS.get(tensor["dtype"])
    if kind is None:
        raise FlowmapError(f"{path}: its tensor is of {tensor['dtype']}; an embedding is of {', '.join(_KINDS)}")
    content = path.read_bytes()
    numbers = np.frombuffer(content, kind, offset=len(content) - tensor["data_offsets"][1])
    if tensor["dtype"] == "BF16":
        # numpy has no such numbers: those with all bits of the exponent set are not finite.
        return bool(((numbers & _EXPONENT) != _EXPONENT).all())
    with np.errstate(over="ignore"):
        return bool(np.isfinite(numbers.astype("<f4")).all())


def read(path: Path, length: int) -> Any:
    """The embedding in `path` as float32 `[length, D]`, zeros behind its last token, as prompts have them.

    Raises FlowmapError as `shape_of` does, if it is longer than `length`, or if a number is not finite.
    """
    import torch
    from torch.nn.functional import pad

    tokens, width = shape_of(path)
    if tokens > length:
        raise FlowmapError(
            f"{path}: has {tokens} tokens, more than backbone.text_length = {length}; set it to {tokens}"
        )
    with _opened(path, "pt") as file:
        embedding = file.get_tensor(_name(path, file)).to(torch.float32).reshape(tokens, width)
    if not bool(embedding.isfinite().all()):
        raise FlowmapError(f"{path}: not all of its numbers are finite")
    return pad(embedding, (0, 0, 0, length - tokens))


def _name(path: Path, file: Any) -> str:
    names = list(file.keys())
    if len(names) != 1:
        raise FlowmapError(f"{path}: holds {len(names)} tensors; the null condition is one")
    return str(names[0])


def _opened(path: Path, framework: str) -> Any:
    if path.is_dir():
        raise FlowmapError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise FlowmapError(f"there is no file {path.absolute()}; {_HOW}")
    try:
        return safe_open(path, framework)
    except (SafetensorError, OSError) as error:
        raise FlowmapError(f"{path}: cannot be read as safetensors ({error}); {_HOW}") from None


_HOW = "AnyFlow's negative_embedding .pth is turned into one as docs/video.md says"
