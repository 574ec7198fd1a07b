"""A null condition in a file: one embedding in safetensors, and what `flowmap check` says of it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from safetensors import SafetensorError, safe_open

from flowmap.errors import FlowmapError
from flowmap.schema.config import Finding
from flowmap.weights.headers import header

_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_EXPONENT = 0x7F80


@final
@dataclass(frozen=True)
class NullFile:
    """The file at `path`. `how` says, at the end of a sentence, how to come by one."""

    path: Path
    how: str

    def shape(self) -> tuple[int, int]:
        """Tokens and dimensions of the embedding, from the header alone.

        Raises FlowmapError unless the file holds one tensor `[L, D]`, or `[1, L, D]` as text encoders give it.
        """
        with self._opened("np") as file:
            shape = [int(size) for size in file.get_slice(self._name(file)).get_shape()]
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) != 2 or 0 in shape:
            raise FlowmapError(f"{self.path}: its tensor is {shape}, and one embedding is [tokens, dimensions]")
        return shape[0], shape[1]

    def finite(self) -> bool:
        """Whether all numbers are finite in float32, known without torch; `shape` has taken the file."""
        import numpy as np

        (tensor,) = header(self.path).values()
        kind = _KINDS.get(tensor["dtype"])
        if kind is None:
            told = ", ".join(_KINDS)
            raise FlowmapError(f"{self.path}: its tensor is of {tensor['dtype']}; an embedding is of {told}")
        content = self.path.read_bytes()
        numbers = np.frombuffer(content, kind, offset=len(content) - tensor["data_offsets"][1])
        if tensor["dtype"] == "BF16":
            # numpy has no such numbers: those with all bits of the exponent set are not finite.
            return bool(((numbers & _EXPONENT) != _EXPONENT).all())
        with np.errstate(over="ignore"):
            return bool(np.isfinite(numbers.astype("<f4")).all())

    def tensor(self) -> Any:
        """The embedding `[L, D]` or `[1, L, D]` as a tensor of torch, in its own precision; needs torch."""
        with self._opened("pt") as file:
            return file.get_tensor(self._name(file))

    def problem(self, text_length: int, width: int | None) -> str | None:
        """What is wrong with it beside texts of `text_length` tokens and `width` dimensions (None: not known)."""
        try:
            tokens, own = self.shape()
        except FlowmapError as error:
            return str(error)
        if width is not None and own != width:
            return f"{self.path} has {own} dimensions, and the text embeddings of these weights have {width}"
        if tokens > text_length:
            return f"{self.path} has {tokens} tokens, more than text_length = {text_length}; set that to {tokens}"
        try:
            return None if self.finite() else f"{self.path}: not all of its numbers are finite"
        except FlowmapError as error:
            return str(error)

    def _name(self, file: Any) -> str:
        names = list(file.keys())
        if len(names) != 1:
            raise FlowmapError(f"{self.path}: holds {len(names)} tensors; the null condition is one")
        return str(names[0])

    def _opened(self, framework: Literal["np", "pt"]) -> Any:
        if self.path.is_dir():
            raise FlowmapError(f"{self.path} is a folder; name the file in it")
        if not self.path.is_file():
            raise FlowmapError(f"there is no file {self.path.absolute()}; {self.how}")
        try:
            return safe_open(self.path, framework)
        except (SafetensorError, OSError) as error:
            raise FlowmapError(f"{self.path}: cannot be read as safetensors ({error}); {self.how}") from None


def null_findings(null_embedding: str | None, other_prompt: bool, random_base: bool) -> Iterable[Finding]:
    """Two null conditions, or one that nothing reads; `other_prompt`: the recipe has a negative prompt of its own."""
    if null_embedding is None:
        return
    if random_base:
        why = "has no effect: with random weights the data bring the null condition; leave this out"
        yield Finding("error", ("null_embedding",), why)
    elif other_prompt:
        why = "null_embedding takes the place of negative_prompt; leave one of them out"
        yield Finding("error", ("negative_prompt",), why)
