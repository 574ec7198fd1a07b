"""TOML, JSON and `--set` that anybody may have written: an answer in one sentence, soon, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.files.texts import MOST_BYTES, MOST_DEPTH, TextError, home, home_in, is_folder, parse_json, parse_toml
from flowmap.recipe.read import is_comparison, read
from flowmap.training.changes import read_lock

ROOT = Path(__file__).parents[1]
DEEP = 100_000

# What is in a file, and what is said of it.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "deep arrays": (b"x = " + b"[" * DEEP + b"]" * DEEP, "more than 64 tables or arrays"),
    "deep arrays, open": (b"x = " + b"[" * DEEP, "more than 64 tables or arrays"),
    "deep inline tables": (b"x = " + b"{a = " * DEEP, "more than 64 tables or arrays"),
    "deep keys": (b".".join([b"a"] * DEEP) + b" = 1", "more than 64 tables or arrays"),
    "deep keys within": (b"x = { " + b" . ".join([b'"a"'] * DEEP) + b" = 1 }", "more than 64 tables or arrays"),
    "deep tables": (b"[" + b".".join([b"a"] * DEEP) + b"]\nb = 1", "more than 64 tables or arrays"),
    "just too deep": (b"x = " + b"[" * 65 + b"]" * 65, "more than 64 tables or arrays"),
    "thousands of digits": (b"seeds = [" + b"1" * 5000 + b"]", "cannot be read (Exceeds the limit"),
    "no UTF-8": (b'name = "\xff"', "is not UTF-8 text (byte 9)"),
    "UTF-16": ('name = "x"'.encode("utf-16"), "is not UTF-8 text (byte 1)"),
    "NUL": (b'name = "a\x00b"', "invalid TOML"),
    "huge": (b"# " + b"x" * MOST_BYTES, f"has more than {MOST_BYTES:,} bytes"),
    "a day that does not exist": (b"name = 2024-02-31", "invalid TOML|cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_that_nobody_can_have_meant_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, words = HOSTILE[name]
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    for reading in (read, lambda p: read_comparison([p]), read_lock):
        with pytest.raises(FlowmapError) as caught:
            reading(path)
        assert any(word in str(caught.value) for word in words.split("|")) or reading is read_lock
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 1000
    if name not in ("no UTF-8", "UTF-16", "huge"):
        assert not is_comparison(path)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(FlowmapError, match="/dev/zero: has more than"):
        read(Path("/dev/zero"))


def test_the_limits_leave_room_for_what_is_written() -> None:
    depth = MOST_DEPTH - 1  # the text itself is a table
    assert parse_toml("x = " + "[" * depth + "]" * depth)
    assert parse_toml(".".join(["a"] * depth) + " = 1")
    assert parse_toml(f"x = [{2**63 - 1}, {-(2**63)}]")
    prose = "One. Two. Three. " * 100
    assert parse_toml(f'x = """{prose}"""\n# {prose}')["x"] == prose
    for file in (ROOT / "recipes").glob("*.toml"):
        assert file.stat().st_size * 20 < MOST_BYTES


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seeds=" + "[" * DEEP, "more than 64 tables or arrays"),
        ("seeds=" + "1" * 5000, "cannot be read"),
        (".".join("a" * 1000) + "=1", "1000 fields within one another"),
        ("stages." + "9" * 5000 + ".steps=1", "unknown element"),
        ("data.path=\udcff", "is not UTF-8 text"),
        ("\udcff.x=1", "is not UTF-8 text"),
    ],
)
def test_a_setting_that_nobody_can_have_meant(setting: str, words: str) -> None:
    with pytest.raises(FlowmapError, match=words) as caught:
        read(ROOT / "recipes" / "quickstart.toml", [setting])
    assert len(str(caught.value).encode()) < 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * DEEP, "more than 64"),
        (b"[" * 65 + b"]" * 65, "more than 64"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is no JSON"),
        (b"\xff\xfe{", "is no JSON"),
        (b"", "is no JSON"),
    ],
)
def test_json_that_nobody_has_written(content: bytes, words: str) -> None:
    with pytest.raises(TextError, match=words):
        parse_json(content)
    assert parse_json(json.dumps([1, {"a": None}, "b"])) == [1, {"a": None}, "b"]
    assert parse_json("5") == 5


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home(Path("~/x")) == tmp_path / "x"
    assert home_in("~/x/*.tar") == f"{tmp_path}/x/*.tar"
    # Anything else is as it was written: './released' is a folder, 'released' may be a stage.
    for where in ("./x", "x//y", "a/~", "org/name", ""):
        assert home_in(where) == where
    with pytest.raises(FlowmapError, match="~nobody-is-called-so/x: no home folder is known for '~nobody-is-called"):
        home(Path("~nobody-is-called-so/x"))


def test_a_path_that_can_be_none_is_no_folder(tmp_path: Path) -> None:
    assert is_folder(tmp_path)
    assert not is_folder("x" * 5000)
    assert not is_folder("a\0b")
    assert not is_folder(os.devnull)
