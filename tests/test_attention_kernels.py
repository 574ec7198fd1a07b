"""Which kernels of attention training may take; what they are worth is for a GPU (`python -m tests.gpu`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.training.kernels import choose_attention
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage

RECIPE = """
name = "small"
data = {{ type = "moving_digits", frames = 5, size = 8 }}
compute = {{ device = "cpu", cudnn_attention = "{asked}" }}

[backbone]
type = "wan21"
weights = "random"
attention = "{attention}"
architecture = {{ layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, patch = [1, 2, 2] }}

[[stages]]
name = "it"
steps = 1
batch = 2
objective = "flow_matching"
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("asked", "attention", "taken"),
    [
        ("auto", "auto", True),
        ("auto", "parts", True),
        ("auto", "dense", False),
        ("no", "auto", False),
        ("yes", "dense", True),
    ],
)
def test_a_stage_takes_cudnn_where_it_was_checked_or_is_asked_for(
    asked: str, attention: str, taken: bool, tmp_path: Path
) -> None:
    torch.backends.cuda.enable_cudnn_sdp(not taken)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(asked=asked, attention=attention))
    recipe = read(path)[0]
    open_stage(make_plan(recipe, tmp_path).stages[0], Processes(recipe.compute))
    assert torch.backends.cuda.cudnn_sdp_enabled() is taken


def test_only_wan_has_checked_it() -> None:
    found = {}
    for name in catalogue().names("backbone"):
        kind = catalogue().find("backbone", name)
        found[name] = kind.model_construct(attention="auto").cudnn_attention()  # type: ignore[attr-defined]
    assert {name for name, checked in found.items() if checked} == {"wan21", "far_wan21"}


def test_the_last_word_counts() -> None:
    for checked in (True, False, True):
        choose_attention("auto", checked)
        assert torch.backends.cuda.cudnn_sdp_enabled() is checked
