"""What is wrong with the weights from outside that an evaluation names, and which they are. Torch-free.

What such weights are by themselves, flowmap.recipe.outside finds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.evaluations import context_findings
from flowmap.recipe.lines import Path as Place
from flowmap.recipe.outside import BASE, AbsentError, Outside, find_weights, is_weights, look_up
from flowmap.recipe.tables import ContestConfig, EvaluationConfig
from flowmap.schema.config import Finding
from flowmap.schema.specs import Pretrained, SampleSpec


def named(evaluation: EvaluationConfig) -> dict[str, Place]:
    """The weights that an evaluation names, each with the first place where it does."""
    places: list[tuple[str, Place]] = [(evaluation.teacher, ("evaluation", "teacher"))]
    places += [(c.stage, ("evaluation", "contests", i, "stage")) for i, c in enumerate(evaluation.contests)]
    return {name: place for name, place in reversed(places) if is_weights(name)}


def missing(evaluation: EvaluationConfig) -> Iterator[Finding]:
    """The folders that an evaluation names and this machine does not have; `base` is the backbone's to say."""
    for name, place in named(evaluation).items():
        if name != BASE:
            try:
                look_up(name)
            except AbsentError as error:
                yield Finding("error", place, str(error))
            except FlowmapError:
                continue  # which is wrong wherever it is looked at: see `findings`


def known(
    evaluation: EvaluationConfig, backbone: BackboneConfig, spec: SampleSpec
) -> tuple[dict[str, Outside | None], list[Finding]]:
    """The weights that an evaluation names, None where it cannot be told what they are; and what is wrong with them.

    What a backbone finds wrong with its own, it says itself.
    """
    found: dict[str, Outside | None] = {}
    problems: list[Finding] = []
    for name, place in named(evaluation).items():
        found[name] = None
        try:
            found[name] = find_weights(name, backbone)
        except AbsentError:
            continue
        except FlowmapError as error:
            if name != BASE or str(error) not in {finding.message for finding in backbone.findings(spec)}:
                problems.append(Finding("error", place, str(error)))
    return found, problems


def findings(evaluation: EvaluationConfig, found: Mapping[str, Outside | None], spec: SampleSpec) -> Iterator[Finding]:
    """What does not fit between the weights `found` and the rest of an evaluation on samples of `spec`."""
    places = named(evaluation)
    for name, weights in found.items():
        if weights is None:
            continue
        if name != BASE:
            for problem in weights.misfits(spec):
                yield Finding("error", places[name], problem)
        shift = weights.pretrained.shift
        if None not in (shift, evaluation.shift) and shift != evaluation.shift:
            why = f"they are made for a grid with shift {shift:g}, and evaluation.shift is {evaluation.shift:g}"
            yield Finding("warning", places[name], f"{name}: {why}")
    for index, contest in enumerate(evaluation.contests):
        other = found.get(contest.stage)
        if other is None:
            continue
        where: Place = ("evaluation", "contests", index)
        for doubt in _off_list(contest, evaluation, other.pretrained):
            yield replace(doubt, field=(*where, *doubt.field))
        if contest.weights == "raw" and other.run is None:
            why = "'raw' is what a stage of a run has beside its moving average; these weights are one set"
            yield Finding("error", (*where, "weights"), why)
        wrong = list(context_findings(where, contest.context, other.sized(spec).backbone, spec))
        yield from wrong
        if not wrong and contest.context and not other.backbone.goes_on():
            why = (
                f"{contest.stage} never learned to go on from given frames, and what is measured is not what it is for"
            )
            yield Finding("warning", (*where, "context"), f"{why}; leave this out, or take weights that did")


def _off_list(contest: ContestConfig, evaluation: EvaluationConfig, told: Pretrained) -> Iterator[Finding]:
    """Where weights that mean something along one list of times alone are measured by anything else."""
    if not told.one_list:
        return
    why = f"{contest.stage} was exported for one list of times, {told.calls} steps of {told.sampler}"
    others = sorted({calls for calls in evaluation.calls if calls != told.calls})
    if others:
        told_of = f"evaluation.calls has {', '.join(map(str, others))}, where it means nothing"
        yield Finding("warning", ("stage",), f"{why}; {told_of}")
    for position, sampler in enumerate(contest.samplers):
        if sampler.type != told.sampler:
            yield Finding("warning", ("samplers", position), f"{why}, and by '{sampler.type}' means nothing")
