"""The package of strangers from its wheel, beside flowmap's, where nothing of this clone is: by the commands alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .clean import ROOT, call, environment, wheel_of

STRANGERS = ROOT / "tests" / "third_party" / "flowmap_strangers"
COMPONENTS = {
    ("backbone", "sd3_labels"),
    ("backbone", "unet1d"),
    ("data", "sea_surface"),
    ("objective", "energy"),
    ("sampler", "midpoint"),
    ("metric", "label_error"),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of an environment that holds two wheels."""
    wheels = [wheel_of(source, tmp_path_factory.mktemp("wheel")) for source in (ROOT, STRANGERS)]
    return environment(tmp_path_factory.mktemp("environment"), *wheels)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the package's recipes and tests, and nothing of its code."""
    folder = tmp_path_factory.mktemp("here")
    for name in ("recipes", "tests"):
        shutil.copytree(STRANGERS / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def flowmap(programs: Path, here: Path) -> Callable[..., str]:
    """The command in that folder: what it says."""
    return lambda *words: call(programs / "flowmap", *words, cwd=here).stdout


def small(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def scores(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run(flowmap: Callable[..., str], recipe: str, *settings: str) -> str:
    """Run the recipe with three small stages."""
    stages = [
        f"stages.{stage}.{field}" for stage in ("teacher", "student", "on_policy") for field in ("steps=4", "batch=16")
    ]
    smaller = small(*stages, "evaluation.calls=[1,2]", "evaluation.samples=32", "evaluation.teacher_calls=4", *settings)
    return flowmap("run", recipe, *smaller)


@pytest.fixture(scope="module")
def sea(flowmap: Callable[..., str], here: Path) -> Path:
    """A run on signals."""
    assert "report: runs/sea/report.html" in run(flowmap, "recipes/sea.toml", "backbone.width=8")
    return here / "runs" / "sea"


@pytest.fixture(scope="module")
def digits(flowmap: Callable[..., str], here: Path) -> Path:
    """A run on images."""
    assert "report: runs/digits_sd3/report.html" in run(flowmap, "recipes/digits.toml")
    return here / "runs" / "digits_sd3"


def test_it_is_listed(flowmap: Callable[..., str]) -> None:
    rows = [line.split()[:3] for line in flowmap("plugins").splitlines() if "flowmap-strangers" in line]
    assert {(kind, name) for kind, name, _ in rows} == COMPONENTS
    assert "broken" not in flowmap("plugins")


def test_each_component_keeps_the_laws(flowmap: Callable[..., str]) -> None:
    told = flowmap("plugins", "check", "flowmap-strangers")
    for kind, name in COMPONENTS:
        assert f"{kind} '{name}' from flowmap-strangers 0.1.0" in told
    assert "All laws that apply are kept." in told
    assert "not checked" not in told
    # On the data that they are made for.
    for words in (("unet1d", *small("width=8")), ("label_error",)):
        assert "All laws that apply are kept." in flowmap("plugins", "check", *words, "--data", "sea_surface")


def test_its_own_tests_pass(programs: Path, here: Path) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "not Sd3 and not sd3"]
    assert "passed" in call(programs / "python", *words, cwd=here).stdout


def test_its_recipe_can_be_checked_and_planned(flowmap: Callable[..., str]) -> None:
    assert "student (energy, 1000 steps); on_policy (backward_simulation" in flowmap("check", "recipes/sea.toml")
    assert "parameters" in flowmap("plan", "recipes/sea.toml")


def test_signals_train_through_three_stages_and_are_sampled(sea: Path, flowmap: Callable[..., str], here: Path) -> None:
    found = [score for score in scores(sea) if score["metric"] == "label_error"]
    assert {(score["stage"], score["sampler"], score["nfe"]) for score in found} == {
        ("teacher", "midpoint", 2),
        *(("teacher", "euler", calls) for calls in (1, 2)),
        *((stage, "flow_map", calls) for stage in ("student", "on_policy") for calls in (1, 2)),
    }
    # Real windows of the last fifteen years, by means of the earlier ones.
    assert {score["floor"] for score in found} == {5 / 111}
    assert "label_error" in (sea / "report.html").read_text()
    flowmap("sample", "runs/sea", "--class", "2", "--n", "3", "--nfe", "2", "--out", "made")
    assert {"made.png", "made.safetensors"} <= {path.name for path in here.iterdir()}


def test_an_image_model_of_diffusers_trains_through_three_stages(
    digits: Path, flowmap: Callable[..., str], here: Path
) -> None:
    found = [score for score in scores(digits) if score["metric"] == "label_error"]
    assert {(score["stage"], score["nfe"]) for score in found} == {("on_policy", 1), ("on_policy", 2)}
    flowmap("sample", "runs/digits_sd3", "--class", "7", "--nfe", "2", "--out", "seven")
    assert (here / "seven.png").is_file()


MAPPED = """
import flowmap, torch
from flowmap.plugin import SampleSpec
from flowmap.workshop import Chosen, labelled
from flowmap_strangers.backbones import Sd3Config
from flowmap_strangers.sd3 import TwoTimeSd3
from flowmap_strangers.unet1d import UNet1d
from safetensors.torch import load_file
spec = SampleSpec(SHAPE, classes=CLASSES)
network = NETWORK
network.load_state_dict(load_file("EXPORTED/model.safetensors"))
x, labels = torch.linspace(-2, 2, 2 * SIZE).view(2, *spec.shape), torch.tensor([3, 1])
cond, _ = labelled(spec.classes)(labels, 2, x.device)
with torch.no_grad():
    made = x - 0.6 * network(x, torch.full((2,), 0.9), torch.full((2,), 0.3), cond)
ours = flowmap.load_run("RUN").map(x, 0.9, 0.3, prompts=labels)
print(float((made - ours).abs().max()), float((x - ours).abs().max()))
"""
"""One jump by what was exported, and by the run itself."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sea", {"SHAPE": "(1, 1, 24)", "CLASSES": "4", "SIZE": "24", "NETWORK": "UNet1d(8, spec, True)"}),
        (
            "digits",
            {
                "SHAPE": "(1, 1, 8, 8)",
                "CLASSES": "10",
                "SIZE": "64",
                "NETWORK": "TwoTimeSd3(Sd3Config(), spec, Chosen())",
            },
        ),
    ],
)
def test_what_is_exported_is_what_was_trained(
    name: str,
    settings: dict[str, str],
    programs: Path,
    flowmap: Callable[..., str],
    here: Path,
    request: pytest.FixtureRequest,
) -> None:
    trained, to = str(request.getfixturevalue(name)), f"exported_{name}"
    assert "a flow_map" in flowmap("export", trained, "--to", to)
    code = MAPPED
    for word, value in {**settings, "EXPORTED": to, "RUN": trained}.items():
        code = code.replace(word, value)
    apart, moved = map(float, call(programs / "python", "-c", code, cwd=here).stdout.split())
    assert apart < 1e-5 < moved


def test_they_stand_in_a_comparison(flowmap: Callable[..., str], here: Path) -> None:
    smaller = [
        "budget.amount=1200",
        "recipe.backbone.width=8",
        "recipe.stages.teacher.steps=4",
        "recipe.evaluation.calls=[1,2]",
        "recipe.evaluation.samples=32",
        "recipe.evaluation.teacher_calls=4",
    ]
    told = flowmap("compare", "recipes/compare_sea.toml", *small(*smaller))
    assert "runs/compare_sea/comparison.html" in told
    home = here / "runs" / "compare_sea"
    page = (home / "comparison.html").read_text()
    for name in ("energy", "label_error", "midpoint"):
        assert name in page
    found = scores(home / "flow_map" / "seed-0")
    assert {(s["sampler"], s["nfe"]) for s in found if s["metric"] == "label_error"} == {
        ("flow_map", 1),
        ("flow_map", 2),
        ("midpoint", 2),
    }
    assert any(s["metric"] == "label_error" for s in scores(home / "energy" / "seed-1"))
