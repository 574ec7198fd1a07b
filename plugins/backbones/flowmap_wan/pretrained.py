"""What Wan weights are as they stand, before any training: plain, AnyFlow's, or a run of ours. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.plugin import Pretrained, SampleSpec
from flowmap.recipe.hub import RUN_LOCK, find
from flowmap.recipe.outside import run_stage
from flowmap.recipe.tables import sampling_shift
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.opening import claimed, missing
from flowmap_wan.parts import CONFIG

_HEIGHT, _WIDTH, _FPS = 480, 832, 16.0
_FRAMES = 21  # in model space


def pretrained(weights: str, chunks: tuple[int, ...]) -> Pretrained | None:
    """What the checkpoint or the run called `weights` is; None if it is not here. `chunks` are those of FAR, if any.

    Wan2.1's authors sample it with UniPC, 50 steps and guidance 5; AnyFlow's models have their guidance in them. Only
    FAR checkpoints generate chunk by chunk, whichever backbone is asked.
    """
    folder = find(weights)
    if folder is not None and (folder / RUN_LOCK).is_file():
        return _of_run(folder)
    checkpoint = complete(weights)
    if checkpoint is None:
        return None
    frames = sum(chunks) or _FRAMES
    spec = SampleSpec((4 * (frames - 1) + 1, 3, _HEIGHT, _WIDTH), text=True, fps=_FPS)
    files, shift = checkpoint.everything(), checkpoint.shift()
    if checkpoint.kind == "wan":
        return Pretrained("velocity", "whole", files, spec, shift, "unipc", calls=50, cfg_scale=5.0)
    # Given pictures and clips are squashed to size and counted by rate, as in their training.
    spec = replace(spec, fit="stretch", frame_choice="rate")
    return Pretrained("flow_map", "forced" if checkpoint.kind == "far" else "whole", files, spec, shift)


def complete(weights: str) -> Checkpoint | None:
    """The checkpoint `weights`, if it is one that is here with all its files (and no run of ours)."""
    folder = find(weights)
    if folder is None or (folder / RUN_LOCK).is_file() or any(missing(weights)):
        return None
    return Checkpoint(folder)


def problem(weights: str) -> str | None:
    """Why the checkpoint `weights`, which is here, cannot be read, as far as configurations and headers tell."""
    checkpoint = complete(weights)
    return None if checkpoint is None else checkpoint.flaw(weights)


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


def _of_run(folder: Path) -> Pretrained:
    """The student of the last stage of the run in `folder`; raises FlowmapError if it is not finished."""
    lock, _ = run_stage(folder)
    last = lock.stages[-1]
    home = folder / f"seed-{lock.seeds[0]}" if len(lock.seeds) > 1 else folder
    manifest = home / last.name / "checkpoints" / f"step-{last.steps:06d}" / "manifest.json"
    if not manifest.is_file():
        raise FlowmapError(f"the base weights are those of the run {folder}, whose stage '{last.name}' is not finished")
    student, shift = last.objective.roles()["student"], sampling_shift(last, lock.evaluation)
    return Pretrained(student.kind, student.view, (manifest,), lock.data.spec(), shift)
