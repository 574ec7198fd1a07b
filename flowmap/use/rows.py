"""What is measured of whom: the rows of an evaluation, and which of them have their scores already.

An `Entry` is a row of the results: one member (flowmap.use.lineup) under one sampler, or its network by itself where a
metric calls that. `entries_of` lists the rows that a recipe asks for, `wanted` the scores of each, and `recorded` finds
them in `metrics.jsonl`, unless weights or settings have changed since. flowmap.use.evaluate measures the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flowmap.plugin.kinds import MetricConfig, SamplerConfig
from flowmap.recipe.tables import EvaluationConfig
from flowmap.schema.words import Weights
from flowmap.use.lineup import Lineup, Member


@dataclass(frozen=True)
class Entry:
    """One row of the competition: a member's weights under a sampler (None: metrics of the network itself)."""

    member: Member
    weights: Weights
    sampler: SamplerConfig | None
    context: int
    cfg_scale: float
    evaluation: str

    @property
    def label(self) -> str:
        """The sampler as the results name it."""
        given = f"-after-{self.context}" if self.context else ""
        return f"{self.sampler.type}{given}" if self.sampler else "network"


def entries_of(lineup: Lineup, config: EvaluationConfig, seed: int) -> Iterator[Entry]:
    """The rows of one training seed, in the order of the recipe."""
    settings = config.model_dump(mode="json", exclude={"contests", "calls"})
    settings["teacher_checkpoint"] = lineup.member(config.teacher, seed).checkpoint
    probed: set[tuple[str, Weights]] = set()
    for contest in config.contests:
        member = lineup.member(contest.stage, seed)
        samplers: list[SamplerConfig | None] = list(contest.samplers)
        if (member.name, contest.weights) not in probed and any(_probes(m, member) for m in config.metrics):
            samplers.append(None)
            probed.add((member.name, contest.weights))
        for sampler in samplers:
            # The sampler's own fields too: the same name with another setting is another row.
            own = {
                "sampler": sampler.model_dump(mode="json") if sampler else None,
                "context": contest.context,
                "cfg_scale": contest.cfg_scale,
            }
            text = json.dumps(settings | own, sort_keys=True)
            evaluation = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
            context, scale = (contest.context, contest.cfg_scale) if sampler else (0, 1.0)
            yield Entry(member, contest.weights, sampler, context, scale, evaluation)


def _probes(metric: MetricConfig, member: Member) -> bool:
    """Whether `metric` calls the member's network itself rather than looking at samples."""
    return metric.network is not None and metric.network == member.kind


def wanted(entry: Entry, config: EvaluationConfig) -> set[tuple[str, int, str]]:
    """The (sampler, nfe, metric) that the entry's lines must have."""
    if entry.sampler is None:
        return {(m.network or "", m.calls, m.label()) for m in config.metrics if looks_at(m, entry)}
    own, each = entry.sampler.own_times(), entry.sampler.calls_per_step
    calls = [own.steps * each] if own else [n for n in config.calls if entry.sampler.steps(n) is not None]
    return {(entry.label, n, m.label()) for n in calls for m in config.metrics if looks_at(m, entry)}


def looks_at(metric: MetricConfig, entry: Entry) -> bool:
    """Whether `metric` is part of this row: of samples under a sampler, or of the network itself."""
    return metric.network is None if entry.sampler else _probes(metric, entry.member)


def recorded(
    entry: Entry, found: Sequence[dict[str, object]], config: EvaluationConfig
) -> list[dict[str, object]] | None:
    """The lines of `entry` among those `found` in metrics.jsonl; None if any that is wanted is missing or stale."""
    complete = wanted(entry, config)
    header = {
        "stage": entry.member.name,
        "weights": entry.weights,
        "seed": entry.member.seed,
        "checkpoint": entry.member.checkpoint,
        "evaluation": entry.evaluation,
    }
    lines = {
        key: line
        for line in found
        if all(line.get(k) == v for k, v in header.items())
        and (key := (line["sampler"], line["nfe"], line["metric"])) in complete
    }
    return list(lines.values()) if lines.keys() == complete else None
