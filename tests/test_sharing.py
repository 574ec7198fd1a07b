"""Who shares one copy of a network with whom: the rules, on numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from flowmap.schema.words import Shard
from flowmap.training.sharing import sharded_within

GB = 10**9


@pytest.mark.parametrize(
    ("choice", "held", "memory", "within"),
    [
        ("auto", 320 * GB, 80 * GB, 8),  # 40 GB on each of the 8 of a node
        ("auto", 328 * GB, 80 * GB, 16),
        ("auto", 328 * GB, None, 8),
        ("all", 1, 80 * GB, 16),
        ("node", 900 * GB, 80 * GB, 8),
    ],
)
def test_two_nodes_of_eight(choice: Shard, held: int, memory: int | None, within: int) -> None:
    assert sharded_within(choice, 16, 8, held, memory) == within


@pytest.mark.parametrize("choice", ["auto", "all", "node"])
def test_one_node_has_one_copy(choice: Shard) -> None:
    assert sharded_within(choice, 8, 8, 1, 80 * GB) == 8
