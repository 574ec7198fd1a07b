"""What tests of several files share. Nothing here imports torch: the recipe's tests run without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from flowmap.errors import FlowmapError
from flowmap.plugin import ComponentConfig
from flowmap.plugin import catalogue as module
from flowmap.plugin.catalogue import Catalogue, Component
from flowmap.recipe.read import read

TINY = """\
name = "tiny"

[data]
type = "digits"

[backbone]
type = "mlp"

[[stages]]
name = "teacher"
steps = 10
batch = 8
objective = "flow_matching"

[[stages]]
name = "student"
steps = 10
batch = 8
objective = { type = "flow_map" }
roles.student = { from = "teacher" }

[evaluation]
teacher = "teacher"
metrics = ["frechet_pixels", "semigroup"]

[[evaluation.contests]]
stage = "student"
samplers = ["flow_map"]
"""
"""A small recipe with nothing wrong in it; its tests change one thing."""


def edited(*changes: tuple[str, str], text: str = TINY) -> str:
    """`text` with the first occurrence of each old piece replaced by the new one."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the recipe"
        text = text.replace(old, new, 1)
    return text


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """No test cuts the power, so nothing need be on the disk itself: waiting for that takes a minute in all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(autouse=True)
def _typed_as_flowmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name the command as it was typed: here `flowmap`, however pytest was started."""
    monkeypatch.setattr(sys, "argv", ["flowmap"])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that messages have short file names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def problem(here: Path) -> Callable[..., str]:
    """The message that `r.toml` with the given text and `--set`s is refused with."""

    def ask(text: str, *overrides: str) -> str:
        (here / "r.toml").write_text(text)
        with pytest.raises(FlowmapError) as caught:
            read(Path("r.toml"), overrides)
        assert caught.value.code == 2
        return str(caught.value)

    return ask


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make further components, or a whole other catalogue, the installed ones for the length of a test."""

    def pretend(*configs: type[ComponentConfig], catalogue: Catalogue | None = None) -> None:
        real = catalogue or module.catalogue()
        more = [Component(c.kind, c.type_name(), c, "strange 0.1", "A stranger's.") for c in configs]
        grown = Catalogue([*real.components, *more], real.broken)
        monkeypatch.setattr(module, "catalogue", lambda: grown)

    return pretend


@pytest.fixture
def entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], EntryPoint]:
    """Write a plugin module with the given source and return the entry point that loads it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> EntryPoint:
        (tmp_path / f"{name}.py").write_text(source)
        return EntryPoint(name, name, "flowmap")

    return write


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors: one thread is fastest, and the sums are the same on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
