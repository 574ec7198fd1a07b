"""What is wrong with how a recipe is computed: the parts that its batches and samples are taken in. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.batches import micro_batch_findings
from flowmap.recipe.tables import ComputeConfig, StageConfig
from flowmap.schema.config import Finding
from flowmap.schema.specs import SampleSpec


def compute_findings(
    compute: ComputeConfig, stages: Sequence[StageConfig], backbone: BackboneConfig, spec: SampleSpec
) -> Iterator[Finding]:
    """Parts in which batches of `stages`, or samples of `spec`, cannot be taken."""
    yield from micro_batch_findings(compute.micro_batch, stages)
    if compute.compile and not backbone.has_blocks():
        why = f"networks of backbone '{backbone.type}' have no blocks to compile; leave it out"
        yield Finding("error", ("compute", "compile"), why)
    if compute.compile and backbone.recomputation() == "offload":
        why = "compiled blocks cannot offload their inputs; take gradient_checkpointing = 'block', or leave compile out"
        yield Finding("error", ("compute", "compile"), why)
    yield from sequence_findings(compute.sequence, backbone, spec)


def sequence_findings(sequence: int, backbone: BackboneConfig, spec: SampleSpec) -> Iterator[Finding]:
    """A number of processes that cannot share the tokens of a sample of `spec`: they divide the attention heads."""
    if sequence == 1:
        return
    heads = backbone.attention_heads(spec)
    if heads == 1:
        why = f"backbone '{backbone.type}' cannot share the tokens of a sample among processes; leave it out"
        yield Finding("error", ("compute", "sequence"), why)
    elif heads is not None and heads % sequence:
        fits = [str(n) for n in range(1, heads + 1) if heads % n == 0]
        why = (
            f"{sequence} processes cannot share the {heads} attention heads of backbone '{backbone.type}' evenly; use "
            f"{', '.join(fits[:-1])} or {fits[-1]}"
        )
        yield Finding("error", ("compute", "sequence"), why)
