"""What Wan weights are as they stand, before any training: plain, AnyFlow's, or a run of ours. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flowmap.plugin import Pretrained
from flowmap.recipe.run_weights import run_as_base
from flowmap.weights import pipeline
from flowmap.weights.fields import CONFIG
from flowmap.weights.names import find
from flowmap.weights.runs import run_in
from flowmap_wan.checkpoint import Checkpoint, published
from flowmap_wan.opening import claimed
from flowmap_wan.plain import clip, velocity_of
from flowmap_wan.told import told_by

_HEIGHT, _WIDTH = 480, 832
_LARGE = {"720P": (720, 1280)}  # by a part of the name
_FRAMES = 21  # in model space


def pretrained(weights: str, chunks: tuple[int, ...], pictures: bool = False) -> Pretrained | None:
    """What the checkpoint or the run called `weights` is; None if it is not here. `chunks` are those of FAR, if any.

    Wan2.1 is sampled with UniPC, 50 steps and guidance 5, with `pictures` too (diffusers' pipelines); AnyFlow's models
    have their guidance in them. Only FAR checkpoints generate chunk by chunk, whichever backbone is asked.
    """
    run, frames = run_in(weights), sum(chunks) or _FRAMES
    if run is not None:
        return run_as_base(run)
    checkpoint = complete(weights, pictures)
    if checkpoint is None:
        return None
    if (told := told_by(weights)) is not None:
        return told.pretrained(checkpoint.pipeline.everything())
    size = next((size for part, size in _LARGE.items() if pictures and part in Path(weights).name), (_HEIGHT, _WIDTH))
    spec = clip(frames, *size)
    files, shift = checkpoint.pipeline.everything(), checkpoint.pipeline.shift()
    if not checkpoint.two_times:
        return velocity_of(files, spec, shift)
    # Given pictures and clips are squashed to size and counted by rate, as in their training.
    spec = replace(spec, fit="stretch", frame_choice="rate")
    return Pretrained("flow_map", "forced" if checkpoint.kind == "far" else "whole", files, spec, shift)


def complete(weights: str, pictures: bool = False) -> Checkpoint | None:
    """The checkpoint `weights`, if it is one that is here with all its files (and no run of ours)."""
    folder = pipeline.complete(weights, published(pictures))
    return None if folder is None else Checkpoint(folder)


def problem(weights: str, pictures: bool = False) -> str | None:
    """Why the checkpoint `weights`, which is here, cannot be read, as far as configurations and headers tell."""
    checkpoint = complete(weights, pictures)
    return None if checkpoint is None else checkpoint.flaw(weights, pictures)


def far_fields(weights: str) -> dict[str, Any] | None:
    """The fields of `far_wan21` that a causal checkpoint decides; None if `weights` are none."""
    if claimed(weights) != "far":
        return None
    folder = find(weights)
    if folder is None or not (folder / "transformer" / CONFIG).is_file():
        return {"weights": weights}
    told = Checkpoint(folder).transformer
    fields = {
        "chunks": told.chunk_partition,
        "full_chunks": told.full_chunk_limit,
        "compressed_patch_size": told.compressed_patch_size,
    }
    return {"weights": weights, **{name: value for name, value in fields.items() if value is not None}}
