"""What files say without their tensors: settings in JSON, headers of safetensors. Torch-free."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError

_MOST_HEADER = 100_000_000  # bytes, as safetensors itself has it
_POINTER = b"version https://git-lfs"
# By the last number in a dtype's name: bits. What is not listed is not known, and its size not checked.
_BITS = re.compile(r"(?:F|BF|I|U)(8|16|32|64)")


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


def metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; raises FlowmapError as `header` does."""
    header(file)
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        told = json.loads(opened.read(size)).get("__metadata__")
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}


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
