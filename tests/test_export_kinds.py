"""An export is what it says: a velocity is no any-step model, a precision has its name, no training is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from flowmap_wan.checkpoint import Checkpoint
from safetensors.torch import load_file
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.phases import Phase, listening
from flowmap.reading.open import open_run
from flowmap.use.export import export_run
from flowmap.use.student import open_contestant
from flowmap.workshop.adapters import merged, plain_state
from flowmap.workshop.writing import write_model
from tests.video_runs import digits_run, finished, wan_run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning"),
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def bidirectional(home: Path) -> Path:
    """A finished run of a bidirectional model with adapters."""
    return wan_run(home, "wan21")


@pytest.fixture(scope="module")
def teacher(bidirectional: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Its teacher, which is a velocity, exported; and how to load it."""
    to = tmp_path_factory.mktemp("teacher") / "made"
    return to, export_run(bidirectional, to, "teacher", "ema", None, True)[1]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def loaded(loading: str) -> dict[str, Any]:
    space: dict[str, Any] = {"diffusers": diffusers}
    exec(loading, space)
    return space


@pytest.mark.parametrize("merged", [True, False])
@torch.no_grad()
def test_a_velocity_becomes_plain_wan(merged: bool, bidirectional: Path, tmp_path: Path) -> None:
    _, loading = export_run(bidirectional, tmp_path / "made", "teacher", "ema", None, merged)
    space = loaded(loading)
    assert type(space["pipe"]).__name__ == "WanPipeline"
    assert type(space["transformer"]).__name__ == "WanTransformer3DModel"
    scheduler = space["pipe"].scheduler.config
    assert (scheduler.flow_shift, scheduler.prediction_type, scheduler.use_flow_sigmas) == (
        1.0,
        "flow_prediction",
        True,
    )
    who = open_contestant(open_run(bidirectional).find("teacher", 0), "ema", CPU)
    cond, _ = who.backbone.condition(["a ball", "a red square"], 2, torch.device("cpu"))
    x, t = noise(2, *who.backbone.latent_shape()), torch.tensor([0.83, 0.31])
    ours = who.network.velocity(x, t, cond)
    theirs = space["transformer"](x.transpose(1, 2), 1000 * t, cond.text, return_dict=False)[0].transpose(1, 2)  # type: ignore
    assert float(ours.abs().max()) > 1e-2
    assert float((ours - theirs).abs().max()) < 1e-5


def test_its_card_says_so_and_names_what_it_comes_from_alone(teacher: tuple[Path, str]) -> None:
    card = (teacher[0] / "README.md").read_text()
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert yaml.safe_load(head)["tags"] == ["flow-matching", "flowmap"]
    assert "The moving average of the student of stage `teacher` (training seed 0), trained with" in body
    assert "It is a velocity u(x, t), and no flow map: it is sampled with many steps" in body
    assert "AnyFlow" not in card
    assert "distill" not in card
    assert re.findall(r"^\| (\w+) \| (\w+) \| 2 \|", body, re.MULTILINE) == [("teacher", "flow_matching")]
    assert "| euler | 1 | sliced_wasserstein |" in body
    assert "flow_map-after" not in body


def test_it_is_read_here_as_what_it_is(teacher: tuple[Path, str]) -> None:
    checkpoint = Checkpoint(teacher[0])
    assert checkpoint.flaw("x") is None
    assert (checkpoint.kind, checkpoint.pipeline.shift()) == ("wan", 1.0)


def test_a_flow_map_names_all_that_it_comes_from(bidirectional: Path, tmp_path: Path) -> None:
    export_run(bidirectional, tmp_path / "made", "forward", "ema", None, True)
    card = (tmp_path / "made" / "README.md").read_text()
    # This recipe's second stage starts from the base, and so the first has no part in it.
    assert re.findall(r"^\| (\w+) \| \w+ \| 2 \|", card, re.MULTILINE) == ["forward"]
    assert "It is a flow map u(x, t, r)" in card
    assert "distilled with" in card


