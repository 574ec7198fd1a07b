"""Which processes share each sample, and where the networks are that make it."""

from __future__ import annotations

from flowmap.console.commands import process
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.computing import sequence_findings
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.specs import SampleSpec
from flowmap.training.processes import Processes
from flowmap.use.networks import Networks
from flowmap.use.student import ReadyModel
from flowmap.use.wish import Wish


def as_wished(compute: ComputeConfig, wish: Wish) -> ComputeConfig:
    """`compute` with what is wished of how networks are held."""
    if wish.sharded is None:
        return compute
    return compute.model_copy(update={"sampling": "sharded" if wish.sharded else "replicated"})


def sharing(compute: ComputeConfig, backbone: BackboneConfig, spec: SampleSpec, number: int | None) -> Processes:
    """The processes that sample, of which each `number` share the tokens of each sample: as many as can, if it is None.

    Raises FlowmapError if they cannot.
    """
    every = process()[1]
    if number is None:
        divisors = (n for n in range(every, 0, -1) if every % n == 0)
        number = next(n for n in divisors if not any(True for _ in sequence_findings(n, backbone, spec)))
        if number < every and compute.sampling == "replicated":
            number = every
    if every % number:
        raise FlowmapError(f"{option('together', number)}: {every} processes are no whole groups of {number}")
    for finding in sequence_findings(number, backbone, spec):
        raise FlowmapError(f"started as {number} processes, which would share each sample: {finding.message}")
    return Processes(compute.model_copy(update={"sequence": number}))


def refuse_unshared(
    contestant: ReadyModel, backbone: BackboneConfig, spec: SampleSpec, processes: Processes, together: int | None
) -> None:
    """Raise FlowmapError if all processes were to share each sample, cannot, and have a whole network each."""
    if together is None and processes.sequence < processes.number and not contestant.sharded:
        sharing(processes.compute, backbone, spec, processes.number)


def networks(backbone: BackboneConfig, spec: SampleSpec, processes: Processes) -> Networks:
    """The networks of `backbone` for samples of `spec`, as and where `processes` sample."""
    return Networks(backbone, spec, processes.device, processes.compute, processes)
