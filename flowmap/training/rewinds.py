"""Go back to the checkpoint before a collapse, with lower learning rates: what the watchdog's 'rewind' does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flowmap.errors import FlowmapError
from flowmap.files.folder import writing
from flowmap.files.json_lines import read_lines, rewrite_lines
from flowmap.files.manifest import checkpoints
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.tables import has_critic
from flowmap.training.verify import aside
from flowmap.training.watchdog import Alarm, CollapseError, Seen, Watchdog

REWINDS = "rewinds.jsonl"
"""In a stage's folder: a line for each time that it went back, with `step`, `to`, `why` and `lr`, a factor."""


def lowered(plan: StagePlan) -> float:
    """What the recipe's learning rates are multiplied with, after all rewinds so far."""
    past = _past(plan)
    return float(past[-1]["lr"]) if past else 1.0


def watchdog_of(plan: StagePlan, past: Callable[[], Iterable[Seen]]) -> Watchdog | None:
    """The watchdog of a stage that has taken the steps that `past` reads; None if nobody is to watch."""
    if plan.recipe.watchdog.action == "off" or not has_critic(plan.stage):
        return None
    made = Watchdog(plan.recipe.watchdog)
    for seen in past():
        made.see(seen)
    return made


def rewind(plan: StagePlan, error: CollapseError) -> str:
    """Set aside every checkpoint since the first sign of a collapse, and note it; returns a sentence for the user.

    Raises FlowmapError if the stage has gone back as often as the recipe lets it. To be called by one process.
    """
    config, past = plan.recipe.watchdog, _past(plan)
    if len(past) >= config.rewinds:
        raise FlowmapError(
            f"{collapsed(plan, error.alarm)}\nIt has gone back {len(past)} times, as often as watchdog.rewinds allows, "
            f"at {lowered(plan):g} of its learning rates in the end.",
            code=1,
        )
    latest = error.alarm.good
    if past and error.step - past[-1]["to"] <= 2 * (past[-1]["step"] - past[-1]["to"]):
        # Hardly further than the last time: what it went back to was not good either.
        latest = min(latest, past[-1]["to"] - 1)
    good = [found for found in checkpoints(plan.folder) if found.step <= latest]
    to = good[-1].step if good else 0
    factor = lowered(plan) * config.lower
    # A kill in between costs a second collapse: nothing goes on from a checkpoint after the first sign.
    for late in checkpoints(plan.folder):
        if late.step > to:
            with writing(late.path):
                late.path.rename(aside(late.path, "collapsed"))
    rewrite_lines(plan.folder / REWINDS, [*past, {"step": error.step, "to": to, "why": error.alarm.why, "lr": factor}])
    where = f"step {to}" if to else "its beginning"
    return f"stage '{plan.stage.name}', {error}: went back to {where}, at {factor:g} of its learning rates from there"


def collapsed(plan: StagePlan, alarm: Alarm) -> str:
    """Say that a stage has collapsed, and from which checkpoint it might go on."""
    good = [found for found in checkpoints(plan.folder) if found.step <= alarm.good]
    where = f"the last checkpoint before is {good[-1].path}" if good else "there is no checkpoint before"
    sign = f"all was well at step {alarm.good}" if alarm.good else "there were signs from the start"
    return f"stage '{plan.stage.name}' seems to collapse: {alarm.why}; {sign}; {where}."


def _past(plan: StagePlan) -> list[dict[str, Any]]:
    return read_lines(plan.folder / REWINDS)
