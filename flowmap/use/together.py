"""Make samples by all processes, each whole batches of them, as one process would."""

from __future__ import annotations

from torch import Tensor

from flowmap.interfaces import Batch
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import SamplerConfig
from flowmap.training.processes import Processes
from flowmap.use.student import ReadyModel, at_once, generate


def made_together(
    processes: Processes,
    contestant: ReadyModel,
    sampler: SamplerConfig,
    calls: int,
    shift: float | None,
    draw: Draw,
    start: Batch | None,
    scale: float,
) -> Tensor | None:
    """In the first process all samples of `draw`, which all processes have made; None in the others."""
    if processes.number == 1:
        return generate(contestant, sampler, calls, shift, draw, start, scale)
    size = at_once(contestant)
    batches = processes.dealt(-(-draw.count // size))
    rows = [(min(begin * size, draw.count), min(end * size, draw.count)) for begin, end in batches]
    mine = generate(contestant, sampler, calls, shift, draw, start, scale, rows=rows[processes.index])
    return processes.collected(mine, [end - begin for begin, end in rows])
