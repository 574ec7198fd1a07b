"""Measure finished stages and weights from outside: samples at each number of calls, with floors and spreads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.files.json_lines import rewrite_lines
from flowmap.files.shelf import SHELF, Shelf
from flowmap.interfaces import Evidence, Metric, References
from flowmap.phases import each, phase
from flowmap.plugin.kinds import MetricConfig
from flowmap.recipe.layout import Plan
from flowmap.recipe.outside import file_name
from flowmap.recipe.tables import ComputeConfig, EvaluationConfig
from flowmap.schema.words import needed
from flowmap.statistics.effort import in_line
from flowmap.statistics.scores import METRICS, Score, read_scores
from flowmap.statistics.spots import mean_of, spread_of
from flowmap.training.processes import Processes
from flowmap.use.counting import Tally
from flowmap.use.joint import led, made_by_all
from flowmap.use.lineup import Lineup
from flowmap.use.numbers import floor_of, score_of
from flowmap.use.real import decoded, encoded
from flowmap.use.rows import Entry, entries_of, looks_at, recorded, wanted
from flowmap.use.showing import save_picture
from flowmap.use.student import ReadyModel

_SHEET = 64
_OF_TEACHER = ("teacher_sampler", "teacher_calls", "teacher_cfg_scale", "samples", "shift")


@dataclass(frozen=True)
class _Measure:
    """A metric, its floor for the number of samples that is scored, and what is to be remarked on its scores."""

    metric: Metric
    floor: float
    remarks: tuple[str, ...]


def evaluate(
    plan: Plan, device: torch.device, report: Callable[[str], None], processes: Processes | None = None
) -> None:
    """Score every contest of the recipe for every seed into `metrics.jsonl`, skipping what is there already.

    All `processes` make samples, each whole batches of them, as one process would; the first scores and writes.
    `report` is told what is being measured. An interrupted evaluation loses at most one row. Raises FlowmapError if a
    stage is not finished, or weights from outside cannot be read.
    """
    config = plan.recipe.evaluation
    if config is None:
        return
    processes = processes or Processes(ComputeConfig(device="cpu"))
    found = read_scores(plan.folder / METRICS)
    lineup = Lineup(plan, device, processes)
    entries = [entry for seed in plan.recipe.seeds for entry in entries_of(lineup, config, seed)]
    # None where something is missing; in the recipe's order, whatever the order of measuring.
    rows = [recorded(entry, found, config) for entry in entries]
    absent = processes.agreed([row is None for row in rows])
    _write(plan, rows, processes)
    for seed in plan.recipe.seeds:
        missing = [i for i, entry in enumerate(entries) if entry.member.seed == seed and absent[i]]
        if not missing:
            continue
        report(f"seed {seed}: the teacher's reference samples")
        measures = _measures(lineup, plan, config, seed, processes)
        # One backbone after the other: the base weights of each are read once.
        backbones = [entries[i].member.backbone for i in missing]
        ordered = sorted(missing, key=lambda i: backbones.index(entries[i].member.backbone))
        for i in each(ordered, f"evaluating seed {seed}", "contests"):
            entry = entries[i]
            by = f"by {entry.label}" if entry.sampler else "the network itself"
            report(f"seed {seed}: {entry.member.name} ({entry.weights}), {by}")
            rows[i] = [asdict(score) for score in _score(entry, plan, config, measures, lineup, processes)]
            _write(plan, rows, processes)


def _write(plan: Plan, rows: Sequence[list[dict[str, object]] | None], processes: Processes) -> None:
    if processes.first:
        rewrite_lines(plan.folder / METRICS, [line for row in rows for line in row or []])


def _measures(
    lineup: Lineup, plan: Plan, config: EvaluationConfig, seed: int, processes: Processes
) -> dict[MetricConfig, _Measure]:
    """What the first process scores with: the others help to make the teacher's samples, and have nothing."""
    member, shelf = lineup.member(config.teacher, seed), Shelf(plan.folder / SHELF)
    teacher = lineup.open(member, "ema")
    settings = {
        **config.model_dump(mode="json", include=set(_OF_TEACHER)),
        "data": plan.recipe.measured_data().model_dump(mode="json"),
        "device": str(teacher.device),
        "teacher": member.dependencies(),
    }
    if not processes.first:
        if processes.agreed([0])[0]:
            _of_teacher(teacher, lineup, config, processes)
        return {}
    asked = False

    def make() -> dict[str, Tensor]:
        nonlocal asked
        asked = bool(processes.agreed([1])[0])
        return _of_teacher(teacher, lineup, config, processes)

    kept = shelf.kept("teacher", settings, make)
    if not asked:
        processes.agreed([0])
    reference, again = kept["reference"], kept["again"]
    splits: tuple[Literal["train", "held_out"], ...] = ("train", "held_out")
    read = (teacher.data.reference(split, config.real) for split in each(splits, "reading real samples"))
    train, held_out = (decoded(teacher.backbone, samples, teacher.device) for samples in read)
    if seed == plan.recipe.seeds[0]:
        save_picture(plan.folder, "real", teacher.data.picture(train.x[:_SHEET]))
        save_picture(plan.folder, "teacher", teacher.data.picture(reference[:_SHEET]))
    references = References(train, held_out, reference, again, shelf, teacher.device)
    built: dict[MetricConfig, _Measure] = {}
    spec, samples = plan.recipe.measured_data().spec(), config.samples
    for metric in each(config.metrics, "preparing metrics, and what a perfect model would score"):
        with phase(metric.label()):
            made = metric.build(references)
            remarks = tuple(metric.remarks(spec, samples, len(train.x), len(held_out.x)))
            built[metric] = _Measure(made, floor_of(metric, made, samples), remarks)
    return built


