"""What an encoded folder says of itself, `encoded.json`, read with care."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText, Samples
from flowmap.schema.specs import SampleSpec
from flowmap.shards.configs import ENCODED, ShardsConfig

FORMAT = 1
_MOST_NUMBERS = 2**31  # of a tensor: eight gigabytes, which no sample has
_SHOWN = 100  # characters of what was found instead
_LARGEST_FACTS = 2**20  # bytes; what is written here has some hundred
_FLOATS = "float"
_KINDS = (_FLOATS, "bool", "uint8", "int8", "int16", "int32", "int64")
_MOST_RANK = 8


@final
@dataclass(frozen=True)
class Facts:
    """What all encoded shards of a folder have in common.

    `made_from` are the recipe's fields that decide what was encoded, `latent` is `[F, C, h, w]`, and `text` has
    the padded length L and the width D. `digests` says whether each sample and the null condition carry a
    digest; those of older versions do not. Of samples of several sizes `latents` has the shape of each in place of
    `latent`, by "height x width". `others` are the shapes and kinds of what text encoders made besides `text`, by name,
    without the axis of samples: `[[77], "bool"]`; floating point of any width is "float". `classes` is the number of
    classes of which a sample has one.
    """

    made_from: dict[str, Any]
    latent: list[int] = field(default_factory=list)
    text: list[int] = field(default_factory=list)
    digests: bool = False
    latents: dict[str, list[int]] = field(default_factory=dict)
    others: dict[str, list[Any]] = field(default_factory=dict)
    classes: int = 0

    @classmethod
    def of(cls, config: ShardsConfig, sample: Samples, pixels: tuple[int, ...]) -> Facts:
        """The facts of a sample `[1, F, C, h, w]` that was just encoded, from one of so many `pixels`."""
        shape, spec = list(sample.x.shape[1:]), config.spec()
        kinds: dict[str, list[Any]] = {}
        text: list[int] = []
        if isinstance(sample.prompts, EncodedText):
            kinds = {name: [list(x.shape[1:]), kind(x)] for name, x in sorted(sample.prompts.others.items())}
            text = list(sample.prompts.text.shape[1:])
        several = bool(spec.sizes)
        return cls(
            config.made_from(),
            latent=[] if several else shape,
            text=text,
            digests=True,
            latents={size_name(pixels): shape} if several else {},
            others=kinds,
            classes=spec.classes,
        )

    def shapes(self) -> list[list[int]]:
        """Those that latents have."""
        return [self.latent] if self.latent else list(self.latents.values())

    def written(self) -> str:
        """The file's text: what there is nothing of is left out."""
        said = {name: value for name, value in asdict(self).items() if name == "digests" or value not in ([], {}, 0)}
        return json.dumps({"format": FORMAT, **said}, indent=2) + "\n"


def size_name(shape: tuple[int, ...]) -> str:
    """What the size of a sample `(..., height, width)` is called in the facts."""
    return f"{shape[-2]} x {shape[-1]}"


def kind(x: Tensor) -> str:
    """What numbers a tensor has: "float" of any width, or the name of its type."""
    return _FLOATS if x.is_floating_point() else str(x.dtype).removeprefix("torch.")


def read_facts(folder: Path, config: ShardsConfig) -> Facts:
    """The facts of the shards in `folder`; raises FlowmapError unless they are what the recipe wants."""
    path = folder / ENCODED
    facts = _read(path)
    made = {"classes": facts.classes, **config.made_before(), **facts.made_from}
    misfits = [
        f"data.{name} = {json.dumps(value)}, the shards were made with {json.dumps(made.get(name))}"
        for name, value in {**config.made_from(), "classes": config.spec().classes}.items()
        if value != made.get(name)
    ]
    if misfits:
        raise FlowmapError(
            f"{path}: these shards were encoded for another recipe. This one says " + "; it says ".join(misfits) + ". "
            "Change the recipe, or encode into another folder"
        )
    for name, sizes, number in _sizes(facts, config.spec()):
        if not _are_sizes(sizes, number):
            what = f"{number} sizes" if number is not None else "the sizes"
            raise _damaged(path, f"'{name}' is {json.dumps(sizes)[:_SHOWN]}, not {what} of a tensor")
    if wrong := next((found[1] for found in facts.others.values() if found[1] not in _KINDS), None):
        raise _damaged(path, f"{json.dumps(wrong)[:_SHOWN]} is no kind of number")
    return facts


def _read(path: Path) -> Facts:
    """What the file at `path` says, each value of its type."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_FACTS))
        version = content.pop("format")
    except FileNotFoundError:
        raise FlowmapError(
            f"{path.parent}: has encoded shards, but no {ENCODED}; copy it from where they were made"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if version != FORMAT:
        raise FlowmapError(f"{path}: has format {version!r}; this version of flowmap reads {FORMAT}. Encode anew")
    try:
        facts = Facts(**content)
    except TypeError as error:
        raise _damaged(path, str(error)) from None
    for name, table in (("made_from", facts.made_from), ("latents", facts.latents), ("others", facts.others)):
        if not isinstance(table, dict):
            raise _damaged(path, f"'{name}' is no object")
    if not isinstance(facts.digests, bool):
        raise _damaged(path, "'digests' is neither true nor false")
    if type(facts.classes) is not int or facts.classes < 0:
        raise _damaged(path, f"'classes' is {json.dumps(facts.classes)[:_SHOWN]}, and no number of classes")
    if wrong := next((found for found in facts.others.values() if not _is_pair(found)), None):
        raise _damaged(path, f"'others' has {json.dumps(wrong)[:_SHOWN]}, which is no shape with a kind of number")
    return facts


def _is_pair(found: object) -> bool:
    return isinstance(found, list) and len(found) == 2 and isinstance(found[1], str)


def _sizes(facts: Facts, spec: SampleSpec) -> list[tuple[str, object, int | None]]:
    """What has to be sizes of tensors, by name, and how many of them each has."""
    found: list[tuple[str, object, int | None]] = []
    if facts.latent or not facts.latents:
        found.append(("latent", facts.latent, len(spec.shape)))
    found += [(name, shape, len(spec.shape)) for name, shape in facts.latents.items()]
    if spec.text or facts.text:
        found.append(("text", facts.text, 2))
    return found + [(name, shape, None) for name, (shape, _) in facts.others.items()]


def _damaged(path: Path, why: str) -> FlowmapError:
    return FlowmapError(f"{path}: is damaged ({why}); copy it again, or encode anew")


def _are_sizes(value: object, number: int | None) -> bool:
    if not isinstance(value, list) or len(value) > _MOST_RANK or (number is not None and len(value) != number):
        return False
    return all(type(size) is int and size > 0 for size in value) and math.prod(value) <= _MOST_NUMBERS


def described(facts: Facts) -> Mapping[str, object]:
    """What decides whether samples go together, by what it is called."""
    return {
        "latents": facts.latent,
        "texts": facts.text,
        "further embeddings": facts.others or "none",
        "classes": facts.classes,
    }
