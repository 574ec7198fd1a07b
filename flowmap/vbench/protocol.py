"""The list of prompts: read from a file of the package's form, checked by its counts, and what is asked of each.

Both lists are JSON: entries with `prompt_en`, `dimension` and, where images are given, `image_name`. That for text is
in the package, that for images in its repository alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, parse_json, read_bytes
from flowmap.vbench.dimensions import VIDEOS, Suite
from flowmap.vbench.names import clip_name, refuse_unfit

MOST_BYTES = 50_000_000
SEED_RULE = "100000 * i + j + S: entry i of the whole list and video j, both from 0, S as --seed says"
"""The leaderboard's own rule (Vchitect/VBench, issue 163) where S is 0. An entry keeps its number in every part."""

_STEP = 100_000
FLICKERING = "temporal_flickering"


@final
@dataclass(frozen=True)
class Entry:
    """One entry: its number in the whole list, its original prompt, and all that the file says of it."""

    number: int
    prompt: str
    dimensions: tuple[str, ...]
    said: Mapping[str, Any]

    @property
    def image(self) -> str | None:
        """The name of the image that its videos begin with."""
        name = self.said.get("image_name")
        return name if isinstance(name, str) else None


@final
@dataclass(frozen=True)
class Clip:
    """A video to be made or scored: its name without ending, its entry, which of the prompt's videos, and its seed."""

    name: str
    entry: Entry
    video: int
    seed: int


@final
@dataclass(frozen=True)
class Protocol:
    """The list that a file gives, or a part of it.

    `flickering` is how many videos a prompt of that dimension has; `subset` how many entries were asked for, None of
    all.
    """

    suite: Suite
    entries: tuple[Entry, ...]
    source: str
    digest: str
    flickering: int = VIDEOS
    subset: int | None = None

    def of(self, dimension: str) -> list[Entry]:
        """The entries that are looked at for a dimension."""
        return [entry for entry in self.entries if dimension in entry.dimensions]

    def names(self, dimension: str) -> list[str]:
        """The clips that the package looks at for a dimension: the first five of each prompt."""
        return [clip_name(entry.prompt, video) for entry in self.of(dimension) for video in range(VIDEOS)]

    def clips(self, base: int = 0) -> list[Clip]:
        """All clips, each once, with seeds from `base`: prompts that stand twice have those of the first entry."""
        found: dict[str, Clip] = {}
        for entry in self.entries:
            many = self.flickering if FLICKERING in entry.dimensions else VIDEOS
            for video in range(many):
                name = clip_name(entry.prompt, video)
                found.setdefault(name, Clip(name, entry, video, _STEP * entry.number + video + base))
        return list(found.values())


def read_protocol(path: Path, suite: Suite) -> Protocol:
    """The list in the file at `path`. Raises FlowmapError for any other than the whole list of `suite`."""
    entries, digest = read_entries(path)
    found = Counter(dimension for entry in entries for dimension in entry.dimensions)
    wanted = Counter({name: dimension.prompts for name, dimension in suite.dimensions.items()})
    wrong = [
        f"{name} {found[name]} instead of {wanted[name]}"
        for name in sorted(found | wanted)
        if found[name] != wanted[name]
    ]
    if len(entries) != suite.entries:
        wrong.insert(0, f"{len(entries):,} entries instead of {suite.entries:,}")
    if wrong:
        raise FlowmapError(
            f"{path} is not the list of {suite.name}: it has {', '.join(wrong[:4])}{' ...' * (len(wrong) > 4)}"
        )
    refuse_unfit(entry.prompt for entry in entries)
    return Protocol(suite, tuple(entries), path.name, digest)


def read_entries(path: Path) -> tuple[list[Entry], str]:
    """The entries of a file in the package's form, and the file's SHA-256. Raises FlowmapError for any other file."""
    try:
        content = read_bytes(path, MOST_BYTES)
        said = parse_json(content)
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}") from None
    except TextError as error:
        raise FlowmapError(f"{path} {error}") from None
    if not isinstance(said, list):
        raise FlowmapError(f"{path} is no list of prompts: a JSON list of entries is needed")
    return [_entry(path, number, each) for number, each in enumerate(said)], hashlib.sha256(content).hexdigest()


def _entry(path: Path, number: int, said: Any) -> Entry:
    prompt, dimensions = (said.get("prompt_en"), said.get("dimension")) if isinstance(said, dict) else (None, None)
    if (
        not isinstance(prompt, str)
        or not isinstance(dimensions, list)
        or not all(isinstance(d, str) for d in dimensions)
    ):
        raise FlowmapError(f"{path}: entry {number} has no 'prompt_en' (a text) and 'dimension' (a list of texts)")
    return Entry(number, prompt, tuple(dimensions), said)


def part(whole: Protocol, dimensions: Sequence[str], flickering: int = VIDEOS, subset: int | None = None) -> Protocol:
    """The entries that `dimensions` look at, or `subset` of them: a part of each kind of entry, in proportion.

    Entries are of one kind if they are for the same dimensions. Each kind has its share of `subset`, rounded so that
    the sum is right (largest remainders) and none is empty, and its entries are taken at even distances. Raises
    FlowmapError for dimensions that there are not, and for a subset that is larger than all or smaller than the kinds.
    """
    unknown = [name for name in dimensions if name not in whole.suite.dimensions]
    if unknown:
        known = ", ".join(whole.suite.dimensions)
        raise FlowmapError(f"--dimensions: {whole.suite.name} has no '{unknown[0]}'; it has {known}")
    chosen = [entry for entry in whole.entries if set(entry.dimensions) & set(dimensions)]
    if subset is not None:
        kinds: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for entry in chosen:
            kinds[entry.dimensions].append(entry)
        if not len(kinds) <= subset <= len(chosen):
            raise FlowmapError(
                f"--subset {subset}: from {len(kinds)}, one for each kind of entry, to all {len(chosen)} are possible"
            )
        counts = _shares([len(kind) for kind in kinds.values()], subset)
        taken = {
            kind[int((place + 0.5) * len(kind) / count)].number
            for kind, count in zip(kinds.values(), counts, strict=True)
            for place in range(count)
        }
        chosen = [entry for entry in chosen if entry.number in taken]
    return Protocol(whole.suite, tuple(chosen), whole.source, whole.digest, flickering, subset)


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """`total` divided in proportion to `sizes`, none of them 0."""
    exact = [total * size / sum(sizes) for size in sizes]
    counts = [max(1, int(share)) for share in exact]
    while sum(counts) != total:
        step = 1 if sum(counts) < total else -1
        free = [place for place, count in enumerate(counts) if step > 0 or count > 1]
        counts[max(free, key=lambda place: step * (exact[place] - counts[place]))] += step
    return counts