def _of_teacher(
    teacher: ReadyModel, lineup: Lineup, config: EvaluationConfig, processes: Processes
) -> dict[str, Tensor]:
    """The teacher's many-step samples, in the first process; they depend on the settings that `_OF_TEACHER` names.

    What makes nothing without a picture is given those of held-out data.
    """
    sampler, calls, shift, scale = config.teacher_sampler, config.teacher_calls, config.shift, config.teacher_cfg_scale
    given = needed(teacher.contexts)
    # A large reference, and as many more as are scored at a time: the floor then has a score's own size.
    draws = {"reference": teacher.draw("reference", 0, 2 * config.samples)}
    draws["again"] = teacher.draw("floor", 0, config.samples)
    found = {}
    for name, draw in draws.items():
        start = lineup.held_out(teacher).start(given, draw)[0] if given else None
        found[name] = made_by_all(processes, teacher, sampler, calls, shift, draw, start, scale)
    made = {name: samples for name, samples in found.items() if samples is not None}
    if not all(samples.isfinite().all() for samples in made.values()):
        raise FlowmapError(
            f"the reference samples of the teacher '{teacher.stage}' (seed {teacher.seed}; {calls} calls of "
            f"{sampler.type}) are not all finite numbers, so nothing can be measured against them; look at how it was "
            "trained, or lower evaluation.teacher_cfg_scale",
            code=1,
        )
    return made


def _score(
    entry: Entry,
    plan: Plan,
    config: EvaluationConfig,
    measures: dict[MetricConfig, _Measure],
    lineup: Lineup,
    processes: Processes,
) -> Iterator[Score]:
    contestant = lineup.open(entry.member, entry.weights)
    calls = sorted({nfe for _, nfe, _ in wanted(entry, config)})
    chosen = {m: measure for m, measure in measures.items() if looks_at(m, entry)}
    for nfe in calls:
        values: dict[MetricConfig, list[float]] = {m: [] for m in chosen}
        tally = Tally()
        for repeat in each(range(config.repeats), _words(entry, nfe), "repeats"):
            evidence = _evidence(entry, plan, config, contestant, lineup, nfe, repeat, processes, tally)
            with led(contestant, processes) as network:
                if evidence is None or network is None:
                    continue
                evidence = replace(evidence, network=network)
                for m, measure in each(list(chosen.items()), "scoring", "metrics"):
                    # No metric need know what to make of samples that are no numbers; they are the worst there are.
                    usable = m.network is not None or bool(evidence.samples.isfinite().all())
                    values[m].append(score_of(m, measure.metric, evidence) if usable else math.nan)
        took = tally.of_one()
        for m, measure in chosen.items():
            yield Score(
                stage=contestant.stage,
                weights=entry.weights,
                sampler=entry.label if entry.sampler else m.network or "",
                nfe=nfe,
                metric=m.label(),
                value=mean_of(values[m]),
                spread=spread_of(values[m]),
                floor=measure.floor,
                seed=contestant.seed,
                samples=config.samples,
                repeats=config.repeats,
                checkpoint=entry.member.checkpoint,
                evaluation=entry.evaluation,
                values=tuple(values[m]),
                better=m.better,
                remarks=measure.remarks,
                **in_line(took),
            )


def _words(entry: Entry, nfe: int) -> str:
    by = f"by {entry.label}, {nfe} call{'' if nfe == 1 else 's'}" if entry.sampler else "the network itself"
    return f"{entry.member.name} ({entry.weights}), {by}"


def _evidence(
    entry: Entry,
    plan: Plan,
    config: EvaluationConfig,
    contestant: ReadyModel,
    lineup: Lineup,
    nfe: int,
    repeat: int,
    processes: Processes,
    tally: Tally,
) -> Evidence | None:
    """What the first process scores; None in the others, which have helped to make the samples."""
    draw = contestant.draw(f"{entry.label}/{nfe}", repeat, config.samples)
    if config.noise == "common":
        draw = contestant.common_draw(repeat, config.samples)
    if entry.sampler is None:
        if not processes.first:
            return None
        # On the CPU: all of them are more than a device has room for.
        samples = contestant.data.batch(replace(draw.child("data"), device=torch.device("cpu")))
        batch = encoded(contestant.backbone, samples, draw.child("encoding"))
        return Evidence(samples.x[:0], contestant.network, batch, draw)
    start, prompts = lineup.held_out(contestant).start(entry.context, draw) if entry.context else (None, None)
    if start is None and processes.first:
        prompts = contestant.data.prompts(draw)  # those of its parts, which `generate` asks for
    numbers = nfe, config.shift, draw, start, entry.cfg_scale
    made = made_by_all(processes, contestant, entry.sampler, *numbers, tally=tally)
    if made is None:
        return None
    if repeat == 0 and contestant.seed == plan.recipe.seeds[0]:
        name = f"{file_name(contestant.stage)}.{entry.weights}.{entry.label}.{nfe}"
        # What is no number has no colour: it is drawn as 0, and what is too large as the largest.
        shown = made[:_SHEET].nan_to_num(0.0, 1.0, -1.0)
        save_picture(plan.folder, name, contestant.data.picture(shown))
    return Evidence(made, contestant.network, None, draw, prompts)
