"""Samples on another scale than the noise are doubted once, in the first step of a stage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from flowmap.interfaces import Samples
from flowmap.interfaces.endless import EndlessPoints
from flowmap.maths.draw import Draw
from flowmap.maths.scale import off_scale
from tests.small_runs import HEAD, TEACHER, planned, train_all


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((9.9, -9.9), ""),
        ((0.051, 0.051), ""),
        ((250.0, 260.0), "a mean of 255 and a standard deviation of 5"),
        ((0.01, -0.03), "a mean of -0.01 and a standard deviation of 0.02"),
        ((0.0, 0.0), "a mean of 0 and a standard deviation of 0"),
        ((math.nan, 1.0), ""),  # the loss says that
    ],
)
def test_what_is_off_is_said_in_numbers(values: tuple[float, ...], said: str) -> None:
    assert off_scale(torch.tensor(values)) == said
    assert off_scale(torch.tensor(values, dtype=torch.bfloat16)[:0]) == ""


def test_a_run_on_unscaled_data_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EndlessPoints.batch

    def unscaled(self: EndlessPoints, draw: Draw) -> Samples:
        return Samples(127.5 * (real(self, draw).x + 2))

    monkeypatch.setattr(EndlessPoints, "batch", unscaled)
    records = train_all(planned(HEAD + TEACHER, tmp_path, "compute.micro_batch=4")).records
    ((step, doubt),) = [(record.step, doubt) for record in records for doubt in record.doubts]
    assert len(records) > 1
    assert step == 1
    assert doubt.startswith("samples have a mean of 2")
    assert "in model space, and the noise that they are mixed with 0 and 1: let the data have a root mean" in doubt
