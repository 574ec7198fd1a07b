"""Folders of weights of any family: what is missing, what they say of themselves, what runs go back to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import save_file

from flowmap.errors import FlowmapError
from flowmap.weights import video_vae
from flowmap.weights.names import RANDOM, Published
from flowmap.weights.pipeline import Pipeline, complete, missing, opened
from flowmap.weights.runs import RUN_LOCK, origin
from flowmap.weights.tokenizers import token_files
from flowmap.workshop.exporting import copy_encoders, dtype_words
from flowmap.workshop.parts import OnDevices

FAMILY = Published(
    {"some-medium": "somebody"},
    ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline with two text encoders, whole."""
    made = tmp_path / "some-medium"
    for part in FAMILY.parts:
        (made / part).mkdir(parents=True)
        if part.startswith("tokenizer"):
            for name in ("tokenizer_config.json", "vocab.json"):
                (made / part / name).write_text("{}")
            (made / part / "merges.txt").write_text("")
            continue
        (made / part / "config.json").write_text('{"_class_name": "X"}')
        name = "model.safetensors" if part.startswith("text") else "diffusion_pytorch_model.safetensors"
        save_file({"w": torch.zeros(2, dtype=torch.bfloat16 if part == "vae" else torch.float16)}, made / part / name)
    return made


def test_every_part_of_a_family_has_to_be_there(folder: Path) -> None:
    assert list(missing(str(folder), FAMILY)) == []
    assert complete(str(folder), FAMILY) == opened(str(folder), FAMILY) == folder
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    (folder / "tokenizer_2" / "merges.txt").unlink()
    (folder / "vae" / "config.json").unlink()
    (problem,) = missing(str(folder), FAMILY)
    gone = "text_encoder_2/model.safetensors, vae/config.json, tokenizer_2/merges.txt"
    assert f"are not complete; missing: {gone}.\n  Get them: hf download somebody/some-medium" in problem
    assert complete(str(folder), FAMILY) is None
    with pytest.raises(FlowmapError) as caught:
        opened(str(folder), FAMILY)
    assert str(caught.value) == problem


def test_the_parts_of_a_family_are_named_to_who_asks_for_another(tmp_path: Path) -> None:
    (problem,) = missing(str(tmp_path / "other"), FAMILY)
    assert "has transformer/, text_encoder/, text_encoder_2/, tokenizer/, tokenizer_2/ and vae/. Known: some" in problem


def test_tokens_are_those_of_the_first_form_that_is_whole(tmp_path: Path) -> None:
    for name in ("merges.txt", "vocab.json", "spiece.model", "tokenizer.json"):
        (tmp_path / name).write_text("x")
    for names in (["tokenizer.json"], ["spiece.model"], ["vocab.json", "merges.txt"]):
        assert [file.name for file in token_files(tmp_path)] == names
        (tmp_path / names[-1]).unlink()
    assert token_files(tmp_path) == []


def test_a_fingerprint_of_encoders_is_of_every_tokenizer_and_none_of_the_transformer(folder: Path) -> None:
    def fingerprint() -> str:
        return Pipeline(folder, FAMILY).encoders_fingerprint({})

    first = fingerprint()
    (folder / "transformer" / "config.json").write_text("{}")
    assert fingerprint() == first
    (folder / "tokenizer_2" / "merges.txt").write_text("a b")
    assert fingerprint() != first


def test_classes_are_those_of_the_index(folder: Path) -> None:
    told = Pipeline(folder, FAMILY)
    assert told.classes({"vae": ["diffusers", "A"]}) == {"vae": ["diffusers", "A"]}
    index = {"vae": ["diffusers", "B"], "text_encoder_2": ["transformers", "C"], "scheduler": "anything"}
    (folder / "model_index.json").write_text(json.dumps(index))
    found = told.classes({"vae": ["diffusers", "A"], "tokenizer": ["transformers", "T"]})
    assert found == {
        "vae": ["diffusers", "B"],
        "tokenizer": ["transformers", "T"],
        "text_encoder_2": ["transformers", "C"],
    }
    (folder / "model_index.json").write_text('{"tokenizer_2": null}')
    assert list(told.flaws([])) == [f"{folder / 'model_index.json'}: tokenizer_2 is None; it is a library and a class"]


