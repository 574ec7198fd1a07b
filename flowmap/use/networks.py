"""Networks that nobody trains, where they are measured and sampled: whole in each process, or sharded over all."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from flowmap.interfaces import Backbone, Role, Velocity, share_tokens
from flowmap.interfaces.held import postponed
from flowmap.phases import phase
from flowmap.plugin.kinds import BackboneConfig
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind
from flowmap.training.compiled import compile_units
from flowmap.training.precision import compute_in
from flowmap.training.processes import Processes
from flowmap.training.sharding import place_called, put_in, size_of, take_whole
from flowmap.training.sharing import whole_where_called
from flowmap.training.stage import base_draw


@final
class Networks:
    """The networks of one backbone on `device`, one at a time: the last that was asked for is valid.

    They compute as `compute` says, precision "no" being that of the weights. Of several `processes` those that hold a
    share of the samples share the tokens of each.
    """

    def __init__(
        self,
        config: BackboneConfig,
        spec: SampleSpec,
        device: torch.device,
        compute: ComputeConfig,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.backbone: Backbone = config.build(spec)
        self._compute, self._processes = compute, processes
        self._sharded: tuple[NetworkKind, Role] | None = None

    @property
    def sharded(self) -> bool:
        """Whether the network that was asked for last is sharded: all processes must call it, equally often."""
        return self._sharded is not None

    def student(self, kind: NetworkKind, own: Mapping[str, Tensor] | None, seed: int) -> Velocity:
        """The network of a student with the weights `own`, or with the backbone's own (see Backbone.role).

        `backbone` may be another one afterwards. Raises FlowmapError unless every parameter is set.
        """
        with phase("making the network"):
            if self._sharded is not None and own is not None and self._takes(kind, own):
                role = self._sharded[1]
                put_in(role, own)
                return role.network
            if self._sharded is not None:
                # What is sharded takes no other adapter, and no other base.
                self._sharded = None
                self.backbone = None  # type: ignore[assignment]  # its memory is needed for the next
                gc.collect()  # a network and its hooks know each other
                self.backbone = self.config.build(self.spec)
            with postponed(self._may_shard(sys.maxsize)):
                role = self.backbone.role("student", kind, own, base_draw(seed))
            role.freeze()
            self._place(kind, role)
            role.module.eval()
        return role.network

    def _takes(self, kind: NetworkKind, own: Mapping[str, Tensor]) -> bool:
        """Whether the sharded network is one for the weights `own`."""
        assert self._sharded is not None
        made, role = self._sharded
        shapes = [{name: value.shape for name, value in each.items()} for each in (role.own, own)]
        return made == kind and shapes[0] == shapes[1]

    def _may_shard(self, size: int) -> bool:
        """Whether a network of so many bytes is sharded, as all processes decide alike."""
        processes = self._processes
        if processes is None or processes.number == 1:
            return False
        return not whole_where_called(self._compute.sampling, size, processes.least_memory())

    def _place(self, kind: NetworkKind, role: Role) -> None:
        processes, module = self._processes, role.module
        if processes is not None and self._may_shard(size_of(module)):
            place_called(role, processes)
            self._sharded = kind, role
            return
        compute_in(module, self._compute.precision, self.device)
        share_tokens(module, processes.tokens() if processes is not None else None)
        compile_units([role], self._compute.compile)
        take_whole(module, self.device)
