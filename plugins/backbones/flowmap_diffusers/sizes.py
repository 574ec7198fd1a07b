"""The sizes of the transformer that a recipe names, as far as they can be known without weights. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG
from flowmap.weights.names import RANDOM, find
from flowmap.weights.runs import origin
from flowmap_diffusers.checkpoint import Checkpoint, known_sizes
from flowmap_diffusers.family import Family, Sizes


def sizes_of(weights: str, architecture: Mapping[str, Any] | None, family: Family) -> Sizes | None:
    """Those that a recipe gives, the folder's, or those published under that name; None if nothing is known of them."""
    base, run = origin(weights)
    told = run.get("architecture", architecture) if run else architecture
    if base == RANDOM:
        return {**family.small, **(told if isinstance(told, Mapping) else {})}
    return None if base is None else _of_weights(base, family)


def _of_weights(weights: str, family: Family) -> Sizes | None:
    folder = find(weights)
    if folder is not None and (folder / "transformer" / CONFIG).is_file():
        try:
            return Checkpoint(folder, family).sizes()
        except FlowmapError:
            # What is wrong with it is `Checkpoint.flaw` to say.
            return None
    return known_sizes(family, weights)


def encoders_of(weights: str, family: Family) -> Checkpoint | None:
    """The folder with the encoders of `weights`, which may be a run of ours; None if it is not here."""
    base, _ = origin(weights)
    folder = None if base is None else find(base)
    return None if folder is None else Checkpoint(folder, family)
