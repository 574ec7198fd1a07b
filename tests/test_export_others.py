"""Exports by Wan's original names: read as other tools read them, and walked along their own list of times."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.configs import Wan21Config
from flowmap_wan.original import of_diffusers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.plugin import SampleSpec
from flowmap.reading.open import open_run
from flowmap.recipe.outside import Outside
from flowmap.recipe.outside_weights import findings
from flowmap.recipe.tables import EvaluationConfig
from flowmap.use.export import export_run
from flowmap.use.sample import sample
from flowmap.use.student import open_contestant
from flowmap.use.wish import Wish
from tests.video_runs import WAN, finished, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a bidirectional model with adapters."""
    return wan_run(tmp_path_factory.getbasetemp(), "wan21")


def plain(run: Path, tensors: dict[str, Tensor]) -> Any:
    """diffusers' one-time Wan with weights under the original names, through diffusers' own converter."""
    sizes = json.loads((base_of(run) / "transformer" / "config.json").read_text())
    model = WanTransformer3DModel.from_config({k: v for k, v in sizes.items() if not k.startswith("_")})
    model.load_state_dict({k: v.float() for k, v in convert_wan_transformer_to_diffusers(tensors).items()}, strict=True)
    return model.float().eval()


def base_of(run: Path) -> Path:
    config: Any = open_run(run).recipe.backbone
    return Path(config.weights)


def ours(run: Path, steps: int) -> tuple[Tensor, Tensor, Any]:
    """Start noise, latents of the flow map's sampler, and the prompts."""
    who = open_contestant(open_run(run).find("forward", 0), "ema", CPU)
    draw = Draw.whole(0, "others", 0, "test", 2)
    noise = draw.normal("noise", who.backbone.latent_shape())
    cond, _ = who.backbone.condition(["a ball", "a red square"], 2, CPU)
    with torch.no_grad():
        network: Any = who.network
        return noise, FlowMapEuler().sample(network, noise, grid(steps, who.shift), cond, draw), cond


@torch.no_grad()
def walked(model: Any, x: Tensor, sigmas: list[float], text: Tensor) -> Tensor:
    """Euler along a list, as any tool does it."""
    for now, after in itertools.pairwise(sigmas):
        velocity = model(x.transpose(1, 2), torch.full((len(x),), 1000 * now), text, return_dict=False)[0]
        x = x - (now - after) * velocity.transpose(1, 2)
    return x


