"""Find weights by their name, a folder or a hub id in the hub's cache, and tell them apart. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import math
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
_MOST_HEADER = 100_000_000  # bytes, as safetensors itself has it
_POINTER = b"version https://git-lfs"
# By the last number in a dtype's name: bits. What is not listed is not known, and its size not checked.
_BITS = re.compile(r"(?:F|BF|I|U)(8|16|32|64)")


def is_hub_id(weights: str) -> bool:
    """Whether `weights` can be a hub id, and no folder is called so."""
    return _HUB_ID.fullmatch(weights) is not None and not os.path.exists(weights)


def find(weights: str) -> Path | None:
    """The folder of `weights`: a folder, or a hub id that is in the hub's cache. None if it is neither."""
    # os.path, unlike Path, takes names that cannot be any for those of nothing.
    if os.path.isdir(os.path.expanduser(weights)):
        return Path(os.path.expanduser(weights))
    return _cached(weights) if is_hub_id(weights) else None


def absence(weights: str) -> str:
    """Where `weights` were looked for and not found."""
    cached = f", and no {weights} in the hub's cache {cache_folder()}" if is_hub_id(weights) else ""
    place = Path(os.path.expanduser(weights)).absolute()
    if os.path.isfile(place):
        return f"{place} is a file; weights are a folder, which has it and what belongs to it"
    return f"the weights are not on this machine: there is no folder {place}{cached}"


def cache_folder() -> Path:
    """Where the hub's cache is, without importing the hub's client."""
    cache = _variable("XDG_CACHE_HOME", os.path.join("~", ".cache"))
    home = _variable("HF_HOME", os.path.join(cache, "huggingface"))
    return Path(_variable("HF_HUB_CACHE", os.path.join(home, "hub")))


def _variable(name: str, otherwise: str) -> str:
    """An environment variable that names a folder, `~` in it resolved; an empty one counts as none."""
    return os.path.expanduser(os.environ.get(name) or otherwise)


def _cached(hub_id: str) -> Path | None:
    """The newest snapshot of `hub_id` in the cache."""
    folder = cache_folder() / f"models--{hub_id.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text("utf-8").strip()
    except (OSError, ValueError):
        return None
    # A commit, and no way out of the folder.
    known = re.fullmatch(r"\w+", commit) is not None and (folder / "snapshots" / commit).is_dir()
    return folder / "snapshots" / commit if known else None


def read_json(file: Path, most: int = 2**23) -> dict[str, Any]:
    """The table in the JSON file `file` of at most `most` bytes; raises FlowmapError, naming it, if there is none."""
    try:
        with file.open("rb") as opened:
            content = opened.read(most + 1)
        if content.startswith(_POINTER):
            raise FlowmapError(_pointer(file))
        if len(content) > most:
            raise FlowmapError(f"{file} has more than {most} bytes; fetch it again")
        read = json.loads(content)
    except FileNotFoundError:
        raise FlowmapError(f"{file} is missing") from None
    except OSError as error:
        raise FlowmapError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise FlowmapError(f"{file} is not JSON: {error}; fetch it again") from None
    if not isinstance(read, dict):
        raise FlowmapError(f"{file} is no table of settings; fetch it again")
    return read


def header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: name to dtype, shape and offsets; no tensor is read.

    Raises FlowmapError if the file is not one, is cut short, or says what cannot be.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
            if start == _POINTER:
                raise FlowmapError(_pointer(file), code=1)
            (size,) = struct.unpack("<Q", start[:8])
            if size > _MOST_HEADER:
                raise ValueError(f"a header of {size} bytes")
            opened.seek(8)
            found: dict[str, Any] = json.loads(opened.read(size))
        found.pop("__metadata__", None)
        end = 0
        for name, tensor in sorted(found.items(), key=lambda item: tuple(item[1]["data_offsets"])):
            end = _end(name, tensor, end)
        if file.stat().st_size != 8 + size + end:
            raise ValueError(f"{file.stat().st_size} bytes instead of {8 + size + end}")
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        RecursionError,
        struct.error,
    ) as error:
        raise FlowmapError(f"{file} cannot be read ({error}); it is damaged or was fetched in part", code=1) from None
    return found


def _end(name: str, tensor: Any, begin: int) -> int:
    """Where a tensor ends that should begin at `begin`; raises ValueError unless its numbers agree."""
    first, last = tensor["data_offsets"]
    shape, bits = tensor["shape"], _BITS.match(tensor["dtype"])
    if not all(type(number) is int and number >= 0 for number in (first, last, *shape)) or first != begin:
        raise ValueError(f"{name} lies at {first} to {last}, in the shape {shape}")
    if bits is not None and (last - first) * 8 != math.prod(shape) * int(bits[1]):
        raise ValueError(f"{name} has {last - first} bytes, in the shape {shape} of {tensor['dtype']}")
    return int(last)


def _pointer(file: Path) -> str:
    return f"{file} is a git-lfs pointer in the place of the file; get that: git lfs pull, or fetch it again"


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
