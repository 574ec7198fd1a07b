"""A Wan transformer in safetensors as other projects write one: found, known by its shapes, read whole or refused.

Its names are the original code's, after whatever that project puts before them (flowmap_wan.original), or diffusers'.
There is no configuration: every size but that of a head is in the shapes. Torch-free, but for `read`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.weights.headers import header
from flowmap.weights.names import find
from flowmap.weights.parts import listed_in, shapes_in
from flowmap.weights.shapes import Shapes, misfit
from flowmap_wan.image_layout import is_unused
from flowmap_wan.layout import TransformerFields, transformer_shapes
from flowmap_wan.original import of_diffusers, of_original, prefix_of
from flowmap_wan.refusals import refusal, unread

if TYPE_CHECKING:
    from torch import Tensor

HEAD_DIM = 128
"""Dimensions of a head in all released Wan networks."""

_IN_BLOCK = re.compile(r"blocks\.(\d+)\.")
_SUFFIX, _INDEX = ".safetensors", "*.safetensors.index.json"


@final
@dataclass(frozen=True)
class Foreign:
    """The `files` of one transformer, all of which lie in one folder; `index` says which tensor is in which of them.

    It begins with `pictures`, or it does not.
    """

    files: tuple[Path, ...]
    index: Path | None = None
    pictures: bool = False

    @property
    def place(self) -> Path:
        """What messages call it: the file, or the index of several."""
        return self.index or self.files[0]

    @cached_property
    def _shapes(self) -> Shapes:
        """Names, as they stand in the files, and shapes."""
        if gone := [file for file in self.files if not file.is_file()]:
            raise FlowmapError(f"{self.place} is not complete: {gone[0].name} is missing beside it; fetch it again")
        for file in self.files:
            why = unread(file) or refusal(file, header(file), self.pictures)
            if why is not None:
                raise FlowmapError(why)
        found = shapes_in(self.files, self.index)
        return {name: _as_convolution(name, shape) for name, shape in found.items() if not is_unused(name)}

    @cached_property
    def _prefix(self) -> str | None:
        """What stands before the original names; None where names are diffusers'.

        Raises FlowmapError if they are neither.
        """
        prefix = prefix_of(self._shapes)
        if prefix is None and 2 * sum(of_original(name) is not None for name in self._shapes) <= len(self._shapes):
            first = next(iter(sorted(self._shapes)), "nothing")
            raise FlowmapError(
                f"{self.place} has no Wan transformer under a name that is known (first: {first}); what is read has "
                "the original names, such as blocks.0.self_attn.q.weight, or diffusers'"
            )
        return prefix

    def _ours(self, name: str) -> str:
        """What diffusers calls the tensor that the files call `name`; one that nobody knows keeps its name."""
        if self._prefix is None:
            return name
        bare = name.removeprefix(self._prefix)
        return of_diffusers(bare) or bare

    def _theirs(self, name: str) -> str:
        """What the files call what diffusers calls `name`."""
        return name if self._prefix is None else f"{self._prefix}{of_original(name) or name}"

    def shapes(self) -> Shapes:
        """Shapes by diffusers' names; raises FlowmapError if two tensors are one parameter."""
        names = [self._ours(name) for name in self._shapes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FlowmapError(f"{self.place} has {twice[0]} twice, under the original name and under diffusers'")
        return dict(zip(names, self._shapes.values(), strict=True))

    def sizes(self, head_dim: int = HEAD_DIM) -> Mapping[str, Any]:
        """The transformer's configuration by diffusers' names; raises FlowmapError if the shapes are those of none."""
        shapes = self.shapes()

        def shape(name: str, dimensions: int) -> Sequence[int]:
            found = shapes.get(name)
            if found is None:
                raise FlowmapError(f"{self.place} is no whole Wan transformer: {self._theirs(name)} is missing")
            if len(found) != dimensions:
                raise FlowmapError(f"{self.place}: {self._theirs(name)} has the shape {list(found)}; fetch it again")
            return found

        width, channels, *patch = shape("patch_embedding.weight", 5)
        out = shape("proj_out.weight", 2)[0]
        cells = max(1, patch[0] * patch[1] * patch[2])
        found = {
            "_class_name": "WanTransformer3DModel",
            "patch_size": tuple(patch),
            "num_attention_heads": width // head_dim,
            "attention_head_dim": head_dim,
            "in_channels": channels,
            "out_channels": out // cells,
            "text_dim": shape("condition_embedder.text_embedder.linear_1.weight", 2)[1],
            "freq_dim": shape("condition_embedder.time_embedder.linear_1.weight", 2)[1],
            "ffn_dim": shape("blocks.0.ffn.net.0.proj.weight", 2)[0],
            "num_layers": 1 + max(int(found[1]) for name in shapes if (found := _IN_BLOCK.match(name))),
            "cross_attn_norm": "blocks.0.norm2.weight" in shapes,
        }
        if self.pictures:
            found["image_dim"] = shape("condition_embedder.image_embedder.norm1.weight", 1)[0]
            found["added_kv_proj_dim"] = shape("blocks.0.attn2.add_k_proj.weight", 2)[1]
        if width % head_dim or out % cells:
            why = f"{width} channels are not whole heads of {head_dim}, or its output no whole patches of {list(patch)}"
            raise FlowmapError(f"{self.place} is no Wan transformer that is known: {why}")
        try:
            return TransformerFields.model_validate(found).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{first['loc'][0]} is {str(first['input'])[:60]}"
            raise FlowmapError(f"{self.place} is no Wan transformer that is known: {what}") from None

    def flaw(self, head_dim: int = HEAD_DIM) -> str | None:
        """Why this is not a whole transformer of one time, in the files' own names; None if it is."""
        try:
            fields = TransformerFields.model_validate({"_class_name": "", **self.sizes(head_dim)})
            wanted = transformer_shapes(fields, two_times=False, far=False)
            why = misfit(self._shapes, {self._theirs(name): shape for name, shape in wanted.items()})
        except FlowmapError as error:
            return str(error)
        return None if why is None else f"{self.place} is no whole Wan transformer: {why}"

    def read(self, head_dim: int = HEAD_DIM) -> dict[str, Tensor]:
        """The weights by diffusers' names, on the CPU, as they are stored; raises FlowmapError unless all fit."""
        from flowmap.workshop.reading import read_tensors

        if (flaw := self.flaw(head_dim)) is not None:
            raise FlowmapError(flaw)
        read = read_tensors(self.files, "transformer")
        return {self._ours(name): read[name].view(shape) for name, shape in self._shapes.items()}


def _as_convolution(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """rCM's patch embedding is a linear layer of the same numbers, (channels, 1, 2, 2) in a row."""
    if name.endswith("patch_embedding.weight") and len(shape) == 2 and shape[1] % 4 == 0:
        return (shape[0], shape[1] // 4, 1, 2, 2)
    return shape


def foreign_at(place: Path, pictures: bool = False) -> Foreign | None:
    """The transformer in the file `place`, or in the folder that has one file or one index of several; None if none.

    It begins with `pictures`, or not. Raises FlowmapError for a folder with several, which does not say which.
    """
    if place.is_file():
        return Foreign((place,), None, pictures) if place.suffix == _SUFFIX else None
    indexes, files = sorted(place.glob(_INDEX)), sorted(place.glob(f"*{_SUFFIX}"))
    if len(indexes) == 1:
        return Foreign(tuple(listed_in(indexes[0])), indexes[0], pictures)
    if len(files) > 1:
        raise FlowmapError(f"{place} has {len(files)} files of weights ({files[0].name}, ...); name one of them")
    return Foreign((files[0],), None, pictures) if files else None


def transformer_in(weights: str, part: str, pictures: bool = False) -> Foreign | None:
    """The transformer `part` of `weights`: in that folder of theirs, or the one file that they are; None if not here.

    It begins with `pictures`, or not. Raises FlowmapError where it cannot be told which file that is.
    """
    folder = find(weights)
    if folder is None:
        file = Path(os.path.expanduser(weights))
        return foreign_at(file, pictures) if file.is_file() and part == "transformer" else None
    if (folder / part).is_dir():
        return foreign_at(folder / part, pictures)
    return foreign_at(folder, pictures) if part == "transformer" else None
