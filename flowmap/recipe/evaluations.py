"""What is wrong with an evaluation, or doubtful, given the stages and weights that it names. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from flowmap.files.texts import is_folder
from flowmap.plugin.kinds import BackboneConfig, SamplerConfig
from flowmap.recipe import outside
from flowmap.recipe.outside import Outside
from flowmap.recipe.published import other_than_own
from flowmap.recipe.tables import (
    ContestConfig,
    EvaluationConfig,
    StageConfig,
)
from flowmap.schema.bounds import MOST_HELD
from flowmap.schema.config import Finding, guidance_findings
from flowmap.schema.specs import Pretrained, RoleSpec, SampleSpec
from flowmap.schema.words import context_refusal, needed, needs_frames, unknown_word


def evaluation_findings(
    evaluation: EvaluationConfig,
    stages: Sequence[StageConfig],
    spec: SampleSpec,
    backbone: BackboneConfig,
    weights: Mapping[str, Outside | None],
) -> Iterator[Finding]:
    """What is wrong with `evaluation` in a recipe of such `stages` on samples of `spec`.

    `backbone` is that of the stages; `weights` are what those from outside are, None where that cannot be told.
    """
    networks: dict[str, RoleSpec | Pretrained | None] = {
        s.name: s.objective.roles()["student"] for s in stages if "student" in s.objective.roles()
    }
    networks |= {name: found.pretrained if found else None for name, found in weights.items()}
    if evaluation.teacher not in networks:
        yield Finding("error", ("teacher",), _unknown_stage(evaluation.teacher, stages))
    else:
        yield from _sampler_findings(("teacher_sampler",), evaluation.teacher_sampler, evaluation.teacher, networks)
    if evaluation.teacher_sampler.steps(evaluation.teacher_calls) is None:
        own = evaluation.teacher_sampler.own_times()
        message = f"{evaluation.teacher_sampler.takes()}; give {'that' if own else 'a multiple of it'}"
        yield Finding("error", ("teacher_calls",), message)
    held = evaluation.samples * math.prod(spec.shape)
    if held > MOST_HELD:
        why = (
            f"{evaluation.samples:,} samples x {math.prod(spec.shape):,} numbers of each (data) are "
            f"{held:,}, and at most {MOST_HELD:,} fit in memory; use {MOST_HELD * evaluation.samples // held:,}"
        )
        yield Finding("error", ("samples",), why)
    names = [metric.label() for metric in evaluation.metrics]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Finding("error", ("metrics", index), f"metric '{name}' is listed twice")
    if evaluation.teacher_cfg_scale != 1 and evaluation.teacher_sampler.network == "flow_map":
        why = f"'{evaluation.teacher_sampler.type}' follows the flow map, which has its guidance in it; use 1"
        yield Finding("error", ("teacher_cfg_scale",), why)
    else:
        for finding in guidance_findings(evaluation.teacher_cfg_scale, spec.conditional):
            yield replace(finding, field=("teacher_cfg_scale",))
    yield from _shift_findings(evaluation, stages)
    yield from _contest_findings(evaluation, stages, spec, backbone, networks)


def _shift_findings(evaluation: EvaluationConfig, stages: Sequence[StageConfig]) -> Iterator[Finding]:
    """Say it where stages are measured on another grid than they are trained on."""
    measured = {evaluation.teacher, *(contest.stage for contest in evaluation.contests)}
    own = {s.name: s.objective.grid_shift() for s in stages if s.name in measured}
    other = [f"'{name}' ({shift:g})" for name, shift in own.items() if shift not in (None, evaluation.shift)]
    if evaluation.shift is not None and other:
        why = (
            f"samples are drawn at shift {evaluation.shift:g}, but trained at another: {', '.join(other)}; "
            "leave it out to sample each stage as it is trained"
        )
        yield Finding("warning", ("shift",), why)


def _contest_findings(
    evaluation: EvaluationConfig,
    stages: Sequence[StageConfig],
    spec: SampleSpec,
    backbone: BackboneConfig,
    networks: Mapping[str, RoleSpec | Pretrained | None],
) -> Iterator[Finding]:
    seen: set[tuple[str, str, str, int]] = set()
    for index, contest in enumerate(evaluation.contests):
        where = ("contests", index)
        if contest.stage not in networks:
            yield Finding("error", (*where, "stage"), _unknown_stage(contest.stage, stages))
            continue
        if not outside.is_weights(contest.stage):
            yield from context_findings(where, contest.context, backbone, spec)
        if contest.samplers and all(sampler.network == "velocity" for sampler in contest.samplers):
            for finding in guidance_findings(contest.cfg_scale, spec.conditional):
                yield replace(finding, field=(*where, *finding.field))
        if not contest.samplers and networks[contest.stage] is not None:
            why = "how its samples are drawn is said here, such as ['flow_map']; weights from outside bring a sampler"
            yield Finding("error", (*where, "samplers"), why)
        for position, sampler in enumerate(contest.samplers):
            place = (*where, "samplers", position)
            yield from _sampler_findings(place, sampler, contest.stage, networks)
            if contest.cfg_scale != 1 and sampler.network == "flow_map":
                why = f"'{sampler.type}' follows the flow map, which has its guidance in it; use 1"
                yield Finding("error", (*where, "cfg_scale"), why)
            if sampler.own_times() is None and all(sampler.steps(calls) is None for calls in evaluation.calls):
                why = f"{sampler.takes()}; none of 'calls' fits, so it is not measured"
                yield Finding("warning", place, why)
            entry = (contest.stage, contest.weights, sampler.type, contest.context)
            if entry in seen:
                yield Finding("error", place, f"'{sampler.type}' on stage '{contest.stage}' is listed twice")
            seen.add(entry)
        refusal = contest.against and _no_control(contest, contest.against, evaluation, networks)
        if refusal:
            yield Finding("error", (*where, "against"), refusal)


def context_findings(
    where: tuple[str | int, ...], frames: int, backbone: BackboneConfig, spec: SampleSpec
) -> Iterator[Finding]:
    """Why `frames` of samples of `spec` cannot be given in the contest at `where` to a network of `backbone`."""
    contexts = backbone.contexts(spec)
    least = needed(contexts)
    if frames and frames not in contexts:
        why = context_refusal(contexts, frames, backbone.context_hint(spec, frames))
        yield Finding("error", (*where, "context"), why)
    elif frames < least:
        yield Finding("error", (*where, "context"), f"{needs_frames(least)}; set context = {least}")


def _no_control(
    contest: ContestConfig, against: str, evaluation: EvaluationConfig, stages: Iterable[str]
) -> str | None:
    """Why stage `against` can be no control of the contest; None if it can."""
    others = [other for other in evaluation.contests if other.stage != contest.stage]
    if against == contest.stage:
        return f"stage '{against}' is not its own control; name the stage of another contest"
    if against not in [other.stage for other in others]:
        if against in stages:
            return f"no contest measures stage '{against}'; add one with the same samplers"
        return unknown_word("stage", against, dict.fromkeys(other.stage for other in others))
    alike = (contest.weights, contest.context, contest.cfg_scale)
    twins = [o for o in others if o.stage == against and (o.weights, o.context, o.cfg_scale) == alike]
    if any(sampler in twin.samplers for twin in twins for sampler in contest.samplers):
        return None
    return (
        f"nothing is measured alike: give the contests of '{contest.stage}' and '{against}' a sampler in common, with "
        "the same weights, context and cfg_scale"
    )


def _sampler_findings(
    place: tuple[str | int, ...],
    sampler: SamplerConfig,
    stage: str,
    networks: Mapping[str, RoleSpec | Pretrained | None],
) -> Iterator[Finding]:
    network = networks[stage]
    if network is not None and (why := sampler_doubt(sampler, stage, network)) is not None:
        yield Finding("warning", place, why)
    if isinstance(network, Pretrained) and network.to_data:
        return
    if network is not None and sampler.network == "flow_map" and network.kind == "velocity":
        whose = f"the weights '{stage}' are" if outside.is_weights(stage) else f"stage '{stage}' trains"
        message = (
            f"sampler '{sampler.type}' needs a flow map, but {whose} a velocity; "
            "use a velocity sampler such as euler or heun"
        )
        yield Finding("error", place, message)


def sampler_doubt(sampler: SamplerConfig, name: str, network: RoleSpec | Pretrained) -> str | None:
    """Why `sampler` asks a network called `name` for what nobody taught it; None if it does not."""
    if isinstance(network, Pretrained) and network.to_data:
        if sampler.to_data:
            return other_than_own(sampler, name, network)
        why = f"'{name}' jumps to data and knows nothing between, which sampler '{sampler.type}' asks for"
        return f"{why}; use lcm or consistency"
    if sampler.network == "velocity" and not network.diagonal:
        return (
            f"sampler '{sampler.type}' follows the velocity u(x, t, t), which nothing teaches '{name}': what it knows "
            "of that it had when it started; use flow_map or consistency"
        )
    return None


def _unknown_stage(name: str, stages: Sequence[StageConfig]) -> str:
    """Say that an evaluation names no stage."""
    if not stages:
        return (
            f"there is no stage '{name}', nor any other; name weights: 'base', or a folder or hub id, with a '/' in it"
        )
    hint = f"; for the folder of that name write './{name}'" if is_folder(name) else ""
    return unknown_word("stage", name, [stage.name for stage in stages]) + hint
