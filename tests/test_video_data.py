"""Video clips, and the shards that they are read from: what is drawn, and what becomes of every kind of damage."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from flowmap_video.configs import VideoShardsConfig
from flowmap_video.rehearsal import draw_clip, write_clips
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load, load_file, save
from torch import Tensor

from flowmap.errors import ClipError, FlowmapError
from flowmap.files.turns import turns_in
from flowmap.interfaces import Archive, EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.shards.archive import ShardArchive
from flowmap.shards.captions import read_captions
from flowmap.shards.digests import digest_in
from flowmap.shards.facts import read_facts
from flowmap.shards.packing import trimmed, unpack
from flowmap.shards.writing import add_file
from flowmap.testing import check_data, examination
from flowmap.video import clip_as, image_as, read_clip, to_float, to_uint8, write_mp4

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES, SIZE, FPS = 5, 16, 8.0
LENGTH, WIDTH = 6, 3


# Clips and shards to test with


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The bytes of a clip whose frame k is grey of `first + 5 k`, made once for the same arguments."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def make(first: int = 0, frames: int = FRAMES, fps: float = FPS, size: int = SIZE) -> bytes:
        key = (first, frames, fps, size)
        if key not in made:
            grey = np.arange(first, first + 5 * frames, 5, dtype=np.uint8)[:, None, None, None]
            write_mp4(folder / "clip.mp4", np.broadcast_to(grey, (frames, size, size, 3)), fps)
            made[key] = (folder / "clip.mp4").read_bytes()
        return made[key]

    return make


def about(*captions: str) -> bytes:
    return json.dumps({"captions": captions}).encode()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            add_file(tar, name, content)
    return path


Shards = Callable[..., VideoShardsConfig]


@pytest.fixture
def raw(tmp_path: Path, mp4: Callable[..., bytes]) -> Shards:
    """Two tars of three good clips, `a` to `f`, in `raw/`; `change` edits the files of the first.

    Clip number i is grey of 30 i + 5 k, and has captions "i" and "i again".
    """

    def write(change: Callable[[dict[str, bytes]], Any] = lambda files: None, **fields: Any) -> VideoShardsConfig:
        for number, keys in enumerate(("abc", "def")):
            files = {}
            for i, key in enumerate(keys, start=3 * number):
                files |= {f"{key}.mp4": mp4(30 * i), f"{key}.json": about(f"{i}", f"{i} again")}
            if number == 0:
                change(files)
            write_tar(tmp_path / "raw" / f"{number}.tar", files)
        return config(tmp_path / "raw", **fields)

    return write


def config(path: Path | str, **fields: Any) -> VideoShardsConfig:
    small = {"frames": FRAMES, "height": SIZE, "width": SIZE, "fps": FPS, "held_out": 0.01}
    return VideoShardsConfig(path=str(path), **(small | fields))


def draw(count: int, step: int = 0) -> Draw:
    return Draw.whole(0, "stage", step, "turn", count)


def keys(x: Tensor) -> list[int]:
    """Which of the clips each row is, by its first frame's grey."""
    return [round(float(grey) / 30) for grey in to_uint8(x[:, 0]).float().mean((1, 2, 3))]


def all_train(data: Archive) -> list[int]:
    return keys(data.reference("train", 99).x)


def all_held_out(data: Archive) -> list[int]:
    return keys(data.reference("held_out", 99).x)


def fake(samples: Samples) -> Samples:
    """In place of a backbone: latents are the means of 8 x 8 pixels, a text's rows are its bytes."""
    text = torch.zeros(len(samples.prompts), LENGTH, WIDTH)
    for row, prompt in zip(text, samples.prompts, strict=True):
        for i, letter in enumerate(prompt.encode()[:LENGTH]):
            row[i] = torch.tensor([letter, letter % 7, 1.0])
    x = torch.nn.functional.avg_pool2d(samples.x.flatten(0, 1), 8).reshape(*samples.x.shape[:3], 2, 2)
    return Samples(x.bfloat16(), prompts=EncodedText(text, torch.full((LENGTH, WIDTH), 0.5)), encoded=True)


def encode_all(source: VideoShardsConfig, folder: Path, precompute: Callable[[Samples], Samples] = fake) -> int:
    archive = source.build()
    with turns_in(folder, alone=True):
        return sum(done for part in archive.parts() for done in archive.encode(part, precompute, folder))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the data source has logged."""
    with caplog.at_level(logging.WARNING, "flowmap.data"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "flowmap.data"]


def refused(build: Callable[[], Any]) -> str:
    with pytest.raises(FlowmapError) as caught:
        build()
    return str(caught.value)


# Clips


def spec(height: int, width: int, fps: float | None = None, **how: Any) -> SampleSpec:
    return SampleSpec((1, 3, height, width), fps=fps, **how)


def greys(clip: Tensor) -> list[int]:
    return [round(float(grey) / 5) for grey in clip.float().mean((1, 2, 3))]


def test_a_clip_comes_back_frame_by_frame(tmp_path: Path) -> None:
    video = draw_clip("square", "red", 9, 32)
    write_mp4(tmp_path / "a.mp4", video, 16)
    clip = clip_as(tmp_path / "a.mp4", 9, spec(32, 32))
    assert (clip.dtype, list(clip.shape)) == (torch.uint8, [9, 3, 32, 32])
    assert (clip.permute(0, 2, 3, 1).float() - torch.from_numpy(video).float()).abs().mean() < 4


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8.0, [0, 1, 2, 3, 4, 5, 6, 7]),
        (4.0, [0, 2, 4, 6]),
        (3.0, [0, 3, 5]),
        (16.0, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 7]),
    ],
)
def test_frames_are_those_nearest_in_time(fps: float | None, expected: list[int], mp4: Callable[..., bytes]) -> None:
    content = mp4(0, 8, 8.0)
    assert greys(clip_as(io.BytesIO(content), len(expected), spec(SIZE, SIZE, fps))) == expected
    with pytest.raises(ClipError, match=f"^it has {len(expected)} frames.*, {len(expected) + 1} are needed$"):
        clip_as(io.BytesIO(content), len(expected) + 1, spec(SIZE, SIZE, fps))


def test_a_size_alone_is_covered_and_cropped(mp4: Callable[..., bytes]) -> None:
    content = mp4(0, 9, 16)
    assert torch.equal(read_clip(io.BytesIO(content), 5, 8, 12, 8.0), clip_as(io.BytesIO(content), 5, spec(8, 12, 8.0)))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (24, [0, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16]),
        (24_000 / 1001, [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15]),
        (25, [0, 2, 4, 5, 7, 8, 10, 11, 13, 15, 16]),
        (30, [0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 19]),
        (30_000 / 1001, [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19]),
        (60, [0, 4, 8, 12, 15, 19, 23, 27, 30, 34, 38]),
        (16, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (15, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_frames_are_counted_by_rate_as_the_released_reader_counts(
    rate: float, expected: list[int], mp4: Callable[..., bytes]
) -> None:
    """What `select_frame_indices(40, rate, 16)` gives in AnyFlow's released far/utils/video_util.py."""
    clip = clip_as(io.BytesIO(mp4(0, 40, rate)), 11, spec(SIZE, SIZE, 16.0, frame_choice="rate"))
    assert greys(clip) == expected


def test_slower_clips_come_as_they_are_by_rate_and_may_be_too_short(mp4: Callable[..., bytes]) -> None:
    content, counted = mp4(0, 8, 8.0), spec(SIZE, SIZE, 16.0, frame_choice="rate")
    assert greys(clip_as(io.BytesIO(content), 8, counted)) == list(range(8))
    with pytest.raises(ClipError, match=r"^it has 8 frames chosen by rate for 16 fps, 9 are needed$"):
        clip_as(io.BytesIO(content), 9, counted)
    assert greys(clip_as(io.BytesIO(content), 8, spec(SIZE, SIZE, None, frame_choice="rate"))) == list(range(8))


