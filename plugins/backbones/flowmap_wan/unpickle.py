"""Read the tensors of a .pt file and write their bytes to the standard output: what `flowmap_wan.convert` starts.

This process gives its rights up before it opens the file, and torch's own reader of pickles takes nothing but tensors
and containers (`weights_only`). What it sends is a line of JSON, {"tensors": [[name, dtype, shape], ...]} or
{"refused": why}, and then the bytes of these tensors one after the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils.serialization.config  # torch.load imports it, and cannot without rights
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap_wan.rights import give_up_rights

# As safetensors calls them.
_WORDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL", "uint8": "U8"}
_WORDS |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}
_WORDS |= {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
_DTYPES = {getattr(torch, name): word for name, word in _WORDS.items()}
_PIECE = 2**26  # bytes
_SHOWN = 6
_ITSELF = "."


def main() -> None:
    """`python -m flowmap_wan.unpickle FILE KEY`; an empty key lets the file decide."""
    torch.set_num_threads(1)
    give_up_rights()
    out = sys.stdout.buffer
    try:
        tensors = chosen(_read(sys.argv[1]), sys.argv[2])
        told = {"tensors": [[name, _DTYPES[value.dtype], list(value.shape)] for name, value in tensors.items()]}
    except FlowmapError as error:
        tensors, told = {}, {"refused": str(error)}
    out.write(json.dumps(told).encode() + b"\n")
    for value in tensors.values():
        # A view of the file, as a rule: what is in memory is a piece.
        raw = memoryview(value.contiguous().reshape(-1).view(torch.uint8).numpy())
        for begin in range(0, len(raw), _PIECE):
            out.write(raw[begin : begin + _PIECE])
    out.flush()


def _read(file: str) -> Any:
    """What is pickled in `file`; of files as torch writes them since 1.6, tensors are views of the file."""
    try:
        # Files of before have no views: they are in memory once.
        return torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:
        # torch's other words are of its own means, such as the mapping of the file into memory.
        lines = [line.strip() for line in str(error).splitlines()]
        told = next((line for line in lines if "GLOBAL" in line or line.startswith("Unsupported")), None)
        if told is None:
            why = "it is cut short, damaged, or no file of torch.save; compare its size with the published one"
            raise FlowmapError(f"it is not read: {why}") from None
        raise FlowmapError(
            f"it is not read: it has more in it than tensors ({told[:200]}); nothing in it was run"
        ) from None


def _is_zip(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(2) == b"PK"


def chosen(read: Any, key: str) -> dict[str, Tensor]:
    """The table of tensors called `key` in what was read, or the only one; raises FlowmapError if there is none such.

    Numbers and words beside tensors (a step, a date) are left out; the table of the file itself is called '.'.
    """
    found = {name or _ITSELF: table for name, table in _tables(read, "")}
    if key not in found:
        if key or len(found) != 1:
            names = [f"{name} ({len(table)} tensors)" for name, table in found.items()]
            there = ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])]) or "none"
            what = f"there is no table of tensors called {key!r}." if key else "which table of tensors is meant?"
            raise FlowmapError(f"{what} There are: {there}" + ("; name one with --key" if found else ""))
        key = next(iter(found))
    if lost := _nameless(_within(read, key)):
        raise FlowmapError(f"{lost} tensors of it have no name: they stand in lists, or under numbers")
    for name, value in found[key].items():
        if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FlowmapError(f"{name} has fewer numbers in the file than its shape, {list(value.shape)}, says")
        if name == "__metadata__":
            raise FlowmapError(f"a tensor is called {name}, which safetensors has for something else")
        if value.dtype not in _DTYPES or value.layout != torch.strided:
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise FlowmapError(f"{name} is of {kind}, which has no form in safetensors")
    return found[key]


def _within(read: Any, key: str) -> Any:
    """The table called `key`."""
    found = read
    for part in () if key == _ITSELF else key.split("."):
        # Names have dots too: what cannot be followed part by part has been looked through by name.
        found = found[part] if isinstance(found, Mapping) and part in found else {}
    return found


def _nameless(table: Any) -> int:
    """How many tensors of a table are in lists, or under what is no text."""
    if not isinstance(table, Mapping):
        return 0
    lists = [one for value in table.values() if isinstance(value, list | tuple) for one in value]
    odd = [value for name, value in table.items() if not isinstance(name, str)]
    return sum(isinstance(one, Tensor) for one in (*lists, *odd))


def _tables(read: Any, path: str) -> list[tuple[str, dict[str, Tensor]]]:
    """All tables of tensors within tables, by their names joined with dots; outer ones first."""
    if not isinstance(read, Mapping):
        return []
    own = {name: value.detach() for name, value in read.items() if isinstance(name, str) and isinstance(value, Tensor)}
    within = [each for name, value in read.items() for each in _tables(value, f"{path}.{name}" if path else str(name))]
    return [*([(path, own)] if own else []), *within]


if __name__ == "__main__":
    main()
