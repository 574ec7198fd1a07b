"""A finished stage's student, or weights from outside, ready to sample: what evaluation and `flowmap sample` share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, Data, EncodedText, Velocity
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.guidance import Guided, GuidedChunks, GuidedCond
from flowmap.networks.rollout import rollout
from flowmap.phases import phase
from flowmap.plugin.kinds import SamplerConfig
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.outside import Outside
from flowmap.recipe.tables import sampling_shift
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import FrameView, NetworkKind, Precision, Weights, context_refusal
from flowmap.training.compiled import compile_units
from flowmap.training.ledger import counted
from flowmap.training.precision import compute_in
from flowmap.training.stage import base_draw, stage_weights

_MOST_TOGETHER = 2048
_NUMBERS_TOGETHER = 2**19
_HELD_OUT = 64


@dataclass(frozen=True)
class ReadyModel:
    """A finished stage's student or weights from outside, ready to sample: in chunks, or together if `view` is whole.

    `stage` is its name, `seed` the training seed (of weights from outside: the one at which they are measured), `shift`
    that of the grid on which it is sampled unless another is asked for.
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
    backbone: Backbone | None = None,
    precision: Precision | None = None,
    compiled: bool | None = None,
) -> ReadyModel:
    """The student of the finished stage of `plan`. Raises FlowmapError if it is not finished.

    `data` are what it is measured on, `precision` is that of its calls and `compiled` whether its blocks are, if not as
    its own recipe says. A `backbone` that was made before saves reading its base weights again; a student that it made
    before is then no longer valid.
    """
    stage, spec = plan.stage, plan.recipe.data.spec()
    own = stage_weights(plan, stage.name, weights)
    backbone = backbone or plan.recipe.backbone.build(spec)
    student = stage.objective.roles()["student"]
    compute = plan.recipe.compute
    compiled = compute.compile if compiled is None else compiled
    network = _network(backbone, student.kind, own, plan.seed, device, precision or compute.precision, compiled)
    contexts = plan.recipe.backbone.contexts(spec)
    data = data or plan.recipe.measured_data().build()
    shift = sampling_shift(stage, plan.recipe.evaluation)
    return ReadyModel(stage.name, plan.seed, weights, network, student.view, shift, backbone, contexts, data, device)


def open_weights(
    weights: Outside,
    spec: SampleSpec,
    seed: int,
    device: torch.device,
    data: Data,
    backbone: Backbone,
    precision: Precision = "no",
    compiled: bool = False,
) -> ReadyModel:
    """Weights from outside as they stand, for samples of `spec`; they are no run's, and `backbone` is theirs.

    Calls compute in `precision`, "no" being that of the weights, and `compiled` if so asked.

    Raises FlowmapError unless every parameter is set.
    """
    kind, view = weights.pretrained.kind, weights.pretrained.view
    network = _network(backbone, kind, None, seed, device, precision, compiled)
    contexts = weights.backbone.contexts(spec)
    shift = 1.0 if weights.pretrained.shift is None else weights.pretrained.shift
    return ReadyModel(weights.name, seed, "ema", network, view, shift, backbone, contexts, data, device)


def _network(
    backbone: Backbone,
    kind: NetworkKind,
    own: Mapping[str, Tensor] | None,
    seed: int,
    device: torch.device,
    precision: Precision,
    compiled: bool,
) -> Velocity:
    """The network of a student that nobody trains, on `device`, computing as it was trained."""
    with phase("making the network"):
        role = backbone.role("student", kind, own, base_draw(seed))
        role.freeze()
        compute_in(role.module, precision, device)
        compile_units([role], compiled)
        role.module.to(device).eval()
    return role.network


def steps_for(sampler: SamplerConfig, calls: int) -> int | None:
    """How many steps of `sampler` take exactly `calls` network calls; None if no number does."""
    return calls // sampler.calls_per_step if calls % sampler.calls_per_step == 0 else None


