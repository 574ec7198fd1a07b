"""What the processes of a run share out among them, and what each holds whole. Torch-free."""

from __future__ import annotations

from flowmap.schema.words import Shard

_HELD = 0.5
"""Of a device's memory: what may be held of networks and optimisers where a node shares them; the rest computes."""


def sharded_within(choice: Shard, number: int, node: int, held: int, memory: int | None) -> int:
    """How many of `number` processes share one copy of a network: all, or the `node` of them on each node.

    `held` is how many bytes of it, and of what trains it, there are in one copy; `memory` those of a device (None: as
    many as it takes).
    """
    if choice == "all" or node == number:
        return number
    fits = memory is None or held / node <= _HELD * memory
    return node if choice == "node" or fits else number
