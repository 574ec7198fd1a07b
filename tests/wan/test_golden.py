"""The released trainers' own numbers on small Wan and FAR networks (tests/golden/wan/README.md), to 1e-5.

The objectives are those of our recipes, as they are written there: text drop, guidance, views and weights are fields of
`recipes/anyflow_wan_1.3b.toml` and `recipes/anyflow_far_1.3b.toml`. Only the network is the golden files' own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.settings import ArchitectureConfig
from safetensors import safe_open
from torch import Tensor

from flowmap.interfaces import Batch, EncodedText, Loss, Role, Scene, World
from flowmap.maths.draw import Draw
from flowmap.plugin import NetworkKind, ObjectiveConfig, SampleSpec
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.workshop.backbone import ModuleBackbone

from ..scripted import scripted

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "wan"
TOLERANCE = 1e-5
TIMES = "condition_embedder.time_embedder.", "condition_embedder.delta_embedder."

pytestmark = pytest.mark.usefixtures("one_thread")


class Golden:
    """One file: its numbers, and our backbone with the network that it describes."""

    def __init__(self, name: str) -> None:
        with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
            self.numbers = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.about: Mapping[str, str] = file.metadata()
        self.batch = int(self.about["batch"])
        height, width = map(int, self.about["latent"].split("x"))
        sizes = {key: int(self.about[key]) for key in ("layers", "heads", "head_dim", "ffn_dim", "channels")}
        architecture = ArchitectureConfig(
            **sizes, text_dim=int(self.about["text_dim"]), freq_dim=int(self.about["freq_dim"])
        )
        common: dict[str, Any] = {"weights": "random", "architecture": architecture}
        published = self.recipe.backbone
        if isinstance(published, FarWan21Config):
            assert list(published.chunks) == json.loads(self.about["chunks"])
            config: Any = FarWan21Config(chunks=published.chunks, full_chunks=published.full_chunks, **common)
            frames = sum(published.chunks)
        else:
            frames = int(self.about["frames"])
            config = Wan21Config(**common)
        spec = SampleSpec((frames, architecture.channels, height, width))
        assert not list(config.findings(spec))
        self.backbone = config.build(spec)
        assert isinstance(self.backbone, ModuleBackbone)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the model that the file is about."""
        model = "far" if self.about["case"].startswith("far") else "wan"
        return read(ROOT / "recipes" / f"anyflow_{model}_1.3b.toml")[0]

    def objective(self, stage: str) -> ObjectiveConfig:
        """What `stage` of the recipe minimises."""
        return self.recipe.stage(stage).objective

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {k.removeprefix(prefix): v for k, v in self.numbers.items() if k.startswith(prefix)}

    def role(self, name: str, kind: NetworkKind, prefix: str = "w.") -> Role:
        """A role with the file's weights."""
        return self.backbone.role(name, kind, self.part(prefix), Draw.whole(0, "base", 0, "weights", 1))

    def losses(
        self,
        objective: ObjectiveConfig,
        roles: Iterable[Role],
        numbers: Mapping[str, Tensor],
        shares: Mapping[str, Sequence[Any]],
        turn: int = 0,
    ) -> Iterable[Loss]:
        """The terms of a turn of `objective`, given all that it draws."""
        latents = self.numbers.get("x0", self.numbers.get("start"))
        assert latents is not None
        cond, null = self.backbone.condition(
            EncodedText(self.numbers["text"], self.numbers["null"]), self.batch, torch.device("cpu")
        )
        draw = scripted(self.batch, numbers, shares, self.places())
        made = {role.name: role for role in roles}
        scene = Scene(made, Batch(latents, cond, null), draw, self.backbone.chunking(), World())
        return objective.build().turns()[turn].losses(scene)

    def places(self) -> list[int]:
        """The order of samples that gives each its branch: those with r = t first, then r = 0."""
        if "branch" not in self.numbers:
            return list(range(self.batch))
        ranked = torch.argsort(self.numbers["branch"], stable=True).tolist()
        return [ranked.index(i) for i in range(self.batch)]

    def window(self) -> Sequence[Any]:
        """What a causal model's window is drawn from: whether it is long, and how many chunks are looked at."""
        count = int(self.about["num_chunks"])
        return (0.0, count) if count > int(self.about["full_chunk_limit"]) else (1.0,)


def off(ours: Tensor, golden: Tensor) -> float:
    """The largest difference, relative to the largest golden value."""
    ours = ours.detach()
    assert ours.shape == golden.shape
    return float((ours - golden).abs().max() / golden.abs().max())


def gradients(role: Role) -> dict[str, Tensor]:
    return {key: p.grad for key, p in role.own.items() if p.grad is not None}


