"""A metric: whether samples show the class that they were asked for, by the nearest mean of a class."""

from __future__ import annotations

import torch
from torch import Tensor

from flowmap.interfaces import Evidence, Metric, Samples


class LabelError(Metric):
    def __init__(self, train: Samples, held_out: Samples) -> None:
        assert train.labels is not None
        assert held_out.labels is not None
        self._classes = train.labels.unique()
        self._means = torch.stack([train.x[train.labels == one].flatten(1).mean(0) for one in self._classes])
        self._floor = self._error(held_out.x, held_out.labels)

    def score(self, evidence: Evidence) -> float:
        return self._error(evidence.samples, evidence.prompts)

    def floor(self, size: int) -> float:
        """The share of real samples it has not seen that it takes for another class: the same at any size."""
        return self._floor

    def _error(self, x: Tensor, asked: Tensor) -> float:
        nearest = torch.cdist(x.flatten(1).to(self._means), self._means).argmin(1)
        return float((self._classes[nearest] != asked.to(self._classes)).double().mean())
