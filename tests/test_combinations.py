"""What is linear is measured as often as it has unknowns, and combined exactly."""

from __future__ import annotations

import pytest

from flowmap.workshop.combinations import Linear


def test_it_measures_as_often_as_it_must() -> None:
    """7 a + 11 b + 10**17 c, of which a + b is only ever seen together."""
    line, asked = Linear(), list[tuple[int, ...]]()

    def value(*features: int) -> int:
        def measure() -> int:
            asked.append(features)
            return 7 * features[0] + 11 * features[1] + 10**17 * features[2]

        return line.value(features, measure)

    for features in [(1, 1, 0), (3, 3, 0), (2, 2, 5), (4, 4, 7), (0, 0, 3), (1, 0, 1), (9, 4, 123)]:
        assert value(*features) == 7 * features[0] + 11 * features[1] + 10**17 * features[2]
    assert asked == [(1, 1, 0), (2, 2, 5), (1, 0, 1)]
    assert value(0, 0, 0) == 0


def test_a_value_that_no_constants_make_is_not_made_up() -> None:
    line = Linear()
    assert line.value((2,), lambda: 3) == 3
    with pytest.raises(AssertionError, match="is none"):
        line.value((1,), lambda: 0)
