"""Numbers of which it is known what they are linear in: measured as often as has to be, and combined from then on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import final


@final
class Linear:
    """A function of `features` (whole numbers) that is a sum of a constant times each of them, the constants unknown.

    What cannot be combined of what has been measured is measured. Combined exactly, in fractions.
    """

    def __init__(self) -> None:
        # What was measured, eliminated: features of which the first that is not 0 is 1 and 0 in all others, the value.
        self._rows: list[tuple[list[Fraction], Fraction]] = []

    def value(self, features: Sequence[int], measure: Callable[[], int]) -> int:
        """The value at `features`, from `measure` if those seen before do not give it."""
        left, known = self._reduced([Fraction(each) for each in features])
        lead = next((place for place, each in enumerate(left) if each), None)
        if lead is None:
            assert known.denominator == 1, "a combination of whole numbers that is none"
            return int(known)
        measured = measure()
        row = [each / left[lead] for each in left]
        value = (measured - known) / left[lead]
        self._rows = [
            ([a - old[lead] * b for a, b in zip(old, row, strict=True)], its - old[lead] * value)
            for old, its in self._rows
        ]
        self._rows.append((row, value))
        return measured

    def _reduced(self, features: list[Fraction]) -> tuple[list[Fraction], Fraction]:
        """What of `features` is no combination of what was measured, and the value of what is one."""
        known = Fraction(0)
        for row, value in self._rows:
            lead = next(place for place, each in enumerate(row) if each)
            times = features[lead]
            features = [a - times * b for a, b in zip(features, row, strict=True)]
            known += times * value
        return features, known
