"""The null condition as a file: one embedding in safetensors, such as AnyFlow's released one after conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flowmap.errors import FlowmapError


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
