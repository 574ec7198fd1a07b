"""What a stage takes on so many devices, from what its networks take and how often they are called. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from flowmap.footprint import Footprint


def needs(footprint: Footprint) -> Iterator[str]:
    """Sentences on what the weights, and what is trained of them, take in memory."""
    base, student, critic = footprint.base(), footprint.own("flow_map"), footprint.own("velocity")
    if not base.count:
        yield (
            f"memory for {student.count / 1e9:.2f}B parameters in each role, all trained: "
            f"{16 * student.count / 1e9:.0f} GB a role"
        )
        return
    yield f"memory for one base of {base.count / 1e9:.2f}B parameters that all roles share: {base.bytes / 1e9:.1f} GB"
    yield (
        f"memory for adapters: {student.count / 1e9:.2f}B parameters in a student, {critic.count / 1e9:.2f}B in a "
        f"critic; with gradient, optimiser and moving average {20 * student.count / 1e9:.1f} and "
        f"{16 * critic.count / 1e9:.1f} GB; activations come on top (flowmap plan)"
    )
