"""Short names for what files of weights hold, to tell them apart without reading them whole. Torch-free."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.weights.headers import header

_END = 64  # bytes


def fingerprint(files: Iterable[Path]) -> str:
    """A short name for what `files` hold, wherever they lie: weights of tens of gigabytes take a second.

    Of a safetensors file it takes the header and both ends of every tensor, of any other everything. Raises
    FlowmapError for a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(files):
        digest.update(f"{file.parent.name}/{file.name}\n".encode())
        if file.suffix != ".safetensors":
            try:
                digest.update(file.read_bytes())
            except OSError as error:
                raise FlowmapError(f"{file} cannot be read: {error.strerror}", code=1) from None
            continue
        tensors = header(file)
        digest.update(json.dumps(tensors, sort_keys=True).encode())
        for name in sorted(tensors, key=lambda name: int(tensors[name]["data_offsets"][0])):
            digest.update(_ends(file, tensors[name]))
    return digest.hexdigest()


def of_tensors(files: Iterable[Path], more: str = "") -> str:
    """A short name for the tensors in safetensors `files` and for `more`, however the files divide them and are called.

    It takes the name, dtype, shape and both ends of every tensor. Raises FlowmapError for a file that cannot be read.
    """
    digest = hashlib.blake2b(more.encode(), digest_size=6)
    found = [(name, file, tensor) for file in files for name, tensor in header(file).items()]
    for name, file, tensor in sorted(found, key=lambda each: each[0]):
        digest.update(f"{name} {tensor['dtype']} {tensor['shape']}\n".encode())
        digest.update(_ends(file, tensor))
    return digest.hexdigest()


def _ends(file: Path, tensor: dict[str, Any]) -> bytes:
    """The first and the last bytes of a tensor."""
    begin, end = tensor["data_offsets"]
    with file.open("rb") as opened:
        start = 8 + struct.unpack("<Q", opened.read(8))[0]
        found = []
        for place in (begin, max(begin, end - _END)):
            opened.seek(start + place)
            found.append(opened.read(min(_END, end - place)))
    return b"".join(found)
