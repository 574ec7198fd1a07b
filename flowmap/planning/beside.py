"""What a run takes besides its training steps: evaluation, and encoders where data are raw.

Estimates, as the activations of a step are. No evaluation of weights that are no stage of the recipe is in them, nor
what a VAE takes while it computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flowmap.networks.batches import together
from flowmap.planning.activations import affine, pairs
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.plugin.kinds import ArchiveConfig
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import StageConfig

LIBRARIES = 500_000_000
"""Bytes of Python and torch (0.45 GB of a process on a CPU), or of the context of an accelerator."""


@final
@dataclass(frozen=True)
class Evaluation:
    """Bytes on one device: `weights`, never shared out, and `call`, the most that one takes with its memory.

    `samples` are made at a time, by the network of `stage`.
    """

    stage: str
    samples: int
    weights: int
    call: int

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.call


def evaluation_of(recipe: Recipe, footprint: Footprint) -> Evaluation | None:
    """The evaluation that takes most, of the stages that are measured and of the teacher; None if there is none."""
    config = recipe.evaluation
    if config is None:
        return None
    scales = {config.teacher: config.teacher_cfg_scale}
    for contest in config.contests:
        scales[contest.stage] = max(contest.cfg_scale, scales.get(contest.stage, 1.0))
    stages = [stage for stage in recipe.stages if stage.name in scales]
    found = (_evaluated(recipe, footprint, stage, guided=scales[stage.name] != 1) for stage in stages)
    return max(found, key=lambda each: each.total, default=None)


def _evaluated(recipe: Recipe, footprint: Footprint, stage: StageConfig, guided: bool) -> Evaluation:
    assert recipe.evaluation is not None
    student = stage.objective.roles()["student"]
    backbone = recipe.backbone.build(recipe.data.spec())
    shape, chunking = backbone.latent_shape(), backbone.chunking()
    samples = min(together(shape), recipe.evaluation.samples)
    # A guided call is of every sample's condition and the null one.
    rows = samples * (1 + guided)
    sizes = chunking.unchunked().sizes(shape[0]) if student.view == "whole" else chunking.sizes(shape[0])
    starts = [0, *itertools.accumulate(sizes)][: len(sizes)]

    def workspace(call: CallShape) -> int:
        return affine(lambda n: footprint.workspace(student.kind, call, n, False), rows)

    most = workspace(CallShape("whole", sizes[0]))
    if len(sizes) > 1:
        chunks = list(zip(sizes, starts, strict=True))[1:]
        made = [CallShape("following", size, start) for size, start in chunks]
        read = [CallShape("reading", size, start) for size, start in chunks[:-1]]
        for calls in filter(None, (made, read)):
            # At most: where most is computed, and with the longest memory.
            most = max(most, workspace(max(calls, key=pairs)) + rows * footprint.memory(calls[-1].start))
    weights = footprint.base().bytes + footprint.own(student.kind).bytes
    return Evaluation(stage.name, samples, weights, most + rows * footprint.prompt())


def encoders_of(recipe: Recipe) -> Mapping[str, int]:
    """Bytes, by their names, of what each device holds beside its networks while raw data are read."""
    return recipe.backbone.encoders("cpu" if recipe.compute.device == "cpu" else "cuda")


def raw_data(recipe: Recipe, stage: StageConfig) -> bool:
    """Whether the data of `stage` are here, and have to be encoded while it trains."""
    data = stage.data or recipe.data
    return isinstance(data, ArchiveConfig) and data.encoded_in() is None and not any(True for _ in data.missing())
