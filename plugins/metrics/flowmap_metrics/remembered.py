"""Features that several metrics look at, made once of the same samples."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from flowmap.interfaces import Features, References
from flowmap.plugin import FeaturesConfig


def features_of(config: FeaturesConfig, references: References) -> Features:
    """The features of `config`, one object for all metrics of these references."""
    return references.once(("features", config), lambda: Remembered(config.build(references)))


@final
class Remembered(Features):
    """What `features` are of each tensor of samples, as long as that tensor lives; nobody changes samples."""

    def __init__(self, features: Features) -> None:
        self._features = features
        self._known = WeakTensorKeyDictionary()

    def of(self, samples: Tensor) -> Tensor:
        """See Features.of."""
        if samples not in self._known:
            self._known[samples] = self._features.of(samples)
        found: Tensor = self._known[samples]
        return found
