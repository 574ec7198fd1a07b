"""What the processes of a run share out among them, and what each holds whole. Torch-free."""

from __future__ import annotations

from flowmap.schema.words import Base, Reduction, Shard

_HELD = 0.5
"""Of a device's memory: what may be held of networks and optimisers where a node shares them, or of a network that is
only called where each device has it whole; the rest computes."""

_BASE = 1 / 8
"""Of a device's memory: what frozen parameters may take that are whole in each process."""
_GRADIENT = 1 / 16
"""Of a device's memory: what the gradient of one role may take that is kept whole until the end of a turn."""


def sharded_within(choice: Shard, number: int, node: int, held: int, memory: int | None) -> int:
    """How many of `number` processes share one copy of a network: all, or the `node` of them on each node.

    `held` is how many bytes of it, and of what trains it, there are in one copy; `memory` those of a device (None: as
    many as it takes).
    """
    if choice == "all" or node == number:
        return number
    fits = memory is None or held / node <= _HELD * memory
    return node if choice == "node" or fits else number


def replicated(choice: Base, base: int, memory: int | None) -> bool:
    """Whether `base` bytes of frozen parameters are whole in each process; never by itself where memory is unknown."""
    return choice == "replicated" or (choice == "auto" and memory is not None and base <= _BASE * memory)


def whole_where_called(choice: Base, network: int, memory: int | None) -> bool:
    """Whether a `network` of so many bytes that nobody trains is whole in each process that calls it."""
    return choice == "replicated" or (choice == "auto" and (memory is None or network <= _HELD * memory))


def reduced_once(choice: Reduction, gradient: int, memory: int | None) -> bool:
    """Whether so many bytes of a role's `gradient` are kept whole in each process until the end of a turn."""
    return choice == "turn" or (choice == "auto" and (memory is None or gradient <= _GRADIENT * memory))
