"""Samples from tar shards and other files, raw or encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.errors import ClipError, FlowmapError
from flowmap.files.json_lines import read_lines, rewrite_lines
from flowmap.files.turns import turn
from flowmap.interfaces import Archive, Samples
from flowmap.maths.draw import Draw
from flowmap.shards.configs import ENCODED, ShardsConfig
from flowmap.shards.encoded import ShardWriter
from flowmap.shards.entries import Entry, layout
from flowmap.shards.facts import read_facts
from flowmap.shards.faults import FAULTS, Fault, Faults
from flowmap.shards.index import index
from flowmap.shards.kind import Kind
from flowmap.shards.loading import Common, Loader
from flowmap.shards.nulls import read_null
from flowmap.shards.splits import Sets, Split, by_size, first, refuse_without

T = TypeVar("T")
Listed = Callable[[Faults], Sequence[Entry]]
"""Finds samples that are not in tars."""


@final
class ShardArchive(Archive):
    """Samples of a `kind`, drawn with replacement; encoded shards give latents and encoded captions.

    They are in the tars that `config` names, or where `listed` finds them. An unusable sample is logged, counted, and
    stands for the next usable one by key.
    """

    def __init__(self, config: ShardsConfig, kind: Kind, listed: Listed | None = None) -> None:
        self._config, self._kind, self._spec = config, kind, config.spec()
        self._faults = Faults(config.faults)
        self._loader = Loader(kind, self._spec)
        for path, why in config.passed_over():
            self._faults.add(str(path), "", why)
        if listed is None:
            self._entries: Sequence[Entry] = self._in_tars()
            self._parts = [(tar.name, tar) for tar in config.shards()]
        else:
            self._entries = listed(self._faults)
            self._parts = sorted({(entry.part.name, entry.part.path) for entry in self._entries})
        self._by_part: dict[str, list[Entry]] = {}
        for entry in self._entries:
            self._by_part.setdefault(entry.part.name, []).append(entry)

    def _in_tars(self) -> list[Entry]:
        """The samples in tars, and what encoded ones have in common."""
        config, tars = self._config, self._config.shards()
        if not tars:
            raise FlowmapError(f"data: {config.no_shards()}")
        members = self._kind.members()
        entries = index(tars, self._faults, members)
        if layout(entries, config.path, self._faults, members) == "encoded":
            folders = sorted({str(tar.parent) for tar in tars})
            if len(folders) > 1:
                raise FlowmapError(f"{config.path}: encoded shards must lie in one folder, not in {', '.join(folders)}")
            facts = read_facts(tars[0].parent, config)
            null = read_null(tars[0].parent, facts) if facts.text else {}
            self._loader = Loader(self._kind, self._spec, Common(facts, null))
        elif loose := next((tar.parent for tar in tars if (tar.parent / ENCODED).exists()), None):
            raise FlowmapError(f"{loose}: has an {ENCODED}, but raw shards; move them to a folder of their own")
        return entries

    @cached_property
    def _sets(self) -> Sets:
        """Which samples are trained on and held out; of several sizes, every sample is looked at."""
        share = self._config.held_out
        if not self._spec.sizes:
            return Sets.of_one_size(self._entries, share)
        sizes = by_size(self._entries, self._loader.size, self._faults)
        base = self._loader.base()
        refuse_without(sizes, base, self._config.path)
        return Sets.of_sizes(sizes, share, base)

    def batch(self, draw: Draw) -> Samples:
        """`draw.count` training samples, drawn with replacement: `[B, F, ...]` in data space, or latents.

        Of several sizes all that is drawn in a turn of a step has one, whoever draws it.
        """
        # One is drawn that no sample can be used of: in every process the next one takes its place.
        for group in self._sets.order(draw.shared("size")):
            found = self._drawn(group, draw, self._loader.load)
            if found:
                return self._loader.gathered(found, self._one_each([one.texts for one in found], draw), draw.device)
        raise self._none_of("train")

    def reference(self, split: Split, count: int) -> Samples:
        """The first usable samples of the split, by key, of the spec's size, each with its first caption."""
        found = list(first(count, self._usable(self._sets.alike[split], 0, self._loader.load)))
        if not found:
            raise self._none_of(split)
        return self._loader.gathered(found, [one.texts[0] for one in found if one.texts])

    def prompts(self, draw: Draw) -> Any:
        """Captions of held-out samples, drawn with replacement: a list of strings, or `EncodedText`; or any classes."""
        if self._spec.text:
            found = self._drawn(self._sets.splits["held_out"], draw, self._loader.texts)
            if not found:
                raise self._none_of("held_out")
            return self._loader.joined(self._one_each(found, draw), draw.device)
        if self._spec.classes:
            return torch.tensor(draw.below("labels", [self._spec.classes] * draw.count), device=draw.device)
        return None

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """As samples of this kind are shown."""
        return self._kind.picture(x)

    def parts(self) -> tuple[str, ...]:
        """The names of the raw parts; raises FlowmapError if they are encoded already."""
        if self._loader.common is not None:
            raise FlowmapError(f"{self._config.path}: these shards are encoded already; name the folder of raw ones")
        names = [name for name, _ in self._parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise FlowmapError(f"{self._config.path}: two tars are called {twice[0]}; give each its own name")
        return tuple(names)

    def count(self, part: str) -> int:
        """How many samples the part has."""
        return len(self._by_part.get(part, []))

    def encode(self, part: str, precompute: Callable[[Samples], Samples], folder: Path) -> Iterator[int]:
        """Write the part's samples, encoded, into `folder`; those left out go to its `faults.jsonl`."""
        if part not in self.parts():
            raise FlowmapError(f"{self._config.path}: there is no {part} here")
        self._refuse_other_state(folder)
        with ShardWriter.opened(folder / part, self._config) as writer:
            try:
                for entry in self._by_part.get(part, []):
                    self._encode_one(entry, precompute, writer)
                    yield 1
            finally:
                with turn(folder):
                    self._record(part, folder)

    def _refuse_other_state(self, folder: Path) -> None:
        """Refuse a folder that has parts of what is not here any more: their samples would be there twice."""
        if any(entry.part.of_a_state for entry in self._entries):
            parts = set(self.parts())
            if old := sorted(tar.name for tar in folder.glob("[!.]*.tar") if tar.name not in parts):
                what = f"{len(old)} tars that are not of {self._config.path} as it is now ({old[0]})"
                raise FlowmapError(f"{folder}: has {what}; remove them, or choose another folder")

    def _encode_one(self, entry: Entry, precompute: Callable[[Samples], Samples], writer: ShardWriter) -> None:
        try:
            x, captions, label = self._loader.raw(entry)
            labels = None if label is None else torch.tensor([label])
            encoded = precompute(Samples(x[None], labels, captions or labels))
            writer.add(entry.key, replace(encoded, labels=labels), self._kind.about(entry), tuple(x.shape))
        except ClipError as error:
            self._faults.add(str(entry.part.path), entry.key, str(error))

    def _record(self, part: str, folder: Path) -> None:
        """Replace what `faults.jsonl` says of this part, which may have been begun before, and of what is no part."""
        path, keys = str(dict(self._parts)[part]), {entry.key for entry in self._by_part.get(part, [])}
        tars = {str(path): name for name, path in self._parts if path.name == name}
        found: dict[str, list[Fault]] = {part: []}
        for fault in self._faults.found():
            # What is said of a tar as a whole is that part's; of a folder, or a table in it, no part's.
            name = part if fault.key else tars.get(fault.tar, Path(fault.tar).name)
            if (fault.tar == path and fault.key in keys) if fault.key else (name == part or fault.tar not in tars):
                found.setdefault(name, []).append(fault)
        before = read_lines(folder / FAULTS)
        after = [line for line in before if not isinstance(line, dict) or line.get("tar") not in found]
        after += [asdict(fault) | {"tar": name} for name, faults in found.items() for fault in faults]
        # Whoever is done first, and how many there are: the lines are the same.
        places = {name: place for place, (name, _) in enumerate(self._parts)}
        after.sort(key=lambda line: places.get(str(line.get("tar")), -1))
        if after != before:
            rewrite_lines(folder / FAULTS, after)

    def _drawn(self, entries: Sequence[Entry], draw: Draw, load: Callable[[Entry], T]) -> list[T]:
        """One of the samples for each of the draw's; none at all if none can be used."""
        found: list[T] = []
        for row in draw.below("rows", [len(entries)] * draw.count):
            one = list(first(1, self._usable(entries, row, load)))
            if not one:
                return []
            found += one
        return found

    def _usable(self, entries: Sequence[Entry], start: int, load: Callable[[Entry], T]) -> Iterator[T]:
        """What can be loaded from `start` on, around the end, each once."""
        self._faults.refuse_too_many()
        for step in range(len(entries)):
            entry = entries[(start + step) % len(entries)]
            # A clip may be damaged and its caption be fine: what is known of one says nothing of the other.
            if load == self._loader.load and self._faults.known(str(entry.part.path), entry.key):
                continue
            try:
                found = load(entry)
            except ClipError as error:
                self._faults.add(str(entry.part.path), entry.key, str(error))
                continue
            yield found

    def _none_of(self, split: Split) -> FlowmapError:
        number = len(self._sets.splits[split])
        head = f"{self._config.path}: of the {split} split ({number} in all) no sample can be used:"
        return FlowmapError(f"{head}\n{self._faults.listed()}\nRepair them, or change data.held_out.", code=1)

    def _one_each(self, captions: Sequence[list[Any]], draw: Draw) -> list[Any]:
        """For each sample the one of its captions that it is trained with."""
        if not self._spec.text:
            return []
        if self._config.caption_choice == "first":
            return [texts[0] for texts in captions]
        places = draw.below("captions", [len(texts) for texts in captions])
        return [texts[place] for texts, place in zip(captions, places, strict=True)]
