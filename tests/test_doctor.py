"""`flowmap doctor` says what this machine has, what a run would take, what recipes miss, and nothing private."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from flowmap.cli.main import main
from flowmap.doctor import machine as machines
from flowmap.doctor import places, software
from flowmap.doctor.examine import Diagnosis, examine
from flowmap.doctor.machine import APPLE, Device, machine
from flowmap.doctor.private import cleaned
from flowmap.doctor.readiness import GPU, readiness
from flowmap.doctor.text import BEGIN, END, advice, block, recipe_rows
from flowmap.plugin.catalogue import BrokenPlugin, Catalogue, Remark, catalogue
from flowmap.recipe.shipped import shipped
from flowmap.training.processes import accelerator


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one and as home, with empty caches."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "FLOWMAP_VBENCH", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    (tmp_path / "someone" / "work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "someone" / "work")
    return tmp_path / "someone" / "work"


def has(monkeypatch: pytest.MonkeyPatch, kind: str, number: int = 1) -> None:
    """Have torch find so many accelerators of a kind."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: number)


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """The exit code of `flowmap doctor`, what it prints, and what it says besides."""
    monkeypatch.setattr(sys, "argv", ["flowmap", "doctor", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def test_a_sound_machine(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = said(monkeypatch, capsys)
    assert code == 0
    text = out.split(BEGIN)[1].split(END)[0]
    assert f"torch {torch.__version__}" in text
    assert f"diffusers {metadata.version('diffusers')}" in text
    assert "\ntaken     the CPU\n" in text
    assert "attention in bf16: " in text
    assert "plugin    flowmap 0.1.0: " in text
    assert "trackers  tensorboard " in text
    assert (
        "recipe    anyflow_far_14b: misses backbone.weights = Wan-AI/Wan2.1-T2V-14B-Diffusers, data.path = data/"
        in text
    )
    assert "quickstart" in text.split("\nready ")[1].splitlines()[0]
    assert "which would compute on the CPU" in out.split(END)[1]


def test_the_block_is_plain(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No home folder, no secret, no frame; what of the environment counts is there."""
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hf_abcdefgh" / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = block(examine())
    assert "abcdefgh" not in told
    assert str(here.parent) not in told
    assert "hub's cache: ~/work/***/hub, no models" in told
    assert "variables OMP_NUM_THREADS=1" in told
    assert told.isascii()


def test_json_says_the_same(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without(monkeypatch)
    monkeypatch.setenv("MY_API_KEY", "someone")  # seven letters that are in the home folder's name too
    code, out, _ = said(monkeypatch, capsys, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["wrong"] == []
    assert found["machine"]["taken"] == "the CPU"
    assert found["versions"]["torch"] == torch.__version__
    assert [recipe["name"] for recipe in found["recipes"]] == list(shipped())
    assert "someone" not in out


def test_a_gpu_is_taken_if_there_is_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What doctor says is what a run's `device = "auto"` takes."""
    has(monkeypatch, "cuda", 2)

    def probed(device: torch.device) -> Device:
        return Device(f"{device}, NVIDIA H100", 85_000_000_000, True, ("flash", "cudnn"))

    monkeypatch.setattr(machines, "_device", probed)
    found = machine()
    assert found.taken == str(accelerator()) == "cuda:0"
    assert found.accelerated
    assert [device.name.split(",")[0] for device in found.devices] == ["cuda:0", "cuda:1", "cpu"]
    told = block(replace(examine(), machine=found))
    assert "device    cuda:1, NVIDIA H100, 85 GB, bf16 yes, attention in bf16: flash cudnn" in told
    assert GPU not in {word for recipe in readiness(found.accelerated) for word in recipe.misses}


def test_a_gpu_that_does_not_compute_is_wrong(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    has(monkeypatch, "cuda")
    real = machines._device

    def broken(device: torch.device) -> Device:
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")
        return real(device)

    monkeypatch.setattr(machines, "_device", broken)
    code, out, err = said(monkeypatch, capsys)
    assert code == 1
    assert "WRONG     cuda:0 does not compute: CUDA error: no kernel image is available\n" in out
    assert "something is wrong that concerns every run:\ncuda:0 does not compute" in err


def test_apple_s_gpu_is_not_taken_and_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "mps")
    found = machine()
    assert accelerator() is None
    assert found.taken == "the CPU"
    assert found.remarks == (APPLE,)
    assert found.wrong == ()
    assert [device.name for device in found.devices] == ["cpu"]


def test_torch_that_cannot_be_imported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = machine()
    (problem,) = found.wrong
    assert problem.startswith("torch cannot be imported: ")
    assert found.taken == "nothing"


def test_what_flowmap_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=2.7", "numpy>=99.1", "nowhere-to-be-found>=1.0", "anything", "gradio>=6.31; extra == 'demo'"]
    monkeypatch.setattr(software, "requires", lambda _: [*needs, "absent>=1 ; extra == 'arrow'", "x; extra == 'dev'"])
    there = metadata.version("numpy")
    assert software.unmet() == [
        f"numpy is {there}, and flowmap needs 99.1: pip install -U 'numpy>=99.1'",
        "nowhere-to-be-found is not installed: pip install 'nowhere-to-be-found>=1.0'",
        "anything is not installed: pip install 'anything'",
    ]
    assert software.extras().keys() == {"demo", "arrow"}
    assert software.extras()["arrow"] == "absent"


def test_versions_are_compared_by_their_numbers() -> None:
    assert software._numbers("2.13.0+cu130") == (2, 13, 0)
    assert software._numbers("2.10") > software._numbers("2.9.1")
    assert software._numbers("6.0.0rc1") == (6, 0, 0)


def test_plugins_that_could_not_be_loaded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's is said; one of flowmap's own concerns every run."""
    broken = [BrokenPlugin("waves", "their-waves 0.1", "ImportError: no x")]
    remark = Remark("euler", catalogue().components[0].distribution, "it prints when it is imported: hello")
    found = Catalogue(catalogue().components, broken, [remark])
    monkeypatch.setattr("flowmap.doctor.examine.catalogue", lambda: found)
    diagnosis = examine()
    assert diagnosis.wrong == ()
    assert "broken    their-waves 0.1: waves: ImportError: no x" in block(diagnosis)
    assert "remark    flowmap 0.1.0: euler: it prints when it is imported: hello" in block(diagnosis)
    found.broken.append(BrokenPlugin("flowmap_wan", "flowmap 0.1.0", "SyntaxError: y"))
    assert "a part of flowmap itself cannot be loaded: flowmap_wan: SyntaxError: y" in examine().wrong[0]


def test_what_is_here_is_not_missed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe whose package is gone misses it; weights in the cache are none of what is missed."""
    before = {recipe.name: recipe.misses for recipe in readiness(True)}
    assert before["quickstart"] == ()
    assert before["flux_flowmap"] == ("backbone.weights = black-forest-labs/FLUX.1-dev", "data.path = data/images")
    (here / "data" / "images").mkdir(parents=True)
    (here / "data" / "images" / "a.tar").touch()
    monkeypatch.setattr("flowmap_datasets.configs.find_spec", lambda name: None)
    after = {recipe.name: recipe.misses for recipe in readiness(False)}
    assert after["flux_flowmap"] == ("backbone.weights = black-forest-labs/FLUX.1-dev", GPU)
    assert after["compare_mnist"] == ("data.type = mnist",)


def test_a_recipe_that_cannot_be_read_hurts_no_other(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "bad.toml").write_text("name = 'bad'\ndata = 'nothing'\nbackbone = 'mlp'\n")
    monkeypatch.setattr("flowmap.doctor.readiness.shipped", lambda: ["bad.toml", "quickstart"])
    bad, good = readiness(True)
    assert bad.wrong is not None
    assert "unknown data 'nothing'" in bad.wrong
    assert good.wrong is None
    diagnosis = replace(examine(), recipes=(bad, good))
    assert recipe_rows(diagnosis)[0][1].startswith("cannot be read: bad.toml:2")
    assert recipe_rows(diagnosis)[1] == ("quickstart", "ready")


def test_a_folder_that_nothing_can_be_written_into(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert places.wrong() == []
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (problem,) = places.wrong()
    assert "is not writable" in problem


def test_places_count_what_is_there(here: Path) -> None:
    (here / "runs" / "one").mkdir(parents=True)
    hub = here.parent / ".cache" / "huggingface" / "hub"
    for name in ("models--a--b", "models--c--d", "datasets--e--f"):
        (hub / name).mkdir(parents=True)
    found = {place.what: place for place in places.places()}
    assert found["runs"].holds == "1 run"
    assert found["hub's cache"].holds == "2 models"
    assert found["VBench"].holds == "not installed"
    assert all(place.free for place in found.values())


def test_advice_is_for_what_is_missing(here: Path) -> None:
    diagnosis = examine()
    lacking: Diagnosis = replace(diagnosis, extras={"demo": "gradio", "mnist": ""}, recipes=())
    assert advice(lacking) == ["pip install 'flowmap[demo]' adds gradio"]


def test_home_at_the_root_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert cleaned(["/usr/lib", {"a": Path("/x")}, 3, None]) == ["/usr/lib", {"a": "/x"}, 3, None]
    monkeypatch.setenv("HOME", "/home/bob")
    assert cleaned("/home/bob/x, /home/bobby, /home/bob") == "~/x, /home/bobby, ~"
