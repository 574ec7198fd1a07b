"""What configurations of shards have in common: fields, and what a path names. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flowmap.files.names import printable
from flowmap.plugin.kinds import ArchiveConfig
from flowmap.schema.bounds import Faults, SomeShare
from flowmap.schema.config import Finding
from flowmap.shards.places import is_tar, named, nothing_at, why_not

ENCODED = "encoded.json"
"""Beside encoded shards: what all of them have in common."""

SHOWN = 3
"""Of what is left out; the run names all of it."""


class ShardsConfig(ArchiveConfig):
    """Samples in tars, raw or encoded by `flowmap encode`; a subclass says what they are, and builds a ShardArchive.

    It has a field `caption` of its own where its `spec()` says `text`: the field of a sample's json.
    """

    held_out: SomeShare = Field(
        0.01, description="share of the samples kept from training, by a hash of the key; at least one"
    )
    faults: Faults = Field(100, description="unusable samples that are skipped before the run stops")
    caption_choice: Literal["random", "first"] = Field(
        "random", description="which of a list of captions a sample is trained with, where there are several"
    )

    @abstractmethod
    def made_from(self) -> dict[str, Any]:
        """The fields that decide what an encoded shard has in it, as JSON."""

    @abstractmethod
    def how_to_get(self) -> str:
        """How one comes to such data: a sentence for whoever has named a place without any, without its full stop."""

    def made_before(self) -> Mapping[str, Any]:
        """Of `made_from` the fields that older encoded shards do not name, with the values they were made with."""
        return {}

    def shards(self) -> list[Path]:
        """The tars that `path` names, sorted; unfinished ones are not among them."""
        return [path for path in named(self.path) if is_tar(path) and path.is_file()]

    def passed_over(self) -> list[tuple[Path, str]]:
        """What `path` names and is not read although it should be a tar, and why."""
        return [(path, why) for path in named(self.path) if (why := why_not(path))]

    def missing(self) -> Iterable[Finding]:
        """An error where no shard matches the path; a warning for what lies there and should be one."""
        if not self.shards():
            yield Finding("error", ("path",), self.no_shards())
            return
        for path, why in self.passed_over()[:SHOWN]:
            yield Finding("warning", ("path",), f"{printable(path.name)} is left out: {why}")

    def encoded_in(self) -> Path | None:
        """The folder with the file that says what encoded shards have in common."""
        found = (tar.parent for tar in self.shards() if (tar.parent / ENCODED).exists())
        return next(found, None)

    def no_shards(self) -> str:
        """What was looked for, where, and how to get it."""
        return f"{nothing_at(self.path)}. {self.how_to_get()}"