def test_a_velocity_of_another_kind_is_refused(home: Path, bidirectional: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match=r"stage 'teacher' trains a velocity that makes videos chunk by chunk"):
        export_run(wan_run(home, "far_wan21"), tmp_path / "far", "teacher", "ema", None, True)
    none = (
        r"^--format original: what reads it has no network such as that of backbone 'far_wan21', only such as .*wan21"
    )
    with pytest.raises(FlowmapError, match=none):
        export_run(wan_run(home, "far_wan21"), tmp_path / "far", "forward", "ema", None, True, "original")
    with pytest.raises(FlowmapError, match=r"^--format released: AnyFlow's own classes are flow maps, and this stage"):
        export_run(bidirectional, tmp_path / "released", "teacher", "ema", None, True, "released")
    # Every weight is trained, those of both embedders too.
    text = (digits_run(home) / "recipe.lock.toml").read_text().split("[evaluation]")[0]
    text = re.sub(r'^name = "digits"', 'name = "whole"', text).replace('view = "forced"', 'view = "whole"')
    text = text + '[compute]\ndevice = "cpu"\n'
    whole = finished(tmp_path, text)
    with pytest.raises(FlowmapError, match=r"^this stage trains a velocity whose two embedders of time differ"):
        export_run(whole, tmp_path / "whole", "teacher", "ema", None, True)
    assert not [path for path in tmp_path.iterdir() if path.name in ("far", "released", "whole")]


def test_a_base_in_bfloat16_is_exported_and_loaded_in_it(bidirectional: Path, tmp_path: Path) -> None:
    text = (bidirectional / "recipe.lock.toml").read_text().split("[evaluation]")[0] + '[compute]\ndevice = "cpu"\n'
    text = re.sub(r'^name = "wan21"', 'name = "half"', text, count=1)
    text = text.replace('base_precision = "float32"', 'base_precision = "bfloat16"')
    half = finished(tmp_path, text)
    _, loading = export_run(half, tmp_path / "made", None, "ema", None, True)
    told = "# the transformer's weights are in bfloat16; its time embedders, norms and tables in float32"
    assert loading.splitlines()[0] == told
    assert told in (tmp_path / "made" / "README.md").read_text()
    dtypes = '{"transformer": torch.bfloat16, "text_encoder": torch.float32, "vae": torch.float32}'
    assert f'AnyFlowPipeline.from_pretrained("{tmp_path / "made"}", dtype={dtypes})' in loading
    written = load_file(tmp_path / "made" / "transformer" / "diffusion_pytorch_model.safetensors")
    exact = ("time_embedder", "delta_embedder", "scale_shift_table", "norm2")
    for name, value in written.items():
        assert value.dtype == (torch.float32 if any(part in name for part in exact) else torch.bfloat16), name
    space = loaded(loading)
    assert space["transformer"].blocks[0].ffn.net[0].proj.weight.dtype == torch.bfloat16
    assert space["pipe"].text_encoder.shared.weight.dtype == space["pipe"].vae.dtype == torch.float32
    own = space["transformer"].state_dict()
    assert all(torch.equal(own[k].float(), v.to(own[k].dtype).float()) for k, v in written.items())


