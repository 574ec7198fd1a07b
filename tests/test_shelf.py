"""The shelf: made once for the same key, never served for another, never half a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowmap.files.folder import StoppedError
from flowmap.files.shelf import Shelf

KEY: dict[str, Any] = {
    "teacher": "a",
    "calls": 4,
    "settings": {"shift": 1.0, "more": [1, None]},
    "x": torch.arange(6.0),
}


class Maker:
    """Makes the same tensors each time, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Tensor]:
        self.times += 1
        generator = torch.Generator().manual_seed(0)
        whole = torch.randn(7, 3, generator=generator)
        return {"x": whole, "turned": whole.T, "half": whole.bfloat16(), "one": torch.tensor(3), "none": whole[:0]}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("folder", [None, "shelf"])
def test_what_was_made_is_found_again_to_the_last_bit(folder: str | None, tmp_path: Path) -> None:
    shelf, make = Shelf(folder and tmp_path / folder), Maker()
    first, second = (shelf.kept("thing", KEY, make) for _ in range(2))
    assert make.times == 1
    assert same(first, Maker()())
    assert same(second, first)


def test_other_processes_find_it_and_other_folders_do_not(tmp_path: Path) -> None:
    make = Maker()
    for folder in ("one", "one", "other"):
        Shelf(tmp_path / folder).kept("thing", KEY, make)
    assert make.times == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"teacher": "b"},
        {"calls": 5},
        {"settings": {"shift": 1.0, "more": [1, 0]}},
        {"x": torch.arange(6.0) + torch.tensor([0, 0, 0, 0, 0, 1e-5])},
        {"x": torch.arange(6.0).reshape(2, 3)},
        {"x": torch.arange(6.0).double()},
        {"new": None},
    ],
)
@pytest.mark.parametrize("folder", [None, "shelf"])
def test_another_key_is_never_served_it(folder: str | None, changed: dict[str, Any], tmp_path: Path) -> None:
    shelf, make = Shelf(folder and tmp_path / folder), Maker()
    shelf.kept("thing", KEY, make)
    shelf.kept("thing", KEY | changed, make)
    assert make.times == 2
    shelf.kept("another", KEY, make)
    assert make.times == 3


def test_a_number_of_threads_has_its_own(tmp_path: Path) -> None:
    make, before = Maker(), torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            Shelf(tmp_path).kept("thing", KEY, make)
    finally:
        torch.set_num_threads(before)
    assert make.times == 2


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda file: file.write_bytes(file.read_bytes()[:-5]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("not tensors"),
    ],
)
def test_a_damaged_file_is_made_again(damage: Callable[[Path], object], tmp_path: Path) -> None:
    make = Maker()
    Shelf(tmp_path).kept("thing", KEY, make)
    (file,) = tmp_path.glob("thing-*.safetensors")
    damage(file)
    assert same(Shelf(tmp_path).kept("thing", KEY, make), Maker()())
    Shelf(tmp_path).kept("thing", KEY, make)
    assert make.times == 2


def test_who_comes_meanwhile_waits_and_makes_nothing(tmp_path: Path) -> None:
    """The second asks while the first is making, and gets what the first has made."""
    make, begun, go_on = Maker(), threading.Event(), threading.Event()
    found: list[Mapping[str, Tensor]] = []

    def slowly() -> dict[str, Tensor]:
        begun.set()
        assert go_on.wait(60)
        return make()

    def ask(make: Callable[[], dict[str, Tensor]]) -> None:
        found.append(Shelf(tmp_path).kept("thing", KEY, make))

    first = threading.Thread(target=ask, args=(slowly,))
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=ask, args=(make,))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(60)
    assert make.times == 1
    assert len(found) == 2
    assert same(*found)


def test_what_is_broken_off_leaves_nothing_and_holds_nobody_up(tmp_path: Path) -> None:
    def die() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Shelf(tmp_path).kept("thing", KEY, die)
    assert not list(tmp_path.glob("*.safetensors"))
    make = Maker()
    Shelf(tmp_path).kept("thing", KEY, make)
    assert make.times == 1


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoppedError, match="a file stands where a folder is needed"):
        Shelf(tmp_path / "file" / "shelf").kept("thing", KEY, Maker())


def test_a_key_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="not of set"):
        Shelf().kept("thing", {"x": {1}}, Maker())
