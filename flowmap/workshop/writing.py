"""Write a transformer file by file, as diffusers reads it: what is in memory is one file at most."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.phases import Phase, phase
from flowmap.weights.shapes import Shapes
from flowmap.workshop.filling import finite

_STEM, _END = "diffusion_pytorch_model", ".safetensors"
_MOST_BYTES = 4_000_000_000


def write_model(
    shell: Any,
    makes: Mapping[str, Callable[[], Tensor]],
    precision: Callable[[str], torch.dtype],
    folder: Path,
    most: int = _MOST_BYTES,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write into `folder` the model `shell`, which has no weights, with those that `makes` make, each in its turn.

    `precision` is that of a weight by its name. Files have at most `most` bytes, or one tensor, and `about` in their
    metadata. Raises FlowmapError unless every parameter is there, in its shape and finite.
    """
    wanted = {key: tuple(value.shape) for key, value in shell.state_dict().items()}
    if odd := sorted(wanted.keys() ^ makes.keys()):
        raise FlowmapError(f"{len(odd)} parameters are not those of a {type(shell).__name__}, first {odd[0]}", code=1)
    shell.save_config(folder)
    write_weights(wanted, makes, precision, folder, most=most, about=about)


def write_weights(
    wanted: Shapes,
    makes: Mapping[str, Callable[[], Tensor]],
    precision: Callable[[str], torch.dtype],
    folder: Path,
    stem: str = _STEM,
    most: int = _MOST_BYTES,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write into `folder` the weights that `makes` make, of shapes `wanted`, as `stem`.safetensors or in parts of it.

    Each file has `about` in its metadata; the rest is as in `write_model`.
    """
    sizes = {key: math.prod(shape) * precision(key).itemsize for key, shape in wanted.items()}
    shards = list(_shards(sizes, most))
    places: dict[str, str] = {}
    with phase(f"writing {folder.name}", sum(sizes.values()), "bytes") as doing:
        for number, keys in enumerate(shards, start=1):
            name = f"{stem}-{number:05d}-of-{len(shards):05d}{_END}" if len(shards) > 1 else stem + _END
            _write(folder / name, {key: makes[key] for key in keys}, precision, wanted, doing, about or {})
            places |= dict.fromkeys(keys, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(sorted(places.items()))}
        (folder / f"{stem}{_END}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write(
    file: Path,
    makes: Mapping[str, Callable[[], Tensor]],
    precision: Callable[[str], torch.dtype],
    wanted: Shapes,
    doing: Phase,
    about: Mapping[str, str],
) -> None:
    """Make these weights and write them into one file."""
    tensors = {}
    for key, make in makes.items():
        value = make().to("cpu", precision(key)).contiguous()
        if tuple(value.shape) != wanted[key]:
            raise FlowmapError(f"{key} is {list(value.shape)}, and not {list(wanted[key])}", code=1)
        if not finite(value):
            raise FlowmapError(f"{key} has numbers that are not finite: nobody could use these weights", code=1)
        tensors[key] = value
        doing.advance(value.nbytes)
    with phase("waiting for the disk"):
        save_file(tensors, file, metadata={"format": "pt", **about})


def _shards(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The names divided, in their order, so that each part has at most `most` bytes."""
    part: list[str] = []
    total = 0
    for key, size in sizes.items():
        if part and total + size > most:
            yield part
            part, total = [], 0
        part.append(key)
        total += size
    yield part
