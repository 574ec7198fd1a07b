"""Forward mode where attention has a forward derivative that fits; elsewhere it is refused, and not the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_diffusers.configs import FluxConfig, SanaConfig
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.settings import ArchitectureConfig
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from flowmap.errors import FlowmapError
from flowmap.plugin import SampleSpec
from flowmap.plugin.scores import scores_too_large
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe

RECIPE = """
name = "method"
data = {data}
backbone = {backbone}
[[stages]]
name = "teacher"
steps = 2
batch = 64
objective = "flow_matching"
[[stages]]
name = "only"
steps = 2
batch = 64
{roles}
objective = {objective}
"""
FAR = Path(__file__).parents[1] / "recipes" / "anyflow_far_14b.toml"
SMALL = (
    '{{ type = "wan21", weights = "random", gradient_checkpointing = {}, '
    "architecture = {{ channels = 1, text_dim = 16 }} }}"
)
VIDEO = (
    '{ type = "video_shards", path = "data/none", frames = 81, height = 480, width = 832 }',
    '{ type = "wan21", weights = "Wan-AI/Wan2.1-T2V-14B-Diffusers" }',
)
BY_DEFAULT = ["mean_flow", "eulerian", "lagrangian", "scm"]


def recipe(folder: Path, objective: str, data: str = '"digits"', backbone: str = '"mlp"') -> Recipe:
    roles = "" if "mean_flow" in objective else 'roles.teacher.from = "teacher"'
    path = folder / "r.toml"
    path.write_text(RECIPE.format(objective=objective, data=data, backbone=backbone, roles=roles))
    return read(path)[0]


def method(made: Recipe) -> str:
    objective: Any = made.stage("only").objective
    tangent = getattr(objective, "tangent", None) or objective.forward.tangent
    assert isinstance(tangent.method, str)
    return tangent.method


@pytest.mark.parametrize("objective", BY_DEFAULT)
def test_what_is_left_out_is_by_jvp_where_that_fits(objective: str, tmp_path: Path) -> None:
    assert method(recipe(tmp_path, f'"{objective}"')) == "jvp"
    assert method(recipe(tmp_path, f'"{objective}"', '"moving_digits"', SMALL.format("false"))) == "jvp"


@pytest.mark.parametrize("objective", [*(f'"{name}"' for name in BY_DEFAULT), '"rcm"', '{ type = "rcm", start = 1 }'])
def test_and_by_difference_where_scores_are_too_large(objective: str, tmp_path: Path) -> None:
    made = recipe(tmp_path, objective, *VIDEO)
    assert method(made) == "central"
    # The lock has it, and is read back as it is.
    assert Recipe.model_validate(made.as_tables()) == made
    locked = make_plan(made, tmp_path).stages[1].lock["stages"][-1]["objective"]
    assert locked.get("tangent", locked.get("forward", {}).get("tangent"))["method"] == "central"


def test_lagrangian_is_by_difference_where_backward_recomputes(tmp_path: Path) -> None:
    wan = SMALL.format("true")
    assert method(recipe(tmp_path, '"lagrangian"', '"moving_digits"', wan)) == "central"
    assert method(recipe(tmp_path, '"mean_flow"', '"moving_digits"', wan)) == "jvp"
    with pytest.raises(FlowmapError, match="cannot recompute a forward-mode derivative"):
        recipe(tmp_path, '{ type = "lagrangian", tangent.method = "jvp" }', '"moving_digits"', wan)


def test_what_is_asked_for_is_refused_with_its_place() -> None:
    setting = "stages.on_policy.objective.forward.tangent.method=jvp"
    why = (
        f"^--set {setting}: stages.on_policy.objective.forward.tangent.method: 'jvp' cannot be had here: "
        "the forward derivative of attention holds its scores whole, 32,760 x 32,760 tokens in 40 heads: 1,030 GB for "
        r"one sample; set method = 'central'$"
    )
    with pytest.raises(FlowmapError, match=why):
        read(FAR, [setting])
    warnings = read(FAR)[1]
    assert any("tangent.step" in line for line in warnings)
    assert not any("jvp" in line for line in warnings)  # nor is it advised


def test_what_backbones_say() -> None:
    wan, sizes = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", ArchitectureConfig(heads=12, head_dim=128)
    video, short = SampleSpec((81, 3, 480, 832)), SampleSpec((5, 3, 480, 832))
    for config in (Wan21Config, FarWan21Config):
        said = config(weights=wan).no_forward_mode(video)
        assert said is not None
        assert "32,760 x 32,760 tokens in 12 heads: 309 GB" in said
        assert config(weights=wan).no_forward_mode(short) is None  # 3,120 tokens, 2.8 GB
        assert config(weights="random", architecture=sizes).no_forward_mode(SampleSpec((21, 16, 60, 104))) == said
        assert config(weights="random", architecture=sizes).no_forward_mode(SampleSpec((2, 16, 60, 104))) is None
    flex = FarWan21Config(weights="random", architecture=sizes, chunks=(1, 1), attention="flex")
    assert "'flex' has no forward derivative" in str(flex.no_forward_mode(SampleSpec((2, 16, 8, 8))))

    flux, sana = FluxConfig(weights="black-forest-labs/FLUX.1-dev"), SanaConfig(weights="Sana_1600M_1024px_diffusers")
    pictures = [SampleSpec((1, 3, side, side)) for side in (1024, 2048)]
    assert flux.no_forward_mode(pictures[0]) is None  # 4,096 tokens, 10 GB
    assert "16,384 x 16,384 tokens in 24 heads: 155 GB" in str(flux.no_forward_mode(pictures[1]))
    # Of several sizes the largest counts.
    mixed = SampleSpec((1, 3, 1024, 1024), sizes=((1, 3, 1024, 1024), (1, 3, 2048, 2048)))
    assert flux.no_forward_mode(mixed) == flux.no_forward_mode(pictures[1])
    assert sana.no_forward_mode(SampleSpec((1, 3, 8192, 8192))) is None  # linear


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_forward_derivative_has_six_tables_of_scores_at_most(precision: torch.dtype, masked: bool) -> None:
    """torch's own allocator says how much, of which the last table is but in part."""
    heads, tokens = 4, 512
    q, k, v = (torch.randn(1, heads, tokens, 16, dtype=precision) for _ in range(3))
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril() if masked else None

    def attention_of(*qkv: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*qkv, attn_mask=mask)

    watched = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with watched as seen, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        torch.func.jvp(attention_of, (q, k, v), (q, k, v))
    now = most = 0
    results: Any = seen.profiler
    for event in results.kineto_results.events():
        now += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, now)
    tables = most / (4 * heads * tokens**2)
    assert 4.5 < tables <= 6
    said = scores_too_large(40, 32760)
    assert said is not None
    assert "1,030 GB" in said
    assert round(6 * 4 * 40 * 32760**2 / 1e9) == 1030


def test_flex_attention_has_none() -> None:
    said = FarWan21Config(weights="random", attention="flex").no_forward_mode(SampleSpec((4, 1, 8, 8)))
    assert said == "attention = 'flex' has no forward derivative ('auto' has one)"


def test_forward_mode_goes_through_no_shared_samples(tmp_path: Path) -> None:
    """Told or left out: who shares a sample changes no training, so that it is not settled by that."""
    backbone = SMALL.format("false").replace("{{", "{").replace("}}", "}")
    recipe(tmp_path, '"mean_flow"', '{ type = "moving_digits", frames = 4, size = 8 }', backbone)
    with pytest.raises(FlowmapError) as refused:
        read(tmp_path / "r.toml", ["compute.sequence=2"])
    assert str(refused.value).startswith(
        f"{tmp_path / 'r.toml'}:15: stages.only.objective.tangent.method: 'jvp' cannot"
    )
    assert "or leave out compute.sequence" in str(refused.value)