def off(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("form", ["original", "comfyui"])
@pytest.mark.parametrize("steps", [1, 3])
def test_whole_weights(form: str, steps: int, run: Path, tmp_path: Path) -> None:
    _, how = export_run(run, tmp_path / "out", None, "ema", None, True, form, steps)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert json.loads((tmp_path / "out" / "times.json").read_text()).items() <= about.items()
    sigmas = json.loads(about["flowmap.sigmas"])
    assert json.loads(about["flowmap.timesteps"]) == [pytest.approx(1000 * t, abs=1e-4) for t in sigmas[:-1]]
    assert (len(sigmas), sigmas[0], sigmas[-1], about["flowmap.guidance"]) == (steps + 1, 1.0, 0.0, "1")
    listed = how.partition("sigmas = [")[2].partition("]")[0]
    assert [float(t) for t in listed.split(",")] == pytest.approx(sigmas, rel=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"on one list of {steps} steps" in card
    assert "any number of steps" not in card
    noise, wanted, cond = ours(run, steps)
    assert off(walked(plain(run, load_file(file)), noise, sigmas, cond.text), wanted) < 5e-3 * precision(run)
    if form == "original":
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert (config["_class_name"], config["model_type"], config["in_dim"]) == ("WanModel", "t2v", 16)


def precision(run: Path) -> float:
    """1 where the base is stored in bfloat16, which merging rounds to; 1e-3 in float32."""
    config: Any = open_run(run).recipe.backbone
    return 1.0 if config.base_precision == "bfloat16" else 1e-3


def test_a_lora_on_plain_wan(run: Path, tmp_path: Path) -> None:
    """As ComfyUI applies it: low-rank pairs by alpha / rank, differences as they are, on the base's own file."""
    export_run(run, tmp_path / "out", None, "ema", None, False, "comfyui", 3)
    (file,) = (tmp_path / "out").glob("*_lora.safetensors")
    assert not (tmp_path / "out" / "transformer").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"# load it at strength 1, on the weights that it was trained on: {base_of(run).name}" in card
    lora = load_file(file)
    base = {}
    for part in (base_of(run) / "transformer").glob("*.safetensors"):
        base |= {key: value.float() for key, value in load_file(part).items()}
    used = set()
    for key in lora:
        layer, _, rest = key.removeprefix("diffusion_model.").partition(".lora_down.weight")
        if not rest and key.endswith(".lora_down.weight"):
            name = of_diffusers(f"{layer}.weight")
            assert name is not None
            parts = [f"diffusion_model.{layer}.{x}" for x in ("lora_down.weight", "lora_up.weight", "alpha")]
            down, up, alpha = (lora[part] for part in parts)
            base[name] = base[name] + float(alpha) / len(down) * up @ down
            used |= set(parts)
        for ending, part in ((".diff", ".weight"), (".diff_b", ".bias")):
            if key.endswith(ending):
                name = of_diffusers(key.removeprefix("diffusion_model.").removesuffix(ending) + part)
                assert name is not None
                base[name] = base[name] + lora[key]
                used.add(key)
    assert used == lora.keys()
    sizes = json.loads((base_of(run) / "transformer" / "config.json").read_text())
    model = WanTransformer3DModel.from_config({k: v for k, v in sizes.items() if not k.startswith("_")})
    model.load_state_dict(base, strict=True)
    noise, wanted, cond = ours(run, 3)
    sigmas = [float(t) for t in grid(3, open_contestant(open_run(run).find("forward", 0), "ema", CPU).shift)]
    assert off(walked(model.float().eval(), noise, sigmas, cond.text), wanted) < 5e-3 * precision(run)


def test_a_velocity_is_for_any_number_of_steps(run: Path, tmp_path: Path) -> None:
    _, how = export_run(run, tmp_path / "out", "teacher", "ema", None, True, "comfyui")
    assert "a velocity, for a solver with many steps" in how
    (file,) = (tmp_path / "out").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        assert "flowmap.sigmas" not in opened.metadata()
    who = open_contestant(open_run(run).find("teacher", 0), "ema", CPU)
    cond, _ = who.backbone.condition(["a ball", "a red square"], 2, CPU)
    x, t = torch.randn(2, *who.backbone.latent_shape()), torch.tensor([0.7, 0.2])
    model = plain(run, load_file(file))
    with torch.no_grad():
        theirs = model(x.transpose(1, 2), 1000 * t, cond.text, return_dict=False)[0].transpose(1, 2)
        assert off(theirs, who.network.velocity(x, t, cond)) < 5e-3 * precision(run)


def test_a_number_of_steps_is_for_forms_of_one_list(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match=r"--nfe 2: is for forms of one list of times \(comfyui, original\)"):
        export_run(run, tmp_path / "out", None, "ema", None, True, None, 2)
    assert not (tmp_path / "out").exists()


def test_wans_own_code_has_no_adapters(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="--keep-lora: Wan's own code reads whole weights only"):
        export_run(run, tmp_path / "out", None, "ema", None, False, "original")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["original", "comfyui"])
def test_what_is_written_is_read_back(form: str, run: Path, tmp_path: Path) -> None:
    """As weights of `wan21`, with the grid of its metadata: every number equal, and sampled the same."""
    export_run(run, tmp_path / "out", None, "ema", None, True, form, 3)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    told = {"encoders_from": str(base_of(run))}
    for place in (str(tmp_path / "out"), str(file)):
        found = Wan21Config.of_weights(place)
        assert found is not None
        config = found.model_copy(update=told)
        spec = SampleSpec((9, 3, 32, 32), text=True)
        assert [f.message for f in (*config.missing(), *config.findings(spec)) if f.level == "error"] == []
        own = config.build(spec).role("student", "velocity", None, Draw.whole(0, "o", 0, "t", 1)).own
        written = {of_diffusers(name): value for name, value in load_file(file).items()}
        assert all(torch.equal(own[name], value.float()) for name, value in written.items() if name is not None)
        assert {name for name in own if "delta_embedder" not in name} == written.keys()
        pretrained = config.pretrained()
        assert pretrained is not None
        who = open_contestant(open_run(run).find("forward", 0), "ema", CPU)
        known = (pretrained.kind, pretrained.sampler, pretrained.calls, pretrained.cfg_scale, pretrained.shift)
        assert known == ("velocity", "euler", 3, 1.0, who.shift)
        for wish in (Wish(), Wish(calls=3), Wish(shift=who.shift)):
            wish.refuse_another_list("it", pretrained)
        others = {"--nfe 4": Wish(calls=4), "--shift 2": Wish(shift=2.0), "--sampler unipc": Wish(sampler="unipc")}
        for word, other in others.items():
            why = f"{word}: it was exported for one list of times, 3 steps of euler at shift"
            with pytest.raises(FlowmapError, match=why):
                other.refuse_another_list("it", pretrained)
    with safe_open(file, "pt") as opened:
        sigmas = json.loads(opened.metadata()["flowmap.sigmas"])
    assert sigmas == pytest.approx(grid(3, who.shift).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("calls", "samplers", "told"),
    [
        ([3], ["euler"], {}),
        ([1, 3, 4], ["euler"], {"stage": "; evaluation.calls has 1, 4, where it means nothing"}),
        ([2], ["euler"], {"stage": "; evaluation.calls has 2, where it means nothing"}),
        ([3], ["euler", "unipc"], {"samplers.1": ", and by 'unipc' means nothing"}),
    ],
)
def test_an_evaluation_off_the_one_list_is_warned_of(
    calls: list[int], samplers: list[str], told: dict[str, str], run: Path, tmp_path: Path
) -> None:
    export_run(run, tmp_path / "out", None, "ema", None, True, "original", 3)
    name = str(tmp_path / "out")
    given = Wan21Config.of_weights(name)
    assert given is not None
    pretrained = given.model_copy(update={"encoders_from": str(base_of(run)), "head_dim": 12}).pretrained()
    assert pretrained is not None
    contests = [{"stage": name, "samplers": samplers}]
    fields = {"teacher": "base", "metrics": ["frechet_pixels"], "calls": calls, "contests": contests}
    evaluation = EvaluationConfig.model_validate(fields)
    weights = Outside(name, given, pretrained, None)
    found = findings(evaluation, {name: weights}, SampleSpec((9, 3, 32, 32), text=True))
    why = f"{name} was exported for one list of times, 3 steps of euler"
    off = {".".join(map(str, f.field)): f.message for f in found if f.level == "warning"}
    assert off == {f"evaluation.contests.0.{place}": why + rest for place, rest in told.items()}


def test_a_card_names_the_library_that_loads_it(run: Path, tmp_path: Path) -> None:
    for form, library in (("original", "wan"), ("comfyui", "comfyui"), ("diffusers", "diffusers")):
        export_run(run, tmp_path / form, None, "ema", None, True, form)
        card = (tmp_path / form / "README.md").read_text()
        assert f"\nlibrary_name: {library}\n" in card


JUMPS = """
[[stages]]
name = "student"
steps = 2
batch = 2
objective = "consistency_training"
optimizer = { lr = 0.05 }
"""


@pytest.mark.parametrize("form", ["original", "comfyui"])
def test_a_student_that_jumps_is_written_as_one(form: str, run: Path, tmp_path: Path) -> None:
    """Its map between two times was never taught: it goes to data from each time, and is noised again."""
    data: Any = open_run(run).recipe.data
    told = {"kind": "wan21", "data": data.path, "frames": 9, "weights": base_of(run), "more": ""}
    own = finished(tmp_path, WAN.format(**told) + JUMPS)
    folder = tmp_path / "out"
    _, how = export_run(own, folder, None, "ema", None, True, form, 3)
    assert "jumping to data and adding noise again (ComfyUI's sampler lcm)" in how
    assert "It jumps to data" in (folder / "README.md").read_text()
    for part in ("text_encoder", "tokenizer", "vae"):
        shutil.copytree(base_of(run) / part, folder / part)
    found = []
    for where, calls in ((own, 3), (folder, None)):
        files, said = sample(str(where), Wish(number=1, seed=3, prompts=("a ball",), calls=calls), tmp_path / "x")
        found.append(load_file(files[-1])["samples"])
    assert "sampler lcm, nfe 3" in said
    # Merged, the base is rounded to its own precision.
    assert float((found[0] - found[1]).abs().max()) < 5e-2 * precision(run)
