"""What the weights of a family are as they stand, before any training. Torch-free."""

from __future__ import annotations

from flowmap.plugin import Pretrained, SampleSpec
from flowmap.recipe.run_weights import run_as_base
from flowmap.weights.runs import run_in
from flowmap_diffusers.checkpoint import at_hand
from flowmap_diffusers.family import Family


def pretrained(weights: str, family: Family) -> Pretrained | None:
    """What the folder or the run called `weights` is; None if it is not here.

    A velocity as its authors sample it, or a student of ours that was exported with its second time.
    """
    run = run_in(weights)
    if run is not None:
        return run_as_base(run)
    checkpoint = at_hand(weights, family)
    if checkpoint is None:
        return None
    usual, files, shift = family.usual, checkpoint.pipeline.everything(), checkpoint.pipeline.shift()
    # Where a folder names no constant shift, its pipeline finds one by the size: that of the family's usual one.
    shift = usual.shift if shift is None else shift
    student = checkpoint.student()
    sides = (usual.side, usual.side) if student is None else (student.height, student.width)
    spec = SampleSpec((1, 3, *sides), classes=0 if family.parts else 1000, text=bool(family.parts))
    if student is not None:
        return Pretrained("flow_map", files=files, spec=spec, shift=shift)
    return Pretrained("velocity", files=files, spec=spec, shift=shift, sampler="euler", calls=usual.calls,
                      cfg_scale=usual.cfg_scale)  # fmt: skip
