"""What is wrong with a batch, and with the parts that it is taken in. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from flowmap.recipe.tables import StageConfig
from flowmap.schema.bounds import MOST_HELD, MOST_MICRO_BATCHES
from flowmap.schema.config import Finding


def batch_findings(stage: StageConfig, elements: int) -> Iterator[Finding]:
    """A batch that cuts the objective's groups, or one that all processes together could not hold.

    `elements` are the numbers of a sample.
    """
    group = stage.objective.group()
    if stage.batch % group:
        why = (
            f"a batch of {stage.batch} is not whole groups of {group}, within which '{stage.objective.type}' compares "
            f"samples; use {_nearest(stage.batch, group)}"
        )
        yield Finding("error", ("batch",), why)
    if stage.batch * elements > MOST_HELD:
        why = (
            f"a batch of {stage.batch:,} samples x {elements:,} numbers of each (data) has "
            f"{stage.batch * elements:,}, and at most {MOST_HELD:,} fit in memory; use {MOST_HELD // elements:,}"
        )
        yield Finding("error", ("batch",), why)


def micro_batch_findings(micro: int, stages: Sequence[StageConfig]) -> Iterator[Finding]:
    """A `micro` batch, 0 if it is left out, that cuts an objective's groups, or in which no batch can be taken."""
    cut = next((stage for stage in stages if micro % stage.objective.group()), None)
    if cut is not None:
        why = (
            f"stage '{cut.name}': micro-batches of {micro} would cut groups of {cut.objective.group()}, within which "
            f"'{cut.objective.type}' compares samples; {_whole_groups(micro, stages)}"
        )
        yield Finding("error", ("compute", "micro_batch"), why)
        return
    stage = next((stage for stage in stages if micro and stage.batch % micro), None)
    if stage is not None:
        why = (
            f"stage '{stage.name}': a batch of {stage.batch} is not whole micro-batches of compute.micro_batch = "
            f"{micro}; use a batch of {_nearest(stage.batch, micro)}, or a micro-batch that divides it"
        )
        yield Finding("error", ("compute", "micro_batch"), why)
    most = max((stage.batch // micro for stage in stages if micro), default=0)
    if most > MOST_MICRO_BATCHES:
        why = f"a step would have {most:,} micro-batches (batch / micro_batch), and at most {MOST_MICRO_BATCHES:,}"
        yield Finding("error", ("compute", "micro_batch"), f"{why} are gone through one by one; use a larger one")


def _nearest(batch: int, part: int) -> str:
    """The nearest batches that are whole `part`s."""
    below = batch // part * part
    return f"{below} or {below + part}" if below else str(part)


def _whole_groups(micro: int, stages: Sequence[StageConfig]) -> str:
    """What to do about a `micro` batch that cuts groups: the nearest that suit all `stages`, or none."""
    together = math.lcm(*(stage.objective.group() for stage in stages))
    shared = math.gcd(*(stage.batch for stage in stages))
    sizes = [size for size in range(together, shared + 1, together) if shared % size == 0]
    below, above = [s for s in sizes if s < micro][-1:], [s for s in sizes if s > micro][:1]
    near = " or ".join(map(str, below + above))
    return f"use {near}, or leave it out" if near else "leave it out"
