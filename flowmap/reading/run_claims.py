"""The claims of one run: its scores, teacher and controls, put to the rules of flowmap.statistics. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowmap.reading.read import RunFiles
from flowmap.statistics.claims import Claim, Control, claims


def claims_of(run: RunFiles) -> list[Claim]:
    """Every claim that the run's scores can decide, its teacher and controls being those of its recipe."""
    evaluation = _evaluation(run)
    return claims(run.lines, evaluation.get("teacher"), _controls(run), evaluation.get("noise") == "common")


def _evaluation(run: RunFiles) -> Mapping[str, Any]:
    return run.recipe.get("evaluation") or {}


def _controls(run: RunFiles) -> Iterator[Control]:
    """The contests that name a control, with what each of the two stages cost beyond what both build on."""
    recomputes, costs = run.recomputes, run.costs
    for contest in _evaluation(run).get("contests", []):
        if (against := contest.get("against")) is None:
            continue
        ours, theirs = _lineage(run, contest["stage"]), _lineage(run, against)
        spent: list[int | None] = [None, None]
        # What weights from outside have cost is not known.
        if recomputes is not None and ours | theirs <= costs.keys():
            alone = (ours - theirs, theirs - ours)
            spent = [sum(costs[name].equivalents(recomputes) for name in own) for own in alone]
        yield Control(contest["stage"], contest.get("weights", "ema"), against, *spent)


def _lineage(run: RunFiles, stage: str) -> set[str]:
    """The stage, and every stage whose weights it builds on."""
    sources = {
        one["name"]: {role["from"] for role in one.get("roles", {}).values()} - {"base"} for one in run.recipe["stages"]
    }
    found, new = set[str](), {stage}
    while new:
        found |= new
        new = {source for name in new for source in sources.get(name, set())} - found
    return found