def single_time(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a network whose both times are one: the shares of both embedders, added up."""
    own, other = TIMES
    added = {k: v + found[k.replace(own, other)] if k.startswith(own) else v for k, v in found.items()}
    return {k: v for k, v in added.items() if not k.startswith(other)}


def assert_gradients(ours: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> None:
    assert golden
    assert ours.keys() == golden.keys()
    assert max(off(ours[key], golden[key]) for key in golden) < TOLERANCE


def test_every_released_case_is_here() -> None:
    cases = {path.stem for path in GOLDEN.glob("*.safetensors")}
    assert cases == {*FORWARD, "far_stage1", "far_stage2_bidirectional", "far_stage3", "wan_stage3"}


def test_stage_1_of_the_causal_recipe_is_the_released_bidirectional_teacher() -> None:
    golden = Golden("far_stage1")
    n = golden.numbers
    student = golden.role("student", "velocity")
    drawn = {"drop": n["drop_u"], "noise": n["noise"], "times": n["z"]}
    (loss,) = golden.losses(golden.objective("teacher"), [student], drawn, {})
    loss.value.backward()
    assert bool(n["dropped"].any())
    assert off(loss.value, n["loss"]) < TOLERANCE
    assert_gradients(single_time(gradients(student)), golden.part("g."))


FORWARD = ("far_stage2", "far_stage2_3chunks", "wan_stage2")


def forward_draws(golden: Golden) -> tuple[dict[str, Tensor], dict[str, Sequence[Any]]]:
    """All that the forward stage draws for the file's numbers, with no bidirectional part."""
    n = golden.numbers
    pair = torch.stack([n["u_1"], n["u_2"]], dim=1)
    shares: dict[str, Sequence[Any]] = {"branches": (0.5,), "bidirectional": (0.99,)}
    if "num_chunks" in golden.about:
        shares["context/chunks"] = golden.window()
    return {"drop": n["drop_u"], "pair": pair, "noise": n["noise"]}, shares


@pytest.mark.parametrize("case", FORWARD)
def test_stage_2_is_the_released_one(case: str) -> None:
    golden = Golden(case)
    n, student = golden.numbers, golden.role("student", "flow_map")
    (loss,) = golden.losses(golden.objective("forward"), [student], *forward_draws(golden))
    loss.value.backward()
    assert bool(n["dropped"].any())
    assert off(loss.value, n["loss"]) < TOLERANCE
    assert_gradients(gradients(student), golden.part("g."))


@pytest.mark.parametrize("case", FORWARD)
def test_the_co_trained_loss_of_stage_3_is_the_released_stage_2(case: str) -> None:
    """It drops text too, and has no bidirectional part."""
    golden = Golden(case)
    n, student = golden.numbers, golden.role("student", "flow_map")
    objective = golden.objective("on_policy").forward  # type: ignore[attr-defined]
    drawn, shares = forward_draws(golden)
    assert getattr(objective, "bidirectional", None) == 0
    del shares["bidirectional"]
    (loss,) = golden.losses(objective, [student], drawn, shares)
    loss.value.backward()
    assert off(loss.value, n["loss"]) < TOLERANCE
    assert_gradients(gradients(student), golden.part("g."))


def test_the_bidirectional_part_of_stage_2_is_the_released_one() -> None:
    """Guided, and with the texts that the other part of the same step has dropped."""
    golden, other = Golden("far_stage2_bidirectional"), Golden("far_stage2")
    n, student = golden.numbers, golden.role("student", "flow_map")
    assert torch.equal(n["dropped"], other.numbers["dropped"])
    drawn, shares = forward_draws(other)
    drawn |= {"bidirectional/noise": n["noise"], "bidirectional/times": n["z"]}
    golden.numbers["branch"] = other.numbers["branch"]
    shares["bidirectional"] = (0.05,)
    _, loss = golden.losses(golden.objective("forward"), [student], drawn, shares)
    loss.value.backward()
    assert loss.branch == "bidirectional"
    assert off(loss.value, n["loss"]) < TOLERANCE
    assert_gradients(gradients(student), golden.part("g."))


STAGE_3 = ("far_stage3", "wan_stage3")
ROLES: Mapping[str, NetworkKind] = {"student": "flow_map", "teacher": "velocity", "critic": "velocity"}


def stage_3_roles(golden: Golden) -> list[Role]:
    return [golden.role(name, kind, f"w.{name}.") for name, kind in ROLES.items()]


@pytest.mark.parametrize("case", STAGE_3)
def test_the_on_policy_loss_is_the_released_one(case: str) -> None:
    golden = Golden(case)
    n = golden.numbers
    roles = stage_3_roles(golden)
    drawn = {"start noise": n["start"], "score time": n["score_u"], "score noise": n["score_noise"]}
    shares = {"segments": (int(golden.about["n"]), int(golden.about["g"]))}
    loss = next(iter(golden.losses(golden.objective("on_policy"), roles, drawn, shares)))
    loss.value.backward()
    assert loss.branch == "dmd"
    assert off(loss.value, n["dmd_loss"]) < TOLERANCE
    assert off(loss.raw["gradient_rms"], n["dmd_grad"].square().flatten(1).mean(1).sqrt()) < TOLERANCE
    assert_gradients(gradients(roles[0]), golden.part("g.student."))
    assert not gradients(roles[1])
    assert not gradients(roles[2])


@pytest.mark.parametrize("case", STAGE_3)
def test_the_critics_loss_is_the_released_one(case: str) -> None:
    golden = Golden(case)
    n = golden.numbers
    roles = stage_3_roles(golden)
    drawn = {"start noise": n["critic_start"], "critic noise": n["critic_noise"], "critic time": n["critic_z"]}
    shares = {"segments": (int(golden.about["critic_n"]), int(golden.about["critic_g"]))}
    (loss,) = golden.losses(golden.objective("on_policy"), roles, drawn, shares, turn=1)
    loss.value.backward()
    assert off(loss.value, n["critic_loss"]) < TOLERANCE
    assert_gradients(single_time(gradients(roles[2])), golden.part("g.critic."))
    assert not gradients(roles[0])
