"""What a run takes besides its training steps: evaluation, and encoders where data are raw.

Estimates, as the activations of a step are. Of weights that are no stage of the recipe only the base's are in them, and
those where nothing is trained; nor is what a VAE takes while it computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from flowmap.errors import FlowmapError
from flowmap.networks.batches import together
from flowmap.planning.activations import affine, pairs
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.plugin.kinds import ArchiveConfig
from flowmap.recipe.outside import BASE, find_weights
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import ComputeConfig, StageConfig
from flowmap.schema.words import FrameView, NetworkKind
from flowmap.training.sharing import whole_where_called

LIBRARIES = 500_000_000
"""Bytes of Python and torch (0.45 GB of a process on a CPU), or of the context of an accelerator."""


@final
@dataclass(frozen=True)
class Evaluation:
    """Bytes on one device: `weights`, of the whole network or its part, and `call`, the most that one takes.

    The whole has so many `parameters`. `samples` are made at a time, by the network of `stage`; a `sharded` one is
    gathered, unit after unit, which is in `weights`.
    """

    stage: str
    samples: int
    weights: int
    call: int
    sharded: bool = False
    parameters: int = field(default=0, compare=False)

    @property
    def total(self) -> int:
        """Both."""
        return self.weights + self.call


def held_for_calls(
    compute: ComputeConfig, footprint: Footprint, kind: NetworkKind, devices: int, room: int | None
) -> tuple[int, bool]:
    """Bytes of a network that is only called, on each of the `devices` of `room` bytes; and whether it is sharded."""
    parts = footprint.base(), footprint.own(kind)
    whole = sum(part.bytes for part in parts)
    if devices == 1 or whole_where_called(compute.sampling, whole, room):
        return whole, False
    # While one unit computes, the next is fetched.
    return math.ceil(whole / devices) + sum(2 * part.unit + part.root for part in parts), True


def evaluation_of(recipe: Recipe, footprint: Footprint, devices: int = 1, room: int | None = None) -> Evaluation | None:
    """The evaluation that takes most, of the stages that are measured and of the teacher; None if there is none.

    Where nothing is trained that is the one of the base.

    There are so many `devices`, of `room` bytes each, if anybody has said how many.
    """
    config = recipe.evaluation
    if config is None:
        return None
    scales = {config.teacher: config.teacher_cfg_scale}
    for contest in config.contests:
        scales[contest.stage] = max(contest.cfg_scale, scales.get(contest.stage, 1.0))
    networks = {s.name: (r.kind, r.view) for s in recipe.stages for r in [s.objective.roles()["student"]]}
    if not networks:
        networks[BASE] = base_network(recipe)
    found = (
        _evaluated(recipe, footprint, name, network, scales[name] != 1, devices, room)
        for name, network in networks.items()
        if name in scales
    )
    return max(found, key=lambda each: each.total, default=None)


def base_network(recipe: Recipe) -> tuple[NetworkKind, FrameView]:
    """What the base weights compute, and how; of weights that are not here what such weights would."""
    try:
        found = find_weights(BASE, recipe.backbone).pretrained
    except FlowmapError:
        one_time, causal = recipe.backbone.one_time, recipe.backbone.causal()
        return "flow_map" if one_time else "velocity", "forced" if causal and one_time else "whole"
    return found.kind, found.view


def _evaluated(
    recipe: Recipe,
    footprint: Footprint,
    name: str,
    network: tuple[NetworkKind, FrameView],
    guided: bool,
    devices: int,
    room: int | None,
) -> Evaluation:
    assert recipe.evaluation is not None
    kind, view = network
    backbone = recipe.backbone.build(recipe.data.spec())
    shape, chunking = backbone.latent_shape(), backbone.chunking()
    samples = min(together(shape), recipe.evaluation.samples)
    # A guided call is of every sample's condition and the null one.
    rows = samples * (1 + guided)
    sizes = chunking.unchunked().sizes(shape[0]) if view == "whole" else chunking.sizes(shape[0])
    starts = [0, *itertools.accumulate(sizes)][: len(sizes)]

    def workspace(call: CallShape) -> int:
        return affine(lambda n: footprint.workspace(kind, call, n, False), rows)

    most = workspace(CallShape("whole", sizes[0]))
    if len(sizes) > 1:
        chunks = list(zip(sizes, starts, strict=True))[1:]
        made = [CallShape("following", size, start) for size, start in chunks]
        read = [CallShape("reading", size, start) for size, start in chunks[:-1]]
        for calls in filter(None, (made, read)):
            # At most: where most is computed, and with the longest memory.
            most = max(most, workspace(max(calls, key=pairs)) + rows * footprint.memory(calls[-1].start))
    weights, sharded = held_for_calls(recipe.compute, footprint, kind, devices, room)
    count = footprint.base().count + footprint.own(kind).count
    return Evaluation(name, samples, weights, most + rows * footprint.prompt(), sharded, count)


def encoders_of(recipe: Recipe) -> Mapping[str, int]:
    """Bytes, by their names, of what each device holds beside its networks while raw data are read."""
    return recipe.backbone.encoders("cpu" if recipe.compute.device == "cpu" else "cuda")


def raw_data(recipe: Recipe, stage: StageConfig) -> bool:
    """Whether the data of `stage` are here, and have to be encoded while it trains."""
    data = stage.data or recipe.data
    return isinstance(data, ArchiveConfig) and data.encoded_in() is None and not any(True for _ in data.missing())
