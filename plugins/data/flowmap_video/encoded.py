"""Encoded shards: what `flowmap encode` writes, and how it is read again.

A sample is `key.safetensors`: `latent` `[F, C, h, w]` and `text.0`, `text.1` ... `[l_i, D]`, one per caption, without
the zero rows behind the last token; its metadata have a digest of all the rest. `key.json` is the raw sample's. Beside
the tars, `encoded.json` says what all of them have in common, and `null.safetensors` is the null condition `[L, D]`,
with a digest of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import ClipError, FlowmapError
from flowmap.files.folder import SKIP_PREFIX, make_folder, sync, write_whole, writing
from flowmap.interfaces import EncodedText, Samples
from flowmap_video import VideoShardsConfig
from flowmap_video.rehearsal import add_file
from flowmap_video.shards import ABOUT, LARGEST, LATENT

ENCODED = "encoded.json"
NULL = "null.safetensors"
_FORMAT = 1
_LARGEST_FACTS = 2**20  # bytes; what is written here has some hundred
_MOST_NUMBERS = 2**31  # of a tensor: eight gigabytes, which no sample has
_SHOWN = 100  # characters of what was found instead
_ALIKE = 0.02
"""How far null conditions of one encoder are from each other on different hardware, by norm: bfloat16 has 8 bits, and
differs in the last ones. Another prompt is about as far as its norm."""
_LATER = ("fit", "frame_choice")  # older folders do not name them, and were made with their defaults


@final
@dataclass(frozen=True)
class Facts:
    """What all encoded shards of a folder have in common.

    `made_from` are the recipe's fields that decide what was encoded, `latent` is `[F, C, h, w]`, and `text` has
    the padded length L and the width D. `digests` says whether each sample and the null condition carry a
    digest; those of older versions do not.
    """

    made_from: dict[str, Any]
    latent: list[int]
    text: list[int]
    digests: bool = False

    @classmethod
    def of(cls, config: VideoShardsConfig, sample: Samples) -> Facts:
        """The facts of a sample `[1, F, C, h, w]` that was just encoded."""
        return cls(made_from(config), list(sample.x.shape[1:]), list(sample.prompts.text.shape[1:]), digests=True)


def made_from(config: VideoShardsConfig) -> dict[str, Any]:
    """The fields that decide what an encoded shard has in it."""
    return config.model_dump(include={"frames", "height", "width", "fit", "fps", "frame_choice", "caption"})


def read_facts(folder: Path, config: VideoShardsConfig) -> Facts:
    """The facts of the shards in `folder`; raises FlowmapError unless they are what the recipe wants."""
    path = folder / ENCODED
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_FACTS))
        version = content.pop("format")
    except FileNotFoundError:
        raise FlowmapError(
            f"{folder}: has encoded shards, but no {ENCODED}; copy it from where they were made"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if version != _FORMAT:
        raise FlowmapError(f"{path}: has format {version!r}; this version of flowmap reads {_FORMAT}. Encode anew")
    try:
        facts = Facts(**content)
    except TypeError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(facts.made_from, dict):
        raise _damaged(path, "'made_from' is no object")
    if not isinstance(facts.digests, bool):
        raise _damaged(path, "'digests' is neither true nor false")
    for name, sizes, number in (("latent", facts.latent, 4), ("text", facts.text, 2)):
        if not _are_sizes(sizes, number):
            raise _damaged(path, f"'{name}' is {json.dumps(sizes)[:_SHOWN]}, not {number} sizes of a tensor")
    made = {name: VideoShardsConfig.model_fields[name].default for name in _LATER} | facts.made_from
    wrong = [
        f"data.{name} = {json.dumps(value)}, the shards were made with {json.dumps(made.get(name))}"
        for name, value in made_from(config).items()
        if value != made.get(name)
    ]
    if wrong:
        raise FlowmapError(
            f"{path}: these shards were encoded for another recipe. This one says " + "; it says ".join(wrong) + ". "
            "Change the recipe, or encode into another folder"
        )
    return facts


def _damaged(path: Path, why: str) -> FlowmapError:
    return FlowmapError(f"{path}: is damaged ({why}); copy it again, or encode anew")


def _are_sizes(value: object, number: int) -> bool:
    if not isinstance(value, list) or len(value) != number:
        return False
    return all(type(size) is int and size > 0 for size in value) and math.prod(value) <= _MOST_NUMBERS


def read_null(folder: Path, facts: Facts) -> Tensor:
    """The null condition `[L, D]`, as it was written. Raises FlowmapError if it is missing or damaged."""
    null, content = _null_in(folder, facts)
    if facts.digests and _digest(content) != _digest_in(content):
        path = folder / NULL
        raise FlowmapError(f"{path}: is damaged or another's: it does not match its digest; copy it again")
    return null


def _null_in(folder: Path, facts: Facts) -> tuple[Tensor, bytes]:
    """The null condition `[L, D]`, and the file with it."""
    path = folder / NULL
    try:
        if path.stat().st_size > LARGEST[LATENT]:
            raise FlowmapError(f"{path}: is larger than {LARGEST[LATENT]} bytes, so it is no {NULL}; copy it again")
        content = path.read_bytes()
        null = load(content)["null"]
    except FlowmapError:
        raise
    except Exception as error:  # safetensors raises anything for files of strangers
        raise FlowmapError(f"{path}: is missing or damaged ({error}); copy it again, or encode anew") from None
    if list(null.shape) != facts.text:
        raise FlowmapError(f"{path}: is {list(null.shape)}, but {ENCODED} says {facts.text}; encode anew")
    if not _finite(null):
        raise FlowmapError(f"{path}: has numbers that are not finite, or integers; copy it again, or encode anew")
    return null, content


def _finite(tensor: Tensor) -> bool:
    """Whether it is what a network is given: numbers that are finite in float32 too."""
    return tensor.is_floating_point() and bool(tensor.float().isfinite().all())


def unpack(content: bytes, facts: Facts) -> tuple[Tensor, list[Tensor]]:
    """The latent and the texts, padded to `[L, D]`, of one sample. Raises ClipError if it is damaged."""
    try:
        tensors = load(content)
        latent = tensors.pop("latent")
        texts = [tensors[f"text.{i}"] for i in range(len(tensors))]
    except Exception as error:  # safetensors raises anything for files of strangers
        raise ClipError(f"its {LATENT} is damaged ({error})") from None
    length, width = facts.text
    if not all(map(_finite, (latent, *texts))):
        raise ClipError(f"its {LATENT} has numbers that are not finite, or integers")
    if list(latent.shape) != facts.latent:
        raise ClipError(f"its latent is {list(latent.shape)}, not {facts.latent} as {ENCODED} says")
    if not texts or any(text.ndim != 2 or len(text) > length or text.shape[1] != width for text in texts):
        raise ClipError(f"its texts are {[list(text.shape) for text in texts]}, not up to {facts.text} each")
    if facts.digests and _digest(content) != _digest_in(content):
        raise ClipError(f"its {LATENT} is damaged (it does not match its digest)")
    return latent, [pad(text, (0, 0, 0, length - len(text))) for text in texts]


def pack(sample: Samples) -> bytes:
    """One encoded sample, with all of its texts, as safetensors. Raises ClipError if a number is not finite."""
    encoded: EncodedText = sample.prompts
    latent = sample.x[0].detach().cpu().contiguous()
    texts = [trimmed(text.detach().cpu()) for text in encoded.text]
    if not all(map(_finite, (latent, *texts))):
        raise ClipError("its encoding is not finite")
    tensors = {"latent": latent} | {f"text.{i}": text for i, text in enumerate(texts)}
    return _with_digest(tensors)


def _with_digest(tensors: dict[str, Tensor]) -> bytes:
    """A file of safetensors that carries the digest of the rest of it."""
    # No second field beside it: safetensors writes several in any order, and a part made again is to be the same.
    return save(tensors, {"digest": _digest(save(tensors))})


def _digest(content: bytes) -> str:
    """Of all that is in a file of safetensors, without the digest that its metadata may have."""
    header, start = _header(content)
    header.pop("__metadata__", None)
    found = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    found.update(memoryview(content)[start:])
    return found.hexdigest()


def _digest_in(content: bytes) -> str | None:
    """The digest in a file's metadata."""
    found: str | None = _header(content)[0].get("__metadata__", {}).get("digest")
    return found


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The header of a file that safetensors has read, and where its numbers begin."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start


