"""Samples of an archive as they are read and put together: raw ones by their kind, encoded ones by their facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.interfaces import EncodedText, Samples
from flowmap.schema.specs import SampleSpec
from flowmap.shards.digests import latent_shape
from flowmap.shards.entries import LATENT, Entry
from flowmap.shards.facts import Facts, size_name
from flowmap.shards.kind import Kind
from flowmap.shards.packing import Loaded, unpack
from flowmap.shards.splits import Size

_CPU = torch.device("cpu")
_LENGTH = 8  # bytes in which a file of safetensors begins with the length of its header
_MOST_HEADER = 2**22  # bytes; the texts of a thousand captions are named in a tenth of it


@final
@dataclass(frozen=True)
class Common:
    """What the encoded shards of a source have in common: their facts, and the null condition by name."""

    facts: Facts
    null: Mapping[str, Tensor]


@final
class Loader:
    """Reads samples of `spec`: of a `kind` if they are raw, encoded ones if they have something in `common`."""

    def __init__(self, kind: Kind, spec: SampleSpec, common: Common | None = None) -> None:
        self._kind, self._spec, self.common = kind, spec, common

    def size(self, entry: Entry) -> Size:
        """The size of a sample, raw or encoded, where there are several. Raises ClipError."""
        if self.common is None:
            return self._kind.size(entry)
        if not entry.has(LATENT):
            raise ClipError(f"it has no {LATENT}")
        length = int.from_bytes(entry.head(LATENT, _LENGTH), "little")
        shape = latent_shape(entry.head(LATENT, _LENGTH + min(length, _MOST_HEADER)))
        if shape is None or list(shape) not in self.common.facts.shapes():
            raise ClipError(f"its {LATENT} is damaged: it has no header that says a shape of the folder's")
        return shape

    def base(self) -> Size:
        """The size in which samples are made and compared, raw or encoded."""
        shape = self._spec.shape
        return shape if self.common is None else tuple(self.common.facts.latents.get(size_name(shape), shape))

    def load(self, entry: Entry) -> Loaded:
        """A sample in data space or a latent, with its captions as strings or encoded, and its class."""
        return self.raw(entry) if self.common is None else self._load_encoded(entry, self.common)

    def raw(self, entry: Entry) -> Loaded:
        """A raw sample, with its captions and its class."""
        entry.refuse_spoilt()
        captions = self.texts(entry)
        label = self._kind.label(entry) if self._spec.labelled else None
        self._kind.members().raw_of(entry)
        return Loaded(self._kind.load(entry), captions, label)

    def _load_encoded(self, entry: Entry, common: Common) -> Loaded:
        if not entry.has(LATENT):
            raise ClipError(f"it has no {LATENT}")
        return unpack(entry.read(LATENT), common.facts)

    def texts(self, entry: Entry) -> list[Any]:
        """The captions alone, as strings or encoded."""
        if self.common is not None:
            return self._load_encoded(entry, self.common).texts
        entry.refuse_spoilt()
        return self._kind.captions(entry) if self._spec.text else []

    def gathered(self, found: Sequence[Loaded], texts: list[Any], device: torch.device = _CPU) -> Samples:
        """Samples of these, each with one of its `texts`, if it has any."""
        x = torch.stack([one.x for one in found]).float().to(device)
        labels = torch.tensor([one.label for one in found], device=device) if self._spec.labelled else None
        prompts = self.joined(texts, device) if self._spec.text else labels
        return Samples(x, labels, prompts, encoded=self.common is not None)

    def joined(self, texts: list[Any], device: torch.device) -> Any:
        """Texts as prompts: a list of strings, or EncodedText."""
        if self.common is None:
            return texts
        null = {name: _plain(x).to(device) for name, x in self.common.null.items()}
        rows = {name: _plain(torch.stack([text[name] for text in texts])).to(device) for name in null}
        return EncodedText(rows.pop("text"), null.pop("text"), rows, null)


def _plain(x: Tensor) -> Tensor:
    """What an encoder made as networks take it: floating point in float32, all else as it is."""
    return x.float() if x.is_floating_point() else x
