"""Weights that no stage makes, as teachers and contestants: the base's own, a folder's, a run's; `flowmap evaluate`."""

from __future__ import annotations

import gc
import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_wan.configs import FarWan21Config, Wan21Config
from safetensors.torch import load_file, save_file

from flowmap.errors import FlowmapError
from flowmap.launch.twin import of_twins
from flowmap.plugin import SampleSpec
from flowmap.recipe.layout import make_plan
from flowmap.recipe.outside import file_name, look_up
from flowmap.recipe.read import read
from flowmap.use.export import export_run
from flowmap.use.lineup import Lineup
from flowmap.weights.fingerprints import fingerprint

from .conftest import TINY, edited
from .small_runs import EVALUATION, FORWARD, HEAD, TEACHER, flowmap
from .video_runs import digits_run, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")

MEASURED = """
[evaluation]
teacher = "base"
teacher_sampler = "euler"
teacher_calls = 2
teacher_cfg_scale = 2.0
shift = 3.0
calls = [1]
samples = 2
repeats = 2
real = 2
noise = "common"
metrics = [{ type = "sliced_wasserstein", to = "teacher", cells = 4 }, "semigroup"]
contests = [
  { stage = "base", samplers = ["euler"], cfg_scale = 2.0 },
  { stage = "./released", samplers = ["flow_map"] },
  { stage = "./released", samplers = ["flow_map"], context = 1 },
  { stage = "base", samplers = ["unipc"] },
]
"""

EXACT = """
name = "exact"
data = { type = "gaussian", mixture = { means = [-1.0, 1.0], stds = [0.3, 0.3], weights = [0.5, 0.5] } }
compute.device = "cpu"

[backbone]
type = "gaussian"
mixture = { means = [-1.0, 1.0], stds = [0.3, 0.3], weights = [0.5, 0.5] }

[evaluation]
teacher = "base"
teacher_calls = 32
calls = [1]
samples = 100
repeats = 2
metrics = [{ type = "frechet_teacher", space = "pixels" }, "semigroup"]
contests = [{ stage = "base", samplers = ["flow_map", "euler"] }]
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run exported for AnyFlow's released classes, by kind of backbone."""
    home, made = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("released")

    def folder(kind: str) -> Path:
        if not (made / kind).exists():
            export_run(wan_run(home, kind), made / kind, None, "ema", None, True, "released")
        return made / kind

    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `runs/small` of points; all of it begins with the same noise."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "first.toml").write_text(HEAD + TEACHER + FORWARD + EVALUATION)
    code, text = flowmap(folder, "run", "first.toml", "--set", "evaluation.noise=common")
    assert code == 0, text
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stageless(run: Path, more: str = MEASURED) -> str:
    """The recipe of a run of Wan's twin, without its stages, measuring something else."""
    text = (run / "recipe.lock.toml").read_text()
    head = text.split("[[stages]]")[0].split("[evaluation]")[0]
    head = re.sub(r'^name = ".*"', 'name = "measured"', head, flags=re.MULTILINE)
    return head + '\n[compute]\ndevice = "cpu"\n' + more


# What they are


@pytest.mark.parametrize("kind", ["wan21", "far_wan21"])
def test_a_released_folder_says_what_it_is(kind: str, released: Callable[[str], Path]) -> None:
    found = look_up(str(released(kind)))
    told = found.pretrained
    assert (found.backbone.type, told.kind, told.sampler, told.calls, told.cfg_scale) == (
        kind,
        "flow_map",
        "flow_map",
        4,
        1,
    )
    assert (told.view, told.shift) == ("forced" if kind == "far_wan21" else "whole", 1.0)
    frames = 17 if kind == "far_wan21" else 81
    assert told.spec == SampleSpec((frames, 3, 480, 832), text=True, fps=16.0)
    if isinstance(found.backbone, FarWan21Config):
        assert (found.backbone.chunks, found.backbone.full_chunks) == ((1, 2, 2), 2)
        # A shorter video has the first of the chunks; one that ends within a chunk cannot be made.
        short = SampleSpec((9, 3, 32, 32), text=True)
        assert found.sized(short).backbone.chunks == (1, 2)  # type: ignore[attr-defined]
        odd = SampleSpec((13, 3, 32, 32), text=True)
        assert list(found.misfits(odd)) == [
            f"{found.name}: [1, 2, 2] sum to 5, and these data have 4 latent frames; chunks end at 9 or 17 frames"
        ]


