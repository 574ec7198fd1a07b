"""Notice samples that are on another scale than the noise: they train, and what they train is of no use."""

from __future__ import annotations

from typing import final

from flowmap.interfaces import Batch
from flowmap.maths.scale import LEAST_RMS, MOST_RMS, off_scale


@final
class FirstBatch:
    """Looks at the first batch that it is shown, which an accelerator is waited for, and at no other."""

    def __init__(self) -> None:
        self._seen = False
        self._doubts: tuple[str, ...] = ()

    def see(self, batch: Batch) -> None:
        """Look at the samples of `batch`, which are in model space."""
        if not self._seen and (found := off_scale(batch.x0)):
            self._doubts = (
                f"samples have {found} in model space, and the noise that they are mixed with 0 and 1: let the data "
                f"have a root mean square of about 1, and within {LEAST_RMS:g} to {MOST_RMS:g} (`flowmap docs "
                "your-data`)",
            )
        self._seen = True

    def take(self) -> tuple[str, ...]:
        """What the user should hear of it, once."""
        doubts, self._doubts = self._doubts, ()
        return doubts
