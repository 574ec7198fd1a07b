"""Adapters that are read are not drawn first, and are read to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.configs import FarWan21Config, Wan21Config
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Role
from flowmap.plugin import SampleSpec

from .support import built, draw, lora, noise

SPEC = SampleSpec((9, 3, 48, 80))
KINDS = pytest.mark.parametrize("kind", ["wan21", "far_wan21"])


def backbone(kind: str, wan: Path) -> Any:
    if kind == "wan21":
        return built(Wan21Config(weights=str(wan), lora=lora()), SPEC)
    fields: dict[str, Any] = {"chunks": (1, 2), "compressed_patch_size": (1, 6, 10)}
    return built(FarWan21Config(weights=str(wan), lora=lora(), **fields), SPEC)


def weights_of(role: Role) -> dict[str, Tensor]:
    return {key: value.detach() + 0.1 * noise(*value.shape) for key, value in role.own.items()}


def count_draws(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices of the tensors that are drawn from now on."""
    seen: list[torch.device] = []
    real = torch.nn.init.kaiming_uniform_

    def drawn(tensor: Tensor, *words: Any, **named: Any) -> Tensor:
        seen.append(tensor.device)
        return real(tensor, *words, **named)

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", drawn)
    return seen


@KINDS
@pytest.mark.parametrize("role", ["flow_map", "velocity"])
def test_what_is_read_is_not_drawn(kind: str, role: Any, wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(backbone(kind, wan).role("student", role, None, draw()))
    made = backbone(kind, wan)
    # Whose layers, of the times too, another role may have adapters on.
    made.role("critic", "flow_map", None, draw())
    seen = count_draws(monkeypatch)
    own = made.role("student", role, weights, draw()).own
    assert torch.device("cpu") not in seen
    assert own.keys() == weights.keys()
    assert all(value.device.type == "cpu" and torch.equal(value, weights[key]) for key, value in own.items())
    assert all(value.requires_grad and value.dtype == torch.float32 for value in own.values())
    # Without weights there is something to draw.
    made.role("student", role, None, draw())
    assert torch.device("cpu") in seen


@KINDS
def test_what_a_teacher_lacks_is_drawn_as_ever(kind: str, wan: Path) -> None:
    fresh = backbone(kind, wan).role("student", "flow_map", None, draw()).own
    teacher = weights_of(backbone(kind, wan).role("student", "velocity", None, draw()))
    own = backbone(kind, wan).role("student", "flow_map", teacher, draw()).own
    lacking = own.keys() - teacher.keys()
    assert lacking
    assert all(key.startswith("condition_embedder.") for key in lacking)
    assert all(torch.equal(own[key], fresh[key] if key in lacking else teacher[key]) for key in own)


@KINDS
def test_a_part_is_refused(kind: str, wan: Path) -> None:
    """Nothing may be left of what was in memory."""
    made = backbone(kind, wan)
    weights = weights_of(made.role("student", "flow_map", None, draw()))
    gone = next(key for key in weights if key.startswith("blocks.1."))
    del weights[gone]
    with pytest.raises(FlowmapError, match="these weights are not of this backbone"):
        made.role("student", "flow_map", weights, draw())
