"""Text encoders, tokenizers and autoencoders of any class, complete or refused, by the libraries' readers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from flowmap.errors import FlowmapError
from flowmap.phases import phase
from flowmap.weights.pipeline import Pipeline
from flowmap.workshop.filling import finite
from flowmap.workshop.quiet import no_bars

_KINDS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def read_encoder(folder: Pipeline, part: str, kind: str) -> Any:
    """The text encoder in `part`, a class of transformers called `kind`, frozen, in float32 or as it is stored."""
    return _read(folder, part, getattr(importlib.import_module("transformers"), kind))


def read_vae(folder: Pipeline, kind: str) -> Any:
    """The autoencoder, a class of diffusers called `kind`, frozen, in float32."""
    with phase("reading the VAE"):
        return _read(folder, "vae", getattr(importlib.import_module("diffusers"), kind)).float()


def tokenizer_of(folder: Pipeline, part: str) -> Any:
    """The tokenizer in `part`; that of a processor of texts and pictures, where the folder has one: texts are all."""
    from transformers import AutoTokenizer

    place = folder.folder / part
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:
        # Its files say which class reads them, and what these raise is their own.
        first = next(iter(str(error).splitlines()), "")
        why = f"{place} cannot be read as a tokenizer ({type(error).__name__}: {first}); fetch it again"
        raise FlowmapError(f"{why}{folder.published.how_to_get(str(folder.folder))}") from None


def _read(folder: Pipeline, part: str, kind: Any) -> Any:
    place = folder.folder / part
    folder.files(part)
    try:
        with quiet():
            made, told = kind.from_pretrained(place, local_files_only=True, output_loading_info=True)
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        raise _damaged(folder, place, f"{type(error).__name__}: {first}") from None
    odd = {name: told[name] for name in _KINDS if told.get(name)}
    if odd:
        raise _damaged(folder, place, _first(odd))
    for name, value in (*made.named_parameters(), *made.named_buffers()):
        if value.is_floating_point() and not finite(value):
            raise _damaged(folder, place, f"{name} has numbers that are not finite")
    assert isinstance(made, nn.Module)
    return made.eval().requires_grad_(False)


def _first(odd: Mapping[str, Any]) -> str:
    kind, names = next(iter(odd.items()))
    listed = sorted(map(str, names))
    return f"{len(listed)} {kind.replace('_', ' ')}, first {listed[0]}"


def _damaged(folder: Pipeline, place: Path, why: str) -> FlowmapError:
    how = folder.published.how_to_get(str(folder.folder))
    return FlowmapError(f"the weights in {place} do not fit its config.json: {why}; fetch it again{how}")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own reports: what they say is raised here."""
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with no_bars():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
