"""The list of prompts, what its videos are called and made from, and the environment's own paths."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flowmap.errors import FlowmapError
from flowmap.vbench import names
from flowmap.vbench.dimensions import I2V, T2V
from flowmap.vbench.prompts import read_prompts
from flowmap.vbench.protocol import part, read_protocol

from .support import FLICKERING, full_list, write_list


def test_the_whole_list_has_the_benchmark_s_counts(tmp_path: Path) -> None:
    whole = read_protocol(write_list(tmp_path / "list.json"), T2V)
    assert len(whole.entries) == 946
    assert len(whole.clips()) == 4730  # the real list has two prompts twice: 4,720
    assert len(part(whole, list(T2V.dimensions), flickering=25).clips()) == 4730 + 20 * 75
    assert len(whole.names(FLICKERING)) == 375


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found[:-1], "945 entries instead of 946, temporal_style 99 instead of 100"),
        (lambda found: [*found[1:], found[1]], "motion"),
        (lambda found: [{**found[0], "dimension": ["new"]}, *found[1:]], "new 1 instead of 0, temporal_flickering 74"),
        (lambda found: [{**found[0], "prompt_en": "a/b"}, *found[1:]], "'a/b' cannot be the name of a file"),
        (lambda found: [{"prompt": "a"}, *found[1:]], "entry 0 has no 'prompt_en'"),
        (lambda found: {"entries": found}, "is no list of prompts"),
    ],
)
def test_any_other_list_is_refused(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    if words == "motion":
        change, words = (lambda found: [{**e, "dimension": e["dimension"][:2]} for e in found]), "motion_smoothness 0"
    with pytest.raises(FlowmapError, match=words):
        read_protocol(write_list(tmp_path / "list.json", change(full_list())), T2V)


def test_the_list_for_images_is_another(tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="is not the list of VBench-I2V: it has 946 entries instead of 1,118"):
        read_protocol(write_list(tmp_path / "list.json"), I2V)


def test_the_list_for_images_has_its_own_counts_and_images(tmp_path: Path) -> None:
    quality = ["aesthetic_quality", "imaging_quality", FLICKERING]
    of_subjects = ["i2v_subject", "subject_consistency", "motion_smoothness", "dynamic_degree", *quality]
    of_places = ["i2v_background", "background_consistency", *quality]
    entries: list[dict[str, object]] = [
        {"prompt_en": f"{dimensions[0]} {number}", "dimension": dimensions, "image_name": f"{number}.jpg"}
        for count, dimensions in ((246, of_subjects), (109, of_places), (763, ["camera_motion"]))
        for number in range(count)
    ]
    whole = read_protocol(write_list(tmp_path / "list.json", entries), I2V)
    assert len(whole.clips()) == 5590
    assert whole.entries[1].image == "1.jpg"
    assert len(part(whole, ["camera_motion"]).entries) == 763
    # An older version of the file has no quality dimensions.
    old = [{**entry, "dimension": [str(entry["prompt_en"]).split()[0]]} for entry in entries]
    with pytest.raises(FlowmapError, match="is not the list of VBench-I2V: it has aesthetic_quality 0 instead of 355"):
        read_protocol(write_list(tmp_path / "list.json", old), I2V)


def test_seeds_are_the_leaderboard_s_and_the_same_in_every_part(tmp_path: Path) -> None:
    entries = full_list()
    entries[900] = {**entries[900], "prompt_en": entries[3]["prompt_en"]}
    whole = read_protocol(write_list(tmp_path / "list.json", entries), T2V)
    clips = {clip.name: clip for clip in whole.clips()}
    assert clips[f"{FLICKERING} 7-4"].seed == 100_000 * 7 + 4
    # A prompt that stands twice has one set of videos: that of its first entry.
    assert len(clips) == 4725
    assert clips[f"{FLICKERING} 3-1"].seed == 300_001
    for clip in part(whole, list(T2V.dimensions), subset=50).clips(base=9):
        if clip.entry.number != 900:
            assert clip.seed == clips[clip.name].seed + 9


def test_a_subset_has_every_dimension_in_proportion(tmp_path: Path) -> None:
    whole = read_protocol(write_list(tmp_path / "list.json"), T2V)
    for size in (11, 50, 100, 333, 946):
        some = part(whole, list(T2V.dimensions), subset=size)
        assert len(some.entries) == size
        assert len({entry.number for entry in some.entries}) == size
        for name, dimension in T2V.dimensions.items():
            assert abs(len(some.of(name)) - dimension.prompts * size / 946) < 2, (size, name)
    kinds = Counter(entry.dimensions for entry in part(whole, [FLICKERING, "scene"], subset=20).entries)
    assert set(kinds.values()) == {9, 11}
    for wrong in (10, 947):
        with pytest.raises(FlowmapError, match="from 11, one for each kind of entry, to all 946"):
            part(whole, list(T2V.dimensions), subset=wrong)
    with pytest.raises(FlowmapError, match="VBench has no 'flicker'"):
        part(whole, ["flicker"])


def test_augmented_prompts_change_the_text_and_not_the_name(tmp_path: Path) -> None:
    whole = read_protocol(write_list(tmp_path / "list.json"), T2V)
    lines = [f"A long text with \u2028 in it, of {entry.prompt}" for entry in whole.entries]
    (tmp_path / "wan.txt").write_text("\n".join(lines) + "\n", "utf-8")
    found = read_prompts(tmp_path / "wan.txt", whole)
    assert found.text(whole.entries[5]) == lines[5]
    assert (found.source, len(found.digest)) == ("wan.txt", 64)
    assert read_prompts(None, whole).text(whole.entries[5]) == whole.entries[5].prompt
    entries = [{**entry, "aug_prompt_en": f"more of {entry['prompt_en']}"} for entry in full_list()]
    assert read_prompts(write_list(tmp_path / "aug.json", entries), whole).text(whole.entries[2]).startswith("more of")
    (tmp_path / "short.txt").write_text("\n".join(lines[1:]))
    (tmp_path / "empty.txt").write_text("\n".join([lines[0], " ", *lines[2:]]))
    for name, words in (("short", "has 945 lines"), ("empty", "line 2 is empty")):
        with pytest.raises(FlowmapError, match=words):
            read_prompts(tmp_path / f"{name}.txt", whole)
    with pytest.raises(FlowmapError, match="entry 0 has no 'aug_prompt_en'"):
        read_prompts(tmp_path / "list.json", whole)
    with pytest.raises(FlowmapError, match=r"not those of list\.json, in that order"):
        read_prompts(write_list(tmp_path / "other.json", entries[::-1]), whole)


def test_prompts_that_differ_by_case_need_a_disk_that_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["A fantasy landscape", "a fantasy landscape", "another"]
    names.refuse_blind(tmp_path / "clips", both)
    assert names.knows_case(tmp_path / "clips")
    monkeypatch.setattr(names, "knows_case", lambda folder: False)
    names.refuse_blind(tmp_path / "clips", both[1:])
    with pytest.raises(FlowmapError, match="does not tell 'A fantasy landscape' from 'a fantasy landscape'"):
        names.refuse_blind(tmp_path / "clips", both)


def test_a_list_of_anything_else_is_one_line(tmp_path: Path) -> None:
    for content in ("", "{", json.dumps([1])):
        (tmp_path / "list.json").write_text(content)
        with pytest.raises(FlowmapError) as caught:
            read_protocol(tmp_path / "list.json", T2V)
        assert "\n" not in str(caught.value)
