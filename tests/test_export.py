"""`flowmap export`: a folder that diffusers loads as the same function, that says what it is, whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from flowmap_wan import export as wan_export
from safetensors import safe_open
from torch import Tensor

from flowmap import __version__
from flowmap.cli.main import main
from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, FlowMap, Velocity, Window, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.reading.open import open_run
from flowmap.recipe.read import read
from flowmap.use.export import export_run
from flowmap.use.student import open_contestant

from .small_runs import FORWARD, HEAD, TEACHER, flowmap
from .video_runs import digits_run, finished, mlp_run, wan_run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # diffusers' flex attention on a CPU is for tests only, and says so.
    pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning"),
]
KINDS = pytest.mark.parametrize("kind", ["wan21", "far_wan21"])
CPU = torch.device("cpu")
ROWS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run of a kind of backbone."""
    home = tmp_path_factory.getbasetemp()
    made = {"mlp": mlp_run, "digits": digits_run}
    return lambda kind: made[kind](home) if kind in made else wan_run(home, kind)


@pytest.fixture(scope="module")
def exported(run: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """The folder of an exported run, merged or with its adapters apart."""
    home = tmp_path_factory.mktemp("exported")

    @cache
    def export(kind: str, merged: bool) -> Path:
        to = home / f"{kind}-{merged}"
        export_run(run(kind), to, None, "ema", None, merged)
        return to

    return export


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ours(run: Path, stage: str = "forward", weights: Any = "ema") -> tuple[Backbone, Velocity]:
    """The network of a finished stage, as it is sampled."""
    who = open_contestant(open_run(run).find(stage, 0), weights, CPU)
    return who.backbone, who.network


def inputs(backbone: Backbone) -> tuple[Tensor, Tensor, Tensor, Any]:
    cond, _ = backbone.condition(["a ball", "a red square"], ROWS, torch.device("cpu"))
    return noise(ROWS, *backbone.latent_shape()), torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0]), cond


@torch.no_grad()
def our_output(backbone: Backbone, network: Velocity) -> list[Tensor]:
    """What a flow map says of all frames at once; if it is causal, also of those after a compressed chunk."""
    x, t, r, cond = inputs(backbone)
    flow_map: FlowMap = as_flow_map(network)
    found = [flow_map.mean_velocity(x, t, r, cond)]
    if len(backbone.chunking().sizes(x.shape[1])) > 1:
        forced = backbone.chunking().forced(Batch(x, cond, cond), Window(1, 5))
        found.append(flow_map.mean_velocity(forced.x0 + noise(*forced.x0.shape, seed=1), t, r, forced.cond))
    return found


@torch.no_grad()
def their_output(transformer: Any, backbone: Backbone) -> list[Tensor]:
    """The same by a model of diffusers."""
    x, t, r, cond = inputs(backbone)
    frames = x.shape[1]
    sizes = backbone.chunking().sizes(frames)
    times = [1000 * time[:, None].expand(-1, frames) for time in (t, r)]
    if len(sizes) == 1:
        return [transformer(x, *times, cond.text, return_dict=False)[0]]
    later = [torch.cat([torch.zeros(ROWS, 1), time[:, 1:]], 1) for time in times]
    x_t = torch.cat([x[:, :1], x[:, 1:] + noise(*x[:, 1:].shape, seed=1)], 1)
    clean = {"clean_hidden_states": x[:, 1:], "clean_timestep": torch.zeros(ROWS, frames - 1)}
    return [
        transformer(x, *times, cond.text, [frames], return_dict=False)[0],
        transformer(x_t, *later, cond.text, list(sizes), **clean, return_dict=False)[0],
    ]


def error(one: list[Tensor], other: list[Tensor]) -> float:
    assert [x.shape for x in one] == [x.shape for x in other]
    assert all(float(x.abs().max()) > 1e-2 for x in one)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def pipeline(folder: Path) -> Any:
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    return getattr(diffusers, kind).from_pretrained(folder)


# What diffusers makes of it


