"""`flowmap run RECIPE --rehearse`, and what a recipe says whose weights and data are not here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from flowmap_video import rehearsal as clips
from flowmap_wan import twin as weights
from rich.console import Console

from flowmap.errors import FlowmapError
from flowmap.files.folder import locked
from flowmap.launch import rehearse as rehearsal
from flowmap.launch.twin import twin_of
from flowmap.planning.limits import needs
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe

from .small_runs import FORWARD, HEAD, TEACHER, flowmap
from .test_cli import HEAVY, shell

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = ("anyflow_wan_1.3b", "anyflow_wan_14b", "anyflow_far_1.3b", "anyflow_far_14b")
ANYFLOW = pytest.mark.parametrize("name", NAMES)


def toml(name: str) -> str:
    return str(RECIPES / f"{name}.toml")


# Without weights and data


def test_check_warns_of_what_is_missing_and_imports_nothing_heavy(here: Path) -> None:
    program = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from flowmap.cli import main as cli
for path in {[toml(name) for name in NAMES]!r}:
    sys.argv = ["flowmap", "check", path]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, path
"""
    done = shell(here, sys.executable, "-c", program, HF_HUB_CACHE=str(here / "hub"))
    assert done.returncode == 0, done.stderr
    assert [line.split(": ")[0] for line in done.stdout.splitlines()] == [f"✓ {toml(name)}" for name in NAMES]
    for name in NAMES:
        size = "14B" if "14b" in name else "1.3B"
        own = done.stderr.split(f"{toml(name)}:")[1:]
        weights = next(text for text in own if "backbone.weights" in text)
        data = next(text for text in own if "data.path" in text)
        hub_id = f"Wan-AI/Wan2.1-T2V-{size}-Diffusers"
        assert re.match(r"\d+: backbone.weights: warning: the weights are not on this machine", weights)
        assert f"no folder {here / hub_id}, and no {hub_id} in the hub's cache {here / 'hub'}" in weights
        assert f"Get them: hf download {hub_id} " in weights
        assert re.match(r"\d+: data.path: warning: no .tar file or folder matches 'data/vidprom'", data)
        assert "flowmap encode RECIPE --from RAW_FOLDER" in data
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["anyflow_wan_1.3b", "anyflow_far_14b"])
def test_the_real_command_names_weights_and_data_and_writes_nothing(name: str, here: Path) -> None:
    patch = f"import os; os.environ['HF_HUB_CACHE'] = {str(here / 'hub')!r}"
    code, text = flowmap(here, "run", toml(name), patch=patch)
    assert code == 2
    assert re.match(r"error: \S+:\d+: data\.path: no \.tar file or folder matches", text)
    assert "flowmap encode RECIPE --from RAW_FOLDER" in text
    size = "14B" if "14b" in name else "1.3B"
    assert re.search(r"^\S+:\d+: backbone\.weights: the weights are not on this machine", text, re.MULTILINE)
    assert f"Get them: hf download Wan-AI/Wan2.1-T2V-{size}-Diffusers" in text
    assert "Traceback" not in text
    assert [path.name for path in here.iterdir() if not path.name.startswith("log-")] == []


