"""Find a Wan checkpoint by its name, and say which kind it is or what of it is missing. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.recipe.hub import RUN_LOCK, absence, find, read_json
from flowmap_wan.checkpoint import FIRST_RELEASE, INDEX, KINDS, PARTS, PIPELINES, Checkpoint, Kind
from flowmap_wan.names import KNOWN, how_to_get
from flowmap_wan.parts import (
    CONFIG,
    absent,
    absent_tokenizer,
)


def claimed(weights: str) -> Kind | None:
    """What kind of Wan checkpoint `weights` are, by what is there of them or else by their name; None if of none."""
    folder = find(weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        return None
    if folder is not None and (folder / "transformer" / CONFIG).is_file():
        name = read_json(folder / "transformer" / CONFIG).get("_class_name")
        if isinstance(name, str):
            return Checkpoint(folder).kind if name in (*KINDS, FIRST_RELEASE) else None
        # Damaged, and what of it is Wan's to say if anything else says that it is Wan.
    if folder is not None and (folder / INDEX).is_file():
        return PIPELINES.get(str(read_json(folder / INDEX).get("_class_name")))
    name = Path(weights).name
    if name not in KNOWN:
        return None
    return "far" if "-FAR-" in name else "anyflow" if name.startswith("AnyFlow") else "wan"


def open_checkpoint(weights: str) -> Checkpoint:
    """The complete checkpoint called `weights`, with no flaw that can be told without reading it whole.

    Raises FlowmapError with all that is missing, or the first flaw, and how to get it.
    """
    problems = list(missing(weights))
    folder = find(weights)
    if problems or folder is None:
        raise FlowmapError("\n".join(problems))
    checkpoint = Checkpoint(folder)
    flaw = checkpoint.flaw(weights)
    if flaw is not None:
        raise FlowmapError(flaw)
    return checkpoint


def missing(weights: str) -> Iterator[str]:
    """What is not there of the checkpoint `weights`, where it was looked for, and the command that gets it."""
    folder = find(weights)
    if folder is None:
        yield f"{absence(weights)}{how_to_get(weights)}"
        return
    if (folder / RUN_LOCK).is_file():
        return
    gone = [name for part in PARTS for name in absent(folder / part)]
    gone += absent_tokenizer(folder / "tokenizer")
    if gone:
        yield f"the weights in {folder} are not complete; missing: {', '.join(gone)}{how_to_get(weights)}"