def trimmed(text: Tensor) -> Tensor:
    """`[L, D]` without the zero rows at its end."""
    used = text.ne(0).any(dim=1).nonzero()
    return text[: int(used.max()) + 1 if len(used) else 0].clone()


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
            part.write_bytes(_with_digest({"null": null.contiguous()}))
            sync(part)
            os.replace(part, folder / NULL)
        # Last: whoever finds it finds the null condition too.
        write_whole(folder / ENCODED, json.dumps({"format": _FORMAT, **asdict(facts)}, indent=2) + "\n")
        return
    there = read_facts(folder, config)
    for what, old, new in (("latents", there.latent, facts.latent), ("texts", there.text, facts.text)):
        if old != new:
            raise FlowmapError(
                f"{folder}: its shards have {what} of {old}, this backbone makes {new}; choose another folder"
            )
    # Held against what is made here, not against its digest: other hardware makes it a little otherwise.
    known = _null_in(folder, there)[0].float()
    far = float((known - null.float()).norm() / known.norm().clamp(min=1e-30))
    # Not more, and not less where a number is none.
    if not far <= _ALIKE:
        raise FlowmapError(
            f"{folder}: its {NULL} was made otherwise: it is {far:.2g} of its norm away from this backbone's, and "
            f"{_ALIKE} is what hardware may do; choose another folder"
        )
