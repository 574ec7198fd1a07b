"""Tensors as bytes with a digest of them, and whether they are numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from safetensors.torch import save
from torch import Tensor


def with_digest(tensors: dict[str, Tensor]) -> bytes:
    """A file of safetensors that carries the digest of the rest of it."""
    # No second field beside it: safetensors writes several in any order, and a part made again is to be the same.
    return save(tensors, {"digest": digest_of(save(tensors))})


def digest_of(content: bytes) -> str:
    """Of all that is in a file of safetensors, without the digest that its metadata may have."""
    header, start = _header(content)
    header.pop("__metadata__", None)
    found = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    found.update(memoryview(content)[start:])
    return found.hexdigest()


def digest_in(content: bytes) -> str | None:
    """The digest in a file's metadata."""
    found: str | None = _header(content)[0].get("__metadata__", {}).get("digest")
    return found


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The header of a file that safetensors has read, and where its numbers begin."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start


def finite(tensor: Tensor) -> bool:
    """Whether it is what a network is given: numbers that are finite in float32 too."""
    return tensor.is_floating_point() and bool(tensor.float().isfinite().all())


def latent_shape(head: bytes) -> tuple[int, ...] | None:
    """The shape of `latent` in a file of safetensors that begins with `head`; None if that is not in there."""
    try:
        shape = tuple(int(size) for size in _header(head)[0]["latent"]["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return shape
