"""One encoded sample as bytes, with a digest, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import pad

from flowmap.errors import ClipError
from flowmap.interfaces import EncodedText, Samples
from flowmap.shards.configs import ENCODED
from flowmap.shards.digests import digest_in, digest_of, finite, with_digest
from flowmap.shards.entries import LATENT
from flowmap.shards.facts import Facts, kind

_ROWS = 2  # axes of an embedding that has a row for each token


class Loaded(NamedTuple):
    """One sample: raw in data space or a latent, `x` `[F, ...]`; its texts; its class.

    A text is a string or, encoded, all that was made of it, by name: `text` `[L, D]`, others as the facts say.
    """

    x: Tensor
    texts: list[Any]
    label: int | None = None


def unpack(content: bytes, facts: Facts) -> Loaded:
    """One sample, its texts padded. Raises ClipError if it is damaged."""
    wanted = {"text": [facts.text, "float"], **facts.others} if facts.text else {}
    try:
        tensors = load(content)
        latent = tensors.pop("latent")
        label = tensors.pop("label") if facts.classes else None
        texts = [
            {name: tensors.pop(f"{name}.{i}") for name in wanted} for i in range(len(tensors) // max(len(wanted), 1))
        ]
        if tensors:
            raise ValueError(f"it has {min(tensors)} too")
    except Exception as error:  # safetensors raises anything for files of strangers
        raise ClipError(f"its {LATENT} is damaged ({error})") from None
    floats = [x for text in texts for name, x in text.items() if wanted[name][1] == "float"]
    if not all(map(finite, (latent, *floats))):
        raise ClipError(f"its {LATENT} has numbers that are not finite, or integers")
    if list(latent.shape) not in facts.shapes():
        wants = " or ".join(map(str, facts.shapes()))
        raise ClipError(f"its latent is {list(latent.shape)}, not {wants} as {ENCODED} says")
    if (facts.text and not texts) or not all(_fits(text["text"], facts.text) for text in texts):
        shapes = [list(text["text"].shape) for text in texts]
        raise ClipError(f"its texts are {shapes}, not up to {facts.text} each")
    for text in texts:
        for name, (shape, numbers) in facts.others.items():
            if not _fits(text[name], shape) or kind(text[name]) != numbers:
                found = f"{list(text[name].shape)} of {kind(text[name])}"
                raise ClipError(f"its '{name}' is {found}, not {shape} of {numbers} as {ENCODED} says")
    number = None if label is None else _class(label, facts.classes)
    if facts.digests and digest_of(content) != digest_in(content):
        raise ClipError(f"its {LATENT} is damaged (it does not match its digest)")
    return Loaded(latent, [{name: _whole(x, wanted[name][0]) for name, x in text.items()} for text in texts], number)


def _fits(x: Tensor, shape: list[int]) -> bool:
    """Whether it has this shape, or, of rows of numbers, fewer rows."""
    if len(shape) != _ROWS or not x.is_floating_point():
        return list(x.shape) == shape
    return x.ndim == _ROWS and len(x) <= shape[0] and x.shape[1] == shape[1]


def _whole(x: Tensor, shape: list[int]) -> Tensor:
    """With the zero rows that were cut off."""
    return pad(x, (0, 0, 0, shape[0] - len(x))) if x.ndim == _ROWS and len(x) < shape[0] else x


def _class(label: Tensor, classes: int) -> int:
    if label.dtype != torch.int64 or label.numel() != 1 or not 0 <= int(label) < classes:
        raise ClipError(f"its class is {label.flatten()[:3].tolist()}, not one of 0 to {classes - 1}")
    return int(label)


def pack(sample: Samples) -> bytes:
    """One encoded sample, with all of its texts, as safetensors. Raises ClipError if a number is not finite."""
    latent = sample.x[0].detach().cpu().contiguous()
    tensors = {"latent": latent}
    if isinstance(sample.prompts, EncodedText):
        for name, rows in sample.prompts.tensors().items():
            tensors |= {f"{name}.{i}": trimmed(x.detach().cpu()).contiguous() for i, x in enumerate(rows)}
    if not all(finite(x) for x in tensors.values() if x.is_floating_point()) or not latent.is_floating_point():
        raise ClipError("its encoding is not finite")
    if sample.labels is not None:
        tensors["label"] = sample.labels[0].detach().cpu()
    return with_digest(tensors)


def trimmed(text: Tensor) -> Tensor:
    """`[L, D]` without the zero rows at its end; all else as it is."""
    if text.ndim != _ROWS or not text.is_floating_point():
        return text.clone()
    used = text.ne(0).any(dim=1).nonzero()
    return text[: int(used.max()) + 1 if len(used) else 0].clone()
