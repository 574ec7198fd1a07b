"""Causal models that are none are found by the kit (ours keep it: tests/kit), and the plan counts a causal recipe."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from flowmap_wan.chunking import Causal
from flowmap_wan.configs import FarWan21Config
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Cond, EncodedText, Samples, Velocity, Window
from flowmap.planning.count import count
from flowmap.plugin import SampleSpec
from flowmap.recipe.layout import StagePlan, make_plan
from flowmap.recipe.read import read
from flowmap.testing import check_backbone

from ..test_cost import trained
from .support import CHANNELS, TEXT, architecture, lora, noise

SPEC = SampleSpec((4, CHANNELS, 4, 4))


class Seeing(Causal):
    """Chunks of a causal model whose clean context is the mean of all frames, later ones too."""

    def forced(self, batch: Batch, window: Window) -> Batch:
        mean = batch.x0.mean(1, keepdim=True).expand_as(batch.x0)
        seen = super().forced(replace(batch, x0=mean), window)
        return replace(seen, x0=batch.x0[:, window.start : window.stop])


class Forgetful(Causal):
    """Chunks of a causal model that remembers nothing."""

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return cond


@pytest.mark.parametrize(
    ("kind", "broken"),
    [(Seeing, "must not depend on the frames after it"), (Forgetful, "must remember a finished chunk")],
)
def test_a_causal_model_that_is_none_is_found(kind: type[Causal], broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FarWan21Config, "splitting", lambda self: kind(self.chunks, self.full_chunks, 0.5))
    config = FarWan21Config(
        weights="random", architecture=architecture(layers=1), lora=lora(), chunks=(1, 1, 1, 1), full_chunks=2
    )
    prompts = EncodedText(noise(4, 5, TEXT, seed=3), noise(5, TEXT, seed=4))
    with pytest.raises(AssertionError, match=broken):
        check_backbone(config, SPEC, Samples(noise(4, *SPEC.shape), prompts=prompts))


RECIPE = """\
name = "cost"
seeds = [3]

[data]
type = "moving_digits"
frames = 6
size = 16

[backbone]
type = "{kind}"
weights = "random"
architecture = {{ layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, patch = [1, 8, 8] }}
{more}

[[stages]]
name = "only"
steps = 6
batch = 3
objective = {objective}
"""
FAR = "chunks = [1, 2, 1, 1, 1]\nfull_chunks = 2\ncompressed_patch_size = [1, 16, 16]\nlora = { rank = 2, alpha = 2.0 }"

OBJECTIVES = {
    "flow_matching": '"flow_matching"',
    "flow_map": '{ type = "flow_map", bidirectional = 0.5, cfg_scale = 3.0, drop_condition = 0.5 }',
    "on policy": '{ type = "backward_simulation", rollout_steps = [1, 4], cfg_scale = 4.0 }',
    "on policy, whole": '{ type = "backward_simulation", score = "whole", forward = "discrete_flow_map" }',
    "co-trained": '{ type = "backward_simulation", forward = { type = "flow_map", bidirectional = 0.5 } }',
}


def test_embeddings_of_another_size_are_refused(here: Path) -> None:
    text = RECIPE.format(kind="wan21", more="", objective='"flow_matching"').replace("text_dim = 16", "text_dim = 10")
    (here / "r.toml").write_text(text)
    with pytest.raises(FlowmapError, match=r"architecture.text_dim: .* of 16 dimensions; set it to that"):
        read(Path("r.toml"))


def plan_of(here: Path, kind: str, objective: str) -> StagePlan:
    more = FAR if kind == "far_wan21" else "first_frame = 0.5"
    (here / "r.toml").write_text(RECIPE.format(kind=kind, more=more, objective=objective))
    return make_plan(read(Path("r.toml"))[0], here / "runs").stages[0]


@pytest.mark.parametrize(
    ("kind", "objective"),
    [*(("far_wan21", name) for name in OBJECTIVES), ("wan21", "flow_map"), ("wan21", "co-trained")],
)
def test_the_cost_is_what_the_ledger_counts(kind: str, objective: str, here: Path) -> None:
    plan = plan_of(here, kind, OBJECTIVES[objective])
    cost = count(plan)
    calls, backwards = trained(plan)
    assert {role: Counter(vars(counted)) for role, counted in cost.calls.items()} == calls
    assert sum(cost.backwards.values()) == backwards
    if kind == "far_wan21" and "backward" in OBJECTIVES[objective]:
        assert cost.calls["student"].no_grad > 0
