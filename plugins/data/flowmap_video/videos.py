"""Videos from tar shards, raw or encoded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.errors import ClipError, FlowmapError
from flowmap.files.json_lines import read_lines, rewrite_lines
from flowmap.interfaces import Archive, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.video import clip_as, strips, to_float
from flowmap_video.captions import read_captions
from flowmap_video.configs import VideoShardsConfig
from flowmap_video.encoded import ShardWriter
from flowmap_video.facts import ENCODED, Facts, read_facts, read_null
from flowmap_video.faults import FAULTS, Faults
from flowmap_video.packing import unpack
from flowmap_video.shards import ABOUT, LATENT, VIDEO, Entry, index, layout

_CPU = torch.device("cpu")

T = TypeVar("T")
Text = TypeVar("Text", str, Tensor)
Split = Literal["train", "held_out"]


@final
@dataclass(frozen=True)
class _Common:
    """What the encoded shards of the source have in common."""

    facts: Facts
    null: Tensor


@final
class VideoShards(Archive):
    """Clips with captions, drawn with replacement; encoded shards give latents and encoded captions.

    An unusable sample is logged, counted, and stands for the next usable one by key.
    """

    def __init__(self, config: VideoShardsConfig) -> None:
        tars = config.shards()
        if not tars:
            raise FlowmapError(f"data: {config.no_shards()}")
        self._config = config
        self._faults = Faults(config.faults)
        for path, why in config.passed_over():
            self._faults.add(str(path), "", why)
        entries = index(tars, self._faults)
        self._common: _Common | None = None
        if layout(entries, config.path, self._faults) == "encoded":
            folders = sorted({str(tar.parent) for tar in tars})
            if len(folders) > 1:
                listed = ", ".join(folders)
                raise FlowmapError(f"{config.path}: encoded shards must lie in one folder, not in {listed}")
            facts = read_facts(tars[0].parent, config)
            self._common = _Common(facts, read_null(tars[0].parent, facts))
        elif loose := next((tar.parent for tar in tars if (tar.parent / ENCODED).exists()), None):
            raise FlowmapError(f"{loose}: has an {ENCODED}, but raw shards; move them to a folder of their own")
        self._splits = _split(entries, config.held_out)
        self._by_tar: dict[str, list[Entry]] = {}
        for entry in entries:
            self._by_tar.setdefault(entry.tar.name, []).append(entry)

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` training samples, drawn with replacement: clips `[B, T, 3, H, W]`, or latents."""
        return self._samples(self._drawn("train", draw, self._load), draw)

    def reference(self, split: Split, count: int) -> Samples:
        """The first usable samples of the split, by key, each with its first caption."""
        found = list(_first(count, self._usable(self._splits[split], 0, self._load)))
        return self._gathered([x for x, _ in found], [texts[0] for _, texts in found])

    def prompts(self, draw: Draw) -> Any:
        """Captions of held-out samples, drawn with replacement: a list of strings, or `EncodedText`."""
        found = self._drawn("held_out", draw, self._texts)
        return self._joined(self._one_each(found, draw), draw.device)

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """At most eight videos as rows, each of at most eight evenly spaced frames."""
        return strips(x)

    def parts(self) -> tuple[str, ...]:
        """The names of the raw tars; raises FlowmapError if they are encoded already."""
        if self._common is not None:
            raise FlowmapError(f"{self._config.path}: these shards are encoded already; name the folder of raw ones")
        names = [tar.name for tar in self._config.shards()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FlowmapError(f"{self._config.path}: two tars are called {twice[0]}; give each its own name")
        return tuple(names)

    def count(self, part: str) -> int:
        """How many samples the tar has."""
        return len(self._by_tar.get(part, []))

    def encode(self, part: str, precompute: Callable[[Samples], Samples], folder: Path) -> Iterator[int]:
        """Write the tar's samples, encoded, into `folder`; those left out go to its `faults.jsonl`."""
        if part not in self.parts():
            raise FlowmapError(f"{self._config.path}: there is no {part} here")
        tar = next(tar for tar in self._config.shards() if tar.name == part)
        with ShardWriter.opened(folder / part, self._config) as writer:
            try:
                for entry in self._by_tar.get(part, []):
                    self._encode_one(entry, precompute, writer)
                    yield 1
            finally:
                self._record(tar, folder)

    def _encode_one(self, entry: Entry, precompute: Callable[[Samples], Samples], writer: ShardWriter) -> None:
        try:
            x, captions = self._load_raw(entry)
            writer.add(entry.key, precompute(Samples(x[None], prompts=captions)), entry.read(ABOUT))
        except ClipError as error:
            self._faults.add(str(entry.tar), entry.key, str(error))

    def _record(self, tar: Path, folder: Path) -> None:
        """Replace what `faults.jsonl` says of this tar, which may have been begun before, and of no tars."""
        before = read_lines(folder / FAULTS)
        files = [tar, *(path for path, _ in self._config.passed_over())]
        names = {path.name for path in files}
        after = [line for line in before if not isinstance(line, dict) or line.get("tar") not in names]
        after += [asdict(fault) | {"tar": path.name} for path in files for fault in self._faults.of(str(path))]
        if after != before:
            rewrite_lines(folder / FAULTS, after)

    def _drawn(self, split: Split, draw: Draw, load: Callable[[Entry], T]) -> list[T]:
        """One sample of the split for each of the draw's."""
        entries = self._splits[split]
        rows = draw.below("rows", [len(entries)] * draw.count)
        return [next(self._usable(entries, row, load)) for row in rows]

    def _usable(self, entries: Sequence[Entry], start: int, load: Callable[[Entry], T]) -> Iterator[T]:
        """What can be loaded from `start` on, around the end, each once; raises FlowmapError where nothing can."""
        self._faults.refuse_too_many()
        none = True
        for step in range(len(entries)):
            entry = entries[(start + step) % len(entries)]
            # A clip may be damaged and its caption be fine: what is known of one says nothing of the other.
            if load == self._load and self._faults.known(str(entry.tar), entry.key):
                continue
            try:
                found = load(entry)
            except ClipError as error:
                self._faults.add(str(entry.tar), entry.key, str(error))
                continue
            none = False
            yield found
        if none:
            which = next(name for name, split in self._splits.items() if split is entries)
            head = f"{self._config.path}: of the {which} split ({len(entries)} in all) no sample can be used:"
            raise FlowmapError(f"{head}\n{self._faults.listed()}\nRepair them, or change data.held_out.", code=1)

    def _load(self, entry: Entry) -> tuple[Tensor, list[Any]]:
        """A clip in [-1, 1] or a latent, with its captions as strings or encoded."""
        return self._load_raw(entry) if self._common is None else self._load_encoded(entry, self._common)

    def _load_raw(self, entry: Entry) -> tuple[Tensor, list[Any]]:
        captions = self._texts(entry)
        if not entry.has(VIDEO):
            raise ClipError(f"it has no {VIDEO}")
        clip = clip_as(io.BytesIO(entry.read(VIDEO)), self._config.frames, self._config.spec())
        return to_float(clip), captions

    def _load_encoded(self, entry: Entry, common: _Common) -> tuple[Tensor, list[Any]]:
        if not entry.has(LATENT):
            raise ClipError(f"it has no {LATENT}")
        return unpack(entry.read(LATENT), common.facts)

    def _texts(self, entry: Entry) -> list[Any]:
        """The captions alone, as strings or encoded."""
        if self._common is not None:
            return self._load_encoded(entry, self._common)[1]
        if not entry.has(ABOUT):
            raise ClipError(f"it has no {ABOUT}, where its caption would be")
        return read_captions(entry.read(ABOUT), self._config.caption)

    def _samples(self, found: Sequence[tuple[Tensor, list[Any]]], draw: Draw) -> Samples:
        texts = self._one_each([texts for _, texts in found], draw)
        return self._gathered([x for x, _ in found], texts, draw.device)

    def _one_each(self, captions: Sequence[list[Any]], draw: Draw) -> list[Any]:
        """For each sample the one of its captions that it is trained with."""
        if self._config.caption_choice == "first":
            return [texts[0] for texts in captions]
        places = draw.below("captions", [len(texts) for texts in captions])
        return [texts[place] for texts, place in zip(captions, places, strict=True)]

    def _gathered(self, x: list[Tensor], texts: list[Any], device: torch.device = _CPU) -> Samples:
        together = torch.stack(x).float().to(device)
        return Samples(together, prompts=self._joined(texts, device), encoded=self._common is not None)

    def _joined(self, texts: list[Any], device: torch.device) -> Any:
        if self._common is None:
            return texts
        return EncodedText(torch.stack(texts).float().to(device), self._common.null.float().to(device))


def _split(entries: Sequence[Entry], share: float) -> dict[Split, list[Entry]]:
    """By a hash of the key, so that a sample stays where it is as others come; at least one in each, of two or more."""
    hashes = [int.from_bytes(hashlib.blake2b(e.key.encode(), digest_size=8).digest(), "little") for e in entries]
    order = sorted(range(len(entries)), key=lambda i: (hashes[i], i))
    least = min(1, len(entries) - 1)
    number = min(max(sum(h < share * 2**64 for h in hashes), least), max(len(entries) - 1, 0))
    out = set(order[:number])
    train = [entry for i, entry in enumerate(entries) if i not in out]
    # A single sample is compared with itself: there is no other.
    return {"train": train, "held_out": [entries[i] for i in sorted(out)] or train}


def _first(count: int, found: Iterator[T]) -> Iterator[T]:
    for _, each in zip(range(count), found, strict=False):
        yield each