@KINDS
def test_the_pipeline_s_transformer_is_our_network(
    kind: str, run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    pipe = pipeline(exported(kind, True))
    names = {"wan21": "AnyFlowPipeline", "far_wan21": "AnyFlowFARPipeline"}
    assert type(pipe).__name__ == names[kind]
    assert type(pipe.scheduler).__name__ == "FlowMapEulerDiscreteScheduler"
    backbone, network = ours(run(kind))
    output = our_output(backbone, network)
    assert len(output) == (2 if kind == "far_wan21" else 1)
    assert error(their_output(pipe.transformer, backbone), output) < 1e-5
    # Which weights they are is no accident.
    assert error(our_output(*ours(run(kind), weights="raw")), output) > 1e-3


@KINDS
def test_kept_adapters_load_on_the_base(
    kind: str, run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    folder = exported(kind, False)
    pipe = pipeline(folder)
    backbone, network = ours(run(kind))
    output = our_output(backbone, network)
    assert error(their_output(pipe.transformer, backbone), output) > 1e-3
    pipe.transformer.load_lora_adapter(
        str(folder / "lora"), weight_name="pytorch_lora_weights.safetensors", prefix=None
    )
    assert error(their_output(pipe.transformer, backbone), output) < 1e-5


@pytest.mark.parametrize("merged", [True, False])
def test_what_is_said_about_loading_can_be_typed(
    merged: bool,
    run: Callable[[str], Path],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["flowmap", "export", str(run("far_wan21")), "--to", "made", *(() if merged else ("--keep-lora",))]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stop:
        main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert (stop.value.code, first) == (0, "✓ made: stage forward. Load it with")
    space: dict[str, Any] = {"diffusers": diffusers}
    exec("\n".join(lines), space)
    backbone, network = ours(run("far_wan21"))
    assert error(their_output(space["transformer"], backbone), our_output(backbone, network)) < 1e-5
    # The card says the same.
    card = re.search(r"```python\n(.*?)```", (here / "made" / "README.md").read_text(), re.DOTALL)
    assert card is not None
    assert card[1].replace("FOLDER", "made").splitlines() == ["import diffusers", *lines]


def test_random_weights_have_a_transformer_and_no_pipeline(run: Callable[[str], Path], tmp_path: Path) -> None:
    _, loading = export_run(run("digits"), tmp_path / "made", None, "ema", None, True)
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["README.md", "recipe.toml", "transformer"]
    space: dict[str, Any] = {"diffusers": diffusers}
    exec(loading, space)
    theirs = space["transformer"]
    who = open_contestant(open_run(run("digits")).find("forward", 0), "ema", CPU)
    cond, _ = who.backbone.condition(who.data.prompts(Draw.whole(0, "x", 0, "x", ROWS)), ROWS, torch.device("cpu"))
    x, t, r = noise(ROWS, 5, 1, 8, 8), torch.tensor([0.83, 0.31]), torch.tensor([0.47, 0.0])
    times = [1000 * time[:, None].expand(-1, 5) for time in (t, r)]
    with torch.no_grad():
        expected = as_flow_map(who.network).mean_velocity(x, t, r, cond)
        found = theirs(x, *times, cond.text, [5], return_dict=False)[0]  # type: ignore[attr-defined]
    assert error([found], [expected]) < 1e-5


def test_a_stage_and_weights_can_be_chosen(run: Callable[[str], Path], tmp_path: Path) -> None:
    chosen, _ = export_run(run("wan21"), tmp_path / "made", "forward", "raw", 0, True)
    assert chosen.stage.name == "forward"
    backbone, network = ours(run("wan21"), "forward", "raw")
    output = our_output(backbone, network)
    assert error(their_output(pipeline(tmp_path / "made").transformer, backbone), output) < 1e-5


# As weights of a new recipe


def fresh(run: Path, weights: Path, adapters: bool) -> tuple[Backbone, Velocity]:
    """A student that nothing trained yet, on `weights`."""
    old = open_run(run).recipe
    lora = old.backbone.lora if adapters else None  # type: ignore[attr-defined]
    config = old.backbone.model_copy(update={"weights": str(weights), "lora": lora})
    assert list(config.missing()) == []
    assert [finding for finding in config.findings(old.data.spec()) if finding.level == "error"] == []
    backbone = config.build(old.data.spec())
    return backbone, backbone.role("student", "flow_map", None, Draw.whole(5, "base", 0, "weights", 1)).network


@KINDS
@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("source", ["export", "run"])
def test_a_new_recipe_goes_on_from_it(
    kind: str, adapters: bool, source: str, run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    weights = exported(kind, True) if source == "export" else run(kind)
    backbone, network = fresh(run(kind), weights, adapters)
    assert error(our_output(backbone, network), our_output(*ours(run(kind)))) < 1e-5
    # The encoders are those of the base.
    before, _ = ours(run(kind))
    latents = noise(1, *backbone.latent_shape())
    assert torch.equal(backbone.decode(latents), before.decode(latents))
    assert backbone.latent_shape() == before.latent_shape()


def test_a_run_on_a_run_on_an_export_can_be_exported(
    run: Callable[[str], Path], exported: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    """Three generations: each card and each folder is that of the last."""
    text = (run("wan21") / "recipe.lock.toml").read_text()
    base = re.search(r'^weights = "(.*twin)"$', text, re.MULTILINE)
    assert base is not None
    start = text.split("[evaluation]")[0] + '[compute]\ndevice = "cpu"\n'
    second = finished(tmp_path, named(start, "second").replace(base[1], str(exported("wan21", True))))
    third = finished(tmp_path, named(start, "third").replace(base[1], str(second)))
    export_run(third, tmp_path / "made", None, "ema", None, True)
    pipe = pipeline(tmp_path / "made")
    backbone, network = ours(third)
    output = our_output(backbone, network)
    assert error(their_output(pipe.transformer, backbone), output) < 1e-5
    assert error(our_output(*ours(second)), output) > 1e-3


def named(text: str, name: str) -> str:
    return re.sub(r'^name = ".*?"', f'name = "{name}"', text, count=1, flags=re.MULTILINE)


@KINDS
def test_adapters_beside_their_base_are_read_with_it(
    kind: str, run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    """The base alone would be another model, and nobody would notice."""
    folder = exported(kind, False)
    backbone, network = fresh(run(kind), folder, adapters=False)
    assert error(our_output(backbone, network), our_output(*ours(run(kind)))) < 1e-5
    config = open_run(run(kind)).recipe.backbone.model_copy(update={"weights": str(folder)})
    told = config.pretrained()
    assert told is not None
    assert folder / "lora" / "pytorch_lora_weights.safetensors" in told.files


def test_an_unfinished_run_is_no_weights(run: Callable[[str], Path], tmp_path: Path) -> None:
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "recipe.lock.toml").write_text((run("wan21") / "recipe.lock.toml").read_text())
    with pytest.raises(FlowmapError) as caught:
        fresh(run("wan21"), other, adapters=False)
    first, then = str(caught.value).splitlines()
    assert first == f"the weights are a run's, and stage 'forward' is not finished in {other}/forward."
    assert then == f"First: flowmap run {other}/recipe.lock.toml --set name=other --runs {other.parent}"


def test_a_run_of_another_backbone_is_no_weights(run: Callable[[str], Path]) -> None:
    with pytest.raises(FlowmapError, match=r"is a run with backbone 'mlp'; its weights are not Wan's$"):
        fresh(run("wan21"), run("mlp"), adapters=False)
    with pytest.raises(FlowmapError, match=r"is a run of backbone 'far_wan21', and this recipe's is 'wan21'$"):
        fresh(run("wan21"), run("far_wan21"), adapters=False)


# The card


def test_the_card(run: Callable[[str], Path], exported: Callable[[str, bool], Path]) -> None:
    folder = exported("far_wan21", True)
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    about = yaml.safe_load(head)
    assert about == {
        "license": "apache-2.0",
        "library_name": "diffusers",
        "tags": ["flow-map", "distillation", "flowmap"],
    }
    assert body.startswith("# far_wan21: forward\n")
    for piece in (
        "The moving average of the student of stage `forward` (training seed 0)",
        "by the recipe in `recipe.toml`",
        "16 frames per second",
        "| forward | flow_map | 2 | 2 | 0.05 |",
        f"flowmap {__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}, device cpu",
        "That of the base weights: apache-2.0.",
    ):
        assert piece in body, piece
    # Its second stage starts from the base: the first has no part in it.
    assert "| teacher |" not in body
    lines = [json.loads(line) for line in (run("far_wan21") / "metrics.jsonl").read_text().splitlines()]
    rows = re.findall(r"^\| (\S+) \| 1 \| sliced_wasserstein \| (\S+) ± (\S+) \| (\S+) \|$", body, re.MULTILINE)
    mine = [line for line in lines if line["stage"] == "forward"]
    assert [row[0] for row in rows] == [line["sampler"] for line in mine] == ["flow_map", "flow_map-after-1"]
    assert [float(row[1]) for row in rows] == [pytest.approx(line["value"], rel=1e-3) for line in mine]
    # The recipe is one, and it is not the mark of a run's folder.
    assert read(folder / "recipe.toml")[0] == open_run(run("far_wan21")).recipe
    with pytest.raises(FlowmapError, match="is not the folder of a run"):
        open_run(folder)


def test_the_card_of_a_run_without_evaluation_and_of_a_known_base(
    run: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = tmp_path / "Wan2.1-T2V-1.3B-Diffusers"
    os.symlink(run("wan21").parents[1] / "twin", twin)
    text = (run("wan21") / "recipe.lock.toml").read_text().split("[evaluation]")[0] + '[compute]\ndevice = "cpu"\n'
    text = re.sub(r'^weights = ".*twin"$', f'weights = "{twin}"', named(text, "known"), flags=re.MULTILINE)
    export_run(finished(tmp_path, text), tmp_path / "made", None, "raw", None, True)
    head, body = (tmp_path / "made" / "README.md").read_text().removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["base_model"] == "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    assert "## Measured\nNothing was measured.\n" in body
    assert "The raw weights of the student of stage `forward`" in body


def test_the_licence_goes_on_to_what_is_made_of_it(
    run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    config = open_run(run("wan21")).recipe.backbone
    origin = config.model_copy(update={"weights": str(exported("wan21", True))}).origin()
    assert origin.licence == "apache-2.0"


def test_adapters_say_their_scale(exported: Callable[[str, bool], Path]) -> None:
    with safe_open(exported("wan21", False) / "lora" / "pytorch_lora_weights.safetensors", "pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
        names = set(file.keys())
    assert (about["r"], about["lora_alpha"]) == (3, 6.0)
    assert names == {f"{layer}.lora_{part}.weight" for layer in about["target_modules"] for part in "AB"}
    assert "blocks.0.attn1.to_q" in about["target_modules"]


def test_small_files_are_copies_and_large_ones_links(
    run: Callable[[str], Path], exported: Callable[[str, bool], Path]
) -> None:
    """Who edits a configuration of the exported model must not edit that of the base."""
    base, made = run("wan21").parents[1] / "twin", exported("wan21", True)
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in (base / part).iterdir():
            assert (made / part / file.name).read_bytes() == file.read_bytes()
            linked = os.path.samefile(file, made / part / file.name)
            assert linked == (file.suffix == ".safetensors"), file


# Refusals


def test_an_existing_target_is_refused(run: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        words = f"^--to {tmp_path / name}: is there already; name a new folder, or move it away$"
        with pytest.raises(FlowmapError, match=words) as caught:
            export_run(run("wan21"), tmp_path / name, None, "ema", None, True)
        assert caught.value.code == 2
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_backbone_without_such_a_form_writes_nothing(run: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match=r"^backbone 'mlp' has no form that others load; its weights are in"):
        export_run(run("mlp"), tmp_path / "made", None, "ema", None, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [FlowmapError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_nothing(
    failure: BaseException, run: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wan_export.write_pipeline

    def fail(*args: Any) -> str:
        real(*args)
        raise failure

    monkeypatch.setattr(wan_export, "write_pipeline", fail)
    with pytest.raises((FlowmapError, KeyboardInterrupt)) as caught:
        export_run(run("wan21"), tmp_path / "made", None, "ema", None, True)
    if isinstance(failure, OSError):
        assert str(caught.value).startswith(f"cannot write {tmp_path / 'made'}: the disk is full; free some space")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said(run: Callable[[str], Path], tmp_path: Path) -> None:
    for folder, stage, seed, words in (
        (run("wan21"), "forwrd", None, "--stage forwrd: unknown stage 'forwrd'; .* Did you mean 'forward'"),
        (run("wan21"), None, 4, "--train-seed 4: this run has 0"),
        (run("wan21") / "forward", None, None, "forward is the folder of one stage; give the run's folder"),
        (tmp_path, None, None, "is not the folder of a run"),
    ):
        with pytest.raises(FlowmapError, match=words) as caught:
            export_run(folder, tmp_path / "made", stage, "ema", seed, True)
        assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_stage_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(HEAD + TEACHER + FORWARD)
    code, text = flowmap(tmp_path, "run", "recipe.toml", "--stage", "teacher")
    assert code == 0, text
    code, text = flowmap(tmp_path, "export", "runs/small", "--to", "made")
    home = (tmp_path / "runs").resolve()
    assert (code, text) == (
        1,
        f"error: stage 'forward' is not finished in {home}/small/forward.\n"
        f"To go on: flowmap run {home}/small/recipe.lock.toml --runs {home}\n",
    )
    assert not (tmp_path / "made").exists()
