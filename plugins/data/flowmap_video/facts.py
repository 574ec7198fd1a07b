"""What an encoded folder says of itself, `encoder.json`, and its null condition, read with care."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from safetensors.torch import load
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Samples
from flowmap_video.configs import VideoShardsConfig
from flowmap_video.digests import digest_in, digest_of, finite
from flowmap_video.shards import LARGEST, LATENT

ENCODED = "encoded.json"
NULL = "null.safetensors"
FORMAT = 1
_MOST_NUMBERS = 2**31  # of a tensor: eight gigabytes, which no sample has
_SHOWN = 100  # characters of what was found instead
_LARGEST_FACTS = 2**20  # bytes; what is written here has some hundred

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
    if version != FORMAT:
        raise FlowmapError(f"{path}: has format {version!r}; this version of flowmap reads {FORMAT}. Encode anew")
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
    null, content = null_in(folder, facts)
    if facts.digests and digest_of(content) != digest_in(content):
        path = folder / NULL
        raise FlowmapError(f"{path}: is damaged or another's: it does not match its digest; copy it again")
    return null


def null_in(folder: Path, facts: Facts) -> tuple[Tensor, bytes]:
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
    if not finite(null):
        raise FlowmapError(f"{path}: has numbers that are not finite, or integers; copy it again, or encode anew")
    return null, content
