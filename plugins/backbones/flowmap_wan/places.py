"""Whether weights are a file of another project or a checkpoint in diffusers' layout. Torch-free."""

from __future__ import annotations

from flowmap.weights.fields import CONFIG
from flowmap.weights.names import OF_TORCH, RANDOM, find, is_file
from flowmap.weights.pipeline import INDEX
from flowmap.weights.runs import is_run

SAFETENSORS = ".safetensors"


def is_single(weights: str) -> bool:
    """Whether `weights` are a file, here or not, or a folder with one that is no run and no pipeline of diffusers."""
    if weights == RANDOM:
        return False
    folder = find(weights)
    if folder is None:
        return is_file(weights) or weights.endswith(SAFETENSORS)
    if is_run(folder) or (folder / INDEX).is_file() or (folder / "transformer" / CONFIG).is_file():
        return False
    return any(file.suffix in (SAFETENSORS, ".gguf", *OF_TORCH) for file in folder.iterdir())
