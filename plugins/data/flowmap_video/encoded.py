"""Encoded shards: what `flowmap encode` writes, and how it is read again.

A sample is `key.safetensors`: `latent` `[F, C, h, w]` and `text.0`, `text.1` ... `[l_i, D]`, one per caption, without
the zero rows behind the last token; its metadata have a digest of all the rest. `key.json` is the raw sample's. Beside
the tars, `encoded.json` says what all of them have in common, and `null.safetensors` is the null condition `[L, D]`,
with a digest of its own.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import final

from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX, make_folder, sync, writing
from flowmap.files.whole import write_whole
from flowmap.interfaces import EncodedText, Samples
from flowmap_video.configs import VideoShardsConfig
from flowmap_video.digests import with_digest
from flowmap_video.facts import ENCODED, FORMAT, NULL, Facts, null_in, read_facts
from flowmap_video.packing import pack
from flowmap_video.rehearsal import add_file
from flowmap_video.shards import ABOUT, LATENT

_ALIKE = 0.02
"""How far null conditions of one encoder are from each other on different hardware, by norm: bfloat16 has 8 bits, and
differs in the last ones. Another prompt is about as far as its norm."""


@final
class ShardWriter:
    """Writes one encoded tar and, with the first sample of a folder, what its tars have in common."""

    def __init__(self, tar: tarfile.TarFile, path: Path, config: VideoShardsConfig) -> None:
        self._tar, self._path, self._config = tar, path, config
        self._agreed = False

    @classmethod
    @contextmanager
    def opened(cls, path: Path, config: VideoShardsConfig) -> Iterator[ShardWriter]:
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

    def add(self, key: str, sample: Samples, about: bytes) -> None:
        """Append a sample; raises ClipError if it is of no use, FlowmapError if it does not fit the folder's."""
        if not isinstance(sample.prompts, EncodedText):
            raise FlowmapError(
                "the recipe's backbone has no text encoder, so there is nothing to encode ahead of training"
            )
        if sample.prompts.others:
            names = ", ".join(sorted(sample.prompts.others))
            raise FlowmapError(f"encoded shards hold one embedding of a text, and this backbone makes more: {names}")
        content = pack(sample)
        if not self._agreed:
            _agree(self._path.parent, self._config, sample)
            self._agreed = True
        with writing(self._path):
            add_file(self._tar, key + LATENT, content)
            add_file(self._tar, key + ABOUT, about)


def _refuse_others(folder: Path, config: VideoShardsConfig) -> None:
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


def _agree(folder: Path, config: VideoShardsConfig, sample: Samples) -> None:
    """Write what the folder's shards have in common, or require that `sample` fits what is there."""
    facts, null = Facts.of(config, sample), sample.prompts.null.detach().cpu()
    if not (folder / ENCODED).exists():
        with writing(folder / NULL):
            part = folder / (SKIP_PREFIX + NULL)
            part.write_bytes(with_digest({"null": null.contiguous()}))
            sync(part)
            os.replace(part, folder / NULL)
        # Last: whoever finds it finds the null condition too.
        write_whole(folder / ENCODED, json.dumps({"format": FORMAT, **asdict(facts)}, indent=2) + "\n")
        return
    there = read_facts(folder, config)
    for what, old, new in (("latents", there.latent, facts.latent), ("texts", there.text, facts.text)):
        if old != new:
            raise FlowmapError(
                f"{folder}: its shards have {what} of {old}, this backbone makes {new}; choose another folder"
            )
    # Held against what is made here, not against its digest: other hardware makes it a little otherwise.
    known = null_in(folder, there)[0].float()
    far = float((known - null.float()).norm() / known.norm().clamp(min=1e-30))
    # Not more, and not less where a number is none.
    if not far <= _ALIKE:
        raise FlowmapError(
            f"{folder}: its {NULL} was made otherwise: it is {far:.2g} of its norm away from this backbone's, and "
            f"{_ALIKE} is what hardware may do; choose another folder"
        )