def test_without_a_declared_rate_nothing_is_counted_by_it(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "one.ts"), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height = stream.width = SIZE
        picture = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 90, dtype=np.uint8), format="rgb24")
        container.mux([*stream.encode(picture), *stream.encode(None)])
    with av.open(str(tmp_path / "one.ts")) as container:
        assert container.streams.video[0].average_rate is None
    assert greys(clip_as(tmp_path / "one.ts", 1, spec(SIZE, SIZE, 8.0))) == [18]
    with pytest.raises(ClipError) as caught:
        clip_as(tmp_path / "one.ts", 1, spec(SIZE, SIZE, 8.0, frame_choice="rate"))
    reason = 'it declares no frame rate, and its frames are to be chosen by it (frame_choice = "rate")'
    assert str(caught.value) == f"{tmp_path / 'one.ts'}: {reason}"


@pytest.mark.parametrize("size", [(24, 40), (64, 96), (60, 30), (100, 200), (48, 96)])
def test_stretching_is_torchvision_s_resize_of_float_frames(size: tuple[int, int], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    write_mp4(tmp_path / "noise.mp4", noise[None].repeat(2, 0), 8)
    decoded = clip_as(tmp_path / "noise.mp4", 2, spec(48, 96))
    for found, given in (
        (
            image_as(tmp_path / "noise.png", spec(*size, fit="stretch")),
            torch.from_numpy(noise).permute(2, 0, 1)[None],
        ),
        (clip_as(tmp_path / "noise.mp4", 2, spec(*size, fit="stretch")), decoded),
    ):
        # Resize((h, w)) on float frames is this call; Pillow is a second opinion, rounded in between.
        expected = torch.nn.functional.interpolate(given / 255, size=size, mode="bilinear", antialias=True) * 255
        assert (found.dtype, found.shape) == (torch.uint8, expected.shape)
        assert float((found - expected).abs().max()) <= 0.51
        picture = Image.fromarray(given[0].permute(1, 2, 0).numpy())
        other = np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(found[0].permute(1, 2, 0).numpy() - other).max() <= 1


def test_stretching_keeps_the_edges_and_cropping_the_shapes(tmp_path: Path) -> None:
    thirds = np.repeat(np.array([0, 120, 240], dtype=np.uint8), 32)[None, :, None].repeat(32, 0).repeat(3, 2)
    Image.fromarray(thirds).save(tmp_path / "wide.png")
    rows = [image_as(tmp_path / "wide.png", spec(32, 32, fit=fit))[0, 0, 16] for fit in ("crop", "stretch")]
    assert rows[0].tolist() == [120] * 32
    assert [int(rows[1][i]) for i in (0, 8, 16, 24, 31)] == [0, 0, 120, 240, 240]


def test_a_clip_covers_the_frame_and_keeps_its_middle(tmp_path: Path) -> None:
    wide = np.zeros((1, 32, 96, 3), dtype=np.uint8)
    wide[:, :, 32:64] = 200
    write_mp4(tmp_path / "wide.mp4", wide, 8)
    write_mp4(tmp_path / "tall.mp4", wide.transpose(0, 2, 1, 3).copy(), 8)
    Image.fromarray(wide[0]).save(tmp_path / "wide.png")
    for size in (16, 32, 48):
        for name in ("wide.mp4", "tall.mp4"):
            clip = clip_as(tmp_path / name, 1, spec(size, size)).float()
            assert float((clip[..., 4:-4, 4:-4] - 200).abs().max()) < 8
        picture = image_as(tmp_path / "wide.png", spec(size, size))
        assert (picture.dtype, list(picture.shape)) == (torch.uint8, [1, 3, size, size])
        assert int(picture[..., 2:-2, 2:-2].min()) == 200


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    lines = np.zeros((64, 64, 3), dtype=np.uint8)
    lines[:, ::2] = 255
    Image.fromarray(lines).save(tmp_path / "lines.png")
    assert float((image_as(tmp_path / "lines.png", spec(16, 16)).float() - 127.5).abs().mean()) < 8


def test_odd_sizes_are_written_with_the_edge_repeated(tmp_path: Path) -> None:
    video = np.full((2, 15, 17, 3), 90, dtype=np.uint8)
    write_mp4(tmp_path / "a.mp4", video, 8)
    clip = clip_as(tmp_path / "a.mp4", 2, spec(16, 18))
    assert int((clip.int() - 90).abs().max()) <= 2


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    content = mp4(0, 40, 8.0)
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    with pytest.raises(ClipError, match=r"junk\.mp4: it cannot be read as a video \(Invalid data"):
        clip_as(tmp_path / "junk.mp4", 1, spec(8, 8))
    with pytest.raises(ClipError, match=r"none\.mp4: there is no such file"):
        clip_as(tmp_path / "none.mp4", 1, spec(8, 8))
    with pytest.raises(ClipError, match=r"^it cannot be read as a video"):
        clip_as(io.BytesIO(content[: len(content) // 2]), 1, spec(8, 8))
    with pytest.raises(ClipError, match=r"junk\.mp4: cannot be read as an image"):
        image_as(tmp_path / "junk.mp4", spec(8, 8))
    with pytest.raises(ClipError, match=r"none\.png: there is no such file"):
        image_as(tmp_path / "none.png", spec(8, 8))
    (tmp_path / "file").write_text("")
    with pytest.raises(FlowmapError, match=r"cannot write .*a\.mp4: Not a directory"):
        write_mp4(tmp_path / "file" / "a.mp4", np.zeros((1, 8, 8, 3), dtype=np.uint8), 8)
    with pytest.raises(FlowmapError, match=r"must be uint8 \[T, H, W, 3\], not float64 \[1, 8, 8, 3\]"):
        write_mp4(tmp_path / "a.mp4", np.zeros((1, 8, 8, 3)), 8)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "junk.mp4"]


def broken_off(tmp_path: Path, frames: int = 40) -> bytes:
    """A clip whose index comes first, so that a cut leaves frames to decode; noise, so that they are large."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)
    write_mp4(tmp_path / "noise.mp4", noise, FPS)
    content = (tmp_path / "noise.mp4").read_bytes()
    (tmp_path / "noise.mp4").unlink()
    # What follows the frames is the index: it stays, and a third of the frames become zeros.
    start = content.index(b"mdat") + 4
    length = content.index(b"moov") - 4 - start
    return content[: start + length // 2] + bytes(length // 3) + content[start + length // 2 + length // 3 :]


def test_a_clip_that_breaks_off_is_damaged_where_its_frames_are_needed(tmp_path: Path) -> None:
    content = broken_off(tmp_path)
    assert len(clip_as(io.BytesIO(content), 3, spec(8, 8))) == 3
    with pytest.raises(ClipError, match=r"^it is damaged: it cannot be decoded after frame \d+ \(Invalid data"):
        clip_as(io.BytesIO(content), 40, spec(8, 8))


def test_damage_that_the_decoder_notices_is_not_painted_over(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    write_mp4(tmp_path / "a.mp4", noise, FPS)
    whole = (tmp_path / "a.mp4").read_bytes()
    first, last = whole.index(b"mdat"), whole.index(b"moov")
    reasons = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        place = int(random.integers(first + 2000, last - 4000))
        content = whole[:place] + random.bytes(300) + whole[place + 300 :]
        try:
            clip_as(io.BytesIO(content), 20, spec(64, 64))
        except ClipError as error:
            reasons.append(str(error))
    # Some wrong bits are as good as right ones; of the others a decoder left to itself says nothing.
    assert reasons
    assert all(reason.startswith("it is damaged: it cannot be decoded after frame ") for reason in reasons)


def test_pixels_to_data_space_and_back() -> None:
    pixels = torch.arange(256).to(torch.uint8)
    x = to_float(pixels)
    assert (float(x.min()), float(x.max()), x.dtype) == (-1, 1, torch.float32)
    assert torch.equal(to_uint8(x), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


# Raw shards


def test_raw_shards_give_clips_with_captions(raw: Shards) -> None:
    source = raw()
    assert source.spec().shape == (FRAMES, 3, SIZE, SIZE)
    assert (source.spec().text, source.spec().fps, source.spec().conditional) == (True, FPS, True)
    data = source.build()
    samples = data.batch(draw(40))
    assert list(samples.x.shape) == [40, FRAMES, 3, SIZE, SIZE]
    assert samples.x.dtype == torch.float32
    assert not samples.encoded
    found = keys(samples.x)
    assert [caption[0] for caption in samples.prompts] == [str(i) for i in found]
    assert len(set(found)) == 5  # one of six is held out
    assert {caption[1:] for caption in samples.prompts} == {"", " again"}


def test_the_fields_say_which_frames_and_which_part_of_them(tmp_path: Path) -> None:
    """Clips of 24 fps whose left half is dark: by rate the second frame is number 2; squashed, the left half stays."""
    clip = np.broadcast_to(np.arange(10, 210, 10, dtype=np.uint8)[:, None, None, None], (20, 32, 64, 3)).copy()
    clip[:, :, :16] = 0
    write_mp4(tmp_path / "clip.mp4", clip, 24)
    write_tar(tmp_path / "raw" / "0.tar", {"a.mp4": (tmp_path / "clip.mp4").read_bytes(), "a.json": about("a")})
    found = {}
    for frame_choice in ("nearest", "rate"):
        for fit in ("crop", "stretch"):
            source = config(tmp_path / "raw", fps=16.0, frame_choice=frame_choice, fit=fit)
            assert (source.spec().frame_choice, source.spec().fit) == (frame_choice, fit)
            # A stage may have data that are read in another way.
            assert source.spec() == config(tmp_path / "raw", fps=16.0).spec()
            x = to_uint8(source.build().batch(draw(1)).x)[0, :, 0, SIZE // 2]
            found[frame_choice, fit] = ([round(int(grey) / 10) - 1 for grey in x[:, -3]], int(x[0, 1]) > 5)
    assert found == {
        ("nearest", "crop"): ([0, 2, 3, 5, 6], True),
        ("nearest", "stretch"): ([0, 2, 3, 5, 6], False),
        ("rate", "crop"): ([0, 2, 4, 5, 7], True),
        ("rate", "stretch"): ([0, 2, 4, 5, 7], False),
    }


def test_the_first_caption_or_any(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    lengths: dict[str, Callable[[Any], set[int]]] = {
        "raw": lambda prompts: {len(text) for text in prompts},
        # The stand-in for an encoder gives a row for each letter, up to LENGTH.
        "latents": lambda prompts: {int(text.any(1).sum()) for text in prompts.text},
    }
    for path, found in lengths.items():
        either, first = (config(tmp_path / path, caption_choice=choice).build() for choice in ("random", "first"))
        assert torch.equal(either.batch(draw(20)).x, first.batch(draw(20)).x)
        for ask in (lambda data: data.batch(draw(20)).prompts, lambda data: data.prompts(draw(20))):
            assert len(found(ask(either))) == 2
            assert found(ask(first)) == {1}


def test_the_same_draw_gives_the_same_samples_however_it_is_shared(raw: Shards) -> None:
    data = raw().build()
    whole = data.batch(draw(7))
    again = raw().build().batch(draw(7))
    assert torch.equal(whole.x, again.x)
    assert whole.prompts == again.prompts
    parts = [data.batch(draw(7).part(first, count)) for first, count in ((0, 3), (3, 4))]
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert [caption for part in parts for caption in part.prompts] == whole.prompts
    assert keys(data.batch(draw(7, step=1)).x) != keys(whole.x)
    captions = data.prompts(draw(7))
    assert captions == data.prompts(draw(3)) + data.prompts(draw(7).part(3, 4))


def test_a_share_is_held_out_by_key(raw: Shards) -> None:
    data = raw().build()
    assert len(all_held_out(data)) == 1
    assert sorted(all_train(data) + all_held_out(data)) == list(range(6))
    assert all_train(data) == sorted(all_train(data))
    assert {caption[0] for caption in data.prompts(draw(9))} == {str(all_held_out(data)[0])}
    half = raw(held_out=0.35).build()
    assert len(all_held_out(half)) == 3
    assert set(all_held_out(data)) <= set(all_held_out(half))
    assert len(all_train(raw(held_out=0.999999).build())) == 1
    assert all_train(half)[:2] == keys(half.reference("train", 2).x)


def test_a_single_sample_is_both_trained_on_and_compared_with(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    write_tar(tmp_path / "raw" / "0.tar", {"a.mp4": mp4(), "a.json": about("grey")})
    data = config(tmp_path / "raw").build()
    assert torch.equal(data.batch(draw(1)).x, data.reference("held_out", 5).x)
    assert data.prompts(draw(2)) == ["grey", "grey"]


def test_a_caption_may_be_a_string_of_another_field(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    write_tar(tmp_path / "a.tar", {"x/a.b.mp4": mp4(), "x/a.b.json": b'{"text": " grey "}'})
    assert config(tmp_path / "*.tar", caption="text").build().batch(draw(2)).prompts == ["grey", "grey"]


def test_folders_in_a_tar_are_part_of_the_key(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    files = {}
    for i, key in enumerate(("x/a", "y/a", "y/b")):
        files |= {f"{key}.mp4": mp4(30 * i), f"{key}.json": about(str(i))}
    write_tar(tmp_path / "raw" / "0.tar", files)
    data = config(tmp_path / "raw").build()
    assert sorted(all_train(data) + all_held_out(data)) == [0, 1, 2]


def test_the_source_survives_a_pickle(raw: Shards) -> None:
    data = raw().build()
    expected = data.batch(draw(3)).x
    assert torch.equal(pickle.loads(pickle.dumps(data)).batch(draw(3)).x, expected)


def test_a_picture_has_a_row_for_each_sample(raw: Shards) -> None:
    data = raw().build()
    picture = data.picture(torch.zeros(9, 81, 3, 8, 12))
    assert (picture.dtype, picture.shape) == (np.uint8, (64, 96, 3))
    x = torch.linspace(-1, 1, 3)[None, :, None, None, None].expand(2, 3, 3, 4, 4)
    assert data.picture(x)[0, ::4, 0].tolist() == [0, 128, 255]
    assert data.picture(torch.zeros(1, 1, 3, 480, 832)).shape == (148, 256, 3)


# What is wrong with shards

_WRONG: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    "corrupt clip": (lambda files: files.update({"b.mp4": b"junk" * 50}), "it cannot be read as a video (Invalid data"),
    "no clip": (lambda files: files.pop("b.mp4"), "it has no .mp4"),
    "no json": (lambda files: files.pop("b.json"), "it has no .json, where its caption would be"),
    "no JSON in the json": (lambda files: files.update({"b.json": b"{"}), "its .json is no JSON"),
    "no caption": (lambda files: files.update({"b.json": b'{"x": 1}'}), "its .json has no 'captions'"),
    "empty caption": (lambda files: files.update({"b.json": about(" ", "")}), "its 'captions' is empty"),
    "no captions": (lambda files: files.update({"b.json": about()}), "its 'captions' is empty"),
    "a list for JSON": (lambda files: files.update({"b.json": b"[1]"}), "its .json has no 'captions'"),
    "no UTF-8": (
        lambda files: files.update({"b.json": '{"captions": "caf\xe9"}'.encode("latin-1")}),
        "its .json is no UTF-8",
    ),
    "nothing": (lambda files: files.update({"b.json": b""}), "its .json is no JSON"),
    "deep": (lambda files: files.update({"b.json": b"[" * 100_000}), "its .json is no JSON"),
    "a long number": (
        lambda files: files.update({"b.json": b'{"captions": ' + b"9" * 5000 + b"}"}),
        "its .json is no JSON",
    ),
    "a mark and a space": (lambda files: files.update({"b.json": about("\ufeff ")}), "its 'captions' is empty"),
    "NUL": (lambda files: files.update({"b.json": about("a\0cat")}), "its 'captions' has a NUL character in it"),
    "half a character": (
        lambda files: files.update({"b.json": b'{"captions": "a \\ud83d"}'}),
        "its 'captions' has half of a character in it",
    ),
    "a book": (
        lambda files: files.update({"b.json": about("word " * 30_000)}),
        "its 'captions' has 149999 characters, more than the 100000 that are read",
    ),
    "a library": (
        lambda files: files.update({"b.json": about(*["word"] * 1001)}),
        "its 'captions' are 1001 captions, more than the 1000 that are read",
    ),
    "a member that is too large": (
        lambda files: files.update({"b.json": b"{" + b" " * 2**24}),
        "its .json has 16777217 bytes, more than the 16777216 that are read",
    ),
    "odd caption": (
        lambda files: files.update({"b.json": b'{"captions": [1]}'}),
        "its 'captions' is neither a string nor a list of strings",
    ),
}


@pytest.mark.parametrize("kind", _WRONG)
def test_an_unusable_sample_stands_for_the_next_one(
    kind: str, raw: Shards, said: Callable[[], list[str]], tmp_path: Path
) -> None:
    good = raw().build()
    trained = all_train(good)
    before = good.batch(draw(8))
    assert 1 in keys(before.x)
    change, reason = _WRONG[kind]
    data = raw(change).build()
    after = data.batch(draw(8))
    follower = trained[trained.index(1) + 1]
    assert keys(after.x) == [follower if i == 1 else i for i in keys(before.x)]
    assert [caption[0] for caption in after.prompts] == [str(i) for i in keys(after.x)]
    data.batch(draw(8))
    assert all_train(data) == [i for i in trained if i != 1]
    assert len(said()) == 1
    assert said()[0].startswith(f"skipped {tmp_path / 'raw' / '0.tar'}: b: {reason}")


def test_a_byte_order_mark_is_no_part_of_a_caption(raw: Shards, tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    for content in ('\ufeff{"captions": "\ufeffa cat"}'.encode(), '{"captions": "a cat"}'.encode("utf-16")):
        write_tar(tmp_path / "raw" / "0.tar", {"a.mp4": mp4(), "a.json": content})
        assert config(tmp_path / "raw").build().batch(draw(1)).prompts == ["a cat"]


def are_captions(random: np.random.Generator) -> bool:
    """Damage captions: whether some are read, which are texts then."""
    content = json.dumps({"captions": ["a cat", "ein Kater \U0001f408"], "more": {"x": [1, 2.5, None]}}).encode()
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        place = int(random.integers(len(data)))
        data[place : place + int(random.integers(2))] = random.bytes(int(random.integers(3)))
    try:
        captions = read_captions(bytes(data), "captions")
    except ClipError:
        return False
    assert captions
    assert all(caption and isinstance(caption, str) and caption.encode() for caption in captions)
    return True


def test_damaged_captions_are_captions_or_a_fault() -> None:
    random = np.random.default_rng(0)
    assert 50 < sum(are_captions(random) for _ in range(500)) < 450


def test_a_caption_that_is_missing_again_and_again_is_one_fault(raw: Shards, said: Callable[[], list[str]]) -> None:
    data = raw(lambda files: files.pop("c.json"), held_out=0.35, faults=1).build()
    for step in range(3):
        # a, c and e are held out; e follows c.
        assert {caption[0] for caption in data.prompts(draw(20, step))} == {"0", "4"}
    assert len(said()) == 1


def test_short_and_broken_off_clips_are_unusable(
    raw: Shards, said: Callable[[], list[str]], tmp_path: Path, mp4: Callable[..., bytes]
) -> None:
    cut = broken_off(tmp_path)
    data = raw(lambda files: files.update({"a.mp4": mp4(0, 4), "b.mp4": cut}), frames=5).build()
    assert len(data.reference("train", 99).x) == 4  # the part of b that is needed is whole
    tar = tmp_path / "raw" / "0.tar"
    assert said() == [f"skipped {tar}: a: it has 4 frames at 8 fps, 5 are needed"]
    data = raw(lambda files: files.update({"a.mp4": mp4(0, 40), "b.mp4": cut}), frames=40).build()
    assert len(data.reference("train", 99).x) == 1
    assert said()[1].startswith(f"skipped {tar}: b: it is damaged: it cannot be decoded after frame ")


def test_clips_that_are_too_short_by_rate_are_unusable(
    raw: Shards, said: Callable[[], list[str]], tmp_path: Path, mp4: Callable[..., bytes]
) -> None:
    """Nine frames of 16 fps are five of 8 fps, counted or not; of 15 fps five counted, and no six."""
    data = raw(lambda files: files.update({"a.mp4": mp4(0, 9, 16.0), "b.mp4": mp4(0, 8, 16.0)}), frame_choice="rate")
    assert len(data.build().reference("train", 99).x) == 4
    tar = tmp_path / "raw" / "0.tar"
    assert said() == [f"skipped {tar}: b: it has 4 frames chosen by rate for 8 fps, 5 are needed"]


def test_the_last_sample_is_followed_by_the_first(raw: Shards, tmp_path: Path) -> None:
    good = raw().build()
    first, last = all_train(good)[0], all_train(good)[-1]
    assert last == 5
    before = keys(good.batch(draw(30)).x)
    files = {name: content for name, content in _contents(tmp_path / "raw" / "1.tar") if name != "f.json"}
    write_tar(tmp_path / "raw" / "1.tar", files)
    after = keys(config(tmp_path / "raw").build().batch(draw(30)).x)
    assert after == [first if i == last else i for i in before]


def _contents(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_a_truncated_tar_gives_its_whole_members(raw: Shards, said: Callable[[], list[str]], tmp_path: Path) -> None:
    source = raw()
    tar = tmp_path / "raw" / "0.tar"
    with tarfile.open(tar) as opened:
        places = {member.name: member.offset_data + member.size for member in opened}
    content = tar.read_bytes()
    for cut, left, reason in (
        (places["b.mp4"] - 10, [0], "it is cut off within b.mp4; what comes before is used"),
        (-(-places["b.json"] // 512) * 512, [0, 1], "it is cut off or damaged; what comes before is used"),
        (-(-places["b.json"] // 512) * 512 + 100, [0, 1], "it is cut off or damaged; what comes before is used"),
        (0, [], "it cannot be read as an uncompressed tar (empty file)"),
    ):
        tar.write_bytes(content[:cut])
        data = source.build()
        assert sorted(all_train(data) + all_held_out(data)) == [*left, 3, 4, 5]
        assert said()[-1] == f"skipped {tar}: {reason}"


def test_damage_within_a_tar_s_headers_is_named(raw: Shards, said: Callable[[], list[str]], tmp_path: Path) -> None:
    source = raw()
    tar = tmp_path / "raw" / "0.tar"
    with tarfile.open(tar) as opened:
        place = opened.getmember("b.mp4").offset
    content = bytearray(tar.read_bytes())
    content[place : place + 200] = b"\xff" * 200
    tar.write_bytes(content)
    assert len(all_train(source.build())) == 3
    assert said() == [f"skipped {tar}: it is cut off or damaged; what comes before is used"]


def test_too_many_faults_stop_the_run(raw: Shards, tmp_path: Path) -> None:
    def spoil(files: dict[str, bytes]) -> None:
        for key in "abc":
            files.pop(f"{key}.json")

    text = "of the held_out split (1 in all) no sample can be used:\n  "
    few = raw(spoil, faults=3).build()
    assert all_train(few) == [3, 4, 5]
    assert text in refused(lambda: all_held_out(few))
    data = raw(spoil, faults=1).build()
    text = refused(lambda: all_train(data))
    tar, reason = tmp_path / "raw" / "0.tar", "it has no .json, where its caption would be"
    assert text == (
        "data: 2 unusable samples or shards, more than the 1 of data.faults:\n"
        f"  {tar}: a: {reason}\n  {tar}: b: {reason}\nRepair or remove them, or raise data.faults."
    )
    # It does not go on when it is asked once more.
    assert refused(lambda: all_train(data)) == text
    assert refused(lambda: data.prompts(draw(1))) == text


def test_only_twenty_faults_are_listed(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    files = {f"{i:02d}.json": about("x") for i in range(30)} | {"z.mp4": mp4(), "z.json": about("z")}
    write_tar(tmp_path / "raw" / "0.tar", files)
    data = config(tmp_path / "raw", faults=24, held_out=0.0001).build()
    lines = refused(lambda: [data.reference("train", 99), data.reference("held_out", 99)]).splitlines()
    assert len(lines) == 23
    assert lines[-2] == "  and 5 more"


def test_a_folder_without_shards_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path, head in (
        ("empty", f"there is no .tar in the folder empty (looked from {tmp_path})"),
        ("none/*.tar", f"no .tar file or folder matches 'none/*.tar' (looked from {tmp_path})"),
    ):
        (finding,) = config(path).missing()
        assert (finding.level, finding.field) == ("error", ("path",))
        assert finding.message.startswith(head)
        assert "flowmap encode RECIPE --from RAW_FOLDER" in finding.message
        assert refused(config(path).build) == f"data: {finding.message}"


def test_what_lies_there_instead_of_tars_is_said(tmp_path: Path, mp4: Callable[..., bytes]) -> None:
    write_tar(tmp_path / "deep" / "one" / "0.tar", {"a.mp4": mp4()})
    for name, content in (("packed/0.tar.gz", b"x"), ("packed2/0.TGZ", b"x"), ("loose/a.mp4", mp4()), ("file", b"x")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for path, reason in (
        ("deep", f", but in folders of it: name them as {tmp_path / 'deep'}/*/*.tar. "),
        ("packed", "; 0.tar.gz is compressed: unpack it to a .tar. "),
        ("packed2", "; 0.TGZ is compressed: unpack it to a .tar. "),
        ("loose", "; a.mp4 lies there as it is: pack clips and captions into tars. "),
        ("file", f"'{tmp_path / 'file'}' is a file, and no .tar (looked from "),
    ):
        (finding,) = config(tmp_path / path).missing()
        assert reason in finding.message
        assert refused(config(tmp_path / path).build) == f"data: {finding.message}"
    assert "the path of the shards is empty" in refused(config("").build)


def test_a_pattern_that_looks_through_everything_is_refused(
    raw: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check is to take seconds, and `/**` is a whole disk, or a circle of links that never ends."""
    raw()
    (tmp_path / "raw" / "round").symlink_to(tmp_path)
    monkeypatch.setattr("flowmap.shards.places._MOST", 40)
    (finding,) = config(tmp_path / "**" / "*.tar").missing()
    assert "**/*.tar' looks through more than 40 files and folders (looked from " in finding.message
    (tmp_path / "raw" / "round").unlink()
    assert list(config(tmp_path / "**" / "*.tar").missing()) == []


def test_the_home_folder_may_be_a_tilde(raw: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    raw()
    for path in ("~/raw", "~/raw/*.tar"):
        assert len(all_train(config(path).build())) == 5
    with pytest.raises(ValidationError, match="there is no home folder of ~nobody-of-this-name"):
        config("~nobody-of-this-name/raw")


def test_what_should_be_a_tar_beside_others_and_is_none_is_a_fault(
    raw: Shards, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    source, folder = raw(), tmp_path / "raw"
    (folder / "2.tar").mkdir()
    (folder / "3.tar").symlink_to("nowhere.tar")
    (folder / "4.tar.zst").write_bytes(b"x")
    (folder / "0.tar.gz").write_bytes(b"of 0.tar, which is there")
    os.mkfifo(folder / "5.tar")
    (folder / "notes.txt").write_text("hello")
    assert [(finding.level, finding.message) for finding in source.missing()] == [
        ("warning", "2.tar is left out: it is a folder, and no tar"),
        ("warning", "3.tar is left out: it is a link to a file that is not there"),
        ("warning", "4.tar.zst is left out: it is a compressed tar, which is not read; unpack it to a .tar"),
    ]
    assert len(all_train(source.build())) == 5
    assert said() == [
        f"skipped {folder / '2.tar'}: it is a folder, and no tar",
        f"skipped {folder / '3.tar'}: it is a link to a file that is not there",
        f"skipped {folder / '4.tar.zst'}: it is a compressed tar, which is not read; unpack it to a .tar",
        f"skipped {folder / '5.tar'}: it is no file",
    ]
    encode_all(source, tmp_path / "latents")
    lines = (tmp_path / "latents" / "faults.jsonl").read_text().splitlines()
    assert [json.loads(line)["tar"] for line in lines] == ["2.tar", "3.tar", "4.tar.zst", "5.tar"]


def test_a_tar_s_own_name_may_be_in_any_encoding(raw: Shards, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    source = raw(lambda files: files.pop("a.json"))
    os.rename(tmp_path / "raw" / "0.tar", os.fsencode(tmp_path / "raw") + b"/caf\xe9.tar")
    assert len(all_train(source.build()) + all_held_out(source.build())) == 5
    assert said()[0] == f"skipped {tmp_path / 'raw'}/caf\\xe9.tar: a: it has no .json, where its caption would be"


def test_unfinished_tars_are_not_shards(raw: Shards, tmp_path: Path) -> None:
    source = raw()
    assert not list(source.missing())
    (tmp_path / "raw" / ".part-2.tar").write_bytes(b"half")
    assert [path.name for path in source.shards()] == ["0.tar", "1.tar"]
    assert [path.name for path in config(tmp_path / "*" / "1.tar").shards()] == ["1.tar"]


def test_a_tar_without_samples_says_what_it_should_hold(tmp_path: Path) -> None:
    write_tar(tmp_path / "raw" / "0.tar", {"readme.txt": b"hello"})
    assert refused(config(tmp_path / "raw").build).endswith(
        "NAME.mp4 with NAME.json (raw), or NAME.safetensors (encoded)"
    )
    write_tar(tmp_path / "raw" / "0.tar", {"a.mov": b"hello"})
    assert refused(config(tmp_path / "raw").build).endswith(
        "What was found wrong:\n"
        f"  {tmp_path / 'raw' / '0.tar'}: 1 of its files are no part of a sample and not read: a.mov"
    )


def test_a_tar_that_shrinks_meanwhile_is_said(raw: Shards, tmp_path: Path) -> None:
    data = raw().build()
    for tar in (tmp_path / "raw").iterdir():
        tar.write_bytes(b"")
    assert "was cut or replaced while it was in use; start again" in refused(lambda: data.batch(draw(1)))


def test_a_tar_that_is_replaced_meanwhile_is_said(raw: Shards, tmp_path: Path) -> None:
    """By a longer one, whose bytes would be read at the places of the old one's members."""
    data = raw().build()
    tar = tmp_path / "raw" / "1.tar"
    content = tar.read_bytes()
    tar.unlink()
    tar.write_bytes(content[::-1] + bytes(512))
    assert "was cut or replaced while it was in use; start again" in refused(lambda: all_train(data))


# Encoded shards


def test_what_was_encoded_comes_back(raw: Shards, tmp_path: Path) -> None:
    source = raw()
    assert encode_all(source, tmp_path / "latents") == 6
    data = config(tmp_path / "latents").build()
    before, after = source.build().batch(draw(12)), data.batch(draw(12))
    expected = fake(before)
    assert after.encoded
    assert torch.equal(after.x, expected.x.float())
    assert torch.equal(after.prompts.text, expected.prompts.text)
    assert torch.equal(after.prompts.null, expected.prompts.null)
    assert (after.x.dtype, after.prompts.text.dtype) == (torch.float32, torch.float32)
    captions = source.build().prompts(draw(5))
    assert torch.equal(data.prompts(draw(5)).text, fake(Samples(before.x[:1], prompts=captions)).prompts.text)
    for split in ("train", "held_out"):
        clips, latents = source.build().reference(split, 99), data.reference(split, 99)
        assert torch.equal(fake(clips).x.float(), latents.x)


def test_the_format_of_an_encoded_shard(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    assert sorted(p.name for p in (tmp_path / "latents").iterdir()) == [
        "0.tar",
        "1.tar",
        "encoded.json",
        "null.safetensors",
    ]
    contents = dict(_contents(tmp_path / "latents" / "0.tar"))
    assert list(contents) == ["a.safetensors", "a.json", "b.safetensors", "b.json", "c.safetensors", "c.json"]
    assert contents["a.json"] == about("0", "0 again")
    tensors = load(contents["a.safetensors"])
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        "latent": [FRAMES, 3, 2, 2],
        "text.0": [1, WIDTH],
        "text.1": [LENGTH, WIDTH],
    }
    assert tensors["latent"].dtype == torch.bfloat16
    facts = read_facts(tmp_path / "latents", config(tmp_path / "latents"))
    assert json.loads((tmp_path / "latents" / "encoded.json").read_text()) == {
        "format": 1,
        "made_from": {
            "frames": FRAMES,
            "height": SIZE,
            "width": SIZE,
            "fit": "crop",
            "fps": FPS,
            "frame_choice": "nearest",
            "caption": "captions",
        },
        "latent": [FRAMES, 3, 2, 2],
        "text": [LENGTH, WIDTH],
        "digests": True,
    }
    assert facts.digests
    assert load_file(tmp_path / "latents" / "null.safetensors")["null"].shape == (LENGTH, WIDTH)


def test_only_the_zeros_at_the_end_are_trimmed() -> None:
    text = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    assert torch.equal(trimmed(text), text[:3])
    assert trimmed(torch.zeros(4, 2)).shape == (0, 2)


def test_shards_for_another_recipe_are_refused(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    text = refused(config(tmp_path / "latents", frames=9, width=832).build)
    assert text == (
        f"{tmp_path / 'latents' / 'encoded.json'}: these shards were encoded for another recipe. This one says "
        "data.frames = 9, the shards were made with 5; it says data.width = 832, the shards were made with 16. "
        "Change the recipe, or encode into another folder"
    )
    other = raw(frames=3)
    assert "data.frames = 3, the shards were made with 5" in refused(lambda: encode_all(other, tmp_path / "latents"))


def test_the_choice_of_frames_and_the_fit_decide_what_is_encoded(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(fit="stretch", caption_choice="first"), tmp_path / "latents")
    # All captions are in there.
    data = config(tmp_path / "latents", fit="stretch", caption_choice="random").build()
    assert {int(text.any(1).sum()) for text in data.batch(draw(20)).prompts.text} == {1, LENGTH}
    assert "it says data.frame_choice" not in refused(config(tmp_path / "latents").build)
    assert 'This one says data.fit = "crop", the shards were made with "stretch"' in refused(
        config(tmp_path / "latents").build
    )
    assert 'This one says data.frame_choice = "rate", the shards were made with "nearest"' in refused(
        config(tmp_path / "latents", fit="stretch", frame_choice="rate").build
    )


def test_shards_of_before_these_fields_were_made_with_their_defaults(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    path = tmp_path / "latents" / "encoded.json"
    facts = json.loads(path.read_text())
    del facts["made_from"]["fit"], facts["made_from"]["frame_choice"]
    path.write_text(json.dumps(facts))
    assert len(config(tmp_path / "latents").build().reference("train", 99).x) == 5
    encode_all(raw(), tmp_path / "latents")
    assert 'data.fit = "stretch", the shards were made with "crop"' in refused(
        config(tmp_path / "latents", fit="stretch").build
    )
    del facts["made_from"]["caption"]
    path.write_text(json.dumps(facts))
    assert 'data.caption = "captions", the shards were made with null' in refused(config(tmp_path / "latents").build)


def test_shards_that_were_encoded_before_there_were_other_embeddings_are_read() -> None:
    """Written by flowmap of 8fba4cb, with `fake`, from four of the rehearsal's clips; digests and all."""
    data = config(Path(__file__).parent / "golden" / "encoded", held_out=0.3).build()
    samples = [data.reference(split, 9) for split in ("train", "held_out")]
    assert sum(len(found.x) for found in samples) == 4
    for found in samples:
        letters = [bytes(int(number) for number in text[:, 0]).decode() for text in found.prompts.text]
        assert {text[:4] for text in letters} <= {"a re", "a gr", "a bl", "a ye"}
        assert found.prompts.others == {}
        assert torch.equal(found.prompts.null, torch.full((LENGTH, WIDTH), 0.5))


def test_raw_and_encoded_shards_do_not_mix(raw: Shards, tmp_path: Path) -> None:
    source = raw()
    encode_all(source, tmp_path / "latents")
    (tmp_path / "raw" / "2.tar").write_bytes((tmp_path / "latents" / "0.tar").read_bytes())
    assert refused(source.build) == (
        f"{tmp_path / 'raw'}: raw and encoded shards lie together: 0.tar has a.mp4 and 2.tar has a.safetensors; "
        "move either to a folder of its own"
    )
    (tmp_path / "latents" / "0.tar").unlink()
    (tmp_path / "latents" / "1.tar").write_bytes((tmp_path / "raw" / "1.tar").read_bytes())
    assert "has an encoded.json, but raw shards" in refused(config(tmp_path / "latents").build)
    assert "encoded shards must lie in one folder" in _two_folders(tmp_path, source)


def _two_folders(tmp_path: Path, source: VideoShardsConfig) -> str:
    (tmp_path / "raw" / "2.tar").unlink()
    for name in ("one", "two"):
        encode_all(source, tmp_path / "many" / name)
    return refused(config(tmp_path / "many" / "*" / "*.tar").build)


def test_a_lost_or_damaged_fact_is_said(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    source = config(tmp_path / "latents")
    facts, null = tmp_path / "latents" / "encoded.json", tmp_path / "latents" / "null.safetensors"
    whole = facts.read_text()
    null.write_bytes(b"x")
    assert "null.safetensors: is missing or damaged" in refused(source.build)
    facts.write_text(whole.replace('"format": 1', '"format": 2'))
    assert "has format 2; this version of flowmap reads 1" in refused(source.build)
    facts.write_text(whole)
    for numbers in (torch.full((LENGTH, WIDTH), torch.nan), torch.ones(LENGTH, WIDTH).int()):
        null.write_bytes(save({"null": numbers}))
        assert "null.safetensors: has numbers that are not finite" in refused(source.build)
    facts.write_text(whole[:20])
    assert "encoded.json: is damaged" in refused(source.build)
    facts.unlink()
    assert "has encoded shards, but no encoded.json" in refused(source.build)


def test_a_damaged_encoded_sample_is_skipped(raw: Shards, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    encode_all(raw(), tmp_path / "latents")
    good = config(tmp_path / "latents").build()
    assert len(good.reference("train", 99).x) == 5
    files = dict(_contents(tmp_path / "latents" / "0.tar"))
    files["b.safetensors"] = files["b.safetensors"][:-8]
    write_tar(tmp_path / "latents" / "0.tar", files)
    data = config(tmp_path / "latents").build()
    assert len(data.reference("train", 99).x) == 4
    assert "b: its .safetensors is damaged" in said()[0]


def test_numbers_that_are_not_finite_are_never_trained_on(
    raw: Shards, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    encode_all(raw(), tmp_path / "latents")
    tar = tmp_path / "latents" / "0.tar"
    files = dict(_contents(tar))
    for name, value in (("latent", torch.nan), ("text.1", torch.inf)):
        tensors = load(files["b.safetensors"])
        tensors[name].view(-1)[1] = value
        write_tar(tar, files | {"b.safetensors": save(tensors)})
        assert len(config(tmp_path / "latents").build().reference("train", 99).x) == 4
        assert said()[-1].endswith("b: its .safetensors has numbers that are not finite, or integers")
    # What is finite as it stands may not be once it is float32.
    tensors = load(files["b.safetensors"])
    tensors["latent"] = torch.full(tensors["latent"].shape, 1e300, dtype=torch.float64)
    write_tar(tar, files | {"b.safetensors": save(tensors)})
    assert len(config(tmp_path / "latents").build().reference("train", 99).x) == 4


_FACTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a list": (lambda facts: [facts], "is damaged ("),
    "a number": (lambda facts: 7, "is damaged ("),
    "null": (lambda facts: None, "is damaged ("),
    "no format": (lambda facts: facts.pop("format") and facts, "is damaged ('format')"),
    "a format of words": (lambda facts: facts | {"format": ["x"]}, "has format ['x']"),
    "a field more": (lambda facts: facts | {"more": 1}, "is damaged ("),
    "a field less": (lambda facts: facts.pop("text") and facts, "is damaged ("),
    "made from a list": (lambda facts: facts | {"made_from": [1]}, "'made_from' is no object"),
    "made from nothing": (lambda facts: facts | {"made_from": {}}, "the shards were made with null"),
    "a latent of three": (lambda facts: facts | {"latent": [1, 2, 3]}, "'latent' is [1, 2, 3], not 4 sizes"),
    "a latent of words": (lambda facts: facts | {"latent": "abcd"}, "'latent' is \"abcd\", not 4 sizes"),
    "a text of floats": (lambda facts: facts | {"text": [6.0, 3.0]}, "'text' is [6.0, 3.0], not 2 sizes"),
    "a text of truth": (lambda facts: facts | {"text": [True, 3]}, "'text' is [true, 3], not 2 sizes"),
    "digests of words": (lambda facts: facts | {"digests": "yes"}, "'digests' is neither true nor false"),
    "a negative size": (lambda facts: facts | {"text": [-6, 3]}, "'text' is [-6, 3], not 2 sizes"),
    "a size without end": (lambda facts: facts | {"text": [6, 10**400]}, "not 2 sizes"),
    "another of one kind": (
        lambda facts: facts | {"others": {"mask": [[6], "complex"]}},
        '"complex" is no kind of number',
    ),
    "others of no kind": (lambda facts: facts | {"others": {"mask": [6]}}, "which is no shape with a kind of number"),
    "others in a list": (lambda facts: facts | {"others": [6]}, "'others' is no object"),
    "another of words": (
        lambda facts: facts | {"others": {"mask": ["6", "bool"]}},
        "'mask' is \"6\", not the sizes of",
    ),
    "classes of truth": (lambda facts: facts | {"classes": True}, "'classes' is true, and no number of classes"),
    "latents of words": (lambda facts: facts | {"latents": {"8 x 8": "ab"}}, "'8 x 8' is \"ab\", not 4 sizes of"),
    "another text": (
        lambda facts: facts | {"text": [6, 4]},
        "null.safetensors: is [6, 3], but encoded.json says [6, 4]",
    ),
}


@pytest.mark.parametrize("kind", _FACTS)
def test_facts_of_the_wrong_shape_are_said(kind: str, raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    change, reason = _FACTS[kind]
    path = tmp_path / "latents" / "encoded.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert reason in refused(config(tmp_path / "latents").build)


def test_facts_that_are_deep_or_no_text_are_said(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    path = tmp_path / "latents" / "encoded.json"
    for content in (b"[" * 100_000, b"\xff\xfe{", b"", b'{"format": ' + b"9" * 5000 + b"}", b" " * 2**21 + b"{}"):
        path.write_bytes(content)
        assert "encoded.json: is damaged (" in refused(config(tmp_path / "latents").build)
    path.unlink()
    path.mkdir()
    assert "encoded.json: is damaged (" in refused(config(tmp_path / "latents").build)


@pytest.mark.parametrize("older", [False, True])
def test_a_damaged_encoded_sample_is_itself_or_a_fault(older: bool, raw: Shards, tmp_path: Path) -> None:
    """Of samples that an older version wrote, changed numbers are numbers too; of others any damage is told."""
    encode_all(raw(), tmp_path / "latents")
    content = dict(_contents(tmp_path / "latents" / "0.tar"))["b.safetensors"]
    facts = read_facts(tmp_path / "latents", config(tmp_path / "latents"))
    facts = replace(facts, digests=False) if older else facts
    latent, texts, _ = unpack(content, facts)
    random, outcomes = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(500):
        data = bytearray(content)
        place = int(random.integers(len(data)))
        if random.random() < 0.2:
            del data[int(random.integers(len(data))) :]
        else:
            data[place : place + int(random.integers(2))] = random.bytes(int(random.integers(2)))
        try:
            found = unpack(bytes(data), facts)
        except ClipError:
            outcomes[False] += 1
            continue
        outcomes[True] += 1
        assert found[0].shape == latent.shape
        assert all(
            bool(tensor.float().isfinite().all()) for tensor in (found.x, *(text["text"] for text in found.texts))
        )
        assert 1 <= len(found[1]) <= len(texts)
        assert older or torch.equal(found[0], latent)
        assert older or all(
            torch.equal(one["text"], other["text"]) for one, other in zip(found.texts, texts, strict=True)
        )
    assert outcomes[False] > 250


def test_a_null_condition_that_was_changed_is_refused(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    (tmp_path / "latents" / "null.safetensors").write_bytes(save({"null": torch.full((LENGTH, WIDTH), 0.75)}))
    assert "null.safetensors: is damaged or another's: it does not" in refused(config(tmp_path / "latents").build)
    encode_all(raw(), tmp_path / "others")
    file = tmp_path / "others" / "null.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "null.safetensors: is damaged or another's: it does not" in refused(config(tmp_path / "others").build)


# Encoding a part


def test_faults_are_left_out_and_written_down(raw: Shards, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    source = raw(lambda files: [files.pop("a.json"), files.update({"b.mp4": b"junk"})])
    for _ in range(2):  # the second time replaces what the first wrote
        assert encode_all(source, tmp_path / "latents") == 6
        lines = [json.loads(line) for line in (tmp_path / "latents" / "faults.jsonl").read_text().splitlines()]
        assert [(line["tar"], line["key"]) for line in lines] == [("0.tar", "a"), ("0.tar", "b")]
        assert lines[0]["reason"] == "it has no .json, where its caption would be"
    assert [name for name, _ in _contents(tmp_path / "latents" / "0.tar")] == ["c.safetensors", "c.json"]
    assert len(said()) == 4
    assert len(config(tmp_path / "latents").build().reference("train", 99).x) == 3


def test_too_many_faults_stop_the_encoding_without_a_half_file(raw: Shards, tmp_path: Path) -> None:
    source = raw(lambda files: [files.pop("b.json"), files.pop("c.json")], faults=1)
    assert refused(lambda: encode_all(source, tmp_path / "latents")).startswith("data: 2 unusable samples")
    assert not list((tmp_path / "latents").glob("*.tar"))
    assert not list((tmp_path / "latents").glob(".part-*"))
    assert len((tmp_path / "latents" / "faults.jsonl").read_text().splitlines()) == 2


def test_an_encoding_that_is_not_finite_is_a_fault(raw: Shards, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    def overflows(samples: Samples) -> Samples:
        found = fake(samples)
        return Samples(found.x * float("inf") if samples.prompts[0] == "2" else found.x, prompts=found.prompts)

    encode_all(raw(), tmp_path / "latents", overflows)
    assert said() == [f"skipped {tmp_path / 'raw' / '0.tar'}: c: its encoding is not finite"]


def many(samples: Samples) -> Samples:
    """As `fake`, with a second embedding, a pooled vector, a mask and the numbers of tokens beside the text."""
    found = fake(samples)
    text, count = found.prompts.text, len(samples.prompts)
    others = {
        "second": torch.cat([text, 2 * text], dim=2)[:, :4].bfloat16(),
        "pooled": text.sum(1).half(),
        "mask": text.any(2),
        "tokens": text.any(2).sum(1)[:, None].expand(count, 2),
    }
    nulls = {name: x[0] if x.is_floating_point() else torch.zeros_like(x[0]) for name, x in others.items()}
    nulls |= {"second": torch.ones(4, 2 * WIDTH), "pooled": torch.full((WIDTH,), -1.0)}
    return Samples(found.x, prompts=EncodedText(text, found.prompts.null, others, nulls), encoded=True)


def test_all_that_encoders_make_of_a_text_comes_back(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents", many)
    data, expected = config(tmp_path / "latents").build(), many(raw().build().batch(draw(12))).prompts
    for found in (data.batch(draw(12)).prompts, data.reference("train", 99).prompts, data.prompts(draw(3))):
        assert {name: (x.dtype, x.shape[1:]) for name, x in found.tensors().items()} == {
            "text": (torch.float32, (LENGTH, WIDTH)),
            "second": (torch.float32, (4, 2 * WIDTH)),
            "pooled": (torch.float32, (WIDTH,)),
            "mask": (torch.bool, (LENGTH,)),
            "tokens": (torch.int64, (2,)),
        }
        assert all(torch.equal(x, expected.nulls()[name].to(x.dtype)) for name, x in found.nulls().items())
    found = data.batch(draw(12)).prompts
    assert all(torch.equal(x, expected.tensors()[name].to(x.dtype)) for name, x in found.tensors().items())
    check_data(config(tmp_path / "latents", held_out=0.4))
    files = dict(_contents(tmp_path / "latents" / "0.tar"))
    # Rows of zeros are not stored, whosever they are; the mask of the second text has a letter in every place.
    assert {name: list(x.shape) for name, x in load(files["a.safetensors"]).items() if name.endswith(".0")} == {
        "text.0": [1, WIDTH],
        "second.0": [1, 2 * WIDTH],
        "pooled.0": [WIDTH],
        "mask.0": [LENGTH],
        "tokens.0": [2],
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: found.pop("mask.1"), "its .safetensors is damaged ("),
        (lambda found: found.update({"more": torch.ones(2)}), "its .safetensors is damaged (it has more too)"),
        (
            lambda found: found.update({"mask.0": found["mask.0"].float()}),
            "its 'mask' is [6] of float, not [6] of bool",
        ),
        (lambda found: found.update({"pooled.1": torch.ones(4)}), "its 'pooled' is [4] of float, not [3] of float as"),
        (lambda found: found.update({"second.0": torch.ones(5, 6)}), "its 'second' is [5, 6] of float, not [4, 6]"),
        (lambda found: found["pooled.0"].fill_(torch.nan), "has numbers that are not finite"),
        (lambda found: found["tokens.0"].fill_(9), "is damaged (it does not match its digest)"),
    ],
)
def test_damage_to_any_of_it_is_a_fault(
    change: Callable[[dict[str, Tensor]], Any], reason: str, raw: Shards, tmp_path: Path
) -> None:
    encode_all(raw(), tmp_path / "latents", many)
    facts = read_facts(tmp_path / "latents", config(tmp_path / "latents"))
    content = dict(_contents(tmp_path / "latents" / "0.tar"))["b.safetensors"]
    tensors = load(content)
    change(tensors)
    with pytest.raises(ClipError, match=re.escape(reason)):
        # With the digest that the file had.
        unpack(save(tensors, {"digest": str(digest_in(content))}), facts)


def test_a_folder_and_a_backbone_of_other_embeddings_do_not_go_together(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents", many)
    assert "further embeddings of {'mask'" in refused(lambda: encode_all(raw(), tmp_path / "latents"))

    def other(samples: Samples) -> Samples:
        found = many(samples)
        nulls = found.prompts.null_others | {"mask": torch.ones(LENGTH, dtype=torch.bool)}
        return replace(found, prompts=replace(found.prompts, null_others=nulls))

    why = refused(lambda: encode_all(raw(), tmp_path / "latents", other))
    assert "its null.safetensors was made otherwise ('mask'): " in why
    nulls = tmp_path / "latents" / "null.safetensors"
    whole = load(nulls.read_bytes())
    for change, reason in (
        ({"null.pooled": torch.ones(4)}, "is [4] of 'pooled', but encoded.json says [3]"),
        ({"null.pooled": torch.full((3,), torch.inf)}, "has numbers that are not finite, or integers of 'pooled'"),
        ({"null.mask": torch.ones(LENGTH)}, "is float of 'mask', but encoded.json says bool"),
        ({"null.mask": ~whole["null.mask"]}, "does not match its digest"),
    ):
        nulls.write_bytes(save(whole | change))
        assert reason in refused(config(tmp_path / "latents").build)


def test_another_backbone_cannot_add_to_a_folder(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")

    def larger(samples: Samples) -> Samples:
        found = fake(samples)
        return Samples(found.x.repeat(1, 1, 2, 1, 1), prompts=found.prompts)

    def longer(samples: Samples) -> Samples:
        found = fake(samples)
        text = torch.nn.functional.pad(found.prompts.text, (0, 0, 0, 1))
        return Samples(found.x, prompts=EncodedText(text, found.prompts.null))

    def other(samples: Samples) -> Samples:
        found = fake(samples)
        return Samples(found.x, prompts=EncodedText(found.prompts.text, found.prompts.null + 1))

    for precompute, reason in (
        (larger, "its shards have latents of [5, 3, 2, 2], this backbone makes [5, 6, 2, 2]"),
        (longer, "its shards have texts of [6, 3], this backbone makes [7, 3]"),
        (other, "its null.safetensors was made otherwise: it is 2 of its norm away"),
    ):
        assert reason in refused(lambda p=precompute: encode_all(raw(), tmp_path / "latents", p))


def test_a_backbone_without_a_text_encoder_is_refused(raw: Shards, tmp_path: Path) -> None:
    text = refused(lambda: encode_all(raw(), tmp_path / "latents", lambda samples: samples))
    assert text == "the recipe's backbone has no text encoder, so there is nothing to encode ahead of training"
    assert not list((tmp_path / "latents").iterdir())


def test_tars_that_are_not_encoded_are_not_written_beside(raw: Shards, tmp_path: Path) -> None:
    write_tar(tmp_path / "latents" / "x.tar", {"x": b""})
    assert "has tars, but no encoded.json" in refused(lambda: encode_all(raw(), tmp_path / "latents"))
    assert sorted(p.name for p in (tmp_path / "latents").iterdir()) == ["x.tar"]


def test_encoded_shards_are_not_encoded_again(raw: Shards, tmp_path: Path) -> None:
    encode_all(raw(), tmp_path / "latents")
    data = config(tmp_path / "latents").build()
    assert "these shards are encoded already" in refused(data.parts)


def test_tars_of_the_same_name_are_refused(raw: Shards, tmp_path: Path) -> None:
    raw()
    write_tar(tmp_path / "more" / "0.tar", dict(_contents(tmp_path / "raw" / "0.tar")))
    data = config(tmp_path / "*" / "*.tar").build()
    assert "two tars are called 0.tar; give each its own name" in refused(data.parts)


# The rehearsal's twin, and the kit


def test_the_twin_for_a_rehearsal(tmp_path: Path) -> None:
    source = VideoShardsConfig(path="nowhere", frames=9, faults=7)
    tiny = source.rehearsed(tmp_path)
    assert (tiny.frames, tiny.fps, tiny.faults, tiny.height, tiny.width) == (9, 16.0, 7, 32, 32)
    assert not list(tiny.missing())
    assert len(tiny.shards()) == 2
    data = tiny.build()
    train, held_out = data.reference("train", 99), data.reference("held_out", 99)
    assert len(train.x) + len(held_out.x) == 8
    assert len(held_out.x) >= 2
    assert len(train.x) >= 4
    moved = (train.x[:, 0] - train.x[:, -1]).abs().mean((1, 2, 3))
    assert bool((moved > 0.02).all())
    stamps = [path.stat().st_mtime_ns for path in tiny.shards()]
    assert source.rehearsed(tmp_path) == tiny
    assert [path.stat().st_mtime_ns for path in tiny.shards()] == stamps


@pytest.mark.parametrize("fps", [16.0, 23.9761])
def test_the_twin_s_clips_are_long_enough_however_they_are_read(fps: float, tmp_path: Path) -> None:
    published = {"frame_choice": "rate", "fit": "stretch", "caption_choice": "first"}
    tiny = VideoShardsConfig(path="nowhere", frames=9, fps=fps, **published).rehearsed(tmp_path)
    assert {name: getattr(tiny, name) for name in published} == published
    data = tiny.build()
    assert len(data.reference("train", 99).x) + len(data.reference("held_out", 99).x) == 8


@pytest.mark.slow
def test_raw_and_encoded_shards_keep_the_contract(tmp_path: Path) -> None:
    write_clips(tmp_path / "raw", FRAMES, SIZE, FPS, "captions")
    source = config(tmp_path / "raw", held_out=0.3)
    check_data(source)
    encode_all(source, tmp_path / "latents")
    check_data(config(tmp_path / "latents", held_out=0.3))


@pytest.mark.parametrize(
    ("broken", "contract"),
    [
        (lambda draw: None, "must give prompts if and only if its spec has classes or text"),
        (lambda draw: ("a",) * draw.count, "must be a list of 11 strings: its spec says text"),
        (lambda draw: ["a"], "must be a list of 11 strings: its spec says text"),
        (lambda draw: [f"{i}" for i in range(draw.count)], "must not depend on how many processes share them"),
        (lambda draw, seen=[]: seen.append(0) or [str(len(seen))] * draw.count, "must be the same for the same draw"),
        (lambda draw: EncodedText(torch.ones(draw.count, 2, 3), torch.ones(4, 3)), "null of the prompts of"),
        (lambda draw: EncodedText(torch.ones(draw.count, 2), torch.ones(2)), "must have text [11, L, D], not [11, 2]"),
    ],
)
def test_the_kit_notices_captions_that_are_wrong(
    broken: Callable[[Draw], Any], contract: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clips(tmp_path / "raw", FRAMES, SIZE, FPS, "captions")
    monkeypatch.setattr(ShardArchive, "prompts", lambda self, draw: broken(draw))
    examined = examination(config(tmp_path / "raw", held_out=0.4))
    # The law of prompts alone, and what comes before it: the other checks decode clips, and see none of this.
    outcome = examined.outcome("prompts_are_by_their_draw")
    found = examined.outcome("prompts_are_as_specified") if outcome.status == "not run" else outcome
    assert found.status == "failed"
    assert contract in found.sentence
