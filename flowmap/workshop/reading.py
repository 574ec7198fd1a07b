"""Read weights from safetensors files: every tensor, all of its numbers finite, or one sentence about a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.workshop.filling import finite


def read_tensors(files: Iterable[Path], what: str, how_to_get: str = "") -> dict[str, Tensor]:
    """All tensors in `files`, on the CPU. `what` is what they are, `how_to_get` the end of a sentence about a bad one.

    Raises FlowmapError for a file that cannot be read, and for a number that is not finite.
    """
    found: dict[str, Tensor] = {}
    sizes = {file: file.stat().st_size for file in files}
    with phase(f"reading {what}", sum(sizes.values()), "bytes") as reading:
        for file, size in sizes.items():
            try:
                read = load_file(file)
            except (SafetensorError, OSError) as error:
                why = f"{file} cannot be read: {error}; it is damaged or was fetched in part"
                raise FlowmapError(f"{why}{how_to_get}") from None
            for name, value in read.items():
                if not finite(value):
                    why = f"{file}: {name} has numbers that are not finite; the file is damaged"
                    raise FlowmapError(f"{why}{how_to_get}")
            found |= read
            reading.advance(size)
    return found
