"""rCM's released students as contestants: from a checkpoint as rCM lays it out to its own latents."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.original import of_original
from flowmap_wan.released import RELEASES
from flowmap_wan.twin import make_twin
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flowmap.interfaces import Cond, EncodedText, FlowMap, as_flow_map
from flowmap.plugin import SampleSpec
from flowmap.recipe.outside import AbsentError, look_up
from flowmap.use.sample import sample
from flowmap.use.wish import Wish
from flowmap.workshop.backbone import ModuleBackbone

from .support import draw

RIVALS = Path(__file__).parents[1] / "golden" / "rivals"
SPEC = SampleSpec((9, 3, 32, 32), text=True)
RELEASED = RELEASES["rCM_Wan2.1_T2V_1.3B_480p"]


def held(name: str) -> dict[str, Tensor]:
    with safe_open(RIVALS / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping


def written(of: dict[str, Tensor], folder: Path) -> Path:
    """The checkpoint as rCM's is: `net.`, and a linear layer for patches."""
    file = folder / "rCM_Wan2.1_T2V_1.3B_480p.safetensors"
    weights = {key.removeprefix("w."): value for key, value in of.items() if key.startswith("w.")}
    assert weights["net.patch_embedding.weight"].ndim == 2
    save_file(weights, file)
    return file


def backbone(config: Any) -> ModuleBackbone:
    made = config.build(SPEC)
    assert isinstance(made, ModuleBackbone)
    return made


class Repeated:
    """A draw that gives the noise of the golden file."""

    def __init__(self, of: dict[str, Tensor]) -> None:
        self.of = of

    def normal(self, name: str, shape: torch.Size) -> Tensor:
        found = self.of[f"fresh.{name.removeprefix('renoise-')}"]
        assert found.shape[1:] == shape
        return found


class Watched(FlowMap):
    """Notes what a network answers."""

    def __init__(self, network: FlowMap) -> None:
        self.network, self.answers = network, []

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        self.answers.append((x, self.network.mean_velocity(x, t, r, cond)))
        return self.answers[-1][1]


