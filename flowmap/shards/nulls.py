"""The null condition of encoded shards, `null.safetensors`: one file for all tars of a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.files.folder import SKIP_PREFIX, sync, writing
from flowmap.shards.configs import ENCODED
from flowmap.shards.digests import digest_in, digest_of, finite, with_digest
from flowmap.shards.entries import LARGEST_LATENT
from flowmap.shards.facts import Facts, kind

NULL = "null.safetensors"
_TEXT = "null"  # what the null of `text` is called in the file; that of another embedding is "null.NAME"

_ALIKE = 0.02
"""How far null conditions of one encoder are from each other on different hardware, by norm: bfloat16 has 8 bits, and
differs in the last ones. Another prompt is about as far as its norm."""


def write_null(folder: Path, null: Mapping[str, Tensor]) -> None:
    """Write the null condition, `text` `[L, D]` and whatever else there is by name, with a digest."""
    named = {_name(key): x.detach().cpu().contiguous() for key, x in null.items()}
    with writing(folder / NULL):
        part = folder / (SKIP_PREFIX + NULL)
        part.write_bytes(with_digest(named))
        sync(part)
        os.replace(part, folder / NULL)


def read_null(folder: Path, facts: Facts) -> dict[str, Tensor]:
    """The null condition, as it was written. Raises FlowmapError if it is missing or damaged."""
    null, content = _null_in(folder, facts)
    if facts.digests and digest_of(content) != digest_in(content):
        path = folder / NULL
        raise FlowmapError(f"{path}: is damaged or another's: it does not match its digest; copy it again")
    return null


def refuse_other_null(folder: Path, facts: Facts, null: Mapping[str, Tensor]) -> None:
    """Raise FlowmapError if the null condition in `folder` is not `null`, which a backbone makes here."""
    # Held against what is made here, not against its digest: other hardware makes it a little otherwise.
    known, _ = _null_in(folder, facts)
    for name, here in null.items():
        there, now = known[name], here.detach().cpu()
        if not there.is_floating_point():
            far = 0.0 if torch.equal(there, now) else 1.0
        else:
            norm = there.float().norm().clamp(min=1e-30)
            far = float((there.float() - now.float()).norm() / norm)
        # Not more, and not less where a number is none.
        if not far <= _ALIKE:
            which = "" if name == "text" else f" ('{name}')"
            raise FlowmapError(
                f"{folder}: its {NULL} was made otherwise{which}: it is {far:.2g} of its norm away from this "
                f"backbone's, and {_ALIKE} is what hardware may do; choose another folder"
            )


def _name(key: str) -> str:
    return _TEXT if key == "text" else f"{_TEXT}.{key}"


def _null_in(folder: Path, facts: Facts) -> tuple[dict[str, Tensor], bytes]:
    """The null condition by name, and the file with it."""
    path = folder / NULL
    wanted = {"text": [facts.text, "float"], **facts.others}
    try:
        if path.stat().st_size > LARGEST_LATENT:
            raise FlowmapError(f"{path}: is larger than {LARGEST_LATENT} bytes, so it is no {NULL}; copy it again")
        content = path.read_bytes()
        found = load(content)
        null = {name: found[_name(name)] for name in wanted}
    except FlowmapError:
        raise
    except Exception as error:  # safetensors raises anything for files of strangers
        raise FlowmapError(f"{path}: is missing or damaged ({error}); copy it again, or encode anew") from None
    for name, (shape, numbers) in wanted.items():
        x, which = null[name], "" if name == "text" else f" of '{name}'"
        if list(x.shape) != shape:
            raise FlowmapError(f"{path}: is {list(x.shape)}{which}, but {ENCODED} says {shape}; encode anew")
        if numbers == "float" and not finite(x):
            why = f"has numbers that are not finite, or integers{which}"
            raise FlowmapError(f"{path}: {why}; copy it again, or encode anew")
        if kind(x) != numbers:
            raise FlowmapError(f"{path}: is {kind(x)}{which}, but {ENCODED} says {numbers}; encode anew")
    return null, content
