"""Clips that VBench would drop, shorten or take for something else are found before it runs."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from flowmap.errors import ClipError, FlowmapError
from flowmap.vbench import clips as module
from flowmap.vbench.clips import look_at
from flowmap.video.counting import count_frames

from .support import make_clips

NAMES = [f"a cat-{number}" for number in range(5)]


def look(tmp_path: Path) -> module.Clips:
    return look_at(tmp_path / "clips", NAMES, [*NAMES, "a cat-5"], tmp_path / "book.json")


def faststart(path: Path) -> None:
    """Write the index before the frames, so that a cut file can still be opened."""
    moved = path.with_name("moved.mp4")
    with av.open(str(path)) as old, av.open(str(moved), "w", options={"movflags": "faststart"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    moved.replace(path)


def test_whole_clips_are_seen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clips(tmp_path / "clips", [*NAMES, "a cat-5"])
    first = look(tmp_path)
    assert first.form == (3, 16, 16)
    assert not first.faults
    monkeypatch.setattr(module, "count_frames", None)  # nothing is decoded again
    assert look(tmp_path).digest(NAMES) == first.digest(NAMES)
    monkeypatch.undo()
    make_clips(tmp_path / "clips", NAMES[:1], frames=4)
    assert look(tmp_path).digest(NAMES[1:]) == first.digest(NAMES[1:])
    assert list(look(tmp_path).faults) == NAMES[:1]


@pytest.mark.parametrize("other", ["manifest.json", ".DS_Store", "a dog-0.mp4", "a cat-0.gif", "a cat-6.mp4"])
def test_anything_else_in_the_folder_is_refused(tmp_path: Path, other: str) -> None:
    (make_clips(tmp_path / "clips", NAMES) / other).write_bytes(b"")
    with pytest.raises(FlowmapError, match=f"1 of its files are no clips of this benchmark: '{other}'"):
        look(tmp_path)


def test_each_fault_is_named(tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "clips", NAMES)
    make_clips(folder, ["a cat-0"], frames=33, side=64)
    faststart(folder / "a cat-0.mp4")
    whole = (folder / "a cat-0.mp4").read_bytes()
    (folder / "a cat-0.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "a cat-1.mp4").write_bytes(b"")
    data = (folder / "a cat-2.mp4").read_bytes()
    (folder / "a cat-2.mp4").write_bytes(data[: len(data) // 2])
    (folder / "a cat-3.mp4").unlink()
    found = look(tmp_path)
    assert list(found.seen) == ["a cat-4"]
    assert set(found.faults) == set(NAMES[:4])
    assert "a cat-0.mp4" in found.faults["a cat-0"]
    assert "missing" in found.faults["a cat-3"]
    with pytest.raises(ClipError, match="scene: 4 of its 5 clips cannot be scored") as caught:
        found.refuse_faults("scene", NAMES)
    assert "\n" not in str(caught.value)
    found.refuse_faults("scene", NAMES[4:])


def test_broken_clips_are_named_before_any_number_of_missing_ones(tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "clips", NAMES)
    for name in NAMES[:4]:
        (folder / f"{name}.mp4").unlink()
    (folder / f"{NAMES[4]}.mp4").write_bytes(b"")
    with pytest.raises(ClipError, match=rf"cannot be scored: {NAMES[4]}\.mp4"):
        look(tmp_path).refuse_faults("scene", NAMES)


def test_a_clip_cut_after_its_index_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    folder = make_clips(tmp_path / "clips", ["long"], frames=33, side=64)
    faststart(folder / "long.mp4")
    assert count_frames(folder / "long.mp4").frames == 33
    data = (folder / "long.mp4").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (folder / "long.mp4").write_bytes(data[: int(share * len(data))])
        with pytest.raises(ClipError, match=r"long\.mp4: it (breaks off|cannot be decoded|is damaged)"):
            count_frames(folder / "long.mp4")


def test_a_clip_cut_between_two_frames_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    """There a decoder has nothing to complain of: the file ends, and only its index knows of more."""
    folder = make_clips(tmp_path / "clips", ["long"], frames=33, side=64)
    faststart(folder / "long.mp4")
    with av.open(str(folder / "long.mp4")) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.pos is not None]
    (folder / "long.mp4").write_bytes((folder / "long.mp4").read_bytes()[: sorted(ends)[19]])
    with pytest.raises(ClipError, match=r"long\.mp4: it breaks off: \d+ of its 33 frames are there"):
        count_frames(folder / "long.mp4")


def test_clips_unlike_the_others_and_of_one_frame(tmp_path: Path) -> None:
    make_clips(tmp_path / "clips", NAMES)
    make_clips(tmp_path / "clips", NAMES[:1], side=32)
    make_clips(tmp_path / "clips", NAMES[1:2], frames=5)
    faults = look(tmp_path).faults
    assert faults == {
        "a cat-0": "'a cat-0.mp4' has 3 frames of 32 x 32, most others have 3 frames of 16 x 16",
        "a cat-1": "'a cat-1.mp4' has 5 frames of 16 x 16, most others have 3 frames of 16 x 16",
    }
    make_clips(tmp_path / "clips", NAMES, frames=1)
    assert "which gives no number" in look(tmp_path).faults["a cat-4"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="the clips cannot be listed"):
        look(tmp_path)