def off(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize(("name", "told"), [("rcm", "exact"), ("rcm_bf16_times", "bfloat16")])
@pytest.mark.parametrize("adapters", [False, True])
@torch.no_grad()
def test_released_numbers(name: str, told: str, adapters: bool, tmp_path: Path) -> None:
    of = held(name)
    found = Wan21Config.of_weights(str(written(of, tmp_path)))
    assert found is not None
    assert found.one_time_weights == "jump"
    lora = {"lora": {"rank": 2, "alpha": 2.0}} if adapters else {}
    made = backbone(Wan21Config.model_validate({**found.model_dump(exclude_unset=True), "head_dim": 16, **lora}))
    network = Watched(as_flow_map(made.role("student", "flow_map", None, draw()).network))
    text = of["text"]
    assert len(text) == 2 or name != "rcm"
    cond, _ = made.condition(EncodedText(text, text[0] * 0), len(text), text.device)
    sampler = LcmConfig.model_validate({**RELEASED.sampler, "time_input": told})
    own = sampler.own_times()
    assert RELEASED.sampler["time_input"] == "bfloat16"
    start = of["noise"] * own.start
    times = torch.tensor(own.times, dtype=torch.float64)
    latents = sampler.build().sample(network, start, times, cond, Repeated(of))  # type: ignore[arg-type]
    assert off(latents, of["latents"]) < 2e-5
    for step, (x, v) in enumerate(network.answers):
        assert off(x, of[f"x.{step}"]) < 2e-5
        assert off(v, of[f"v.{step}"]) < 1e-4


def test_a_network_of_one_time_begins_as_the_jump_and_learns_r(tmp_path: Path) -> None:
    """u(x, t, r) is the file's network at t for every r; it trains, and r then has a say."""
    of = held("rcm")
    file = str(written(of, tmp_path))
    text = of["text"]
    for lora in (None, {"rank": 2, "alpha": 2.0}):
        made = backbone(Wan21Config(weights=file, one_time_weights="jump", head_dim=16, gate=0.3, lora=lora))  # type: ignore[arg-type]
        role = made.role("student", "flow_map", None, draw())
        network = as_flow_map(role.network)
        cond, _ = made.condition(EncodedText(text, text[0] * 0), len(text), text.device)
        x, t = of["x.1"].float(), of["times"][1].float().expand(len(text)).clone()
        at = [torch.full_like(t, r) for r in (0.0, 0.3, float(t[0]))]
        with torch.no_grad():
            answers = [network.mean_velocity(x, t, r, cond) for r in at]
            assert all(off(answer, of["v.1"]) < 1e-4 for answer in answers)
            assert all(off(answer, answers[0]) < 1e-6 for answer in answers[1:])
        optimizer = torch.optim.Adam(role.own.values(), 1e-2)
        losses = []
        for _ in range(6):
            # Another answer is wanted at another r.
            found = [network.mean_velocity(x, t, r, cond) for r in at[:2]]
            loss = (found[0] - answers[0]).square().mean() + (found[1] + answers[0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        with torch.no_grad():
            after = [network.mean_velocity(x, t, r, cond) for r in at[:2]]
        assert off(after[1], after[0]) > 1e-3


def test_a_velocity_is_right_where_both_times_are_one(tmp_path: Path) -> None:
    of = held("rcm")
    made = backbone(Wan21Config(weights=str(written(of, tmp_path)), head_dim=16))
    network = as_flow_map(made.role("student", "flow_map", None, draw()).network)
    text = of["text"]
    cond, _ = made.condition(EncodedText(text, text[0] * 0), len(text), text.device)
    x, t = of["x.1"].float(), of["times"][1].float().expand(len(text)).clone()
    with torch.no_grad():
        assert off(network.mean_velocity(x, t, t, cond), of["v.1"]) < 1e-4
        assert off(network.mean_velocity(x, t, 0 * t, cond), of["v.1"]) > 1e-3


def test_far_begins_with_the_same_weights_and_says_what_is_lost(tmp_path: Path) -> None:
    of = held("rcm")
    config = FarWan21Config(
        weights=str(written(of, tmp_path)), one_time_weights="jump", head_dim=16, chunks=(1, 2), encoders_from="./wan"
    )
    own = backbone(config).role("student", "flow_map", None, draw()).own
    assert torch.equal(own["blocks.0.attn1.to_q.weight"], of["w.net.blocks.0.self_attn.q.weight"])
    assert own["far_patch_embedding.weight"].shape == (32, 4, 1, 4, 4)
    assert not own["condition_embedder.delta_embedder.linear_2.weight"].any()
    said = [f for f in config.findings(SPEC) if f.field == ("one_time_weights",)]
    assert [f.level for f in said] == ["warning"]
    assert "its memory at full resolution" in said[0].message


def test_a_file_is_a_contestant_with_its_authors_settings(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone: backbone, list of times, frames, and Wan-AI's encoders from the cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    sizes = {"num_attention_heads": 1, "num_layers": 1, "ffn_dim": 32, "freq_dim": 32, "text_dim": 16}
    state = WanTransformer3DModel(**sizes).state_dict()
    state["patch_embedding.weight"] = state["patch_embedding.weight"].flatten(1)
    file = tmp_path / "theirs" / "rCM_Wan2.1_T2V_1.3B_480p.safetensors"
    file.parent.mkdir()
    save_file({f"net.{of_original(key)}": value for key, value in state.items()}, file)
    with pytest.raises(AbsentError, match=r"hf download Wan-AI/Wan2\.1-T2V-1\.3B-Diffusers"):
        look_up(str(file))
    cached = here / "hub" / "models--Wan-AI--Wan2.1-T2V-1.3B-Diffusers"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc\n")
    shutil.copytree(make_twin(tmp_path / "twin"), cached / "snapshots" / "abc")
    for name in (str(file), str(file.parent)):
        told = look_up(name).pretrained
        assert (told.kind, told.diagonal, told.sampler, told.calls, told.cfg_scale) == ("flow_map", False, "lcm", 4, 1)
        assert told.spec is not None
        assert told.spec.shape == (77, 3, 480, 832)
        assert file in told.files
        assert told.sampler_fields["time_input"] == "bfloat16"
    # Nobody says that it is a velocity.
    said = [f.message for f in Wan21Config(weights=str(file)).findings(SPEC) if f.level == "error"]
    assert said == ["these weights (worstcoder/rcm-Wan) jump to data, and are no velocity; take 'jump'"]
    wish = Wish(prompts=("a ball",), length=5, height=32, width=32)
    files, summary = sample(str(file), wish, tmp_path / "out")
    assert any(path.suffix == ".mp4" for path in files)
    assert "lcm" in summary
    assert "4" in summary


def test_a_jump_is_no_velocity_under_any_name(tmp_path: Path) -> None:
    twin = make_twin(tmp_path / "twin")
    told = Wan21Config(weights=str(twin), one_time_weights="jump").pretrained()
    assert told is not None
    assert (told.kind, told.diagonal, told.sampler, told.calls) == ("flow_map", False, "consistency", 4)
    plain = Wan21Config(weights=str(twin)).pretrained()
    assert plain is not None
    assert plain.kind == "velocity"


def test_a_published_file_that_is_not_here_says_how_to_get_it(here: Path) -> None:
    config = Wan21Config(weights="rcm/rCM_Wan2.1_T2V_14B_480p.safetensors", one_time_weights="jump")
    said = [finding.message for finding in config.missing()]
    assert "hf download worstcoder/rcm-Wan" in said[0]
    assert (config._sizes() or {})["num_layers"] == 40
