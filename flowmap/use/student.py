"""A finished stage's student, or weights from outside, ready to sample: what evaluation and `flowmap sample` share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, Cond, Data, Velocity
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.batches import together
from flowmap.networks.guidance import Guided, GuidedChunks, GuidedCond
from flowmap.networks.rollout import rollout
from flowmap.phases import phase
from flowmap.plugin.kinds import SamplerConfig
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.outside import Outside
from flowmap.recipe.tables import ComputeConfig, sampling_shift
from flowmap.schema.words import FrameView, Weights, context_refusal
from flowmap.training.ledger import counted
from flowmap.training.stage import stage_weights
from flowmap.use.asked import Asked
from flowmap.use.counting import Tally
from flowmap.use.networks import Networks
from flowmap.use.watching import Watcher

_TEXTS_TOGETHER = 64


@dataclass(frozen=True)
class ReadyModel:
    """A finished stage's student or weights from outside, ready to sample: in chunks, or together if `view` is whole.

    `stage` is its name, `seed` the training seed (of weights from outside: the one at which they are measured), `shift`
    that of the grid on which it is sampled unless another is asked for. A `sharded` network must be called by all
    processes, equally often.
    """

    stage: str
    seed: int
    weights: Weights
    network: Velocity
    view: FrameView
    shift: float
    backbone: Backbone
    contexts: Mapping[int, int]
    data: Data
    device: torch.device
    sharded: bool = False

    def draw(self, purpose: str, repeat: int, count: int) -> Draw:
        """Noise of its own: no other stage, weights, seed, purpose or repeat sees it."""
        return Draw.whole(self.seed, f"evaluate/{self.stage}/{self.weights}", repeat, purpose, count, self.device)

    def common_draw(self, repeat: int, count: int) -> Draw:
        """The noise that whoever is measured sees at this seed and repeat."""
        return Draw.whole(self.seed, "evaluate", repeat, "common", count, self.device)


def open_contestant(
    plan: StagePlan,
    weights: Weights,
    device: torch.device,
    data: Data | None = None,
    compute: ComputeConfig | None = None,
    networks: Networks | None = None,
) -> ReadyModel:
    """The student of the finished stage of `plan`, on `device`. Raises FlowmapError if it is not finished.

    `data` are what it is measured on, and `compute` says how its calls compute, if not as its own recipe does.
    `networks`, which make it where and as they make all others, save reading base weights again; a student that they
    made before is then no longer valid.
    """
    stage, spec = plan.stage, plan.recipe.data.spec()
    own = stage_weights(plan, stage.name, weights)
    student = stage.objective.roles()["student"]
    networks = networks or Networks(plan.recipe.backbone, spec, device, compute or plan.recipe.compute)
    network = networks.student(student.kind, own, plan.seed)
    contexts = plan.recipe.backbone.contexts(spec)
    data = data or plan.recipe.measured_data().build()
    shift = sampling_shift(stage, plan.recipe.evaluation)
    who = stage.name, plan.seed, weights, network, student.view, shift
    return ReadyModel(*who, networks.backbone, contexts, data, networks.device, networks.sharded)


def open_weights(weights: Outside, seed: int, data: Data, networks: Networks) -> ReadyModel:
    """Weights from outside as they stand; they are no run's, and `networks` are of their backbone.

    Raises FlowmapError unless every parameter is set.
    """
    told = weights.pretrained
    network = networks.student(told.kind, None, seed)
    contexts = weights.backbone.contexts(networks.spec)
    shift = 1.0 if told.shift is None else told.shift
    where = networks.backbone, contexts, data, networks.device, networks.sharded
    return ReadyModel(weights.name, seed, "ema", network, told.view, shift, *where)


def latent_context(contexts: Mapping[int, int], frames: int) -> int:
    """How many frames in model space `frames` of context in data space are; raises FlowmapError if impossible."""
    if frames not in contexts:
        raise FlowmapError(context_refusal(contexts, frames))
    return contexts[frames]


@torch.no_grad()
def generate(
    contestant: ReadyModel,
    sampler: SamplerConfig,
    calls: int,
    shift: float | None,
    draw: Draw,
    start: Batch | None = None,
    cfg_scale: float = 1.0,
    watcher: Watcher | None = None,
    rows: tuple[int, int] | None = None,
    tally: Tally | None = None,
) -> Tensor:
    """Samples `[draw.count, F, ...]` in data space, on the CPU, with `calls` network calls each (of each chunk).

    Of `rows`, whole batches of `at_once` from the first to the end, alone, if they are given; `[0]` if they are none.

    The grid has the `shift` given, or the contestant's own; a sampler with a list of its own goes along that.
    With `start`, its `x0` are the first frames (of which there may be none), in model space, and its conditions
    those of the samples; otherwise conditions are the data's prompts. A `watcher` is told of calls and chunks, and
    what it raises ends the work; a `tally` counts. Raises FlowmapError if the sampler cannot take so many calls.
    """
    own, shift = sampler.own_times(), contestant.shift if shift is None else shift
    times = times_of(sampler, calls, shift, contestant.device)
    if cfg_scale != 1 and sampler.network == "flow_map":
        raise FlowmapError(
            f"sampler '{sampler.type}' follows the flow map, which cannot be guided (the guidance of training is in "
            f"it); leave out the guidance of {cfg_scale:g}, or take a velocity sampler such as euler"
        )
    backbone, made_by = contestant.backbone, contestant.network
    tally = Tally() if tally is None else tally
    shape, chunking = backbone.latent_shape(), backbone.chunking()
    if contestant.view == "whole":
        # As it was trained: a causal model of this kind was never asked for a chunk after another.
        chunking = chunking.unchunked()
    begin = 0 if start is None else start.x0.shape[1]
    parts: list[Tensor] = []
    at_once, (first_row, end) = together(shape), rows or (0, draw.count)
    with phase("sampling", unit="network calls") as sampling:

        def note(x: Tensor, cond: Cond, graded: bool, passes: int) -> None:
            if watcher is not None:
                watcher.calling()
            sampling.advance(passes)
            tally.call(made_by, x, cond)

        network, shown = counted(made_by, note), None if watcher is None else watcher.finished
        chunks = len(chunking.sizes(shape[0], begin))
        # What a chunk is made from, its context and the chunks before it, takes a call to read.
        reads = (chunks - 1 + bool(begin)) * (1 + (cfg_scale != 1))
        sampling.total = -(-(end - first_row) // at_once) * (calls * chunks + reads)
        if cfg_scale != 1:
            network, chunking = Guided(network, cfg_scale), GuidedChunks(chunking)
        for first, cond, null in _asked(contestant, draw, start, at_once, (first_row, end)):
            part = draw.part(first, at_once)
            given = start.x0[first : first + part.count] if start is not None and begin else None
            noise = (own.start if own else 1.0) * part.normal("start noise", shape)[:, begin:]
            both = GuidedCond(cond, null) if cfg_scale != 1 else cond
            x = rollout(Asked(sampler), network, noise, times, both, chunking, part, context=given, shown=shown)
            tally.made(part.count, chunks)
            with phase("decoding"):
                parts.append(backbone.decode(x).cpu())
    return torch.cat(parts) if parts else torch.empty(0)


def times_of(sampler: SamplerConfig, calls: int, shift: float, device: torch.device | None = None) -> Tensor:
    """The times `[N + 1]`, 1 to 0, that `calls` calls of `sampler` go along: its own list, or the grid of that `shift`.

    Raises FlowmapError if it cannot take so many.
    """
    steps, own = sampler.steps(calls), sampler.own_times()
    if steps is None:
        each = sampler.calls_per_step
        near = "" if own else f"; nearest: {max(each, calls - calls % each)}"
        raise FlowmapError(f"sampler {sampler.takes()}{'; ' if own else ', so '}{calls} is not possible{near}")
    return grid(steps, shift, device) if own is None else torch.tensor(own.times, dtype=torch.float64, device=device)


def at_once(contestant: ReadyModel) -> int:
    """How many samples go through the network of `contestant` together."""
    return together(contestant.backbone.latent_shape())


def _asked(
    contestant: ReadyModel, draw: Draw, start: Batch | None, size: int, wanted: tuple[int, int]
) -> Iterator[tuple[int, Cond, Cond]]:
    """The first of each `size` samples of `draw` in the rows `wanted`, their conditions, and the null conditions.

    They are those of `start`, or else the data's prompts, of which many are read at a time: the encoder of texts leaves
    its accelerator before anything is sampled.
    """
    many = draw.count if start is not None else max(1, _TEXTS_TOGETHER // size) * size
    for begin in range(0, draw.count, many):
        if begin + many <= wanted[0] or begin >= wanted[1]:
            continue
        some = draw.part(begin, many)
        if start is None:
            cond, null = contestant.backbone.condition(contestant.data.prompts(some), some.count, contestant.device)
            contestant.backbone.release()
        else:
            cond, null = start.cond, start.null
        # On the CPU: it indexes tensors of any device, and conditions need not be on the network's.
        for rows in torch.arange(some.count).split(size):
            first = begin + int(rows[0])
            if wanted[0] <= first < wanted[1]:
                yield first, cond.take(rows), null.take(rows)
