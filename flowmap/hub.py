"""Find weights by their name, a folder or a hub id in the hub's cache, and tell them apart. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError

RUN_LOCK = "recipe.lock.toml"
"""What the folder of a run of ours has, and no other."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_END = 64  # bytes


def is_hub_id(weights: str) -> bool:
    """Whether `weights` can be a hub id, and no folder is called so."""
    return _HUB_ID.fullmatch(weights) is not None and not Path(weights).exists()


def find(weights: str) -> Path | None:
    """The folder of `weights`: a folder, or a hub id that is in the hub's cache. None if it is neither."""
    if Path(weights).is_dir():
        return Path(weights)
    return _cached(weights) if is_hub_id(weights) else None


def absence(weights: str) -> str:
    """Where `weights` were looked for and not found."""
    cached = f", and no {weights} in the hub's cache {cache_folder()}" if is_hub_id(weights) else ""
    return f"the weights are not on this machine: there is no folder {Path(weights).absolute()}{cached}"


def cache_folder() -> Path:
    """Where the hub's cache is, without importing the hub's client."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("HF_HOME", cache / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of `hub_id` in the cache."""
    folder = cache_folder() / f"models--{hub_id.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if reference.is_file() and (snapshot := folder / "snapshots" / reference.read_text().strip()).is_dir():
        return snapshot
    return None


def header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: name to dtype, shape and offsets; no tensor is read.

    Raises FlowmapError if the file is not one, or is cut short.
    """
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            found: dict[str, Any] = json.loads(opened.read(size))
        found.pop("__metadata__", None)
        whole = 8 + size + max((tensor["data_offsets"][1] for tensor in found.values()), default=0)
        if file.stat().st_size != whole:
            raise ValueError(f"{file.stat().st_size} bytes instead of {whole}")
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, struct.error) as error:
        raise FlowmapError(f"{file} cannot be read ({error}); it is damaged or was fetched in part", code=1) from None
    return found


def fingerprint(files: Iterable[Path]) -> str:
    """A short name for what `files` hold, wherever they lie: weights of tens of gigabytes take a second.

    Of a safetensors file it takes the header and both ends of every tensor, of any other everything. Raises
    FlowmapError for a file that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(files):
        digest.update(f"{file.parent.name}/{file.name}\n".encode())
        if file.suffix != ".safetensors":
            digest.update(file.read_bytes())
            continue
        tensors = header(file)
        digest.update(json.dumps(tensors, sort_keys=True).encode())
        with file.open("rb") as opened:
            start = 8 + struct.unpack("<Q", opened.read(8))[0]
            for tensor in sorted(tensors.values(), key=lambda t: int(t["data_offsets"][0])):
                begin, end = tensor["data_offsets"]
                for place in (begin, max(begin, end - _END)):
                    opened.seek(start + place)
                    digest.update(opened.read(min(_END, end - place)))
    return digest.hexdigest()
