"""Encoded shards: what `flowmap encode` writes, and `flowmap.shards.packing` reads again.

A sample is `key.safetensors`: `latent` `[F, C, h, w]`; of captioned data `text.0`, `text.1` ... `[l_i, D]`, one per
caption, without the zero rows behind the last token, and NAME.0, NAME.1 ... of whatever else text encoders made; of
data in classes `label`. Its metadata have a digest of all the rest. `key.json` is what was said of the raw sample.
Beside the tars, `encoded.json` says what all of them have in common, and `null.safetensors` is the null condition, with
a digest of its own.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import final

from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX, make_folder, sync, writing
from flowmap.files.turns import turn
from flowmap.files.whole import write_whole
from flowmap.interfaces import EncodedText, Samples
from flowmap.shards.configs import ENCODED, ShardsConfig
from flowmap.shards.entries import ABOUT, LATENT
from flowmap.shards.facts import Facts, described, read_facts
from flowmap.shards.nulls import refuse_other_null, write_null
from flowmap.shards.packing import pack
from flowmap.shards.writing import add_file


@final
class ShardWriter:
    """Writes one encoded tar and, with the first sample of a folder, what its tars have in common."""

    def __init__(self, tar: tarfile.TarFile, path: Path, config: ShardsConfig) -> None:
        self._tar, self._path, self._config = tar, path, config
        self._agreed: set[tuple[int, ...]] = set()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, config: ShardsConfig) -> Iterator[ShardWriter]:
        """The tar `path`, which appears when everything went well, and not before."""
        _refuse_others(path.parent, config)
        part = path.with_name(SKIP_PREFIX + path.name)
        try:
            with writing(path):
                make_folder(path.parent)
                tar = tarfile.open(part, "w")  # noqa: SIM115
            try:
                yield cls(tar, path, config)
            finally:
                with writing(path):
                    tar.close()
            with writing(path):
                sync(part)
                part.replace(path)
                sync(path.parent)
        finally:
            with suppress(OSError):
                part.unlink()

    def add(self, key: str, sample: Samples, about: bytes, pixels: tuple[int, ...]) -> None:
        """Append a sample that was made from one of so many `pixels`, `(F, C, H, W)`.

        Raises ClipError if it is of no use, FlowmapError if it does not fit the folder's.
        """
        spec = self._config.spec()
        if spec.text and not isinstance(sample.prompts, EncodedText):
            raise FlowmapError(
                "the recipe's backbone has no text encoder, so there is nothing to encode ahead of training"
            )
        if not spec.text and not sample.encoded:
            raise FlowmapError("the recipe's backbone encodes nothing ahead of training: it takes the data as they are")
        content = pack(sample)
        size = pixels if spec.sizes else ()
        if size not in self._agreed:
            with turn(self._path.parent):
                _agree(self._path.parent, self._config, sample, pixels)
            self._agreed.add(size)
        with writing(self._path):
            add_file(self._tar, key + LATENT, content)
            add_file(self._tar, key + ABOUT, about)


def _refuse_others(folder: Path, config: ShardsConfig) -> None:
    """Refuse a folder with encoded shards for another recipe, or with tars that are not encoded shards."""
    if (folder / ENCODED).exists():
        read_facts(folder, config)
    elif any(
        not tar.name.startswith(SKIP_PREFIX) and _has_members(tar) for tar in folder.glob("*.tar") if tar.is_file()
    ):
        raise FlowmapError(
            f"{folder}: has tars, but no {ENCODED}, so they are not encoded shards; choose another folder"
        )


def _has_members(tar: Path) -> bool:
    """Whether there is anything in it: a part of which every sample was left out is an empty tar."""
    with tar.open("rb") as file:
        return any(file.read(tarfile.BLOCKSIZE))


def _agree(folder: Path, config: ShardsConfig, sample: Samples, pixels: tuple[int, ...]) -> None:
    """Write what the folder's shards have in common, or require that `sample` fits what is there."""
    facts = Facts.of(config, sample, pixels)
    null = sample.prompts.nulls() if isinstance(sample.prompts, EncodedText) else {}
    if not (folder / ENCODED).exists():
        if null:
            write_null(folder, null)
        # Last: whoever finds it finds the null condition too.
        write_whole(folder / ENCODED, facts.written())
        return
    there = read_facts(folder, config)
    before, now = described(there), described(facts)
    for what, old in before.items():
        if old != now[what]:
            raise FlowmapError(
                f"{folder}: its shards have {what} of {old}, this backbone makes {now[what]}; choose another folder"
            )
    if null:
        refuse_other_null(folder, there, null)
    for size, shape in facts.latents.items():
        if there.latents.get(size, shape) != shape:
            raise FlowmapError(
                f"{folder}: its shards have latents of {there.latents[size]} for pictures of {size}, this backbone "
                f"makes {shape}; choose another folder"
            )
    if facts.latents.keys() - there.latents.keys():
        write_whole(folder / ENCODED, replace(there, latents=there.latents | facts.latents).written())
