"""Which samples are trained on, which are held out, and which of them go together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar, final

import numpy as np

from flowmap.errors import ClipError, FlowmapError
from flowmap.phases import each
from flowmap.shards.entries import Entry
from flowmap.shards.faults import Faults

Split = Literal["train", "held_out"]
Size = tuple[int, ...]

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Sets:
    """The samples of an archive: those trained on in `groups` of one size each, and for each split all of it.

    `alike` are those of each split that are of the one size in which samples are compared.
    """

    groups: Sequence[Sequence[Entry]]
    splits: Mapping[Split, Sequence[Entry]]
    alike: Mapping[Split, Sequence[Entry]]

    @classmethod
    def of_one_size(cls, entries: Sequence[Entry], share: float) -> Sets:
        """All together; `share` of them is held out."""
        splits = split(entries, share, 1)
        return cls([splits["train"]], splits, splits)

    @classmethod
    def of_sizes(cls, sizes: Mapping[Size, Sequence[Entry]], share: float, base: Size) -> Sets:
        """In groups; of those of the size `base`, of which there are some, at least one is held out."""
        apart = {size: split(entries, share, int(size == base)) for size, entries in sorted(sizes.items())}
        names: tuple[Split, ...] = ("train", "held_out")
        whole = {name: sorted((e for found in apart.values() for e in found[name]), key=_key) for name in names}
        return cls([found["train"] for found in apart.values() if found["train"]], whole, apart[base])

    def order(self, random: np.random.Generator) -> Iterator[Sequence[Entry]]:
        """The groups trained on: one drawn by the share of samples that it has, then those behind it, in a circle."""
        ends = list(accumulate(len(group) for group in self.groups))
        first = int(np.searchsorted(ends, random.integers(ends[-1]), side="right"))
        return (self.groups[(first + step) % len(self.groups)] for step in range(len(self.groups)))


def split(entries: Sequence[Entry], share: float, least: int) -> dict[Split, list[Entry]]:
    """By a hash of the key, so that a sample stays where it is as others come; at least `least` held out, of two.

    A single sample is compared with itself: there is no other.
    """
    hashes = [int.from_bytes(hashlib.blake2b(e.key.encode(), digest_size=8).digest(), "little") for e in entries]
    order = sorted(range(len(entries)), key=lambda i: (hashes[i], i))
    number = min(max(sum(h < share * 2**64 for h in hashes), min(least, len(entries) - 1)), max(len(entries) - 1, 0))
    out = set(order[:number])
    train = [entry for i, entry in enumerate(entries) if i not in out]
    held_out = [entries[i] for i in sorted(out)]
    return {"train": train, "held_out": held_out or (train if least else [])}


def by_size(entries: Sequence[Entry], size_of: Callable[[Entry], Size], faults: Faults) -> dict[Size, list[Entry]]:
    """The samples by their size; one whose size cannot be known is a fault."""
    found: dict[Size, list[Entry]] = {}
    for entry in each(entries, "looking at the sizes of samples", "samples"):
        try:
            found.setdefault(size_of(entry), []).append(entry)
        except ClipError as error:
            faults.add(str(entry.part.path), entry.key, str(error))
    return found


def refuse_without(sizes: Mapping[Size, Sequence[Entry]], base: Size, path: str) -> None:
    """Raise FlowmapError if there is no sample of the size `base`, in which samples are made and compared."""
    if base not in sizes:
        there = ", ".join(
            f"{size[-2]} x {size[-1]} ({len(sizes[size])})" for size in sorted(sizes, key=lambda s: -len(sizes[s]))[:5]
        )
        raise FlowmapError(
            f"{path}: no sample comes to {base[-2]} x {base[-1]}, the size in which samples are made and compared; "
            f"most come to {there or 'none'}: choose one of these sizes (height x width)",
            code=1,
        )


def _key(entry: Entry) -> tuple[str, str]:
    return entry.key, str(entry.part.path)


def first(count: int, found: Iterator[T]) -> Iterator[T]:
    """At most `count` of what is found; no more is looked for."""
    for _, one in zip(range(count), found, strict=False):
        yield one
