"""What is asked of an export: a role's transformer, and the form that it is to have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from flowmap.interfaces import SamplingGrid
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap_wan.transformer import WanConfig


@final
@dataclass(frozen=True)
class Asked:
    """A `transformer` of `config` under `adapter`, a network of `kind`, in a `form` for others.

    Adapters are `merged` into the weights or kept apart; `grid` is what the role is sampled on, for samples of `spec`.
    """

    config: WanConfig
    spec: SampleSpec
    transformer: Any
    adapter: str | None
    form: str
    merged: bool
    grid: SamplingGrid
    kind: NetworkKind

    @property
    def apart(self) -> bool:
        """Whether there is an adapter, and it is kept apart."""
        return self.adapter is not None and not self.merged
