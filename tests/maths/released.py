"""Losses and gradients that other projects' released code gave (tests/golden/objectives/README.md), and ours.

An objective is configured by its fields, as in a recipe, and takes its turn as in the loop; only the network is the
golden files' own. Every number that the objective draws is given: one that nobody gave is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from flowmap.interfaces import Batch, Chunking, Loss, OneChunk, Role, Scene, World
from flowmap.plugin import ObjectiveConfig

from ..scripted import scripted
from .support import Rows, analytic_role

GOLDEN = Path(__file__).parents[1] / "golden" / "objectives"
TOLERANCE = 1e-5


class Released:
    """One file: its numbers, its settings, and the networks that it describes."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.n = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.about: Mapping[str, str] = file.metadata()
        # The data, or what has their shape: `[B, F, C, H, W]`.
        self.samples = self.n["x0"] if "x0" in self.n else self.n["score_noise"]
        self.roles: dict[str, Role] = {}
        for role in ("student", "teacher", "critic", "first"):
            end = "" if role == "student" else f"_{role}"
            if f"W{end}" in self.n:
                self.roles[role] = analytic_role(role, self.n[f"W{end}"], self.n[f"b{end}"])

    def number(self, name: str) -> float:
        """A setting that is a number."""
        return float(self.about[name])

    @property
    def count(self) -> int:
        """B."""
        return len(self.samples)

    @property
    def elements(self) -> int:
        """D."""
        return self.samples[0].numel()

    def losses(
        self,
        objective: ObjectiveConfig,
        numbers: Mapping[str, Tensor],
        shares: Mapping[str, Sequence[Any]] | None = None,
        *,
        places: Sequence[int] = (),
        step: int = 0,
        turn: int = 0,
        chunking: Chunking | None = None,
    ) -> Iterator[Loss]:
        """The terms of a turn of `objective`, given all that it draws at this `step`.

        A network that the file lacks is missed where it is called.
        """
        cond = self.n["cond"]
        null = self.n.get("null", torch.zeros_like(cond))
        draw = scripted(self.count, numbers, shares or {}, places, step)
        roles = {name: self.roles[name] for name in objective.roles() if name in self.roles}
        scene = Scene(roles, Batch(self.samples, Rows(cond), Rows(null)), draw, chunking or OneChunk(), World())
        return objective.build().turns()[turn].losses(scene)

    def assert_agrees(
        self, loss: Tensor, factor: float, role: str = "student", prefix: str = "out_", tolerance: float = TOLERANCE
    ) -> None:
        """`factor` times our loss, and its gradients, are the released ones; other networks get none."""
        loss.backward()
        assert off(factor * loss, self.n[f"{prefix}loss"].sum()) < tolerance
        names = [key for key in self.n if key.startswith(f"{prefix}g")]
        golden = {key.removeprefix(f"{prefix}g").removeprefix("_"): self.n[key] for key in names}
        assert golden
        for key, expected in golden.items():
            assert off(factor * gradient(self.roles[role], key), expected) < tolerance, key
        others = (p for name, other in self.roles.items() if name != role for p in other.own.values())
        assert all(p.grad is None for p in others)


def gradient(role: Role, key: str) -> Tensor:
    """What a parameter has got, zero if nothing."""
    parameter = role.own[key]
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def off(ours: Tensor, golden: Tensor) -> float:
    """The largest difference, relative to the largest golden value; of a golden zero, the largest value."""
    ours = ours.detach()
    assert ours.shape == golden.shape
    largest = float(golden.abs().max())
    return float((ours - golden).abs().max()) / (largest or 1.0)
