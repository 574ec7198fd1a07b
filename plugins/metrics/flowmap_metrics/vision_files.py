"""Folders of vision models as transformers writes them: what there has to be, and the line that gets it. Torch-free."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG
from flowmap.weights.headers import read_json
from flowmap.weights.names import absence, find, is_hub_id
from flowmap.weights.parts import weight_files
from flowmap.weights.tokenizers import absent_tokenizer

SEES = "facebook/dinov2-large"
"""A network that only sees, for who has none."""
READS = "openai/clip-vit-large-patch14"
"""One that reads texts too: the CLIP that most published scores are of."""
NAMES = "google/vit-base-patch16-224"
"""One that names classes: those of ImageNet."""

PREPROCESSING = "preprocessor_config.json"
"""How images are resized and scaled for the network; it may be a part of `processor_config.json` instead."""


def missing(weights: str, known: str, tokenizer: bool = False) -> Iterator[str]:
    """What is not there of `weights` (a `tokenizer` too, if it is needed), and the line that gets it.

    `known` is the hub's name of one of its kind.
    """
    folder = find(weights)
    if folder is None:
        yield absence(weights) + _how_to_get(weights, known)
    elif gone := list(_absent(folder, tokenizer)):
        yield f"{folder} is not complete; missing: {', '.join(gone)}{_how_to_get(weights, known)}"


def opened(weights: str, known: str, tokenizer: bool = False) -> Path:
    """The folder of `weights`; raises FlowmapError with what is missing."""
    problems, folder = list(missing(weights, known, tokenizer)), find(weights)
    if problems or folder is None:
        raise FlowmapError("\n".join(problems), code=1)
    return folder


def architecture(folder: Path) -> str:
    """The class of transformers that the configuration in `folder` names; raises FlowmapError if it names none."""
    named = read_json(folder / CONFIG).get("architectures")
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise FlowmapError(
            f"{folder / CONFIG}: its architectures are {named!r}; one class of transformers is read", code=1
        )
    return named[0]


def _absent(folder: Path, tokenizer: bool) -> Iterator[str]:
    if not (folder / CONFIG).is_file():
        yield CONFIG
    files = weight_files(folder)
    yield from (file.name for file in files if not file.is_file())
    if not files:
        yield "model.safetensors (what else there is can run code when it is read, so none is)"
    if not any((folder / name).is_file() for name in (PREPROCESSING, "processor_config.json")):
        yield PREPROCESSING
    if tokenizer:
        yield from absent_tokenizer(folder)


def _how_to_get(weights: str, known: str) -> str:
    """The command that fetches `weights`: the end of a sentence."""
    if is_hub_id(weights):
        return f".\n  Get them, if that is a hub id: hf download {weights}"
    return f".\n  Get some: hf download {known} --local-dir {shlex.quote(weights)}"