def held_out_start(contestant: ReadyModel, frames: int, draw: Draw) -> tuple[Batch, Any]:
    """The first `frames` (in data space) of held-out samples, drawn with replacement, with conditions; their prompts.

    Raises FlowmapError, with the nearest numbers, if the backbone cannot be given so many.
    """
    with phase("reading held-out samples"):
        samples = contestant.data.reference("held_out", _HELD_OUT)
    rows = (draw.uniform("held-out rows").cpu() * len(samples.x)).long()
    with phase("encoding held-out samples"):
        count, device = len(samples.x), contestant.device
        encoding = Draw.whole(0, "held out", 0, "encoding", count, device)
        whole = contestant.backbone.encode(replace(samples, x=samples.x.to(device)), encoding)
    given = latent_context(contestant.contexts, frames)
    start = Batch(whole.x0[rows, :given], whole.cond.take(rows), whole.null.take(rows))
    return start, _chosen(samples.prompts, rows)


def _chosen(prompts: Any, rows: Tensor) -> Any:
    """The prompts of these rows, in the form in which they are."""
    if isinstance(prompts, EncodedText):
        return prompts.take(rows)
    if isinstance(prompts, Tensor) or prompts is None:
        return None if prompts is None else prompts[rows]
    return [prompts[row] for row in rows.tolist()]


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
) -> Tensor:
    """Samples `[draw.count, F, ...]` in data space, on the CPU, with `calls` network calls each (of each chunk).

    The grid has the `shift` given, or the contestant's own.
    With `start`, its `x0` are the first frames (of which there may be none), in model space, and its conditions
    those of the samples; otherwise conditions are the data's prompts. Raises FlowmapError if the sampler cannot
    take so many calls.
    """
    steps = steps_for(sampler, calls)
    if steps is None:
        per_step = sampler.calls_per_step
        raise FlowmapError(
            f"sampler '{sampler.type}' takes {per_step} calls a step, so {calls} is not possible; "
            f"nearest: {max(per_step, calls - calls % per_step)}"
        )
    if cfg_scale != 1 and sampler.network == "flow_map":
        raise FlowmapError(
            f"sampler '{sampler.type}' follows the flow map, which cannot be guided (the guidance of training is in "
            f"it); leave out the guidance of {cfg_scale:g}, or take a velocity sampler such as euler"
        )
    backbone, network = contestant.backbone, contestant.network
    times = grid(steps, contestant.shift if shift is None else shift, contestant.device)
    shape, chunking = backbone.latent_shape(), backbone.chunking()
    if contestant.view == "whole":
        # As it was trained: a causal model of this kind was never asked for a chunk after another.
        chunking = chunking.unchunked()
    begin = 0 if start is None else start.x0.shape[1]
    parts: list[Tensor] = []
    together = min(_MOST_TOGETHER, max(1, _NUMBERS_TOGETHER // math.prod(shape)))
    with phase("sampling", unit="network calls") as sampling:
        network = counted(network, lambda samples, graded, passes: sampling.advance(passes))
        chunks = len(chunking.sizes(shape[0], begin))
        # What a chunk is made from, its context and the chunks before it, takes a call to read.
        reads = (chunks - 1 + bool(begin)) * (1 + (cfg_scale != 1))
        sampling.total = -(-draw.count // together) * (calls * chunks + reads)
        if cfg_scale != 1:
            network, chunking = Guided(network, cfg_scale), GuidedChunks(chunking)
        for first in range(0, draw.count, together):
            count = min(together, draw.count - first)
            part = draw.part(first, count)
            # On the CPU: it indexes tensors of any device, and conditions need not be on the network's.
            rows = torch.arange(first, first + count)
            if start is None:
                given, (cond, null) = None, backbone.condition(contestant.data.prompts(part), count, contestant.device)
            else:
                given = start.x0[rows] if begin else None
                cond, null = start.cond.take(rows), start.null.take(rows)
            noise = part.normal("start noise", shape)[:, begin:]
            cond = GuidedCond(cond, null) if cfg_scale != 1 else cond
            x = rollout(sampler.build(), network, noise, times, cond, chunking, part, context=given)
            with phase("decoding"):
                parts.append(backbone.decode(x).cpu())
    return torch.cat(parts)