def test_plain_wan_is_a_velocity_that_sees_all_frames(tmp_path_factory: pytest.TempPathFactory) -> None:
    twin = wan_run(tmp_path_factory.getbasetemp(), "wan21").parents[1] / "twin"
    told = look_up(str(twin)).pretrained
    assert (told.kind, told.view, told.shift, told.sampler, told.calls, told.cfg_scale) == (
        "velocity",
        "whole",
        3.0,
        "unipc",
        50,
        5.0,
    )
    # Whichever backbone is asked: chunks were never seen by it.
    assert FarWan21Config(weights=str(twin)).pretrained() == Wan21Config(weights=str(twin)).pretrained()


@pytest.mark.parametrize(
    ("name", "kind"), [("AnyFlow-FAR-Wan2.1-1.3B-Diffusers", "far"), ("Wan2.1-T2V-14B-Diffusers", "wan")]
)
def test_what_is_half_fetched_is_known_by_its_pipeline_or_its_name(name: str, kind: str, here: Path) -> None:
    (here / name).mkdir()
    with pytest.raises(FlowmapError) as caught:
        look_up(f"./{name}")
    assert f"hf download {'nvidia' if kind == 'far' else 'Wan-AI'}/{name} --local-dir ./{name}" in str(caught.value)
    other = here / "other"
    other.mkdir()
    (other / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(FlowmapError, match=r"the weights in other are not complete; missing: transformer/config"):
        look_up("./other")


def test_a_folder_of_something_else(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other" / "model.gguf").write_text("")
    with pytest.raises(FlowmapError) as caught:
        look_up("./other")
    assert str(caught.value) == (
        "./other is no run, and no weights that an installed backbone reads: it holds model.gguf. Weights are a folder "
        "in diffusers' layout, with transformer/config.json; asked: causal_wan21, causal_wan22, dit, far_wan21, "
        "flux, flux2, gaussian, lumina2, mlp, pixart, qwen_image, sana, sd3, wan21, wan21_i2v, z_image"
    )


def test_the_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    one, other = (tmp_path / place / "transformer" / "x.safetensors" for place in ("one", "other"))
    for file in (one, other):
        file.parent.mkdir(parents=True)
    weights = {"a": torch.arange(1000.0), "b": torch.zeros(5)}
    save_file(weights, one)
    shutil.copy(one, other)
    same = fingerprint([one])
    assert fingerprint([other]) == same
    for name, tensor in (
        ("a", weights["a"] + 1e-3),  # every value a little
        ("b", torch.tensor([0.0, 0, 0, 0, 1])),  # the last of one
        ("a", weights["a"].reshape(10, 100)),  # no value at all
    ):
        save_file({**weights, name: tensor}, other)
        assert fingerprint([other]) != same
    one.write_bytes(one.read_bytes()[:-1])
    with pytest.raises(
        FlowmapError, match=r"x\.safetensors cannot be read \(\d+ bytes instead of \d+\); it is damaged"
    ):
        fingerprint([one])


def test_file_names_are_safe_and_differ() -> None:
    assert file_name("on.policy") == "on.policy"
    names = [file_name(name) for name in ("./a/x", "./b/x", "nvidia/AnyFlow-FAR-Wan2.1", "../..", "./.x")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+-[0-9a-f]{6}", name) for name in names), names


# In an evaluation


@pytest.mark.slow
def test_base_and_folder_are_rows_of_an_evaluation(
    released: Callable[[str], Path], here: Path, tmp_path_factory: Any
) -> None:
    run = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    (here / "released").symlink_to(released("far_wan21"))
    (here / "r.toml").write_text(stageless(run))
    code, text = flowmap(here, "check", "r.toml")
    assert code == 0, text
    warning = (
        "evaluation.contests.1.stage: warning: ./released: they are made for a grid with shift 1, and evaluation.shift"
    )
    assert re.fullmatch(
        rf"r\.toml:\d+: {re.escape(warning)} is 3\n✓ r\.toml: trains nothing, and measures weights\n", text
    )
    code, text = flowmap(here, "run", "r.toml", report=True)
    assert code == 0, text
    folder = here / "runs" / "measured"
    found = lines(folder)
    rows = [(line["stage"], line["sampler"], line["metric"]) for line in found]
    assert rows == [
        ("base", "euler", "sliced_wasserstein"),
        ("./released", "flow_map", "sliced_wasserstein"),
        ("./released", "flow_map", "semigroup"),
        ("./released", "flow_map-after-1", "sliced_wasserstein"),
        ("base", "unipc", "sliced_wasserstein"),
    ]
    # A velocity is no flow map: semigroup is not asked of it. Each kind of weights has one identity.
    assert len({line["checkpoint"] for line in found if line["stage"] == "base"}) == 1
    assert len({line["checkpoint"] for line in found}) == 2
    # One base after the other.
    assert text.index("base (ema), by unipc") < text.index("./released (ema), by flow_map")
    safe = file_name("./released")
    rest = {"real", "teacher", "base.ema.euler.1", "base.ema.unipc.1"}
    sheets = {path.stem for path in (folder / "pictures").iterdir()}
    assert sheets == {*rest, f"{safe}.ema.flow_map.1", f"{safe}.ema.flow_map-after-1.1"}
    page = (folder / "report.html").read_text()
    assert "Weights, measured as they are" in page
    assert page.count("data:image/png") == 6
    assert safe not in page
    # Nothing is measured twice, and other weights are other lines.
    before = (folder / "metrics.jsonl").read_bytes()
    code, text = flowmap(here, "run", "r.toml")
    assert (code, "by flow_map" in text) == (0, False)
    assert (folder / "metrics.jsonl").read_bytes() == before
    (here / "released").unlink()
    shutil.copytree(released("far_wan21"), here / "released")
    weights = here / "released" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights)
    code, text = flowmap(here, "run", "r.toml")
    assert code == 0, text
    assert [word for word in ("base (ema)", "./released (ema)") if word in text] == ["./released (ema)"]
    again = lines(folder)
    assert [a == b for a, b in zip(found, again, strict=True)] == [row[0] == "base" for row in rows]


def test_the_exact_map_of_the_base_measured_against_itself(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(EXACT)
    code, text = flowmap(tmp_path, "run", "r.toml")
    assert code == 0, text
    found = {(line["sampler"], line["metric"]): line for line in lines(tmp_path / "runs" / "exact")}
    jump, step = found["flow_map", "frechet_teacher"], found["euler", "frechet_teacher"]
    assert jump["value"] < 3 * jump["floor"]
    assert step["value"] > 10 * step["floor"]
    assert found["flow_map", "semigroup"]["value"] < 1e-4


def test_a_run_is_a_contestant_and_a_teacher_of_another_recipe(small: Path) -> None:
    """By its own recipe and by another's it scores the same: same weights, same noise, same references."""
    own = {(line["sampler"], line["nfe"], line["metric"]): line for line in lines(small / "runs" / "small")}
    run = str(small / "runs" / "small")
    text = EVALUATION.replace("repeats = 3", 'repeats = 3\nnoise = "common"')
    text = re.sub(r"contests = \[.*", "", text, flags=re.DOTALL) + (
        f'contests = [{{ stage = "{run}", samplers = ["flow_map"] }}, '
        f'{{ stage = "{run}", samplers = ["consistency"], weights = "raw" }}]'
    )
    # A recipe of another network: the run brings its own.
    head = HEAD.replace("width = 8", "width = 16").replace('"small"', '"other"')
    (small / "second.toml").write_text(head + text.replace('"teacher"\nteacher_calls', f'"{run}"\nteacher_calls'))
    code, said = flowmap(small, "run", "second.toml")
    assert code == 0, said
    found = lines(small / "runs" / "other")
    assert {line["stage"] for line in found} == {run}
    assert {line["checkpoint"] for line in found} == {
        line["checkpoint"] for line in own.values() if line["stage"] == "forward"
    }
    pixels = [line for line in found if line["metric"] == "frechet_pixels" and line["sampler"] == "flow_map"]
    assert len(pixels) == 2
    for line in pixels:
        assert line["values"] == own["flow_map", line["nfe"], "frechet_pixels"]["values"]
    assert {line["weights"] for line in found if line["sampler"] == "consistency"} == {"raw"}
    assert (small / "runs" / "other" / "recipe.lock.toml").read_text().count("[[stages]]") == 0


def test_one_base_is_in_memory_at_a_time(released: Callable[[str], Path], here: Path, tmp_path_factory: Any) -> None:
    run = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    (here / "released").symlink_to(released("far_wan21"))
    (here / "r.toml").write_text(stageless(run))
    lineup = Lineup(make_plan(read(Path("r.toml"))[0], here / "runs"), CPU)
    first = lineup.open(lineup.member("base", 0), "ema")
    backbone, network = weakref.ref(first.backbone), weakref.ref(first.network)
    again = lineup.open(lineup.member("base", 0), "ema")
    assert again.backbone is first.backbone
    del first, again
    second = lineup.open(lineup.member("./released", 0), "ema")
    gc.collect()
    assert backbone() is None
    assert network() is None
    assert second.stage == "./released"


# What `check` says


def contested(name: str, *changes: tuple[str, str]) -> str:
    return edited(*changes, ('stage = "student"', f'stage = "{name}"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            contested("studnt"),
            "r.toml:27: evaluation.contests.0.stage: unknown stage 'studnt'; allowed: teacher, student. Did you mean "
            "'student'?",
        ),
        (
            contested("weights"),
            "r.toml:27: evaluation.contests.0.stage: unknown stage 'weights'; allowed: teacher, student; for the "
            "folder of that name write './weights'",
        ),
        (
            contested("./weights"),
            "r.toml:27: evaluation.contests.0.stage: ./weights is no run, and no weights that an installed backbone "
            "reads: it holds nothing. Weights are a folder in diffusers' layout, with transformer/config.json; asked: "
            "causal_wan21, causal_wan22, dit, far_wan21, flux, flux2, gaussian, lumina2, mlp, pixart, qwen_image, "
            "sana, sd3, wan21, wan21_i2v, z_image",
        ),
        (
            edited(('teacher = "teacher"', 'teacher = "base"')),
            "r.toml:23: evaluation.teacher: the base weights of this backbone are random; name a stage, or weights, "
            "with a '/' in them",
        ),
        (
            TINY.split("[[stages]]")[0],
            "r.toml:1: stages: there are none, and no evaluation of weights: there is nothing to do. Add [[stages]] or "
            "[evaluation]",
        ),
        (
            TINY.split("[[stages]]")[0] + "[evaluation]" + TINY.split("[evaluation]")[1],
            "r.toml:10: evaluation.teacher: there is no stage 'teacher', nor any other; name weights: 'base', or a "
            "folder or hub id, with a '/' in it\n"
            "r.toml:14: evaluation.contests.0.stage: there is no stage 'student', nor any other; name weights: 'base', "
            "or a folder or hub id, with a '/' in it",
        ),
    ],
)
def test_names_that_are_wrong(text: str, message: str, here: Path, problem: Callable[..., str]) -> None:
    (here / "weights").mkdir()
    assert problem(text) == message


def test_what_does_not_go_together(
    released: Callable[[str], Path], here: Path, problem: Callable[..., str], tmp_path_factory: Any
) -> None:
    far = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    (here / "released").symlink_to(released("far_wan21"))
    (here / "digits").symlink_to(digits_run(tmp_path_factory.getbasetemp()))
    text = stageless(far)

    def found(*changes: tuple[str, str]) -> list[str]:
        return [line.split(": ", 1)[1] for line in problem(edited(*changes, text=text)).splitlines()]

    first = '{ stage = "base", samplers = ["euler"], cfg_scale = 2.0 }'
    assert found((first, '{ stage = "base", samplers = ["flow_map"] }')) == [
        "evaluation.contests.0.samplers.0: sampler 'flow_map' needs a flow map, but the weights 'base' are a velocity; "
        "use a velocity sampler such as euler or heun"
    ]
    assert found((first, '{ stage = "./released", samplers = ["consistency"], cfg_scale = 2.0 }')) == [
        "evaluation.contests.0.cfg_scale: 'consistency' follows the flow map, which has its guidance in it; use 1"
    ]
    assert found((first, '{ stage = "./released", samplers = ["euler"], context = 3 }')) == [
        "evaluation.contests.0.context: 3 context frames cannot be given: possible are 1, 9; nearest: 1 or 9"
    ]
    assert found((first, '{ stage = "./released", samplers = ["euler"], weights = "raw" }')) == [
        "evaluation.contests.0.weights: 'raw' is what a stage of a run has beside its moving average; these weights "
        "are one set"
    ]
    assert found((first, '{ stage = "./digits", samplers = ["euler"] }')) == [
        "evaluation.contests.0.stage: the samples of the run ./digits are not of the same kind as the recipe's data"
    ]
    # 13 frames end within a chunk, of the recipe's own backbone and of the folder's.
    assert (
        "evaluation.contests.1.stage: ./released: [1, 2, 2] sum to 5, and these data have 4 latent frames; chunks end "
        "at 9 or 17 frames"
    ) in found(("frames = 17", "frames = 13"))


def test_what_is_missing_is_a_warning_of_check_and_stops_a_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    hub_id = "nvidia/AnyFlow-FAR-Wan2.1-1.3B-Diffusers"
    (here / "r.toml").write_text(contested(hub_id))
    code, text = flowmap(here, "check", "r.toml")
    assert code == 0
    first, second, _ = text.splitlines()
    assert first.startswith(
        "r.toml:27: evaluation.contests.0.stage: warning: the weights are not on this machine: there is "
    )
    assert second.startswith(f"  Get them: hf download {hub_id}")
    code, text = flowmap(here, "run", "r.toml")
    assert code == 2
    assert text.startswith("error: r.toml:27: evaluation.contests.0.stage: the weights are not on this machine")
    assert not (here / "runs").exists()


def test_the_base_is_not_asked_for_where_nothing_needs_it(small: Path, here: Path) -> None:
    text = f"""
name = "r"
data = "checkerboard"
backbone = {{ type = "wan21", weights = "./nowhere" }}
[evaluation]
teacher = "{small}/runs/small"
metrics = ["frechet_pixels"]
contests = [{{ stage = "{small}/runs/small", samplers = ["flow_map"] }}]
"""
    (here / "r.toml").write_text(text)
    with pytest.raises(FlowmapError) as caught:
        read(Path("r.toml"), absent="error")
    # That backbone does not fit these data, but nothing is missing.
    assert "not on this machine" not in str(caught.value)


def test_a_run_that_is_not_finished(small: Path, here: Path) -> None:
    shutil.copytree(small / "runs" / "small", here / "half")
    shutil.rmtree(here / "half" / "forward" / "checkpoints")
    (here / "r.toml").write_text(HEAD.replace('"small"', '"r"') + TEACHER + EVALUATION.replace('"forward"', '"./half"'))
    code, text = flowmap(here, "run", "r.toml")
    assert (code, text) == (
        2,
        "error: r.toml:23: evaluation.contests.1.stage: the run ./half is not finished: there is no stage 'forward' of "
        "4 steps in half/forward.\n"
        f"  Go on with it: flowmap run {here}/half/recipe.lock.toml --set name=half --runs {here}\n",
    )


# `flowmap evaluate`


def test_a_run_is_evaluated_again_by_its_own_recipe(small: Path, here: Path) -> None:
    shutil.copytree(small / "runs" / "small", here / "copy")
    before = lines(here / "copy")
    steps = (here / "copy" / "forward" / "steps.jsonl").read_bytes()
    (here / "copy" / "metrics.jsonl").write_text("")
    code, text = flowmap(here, "evaluate", "copy", report=True)
    assert code == 0, text
    assert lines(here / "copy") == before
    assert (here / "copy" / "forward" / "steps.jsonl").read_bytes() == steps
    assert (here / "copy" / "report.html").is_file()
    code, text = flowmap(here, "evaluate", "copy")
    assert (code, "by euler" in text) == (0, False)
    code, text = flowmap(here, "evaluate", "copy", "--fresh")
    assert (code, "by euler" in text) == (0, True)
    assert lines(here / "copy") == before
    code, text = flowmap(here, "evaluate", "copy", "--set", "seeds=[1]")
    assert (code, text) == (
        2,
        "error: --set: a run is measured by its own recipe; give --recipe to measure it by another\n",
    )
    shutil.rmtree(here / "copy" / "forward" / "checkpoints")
    code, text = flowmap(here, "evaluate", "copy")
    assert (code, text) == (
        1,
        f"error: stage 'forward' is not finished in {here}/copy/forward.\n"
        f"To go on: flowmap run {here}/copy/recipe.lock.toml --runs {here}\n",
    )


@pytest.mark.slow
def test_weights_are_evaluated_by_a_recipe(released: Callable[[str], Path], here: Path, tmp_path_factory: Any) -> None:
    run = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    (here / "released").symlink_to(released("far_wan21"))
    text = (run / "recipe.lock.toml").read_text().replace('device = "auto"', 'device = "cpu"')
    (here / "r.toml").write_text(text)
    code, said = flowmap(here, "evaluate", "released", "--recipe", "r.toml")
    assert code == 0, said
    assert said.startswith(
        "the teacher is 'base', the backbone's own weights: stage 'teacher' is there in a run only\n"
    )
    folder = here / "runs" / "far_wan21-released"
    rows = [(line["stage"], line["sampler"]) for line in lines(folder)]
    assert rows == [("./released", "flow_map"), ("./released", "flow_map-after-1")]
    # What it has written is a recipe like any other.
    again, _ = read(folder / "recipe.lock.toml")
    assert (again.stages, again.seeds) == ((), (0,))
    # A velocity has other samplers: those of the recipe's velocities.
    (here / "plain").symlink_to(run.parents[1] / "twin")
    code, said = flowmap(here, "evaluate", "plain", "--recipe", "r.toml", "--set", "evaluation.teacher=./released")
    assert code == 0, said
    assert [(line["stage"], line["sampler"]) for line in lines(here / "runs" / "far_wan21-plain")] == [
        ("./plain", "euler")
    ]
    # Another folder of the same name would take its place.
    (here / "sub").mkdir()
    (here / "sub" / "released").symlink_to(released("far_wan21"))
    code, said = flowmap(here, "evaluate", "sub/released", "--recipe", "r.toml")
    assert (code, said) == (
        2,
        "error: runs/far_wan21-released holds another run or the evaluation of other weights; move it away, or say "
        "--runs elsewhere\n",
    )


def test_what_evaluate_cannot_do_is_said(released: Callable[[str], Path], here: Path, small: Path) -> None:
    (here / "recipes").mkdir()
    (here / "recipes" / "mine.toml").write_text('[backbone]\ntype = "far_wan21"\n')
    (here / "released").symlink_to(released("far_wan21"))
    (here / "small").symlink_to(small / "runs" / "small")
    (here / "r.toml").write_text(TINY)
    (here / "exact.toml").write_text(EXACT.replace('"gaussian", mixture', '"gaussian", dimension = 3, mixture'))
    (here / "bare.toml").write_text(TINY.split("[evaluation]")[0])
    for words, message in (
        (
            ["released"],
            "released: only a recipe says by what weights are measured; give one:\n"
            "  flowmap evaluate released --recipe recipes/mine.toml\n",
        ),
        (["nowhere"], "nowhere is no folder, neither of a run nor of weights; runs in .: small\n"),
        (
            ["small", "--recipe", "r.toml"],
            "r.toml: its teacher is the stage 'teacher', which only a run of it has; without --recipe, ./small is "
            "measured by its own. To measure by this recipe name weights: "
            "--set evaluation.teacher=FOLDER (with a '/' in it)\n",
        ),
        (
            ["small", "--recipe", "exact.toml"],
            "small, by exact.toml: evaluation.contests.0.stage: the samples of the run ./small are not of the same "
            "kind as the recipe's data\n",
        ),
        (
            ["small", "--recipe", "bare.toml"],
            "bare.toml: has no [evaluation], which says by what weights are measured\n",
        ),
    ):
        code, text = flowmap(here, "evaluate", *words)
        assert (code, text) == (2, f"error: {message}"), words
    assert not (here / "runs").exists()


# Elsewhere


def test_a_rehearsal_measures_twins(released: Callable[[str], Path], here: Path, tmp_path_factory: Any) -> None:
    run = wan_run(tmp_path_factory.getbasetemp(), "far_wan21")
    (here / "released").symlink_to(released("far_wan21"))
    stages = "[[stages]]" + (run / "recipe.lock.toml").read_text().split("[[stages]]", 1)[1].split("[evaluation]")[0]
    (here / "r.toml").write_text(
        stageless(run, MEASURED.replace('"base"\nteacher_s', '"./released"\nteacher_s')) + stages
    )
    recipe, _ = read(Path("r.toml"))
    assert recipe.evaluation is not None
    twins = of_twins(recipe, recipe.evaluation)
    assert twins["teacher"] == "base"
    assert [(c.stage, [s.type for s in c.samplers]) for c in twins["contests"]] == [
        ("base", ["euler"]),
        ("base", ["unipc"]),
    ]


def test_a_rehearsal_refuses_a_recipe_that_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(EXACT)
    code, text = flowmap(tmp_path, "run", "r.toml", "--rehearse")
    assert code == 2
    assert text.startswith("error: r.toml: trains nothing, so there is nothing to ")


def test_a_plan_of_what_measures_the_base_says_its_size(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(EXACT)
    code, text = flowmap(tmp_path, "plan", "r.toml")
    assert code == 0
    assert "It trains nothing, and measures the backbone's own weights" in text or "Memory and arithmetic" in text


def test_a_run_that_trained_nothing_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(EXACT)
    assert flowmap(tmp_path, "run", "r.toml")[0] == 0
    for command in (["sample", "runs/exact"], ["export", "runs/exact", "--to", "x"]):
        code, text = flowmap(tmp_path, *command)
        home = (tmp_path / "runs" / "exact").resolve()
        assert (code, text) == (2, f"error: {home}: this run trained nothing, so it has no weights of its own\n")
    with pytest.raises(FlowmapError, match=r"the run in .*exact trained nothing, so it has no weights of its own"):
        look_up(str(tmp_path / "runs" / "exact"))


@pytest.mark.slow
def test_weights_are_contestants_of_a_comparison(small: Path, here: Path) -> None:
    run = str(small / "runs" / "small")
    (here / "spec.toml").write_text(f"""
name = "exact"
seeds = [0]

[recipe]
data = "checkerboard"
backbone = {{ type = "mlp", width = 8, depth = 1 }}

[recipe.evaluation]
teacher = "{run}"
teacher_calls = 4
calls = [1, 2]
samples = 24
repeats = 2
metrics = ["frechet_pixels"]

[[contestants]]
name = "jump"
stage = "{run}"
samplers = ["flow_map"]

[[contestants]]
name = "step"
stage = "{run}"
samplers = ["euler"]
""")
    code, text = flowmap(here, "compare", "spec.toml")
    assert code == 0, text
    page = (here / "runs" / "exact" / "comparison.html").read_text()
    assert page.count("data:image/png") == 2 + 4
    assert f"name = &#34;{run}&#34;" in page
