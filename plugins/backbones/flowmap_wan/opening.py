"""Find a Wan checkpoint by its name, and say which kind it is. Torch-free."""

from __future__ import annotations

from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG
from flowmap.weights.names import find
from flowmap.weights.pipeline import INDEX, class_named, opened
from flowmap.weights.runs import is_run
from flowmap_wan.checkpoint import (
    FIRST_RELEASE,
    KINDS,
    PIPELINES,
    PUBLISHED,
    PUBLISHED_IMAGE,
    Checkpoint,
    Kind,
    published,
)
from flowmap_wan.released import release_of


def claimed(weights: str) -> Kind | None:
    """What kind of Wan checkpoint `weights` are, by what is there of them or else by their name; None if of none.

    Of those published as other projects' causal students too: `released.release_of` knows them.
    """
    folder = find(weights)
    if release_of(weights) is not None or (folder is not None and is_run(folder)):
        return None
    if folder is not None:
        # If it is damaged, that is Wan's to say if anything else says that it is Wan.
        name = class_named(folder / "transformer" / CONFIG)
        if name is not None:
            return Checkpoint(folder).kind if name in (*KINDS, FIRST_RELEASE) else None
        if (folder / INDEX).is_file():
            return PIPELINES.get(class_named(folder / INDEX) or "")
    name = Path(weights).name
    if name in PUBLISHED_IMAGE.owners:
        return "i2v"
    if name not in PUBLISHED.owners:
        return None
    return "far" if "-FAR-" in name else "anyflow" if name.startswith("AnyFlow") else "wan"


def claimed_here(weights: str) -> Checkpoint | None:
    """The checkpoint called `weights`, if the configuration of a Wan transformer is here, whatever else is."""
    folder = find(weights)
    if folder is None or is_run(folder):
        return None
    name = class_named(folder / "transformer" / CONFIG)
    return Checkpoint(folder) if name in (*KINDS, FIRST_RELEASE) else None


def open_checkpoint(weights: str, pictures: bool = False) -> Checkpoint:
    """The complete checkpoint called `weights`, with no flaw that can be told without reading it whole.

    It is one that begins with `pictures`, or one that does not. Raises FlowmapError with all that is missing, or the
    first flaw, and how to get it.
    """
    checkpoint = Checkpoint(opened(weights, published(pictures)))
    flaw = checkpoint.flaw(weights, pictures)
    if flaw is not None:
        raise FlowmapError(flaw)
    return checkpoint