class Heard:
    """Hears of phases."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    def begin(self, phase: Phase) -> None:
        self.phases.append(phase)

    def end(self, phase: Phase) -> None:
        assert phase.done == phase.total


def test_what_is_being_done_is_told(bidirectional: Path, tmp_path: Path) -> None:
    heard = Heard()
    with listening(heard):
        export_run(bidirectional, tmp_path / "made", None, "ema", None, True)
    told = [phase.what for phase in heard.phases]
    assert told[0] == "checking forward, step 2"
    assert "reading transformer" in told
    copied = ["copying text_encoder", "copying tokenizer", "copying vae"]
    assert told[-6:] == ["writing transformer", "waiting for the disk", *copied, "waiting for the disk to have made"]
    written = tmp_path / "made" / "transformer" / "diffusion_pytorch_model.safetensors"
    assert heard.phases[-6].unit == "bytes"
    assert 0 < heard.phases[-6].total < written.stat().st_size


def test_weights_that_are_no_numbers_are_not_exported(
    bidirectional: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowmap.use import export

    real: Callable[..., dict[str, Tensor]] = export.stage_weights

    def spoiled(*words: Any) -> dict[str, Tensor]:
        found = real(*words)
        next(iter(found.values())).view(-1)[0] = float("nan")
        return found

    monkeypatch.setattr(export, "stage_weights", spoiled)
    with pytest.raises(FlowmapError, match=r"^blocks\.0\.\S+ has numbers that are not finite"):
        export_run(bidirectional, tmp_path / "made", None, "ema", None, True)
    assert list(tmp_path.iterdir()) == []


# The writer


@pytest.fixture
def model() -> Any:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=16, ffn_dim=32, num_layers=6
    )


def shell_of(model: Any) -> Any:
    with torch.device("meta"):
        return type(model).from_config(model.config)


def full(key: str) -> torch.dtype:
    return torch.float32


@pytest.mark.parametrize("most", [10**9, 30_000, 1])
def test_a_model_in_files_of_any_size_is_read_as_one(most: int, model: Any, tmp_path: Path) -> None:
    state = model.state_dict()
    write_model(shell_of(model), merged(model, None), full, tmp_path / "made", most)
    files = sorted((tmp_path / "made").glob("*.safetensors"))
    sizes = [sum(v.nbytes for v in load_file(file).values()) for file in files]
    assert (len(files) == 1) == (most == 10**9)
    assert all(size <= most or len(load_file(file)) == 1 for size, file in zip(sizes, files, strict=True))
    index = tmp_path / "made" / "diffusion_pytorch_model.safetensors.index.json"
    assert index.exists() == (len(files) > 1)
    if index.exists():
        assert json.loads(index.read_text())["metadata"]["total_size"] == sum(sizes)
    read = type(model).from_pretrained(tmp_path / "made")
    assert all(torch.equal(value, state[key]) for key, value in read.state_dict().items())


def test_one_file_is_in_memory_at_a_time(model: Any, tmp_path: Path) -> None:
    """What was written is let go before the next is made."""
    import weakref

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = [0]

    def made(value: Tensor) -> Callable[[], Tensor]:
        def make() -> Tensor:
            new = value.clone()
            alive.add(new)
            most[0] = max(most[0], sum(each.nbytes for each in alive))
            return new

        return make

    makes = {key: made(value) for key, value in model.state_dict().items()}
    write_model(shell_of(model), makes, full, tmp_path / "made", 40_000)
    whole = sum(value.nbytes for value in model.state_dict().values())
    largest = max(value.nbytes for value in model.state_dict().values())
    # With the last one of the file before.
    assert 0 < most[0] <= 40_000 + largest < whole / 2


def test_a_model_that_is_not_complete_is_not_written(model: Any, tmp_path: Path) -> None:
    makes = merged(model, None)
    gone = makes.pop("proj_out.bias")
    with pytest.raises(
        FlowmapError, match=r"1 parameters are not those of a WanTransformer3DModel, first proj_out\.bias"
    ):
        write_model(shell_of(model), makes, full, tmp_path / "made")
    makes["proj_out.bias"] = lambda: gone()[:-1]
    with pytest.raises(FlowmapError, match=r"proj_out\.bias is \[63\], and not \[64\]"):
        write_model(shell_of(model), makes, full, tmp_path / "made")


def test_the_weights_one_by_one_are_all_at_once(model: Any) -> None:
    assert plain_state(model, None).keys() == merged(model, None).keys() == model.state_dict().keys()
