"""Network-call equivalents: what a training costs, whatever it does. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping


def equivalents(calls: Mapping[str, Mapping[str, int]], recomputes: bool) -> int:
    """The network-call equivalents of a ledger's `calls` by role, in samples.

    A forward counts 1 and its backward 2; where backward `recomputes` the forward (gradient checkpointing), 1 more.
    """
    graded = 4 if recomputes else 3
    return sum(graded * counts["grad_samples"] + counts["no_grad_samples"] for counts in calls.values())