# The twin


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for twins, whose weights and clips are made once and copied."""
    folder = tmp_path_factory.mktemp("twins")

    def copied(make: Callable[..., None]) -> Callable[..., None]:
        def copy(part: Path, *how: object) -> None:
            made = folder / "made" / "-".join(map(str, (make.__module__, *how)))
            if not made.exists():
                made.mkdir(parents=True)
                make(made, *how)
            shutil.copytree(made, part, dirs_exist_ok=True)

        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_write", copied(weights._write))
        patch.setattr(clips, "_fill", copied(clips._fill))
        yield folder


@pytest.mark.parametrize(("share", "batch"), [(0.5, 4), (0.1, 16), (0.02, 60)])
def test_a_twin_has_as_large_a_batch_as_its_objective_needs(share: float, batch: int, tmp_path: Path) -> None:
    """Of a small batch the share of r = t is no sample, which `flow_map` refuses: the recipe is right all the same."""
    objective = f'{{ type = "flow_map", branches = {{ diffusion = {share}, consistency = 0.1 }} }}'
    text = HEAD + TEACHER + FORWARD.replace('"flow_map"', objective).replace("batch = 8", "batch = 60")
    (tmp_path / "recipe.toml").write_text(text)
    twin = twin_of(read(tmp_path / "recipe.toml")[0], tmp_path / "parts", 1)
    assert [stage.batch for stage in twin.stages] == [4, batch]


@pytest.mark.parametrize("name", [*NAMES, "quickstart", "moving_digits_far"])
def test_the_twin_is_the_recipe_but_small(name: str, parts: Path) -> None:
    recipe, _ = read(Path(toml(name)))
    twin = twin_of(recipe, parts / name, 1)
    file = parts / f"{name}.toml"
    rehearsal._write(twin, file)
    again, _ = read(file, absent="error")
    assert again == twin
    assert (twin.name, twin.seeds) == ("run", recipe.seeds[:1])
    assert [stage.name for stage in twin.stages] == [stage.name for stage in recipe.stages]
    for small, real in zip(twin.stages, recipe.stages, strict=True):
        assert (small.steps, small.batch) == (3, 4)
        assert small.objective == real.objective
        assert small.roles == real.roles
        assert small.optimizer.model_copy(update={"warmup": real.optimizer.warmup}) == real.optimizer
        # Otherwise three steps would see neither the learning rate nor the moving average.
        assert small.optimizer.warmup <= 1
        assert small.ema.start <= 1
    assert twin.compute == recipe.compute
    for processes, batch in ((3, 6), (8, 8)):
        for stage in twin_of(recipe, parts / f"{name}-{processes}", processes).stages:
            assert stage.batch == min(batch, recipe.stage(stage.name).batch)
    assert twin.evaluation is not None
    assert recipe.evaluation is not None
    assert twin.evaluation.contests == recipe.evaluation.contests
    assert twin.evaluation.metrics == recipe.evaluation.metrics
    assert (twin.evaluation.calls, twin.evaluation.samples, twin.evaluation.repeats) == ((1, 4), 2, 2)


@ANYFLOW
def test_the_twin_s_model_and_data_are_of_the_real_kind(name: str, parts: Path) -> None:
    recipe: Recipe = read(Path(toml(name)))[0]
    home = parts / "kinds" / name
    twin = twin_of(recipe, home, 1)
    real: Any = recipe.backbone
    small: Any = twin.backbone
    assert small.lora.rank == 4
    kept = {"weights", "lora", "text_length"}
    assert small.model_dump(exclude=kept) == real.model_dump(exclude=kept)
    assert twin.data.spec().shape == (81, 3, 32, 32)
    assert (twin.data.spec().fps, twin.data.spec().text) == (16.0, True)
    assert Path(small.weights).is_relative_to(home)
    assert Path(twin.data.path).is_relative_to(home)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "base", "layers", "width", "hidden"),
    [
        ("anyflow_wan_1.3b", 1.42, 30, 1536, 8960),
        ("anyflow_far_14b", 14.32, 40, 5120, 13824),
    ],
)
def test_what_the_real_model_needs(name: str, base: float, layers: int, width: int, hidden: int) -> None:
    """Wan2.1's sizes; with three adapters of rank 256 the larger is the 16.75B that AnyFlow's authors train."""
    recipe = read(Path(toml(name)))[0]
    footprint = recipe.backbone.footprint(recipe.data.spec(), recipe.compute.precision)
    assert footprint is not None
    first, second = needs(footprint)
    # In bfloat16, but for what is kept in float32: times, norms, modulations.
    assert [float(n) for n in re.findall(r"\d+\.\d+", first)] == pytest.approx([base, 2 * base], abs=0.15)
    critic = 256 * layers * (4 * 2 * width + 2 * (width + hidden))
    student = critic + 256 * 2 * ((256 + width) + 2 * width)
    compressed = 16 * 4 * 4 * width + width if "far" in name else 0
    own = [(count + compressed) / 1e9 for count in (student, critic)]
    pattern = r"memory for adapters: (.*)B parameters in a student, (.*)B in a critic; .* average (.*) and (.*) GB; .*"
    found = re.fullmatch(pattern, second)
    assert found is not None
    assert [float(n) for n in found.groups()[:2]] == pytest.approx(own, abs=0.005)
    # Of a float32 parameter: itself, its gradient, two moments; of a student its average too.
    assert [float(n) for n in found.groups()[2:]] == pytest.approx([20 * own[0], 16 * own[1]], abs=0.05)
    if "14b" in name:
        assert base + own[0] + 2 * own[1] == pytest.approx(16.75, abs=0.02)


def test_two_rehearsals_at_once_are_one_too_many(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER)
    with (
        locked(here / "runs" / "small-rehearsal"),
        pytest.raises(FlowmapError, match="another flowmap run is writing here"),
    ):
        rehearsal.rehearse(here / "r.toml", (), here / "runs", Console(quiet=True))


@pytest.mark.parametrize("name", ["recipe.lock.toml", "comparison.json", "notes.txt", "teacher"])
def test_what_is_of_no_rehearsal_is_not_cleared_away(here: Path, name: str) -> None:
    folder = here / "runs" / "small-rehearsal"
    (folder / "run").mkdir(parents=True)
    (folder / "twin.toml").write_text("")
    (folder / name).write_text("mine")
    (here / "r.toml").write_text(HEAD + TEACHER)
    with pytest.raises(FlowmapError, match=f"'{name}' in it is of no rehearsal; move it away"):
        rehearsal.rehearse(here / "r.toml", (), here / "runs", Console(quiet=True))
    assert (folder / name).read_text() == "mine"


def test_a_wrong_recipe_is_not_rehearsed(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER.replace("steps = 6", "steps = 0"))
    code, text = flowmap(here, "run", "r.toml", "--rehearse")
    assert (code, text) == (2, "error: r.toml:8: stages.teacher.steps: must be above 0, not 0\n")
    assert not (here / "runs").exists()


def test_a_small_rehearsal_and_another(here: Path) -> None:
    """Every command on a recipe that needs no twin; what it leaves is not in the way of the next."""
    (here / "r.toml").write_text(HEAD + TEACHER + FORWARD)
    for settings in ((), ("--set", "stages.teacher.batch=2")):
        code, text = flowmap(here, "run", "r.toml", "--rehearse", *settings)
        assert code == 0, text
        home = "runs/small-rehearsal"
        assert re.search(rf"^✓ stopped by SIGINT after step 2 of stage 'teacher'; saved in {home}/run/", text, re.M)
        assert "teacher: going on after step 2" in text
        assert "✓ teacher: 3 steps" in text
        assert "✓ forward: 3 steps" in text
        assert "export skipped: backbone 'mlp' has no form that others load" in text
        assert f"sample to {home}/sample.png" in text
        command = " ".join(("Then: flowmap run r.toml", *settings))
        assert command in text.splitlines()
        assert (here / home / "sample.safetensors").exists()
    assert "stage teacher: 6 steps of batch 2; a step sends about 2 samples" in text


# Whole, as it is typed


def rehearsed(home: Path, name: str) -> tuple[Path, str]:
    """The folder of the rehearsal, and what was printed."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "HF_HUB_CACHE": str(home / "hub")}
    command = [sys.executable, "-m", "flowmap", "run", toml(name), "--rehearse"]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return home / "runs" / f"{name}-rehearsal", done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pipeline", "memory", "adapters"),
    [
        ("anyflow_far_14b", "AnyFlowFARPipeline", "14.32B", "0.82B parameters in a student, 0.81B in a critic"),
        ("anyflow_wan_1.3b", "AnyFlowPipeline", "1.42B", "0.26B parameters in a student, 0.26B in a critic"),
        (
            "anyflow_wan_i2v_14b",
            "WanImageToVideoPipeline",
            "16.42B",
            "0.82B parameters in a student, 0.81B in a critic",
        ),
    ],
)
def test_the_whole_rehearsal(name: str, pipeline: str, memory: str, adapters: str, tmp_path: Path) -> None:
    folder, text = rehearsed(tmp_path, name)
    home = f"runs/{name}-rehearsal"
    model = "I2V-14B-480P" if "i2v" in name else "T2V-14B" if "14b" in name else "T2V-1.3B"
    ordered = (
        f"a tiny twin of model and data is in {home}; the recipe it runs is {home}/twin.toml",
        "encode the samples, as `flowmap encode` does",
        "✓ encoded 8 samples in 2 parts, 0 faults",
        "✓ stopped by SIGINT after step 2 of stage 'teacher'; saved in",
        "teacher: going on after step 2",
        "✓ teacher: 3 steps in",
        "✓ forward: 3 steps in",
        "✓ on_policy: 3 steps in",
        "✓ evaluated in",
        f"report: {home}/run/report.html",
        f'export to {home}/exported; load it with pipe = diffusers.{pipeline}.from_pretrained("{home}/exported", ',
        f"sample to {home}/sample.mp4",
        "The real run needs",
        f"Get them: hf download Wan-AI/Wan2.1-{model}-Diffusers",
        "flowmap encode RECIPE --from RAW_FOLDER",
        f"memory for one base of {memory} parameters that all roles share",
        f"memory for adapters: {adapters}",
        "stage teacher: ",
        "stage on_policy: 1200 steps of batch ",
        f"flowmap run {toml(name)}\n",
        "✓ rehearsed in",
    )
    places = [text.find(piece) for piece in ordered]
    assert -1 not in places, ordered[places.index(-1)] + "\n" + text
    assert places == sorted(places)
    assert "<html" in (folder / "run" / "report.html").read_text()
    assert "on_policy" in (folder / "exported" / "README.md").read_text()
    import diffusers

    pipe = getattr(diffusers, pipeline).from_pretrained(folder / "exported")
    assert pipe.transformer.config.num_layers == 2
    with av.open(str(folder / "sample.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 81
    first = ["sample-first.png"] if "i2v" in name else []
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "encoded", "exported", "parts", "run", *first, "sample.mp4", "sample.png", "sample.safetensors", "twin.toml"
    ]  # fmt: skip
    # What it wrote can be used as any other run.
    more = ("--image", f"{home}/sample.png") if "i2v" in name else ()
    code, shown = flowmap(
        tmp_path, "sample", f"{home}/run", "--prompt", "a ball", "--nfe", "1", "--out", "again", *more
    )
    assert (code, shown.split(":")[0]) == (0, "again.mp4, again.png and again.safetensors")


@pytest.mark.slow
def test_the_quickstart_can_be_rehearsed(tmp_path: Path) -> None:
    folder, text = rehearsed(tmp_path, "quickstart")
    assert (
        "export skipped: backbone 'mlp' has no form that others load; its weights are in the run's checkpoints" in text
    )
    assert "encode" not in text.split("The real run needs")[0].split("run every stage")[0].replace("encoded", "")
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "sample.png").is_file()
    assert not (folder / "exported").exists()
