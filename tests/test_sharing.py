"""Who shares one copy of a network with whom: the rules, on numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from flowmap.schema.words import Base, Reduction, Shard
from flowmap.training.sharing import reduced_once, replicated, sharded_within

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


@pytest.mark.parametrize(
    ("choice", "base", "memory", "whole"),
    [
        ("auto", 10 * GB, 80 * GB, True),
        ("auto", 11 * GB, 80 * GB, False),
        ("auto", 1, None, False),
        ("replicated", 500 * GB, 80 * GB, True),
        ("sharded", 1, 80 * GB, False),
    ],
)
def test_a_base_of_an_eighth_of_a_device_is_whole_on_each(
    choice: Base, base: int, memory: int | None, whole: bool
) -> None:
    assert replicated(choice, base, memory) == whole


@pytest.mark.parametrize(
    ("choice", "gradient", "memory", "once"),
    [
        ("auto", 5 * GB, 80 * GB, True),
        ("auto", 6 * GB, 80 * GB, False),
        ("auto", 500 * GB, None, True),
        ("turn", 500 * GB, 80 * GB, True),
        ("loss", 1, 80 * GB, False),
    ],
)
def test_a_gradient_of_a_sixteenth_of_a_device_waits_for_the_end_of_its_turn(
    choice: Reduction, gradient: int, memory: int | None, once: bool
) -> None:
    assert reduced_once(choice, gradient, memory) == once
