"""Encoded data say what they were made with, and are neither mixed with nor used as what was made otherwise."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_video.rehearsal import write_clips
from flowmap_wan.twin import make_null, make_twin
from rich.console import Console
from safetensors.torch import load_file, save_file

from flowmap.errors import FlowmapError
from flowmap.launch import run as launch
from flowmap.launch.run import run_recipe
from flowmap.recipe.read import read
from flowmap.use.encode import encode_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """\
name = "made"
data = { type = "video_shards", path = "enc", frames = 5, height = 32, width = 32, fps = 16.0, held_out = 0.4 }
backbone = { type = "wan21", weights = "twin", text_length = 16, lora = { rank = 2, alpha = 2.0 } }
compute.device = "cpu"

[[stages]]
name = "teacher"
steps = 1
batch = 2
objective = "flow_matching"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its weights, raw clips and these encoded."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_twin(Path("twin"))
        make_null(Path("null.safetensors"))
        write_clips(Path("raw"), 5, 32, 16.0, "captions")
        Path("r.toml").write_text(RECIPE)
        encode()
    return folder


@pytest.fixture
def there(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where we are."""
    shutil.copytree(home, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def encode(*settings: str, to: str | None = None) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    encode_recipe(Path("r.toml"), "raw", to and Path(to), settings, console)
    return console.export_text()


def told(*settings: str) -> str:
    """The error of `flowmap check`."""
    with pytest.raises(FlowmapError) as caught:
        read(Path("r.toml"), settings, absent="warning")
    return str(caught.value)


def stored() -> dict[str, Any]:
    return json.loads(Path("enc/encoder.json").read_text())  # type: ignore[no-any-return]


def test_all_that_decides_is_written(there: Path) -> None:
    found = stored()
    assert found["format"] == 1
    assert found["precision"] == "float32"
    assert found["versions"].keys() == {"flowmap", "torch", "diffusers", "transformers", "tokenizers"}
    assert found["versions"]["torch"] == torch.__version__.removesuffix("+cpu") or "+" in torch.__version__
    backbone = found["backbone"]
    assert backbone.keys() == {"weights", "text_length", "negative_prompt", "null_embedding"}
    assert (backbone["text_length"], backbone["null_embedding"]) == (16, None)
    assert found["parts"] == ["000.tar", "001.tar"]
    assert backbone["negative_prompt"].startswith("色调艳丽")
    assert read(Path("r.toml"), (), absent="error")[1] == []


CHANGES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "another prompt": (
        ('backbone.negative_prompt="a red circle"',),
        'backbone.negative_prompt is "a red circle", and they were encoded with "色调艳丽',
    ),
    "nearly the same prompt": (
        ("backbone.negative_prompt=" + RECIPE.splitlines()[0].replace("made", "色调艳丽，过曝"),),
        "backbone.negative_prompt is ",
    ),
    "another length": (
        ("backbone.text_length=8",),
        "backbone.text_length is 8, and they were encoded with 16; change the recipe, or encode into another folder",
    ),
    "another backbone": (
        ("backbone.type=far_wan21", "backbone.chunks=[1, 1]", "backbone.text_length=17"),
        "backbone.text_length is 17, and they were encoded with 16",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_recipe_is_refused(change: str, there: Path) -> None:
    settings, words = CHANGES[change]
    assert words in told(*settings)
    assert "enc/encoder.json: these data were encoded otherwise than the recipe says: " in told(*settings)
    with pytest.raises(FlowmapError) as caught:
        run_recipe(Path("r.toml"), settings, (), False, Path("runs"), Console(quiet=True))
    assert words in str(caught.value)
    Path("enc/001.tar").unlink()
    with pytest.raises(FlowmapError) as caught:
        encode(*settings)
    assert words.split(";")[0] in str(caught.value)
    assert "go on as they were begun, or encode into another folder: --to" in str(caught.value)
    # Another folder is free, though the recipe names this one.
    encode(*settings, to="other")
    read(Path("r.toml"), (*settings, "data.path=other"), absent="error")


@pytest.mark.parametrize("part", ["text_encoder", "vae", "tokenizer"])
def test_other_weights_are_refused(part: str, there: Path) -> None:
    shutil.copytree("twin", "other")
    if part == "tokenizer":
        file = Path("other/tokenizer/tokenizer.json")
        content = json.loads(file.read_text())
        content["model"]["vocab"][5][1] -= 1
        file.write_text(json.dumps(content))
    else:
        (file,) = Path("other", part).glob("*.safetensors")
        state = load_file(file)
        save_file({key: value + 1e-3 for key, value in state.items()}, file, metadata={"format": "pt"})
    assert "backbone.weights is " in told("backbone.weights=other")


def test_the_same_encoders_elsewhere_and_otherwise_divided_are_the_same(there: Path) -> None:
    shutil.copytree("twin", "elsewhere/wan")
    part = Path("elsewhere/wan/text_encoder")
    state = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    names = sorted(state)
    places = {key: f"model-{1 + (n > 3)}.safetensors" for n, key in enumerate(names)}
    for file in set(places.values()):
        save_file({key: state[key] for key in names if places[key] == file}, part / file)
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    # What is trained is no part of it.
    (file,) = Path("elsewhere/wan/transformer").glob("*.safetensors")
    save_file({key: value + 1 for key, value in load_file(file).items()}, file)
    recipe, warnings = read(Path("r.toml"), ("backbone.weights=elsewhere/wan",), absent="error")
    assert recipe.backbone.weights == "elsewhere/wan"
    assert not [warning for warning in warnings if "encoder" in warning]


def test_an_embedding_takes_the_place_of_the_null_that_data_bring(there: Path) -> None:
    """In training; and those that were encoded with one have it."""
    file = "backbone.null_embedding=null.safetensors"
    read(Path("r.toml"), (file,), absent="error")
    encode(file, to="other")
    words = told("data.path=other")
    assert "backbone.null_embedding is none, and they were encoded with " in words
    assert 'backbone.negative_prompt is "色' in words
    read(Path("r.toml"), (file, "data.path=other"), absent="error")
    # Moved, it is the same.
    shutil.move("null.safetensors", "moved.safetensors")
    Path("other/001.tar").unlink()
    encode("backbone.null_embedding=moved.safetensors", to="other")
    make_null(Path("null.safetensors"))
    save_file({"null": load_file("null.safetensors")["null"] + 1}, "null.safetensors")
    Path("other/001.tar").unlink()
    with pytest.raises(FlowmapError, match=r"backbone\.null_embedding is .*, and they were encoded with "):
        encode(file, to="other")


def test_other_hardware_may_go_on(there: Path) -> None:
    """What differs in its last bits, or by the rounding of bfloat16, is the same null condition."""
    null = load_file("enc/null.safetensors")["null"]
    for change in (torch.nextafter(null, null + 1), null.bfloat16().float()):
        save_file({"null": change.contiguous()}, "enc/null.safetensors")
        Path("enc/001.tar").unlink()
        assert "✓ enc has all 2 parts" in encode()
    save_file({"null": 1.05 * null}, "enc/null.safetensors")
    Path("enc/001.tar").unlink()
    with pytest.raises(FlowmapError, match=r"null\.safetensors was made otherwise: it is 0\.04\d of its norm away"):
        encode()


def test_another_precision_does_not_go_on_but_can_be_trained_with(there: Path) -> None:
    edit(lambda found: found.update(precision="bfloat16"))
    Path("enc/001.tar").unlink()
    with pytest.raises(FlowmapError, match="this device reads texts in float32, and they were read in bfloat16"):
        encode()
    read(Path("r.toml"), ["data.path=enc/*.tar"], absent="error")


def test_other_versions_are_said(there: Path) -> None:
    edit(lambda found: found["versions"].update(torch="1.0"))
    Path("enc/001.tar").unlink()
    assert f"the parts that are there were made with torch 1.0, here is {stored_now('torch')}" in encode()
    assert stored()["versions"]["torch"] == "1.0"


def stored_now(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def edit(change: Callable[[dict[str, Any]], object]) -> None:
    found = stored()
    change(found)
    Path("enc/encoder.json").write_text(json.dumps(found))


DAMAGES: Mapping[str, tuple[Callable[[], object], str]] = {
    "no JSON": (lambda: Path("enc/encoder.json").write_text("{"), "encoder.json is not JSON"),
    "no table": (lambda: Path("enc/encoder.json").write_text("[]"), "encoder.json is no table"),
    "no text": (lambda: Path("enc/encoder.json").write_bytes(b"\xff"), "encoder.json is not JSON"),
    "deep": (lambda: Path("enc/encoder.json").write_text("[" * 100_000), "encoder.json is not JSON"),
    "no format": (lambda: edit(lambda found: found.pop("format")), "is of format None"),
    "a later format": (lambda: edit(lambda found: found.update(format=2)), "is of format 2"),
    "no backbone": (lambda: edit(lambda found: found.pop("backbone")), "is damaged"),
    "a backbone of text": (lambda: edit(lambda found: found.update(backbone="a")), "is damaged"),
    "versions of numbers": (lambda: edit(lambda found: found.update(versions={"torch": 1})), "is damaged"),
    "a precision of numbers": (lambda: edit(lambda found: found.update(precision=16)), "is damaged"),
    "parts of numbers": (lambda: edit(lambda found: found.update(parts=[1])), "is damaged"),
    "parts elsewhere": (lambda: edit(lambda found: found.update(parts=["../000.tar"])), "is damaged"),
    "parts that are no list": (lambda: edit(lambda found: found.update(parts="000.tar")), "is damaged"),
    "more": (lambda: edit(lambda found: found.update(more=1)), "is damaged"),
    "a folder": (lambda: [Path("enc/encoder.json").unlink(), Path("enc/encoder.json").mkdir()], "cannot be read"),
    "a field less": (
        lambda: edit(lambda found: found["backbone"].pop("text_length")),
        "backbone.text_length is 16, and they were encoded with none",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(damage: str, there: Path) -> None:
    change, words = DAMAGES[damage]
    change()
    assert words in told()
    assert "r.toml:2: data.path: enc/encoder.json" in told()
    Path("enc/001.tar").unlink()
    with pytest.raises(FlowmapError, match=words.replace(".", r"\.")):
        encode()


def test_an_older_folder_is_a_warning_and_does_not_go_on(there: Path) -> None:
    Path("enc/encoder.json").unlink()
    (warning,) = read(Path("r.toml"), (), absent="error")[1]
    assert "enc has no encoder.json, so nothing says that these data were encoded with this backbone" in warning
    Path("enc/001.tar").unlink()
    with pytest.raises(FlowmapError, match=r"enc has encoded parts and no encoder\.json, so nothing says with what"):
        encode()


def test_a_part_that_is_gone_is_missed(there: Path) -> None:
    """Half of the data would be no less plausible; who means half of them says so."""
    Path("enc/001.tar").unlink()
    words = "r.toml:2: data.path: enc lacks 1 of the 2 parts that encoder.json lists: 001.tar; "
    assert words in told()
    with pytest.raises(FlowmapError, match="enc lacks 1 of the 2 parts"):
        run_recipe(Path("r.toml"), (), (), False, Path("runs"), Console(quiet=True))
    assert read(Path("r.toml"), ["data.path=enc/*.tar"], absent="warning")[1] == []
    encode()
    assert read(Path("r.toml"), (), absent="warning")[1] == []


def test_parts_of_another_source_are_listed_too(there: Path) -> None:
    Path("raw/000.tar").rename("raw/002.tar")
    encode()
    assert stored()["parts"] == ["000.tar", "001.tar", "002.tar"]
    Path("enc/000.tar").unlink()
    assert "parts that encoder.json lists: 000.tar; " in told()


def test_older_folders_list_no_parts(there: Path) -> None:
    edit(lambda found: found.pop("parts"))
    Path("enc/001.tar").unlink()
    assert read(Path("r.toml"), (), absent="warning")[1] == []


def test_what_was_begun_and_has_no_part_is_begun_anew(there: Path) -> None:
    """A first try with other settings, which encoded nothing, binds nobody."""
    shutil.rmtree("enc")
    Path("enc").mkdir()
    Path("enc/encoder.json").write_text("{")
    Path("enc/.part-000.tar").write_text("")
    with pytest.raises(FlowmapError, match=r"encoder\.json is not JSON"):
        encode()
    Path("enc/encoder.json").unlink()
    encode("backbone.text_length=8")
    assert stored()["backbone"]["text_length"] == 8


def test_a_run_on_what_fits_trains(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "write_report", lambda folder: folder / "report.html")
    run_recipe(Path("r.toml"), (), (), False, Path("runs"), Console(quiet=True))
    assert Path("runs/made/teacher/checkpoints").is_dir()