def test_each_part_is_loaded_as_it_is_stored(folder: Path) -> None:
    told = Pipeline(folder, FAMILY)
    assert dtype_words("float32") == "dtype=torch.float32"
    assert dtype_words("float16", told) == (
        'dtype={"transformer": torch.float16, "text_encoder": torch.float16, "text_encoder_2": torch.float16, '
        '"vae": torch.bfloat16}'
    )


def test_encoders_are_copied_and_large_files_linked(folder: Path, tmp_path: Path) -> None:
    copy_encoders(Pipeline(folder, FAMILY), tmp_path / "made")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(set(FAMILY.parts) - {"transformer"})
    for name, linked in (("model.safetensors", True), ("config.json", False)):
        file = Path("text_encoder_2") / name
        assert (folder / file).samefile(tmp_path / "made" / file) == linked
        assert (folder / file).read_bytes() == (tmp_path / "made" / file).read_bytes()


def test_what_a_run_on_a_run_goes_back_to(tmp_path: Path) -> None:
    def run(name: str, backbone: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / RUN_LOCK).write_text(f"[backbone]\n{backbone}")
        return str(tmp_path / name)

    assert origin("some/where") == ("some/where", {})
    first = run("first", 'weights = "some/where"\nrank = 1')
    assert origin(run("second", f'weights = "{first}"\nrank = 2')) == (
        "some/where",
        {"weights": "some/where", "rank": 1},
    )
    assert origin(run("small", 'weights = "random"\nwidth = 8')) == (RANDOM, {"weights": RANDOM, "width": 8})
    assert origin(run("other", "width = 8")) == (None, {"width": 8})
    assert origin(run("damaged", "]"))[0] is None
    assert origin(run("itself", f'weights = "{tmp_path / "itself"}"')) == (None, {})


def test_a_folder_called_random_is_not_what_random_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / RANDOM).mkdir()
    (tmp_path / RANDOM / RUN_LOCK).write_text('[backbone]\nweights = "some/where"')
    assert origin(RANDOM) == (RANDOM, {})


@pytest.mark.parametrize("fields", [{}, {"base_dim": 8, "dim_mult": [1, 2, 2, 4], "num_res_blocks": 1}])
def test_the_vae_of_qwen_image_has_the_shapes_of_wans(fields: dict[str, object]) -> None:
    with torch.device("meta"):
        made = AutoencoderKLQwenImage(**fields)
    told = made.config
    found = video_vae.shapes(
        told.z_dim,
        told.input_channels,
        (told.base_dim, told.base_dim),
        told.dim_mult,
        told.num_res_blocks,
        told.attn_scales,
        told.temperal_downsample,
    )
    assert found == {key: tuple(value.shape) for key, value in made.state_dict().items()}


def test_a_model_is_read_once_a_device() -> None:
    asked: list[torch.device] = []

    def read(device: torch.device) -> torch.nn.Module:
        asked.append(device)
        return torch.nn.Linear(2, 2)

    models = OnDevices(read)
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert models(cpu) is models(cpu)
    assert models(meta).weight.is_meta
    assert asked == [cpu, meta]


def test_a_released_model_waits_on_the_cpu_and_comes_back() -> None:
    moves: list[str] = []

    class Moved(torch.nn.Linear):
        def to(self, *args: object, **_: object) -> Moved:
            moves.append(str(args[0]))
            return self

    models, device = OnDevices(lambda _: Moved(2, 2)), torch.device("cuda")
    models.release()
    first = models(device)
    assert models(device) is first
    models.release()
    models.release()
    assert models(device) is models(device) is first
    assert moves == ["cuda", "cpu", "cuda"]
