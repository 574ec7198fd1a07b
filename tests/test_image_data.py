"""Pictures in every form that they lie in: what is drawn, at which size, and what becomes of every kind of damage."""

from __future__ import annotations

import io
import json
import logging
import os
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from flowmap_images.buckets import bucket_sizes, nearest
from flowmap_images.configs import ImagesConfig
from PIL import Image, ImageCms
from pydantic import ValidationError
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.shards.writing import add_file
from flowmap.testing import check_data
from flowmap.video import to_uint8

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 16
Files = dict[str, bytes]


def shot(grey: int = 0, height: int = SIZE, width: int = SIZE, form: str = "PNG", **how: Any) -> bytes:
    """A picture of one grey, in a file."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(buffer, form, **how)
    return buffer.getvalue()


def toned(grey: int, height: int = SIZE, width: int = SIZE) -> bytes:
    """A picture whose middle is of one grey, between black and white."""
    image = Image.new("RGB", (width, height), (grey, grey, grey))
    edge = min(height, width) // 8
    # On all sides, for what is cropped loses two of them.
    for colour, boxes in {
        (0, 0, 0): [(0, 0, edge, height), (0, 0, width, edge)],
        (255, 255, 255): [(width - edge, 0, width, height), (0, height - edge, width, height)],
    }.items():
        for box in boxes:
            image.paste(colour, box)
    return stored(image)


def stored(image: Image.Image, form: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def write(folder: Path, files: Files) -> Path:
    """Files where they are called so."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            add_file(tar, name, content)
    return path.parent


def write_dataset(folder: Path, columns: dict[str, list[Any]], features: dict[str, Any], files: int = 2) -> Path:
    """As `datasets.Dataset.save_to_disk` writes one (its 4.x): Arrow streams, with what they are beside them."""
    folder.mkdir(parents=True)
    rows = len(next(iter(columns.values())))
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        part = {key: values[i * rows // files : (i + 1) * rows // files] for key, values in columns.items()}
        table = pa.table(part)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


CAPTIONED = {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}


def config(path: Path | str, **fields: Any) -> ImagesConfig:
    return ImagesConfig(path=str(path), **({"height": SIZE, "width": SIZE} | fields))


def draw(count: int, step: int = 0) -> Draw:
    return Draw.whole(0, "stage", step, "turn", count)


def greys(x: Tensor) -> list[int]:
    """The grey in the middle of each."""
    return [int(row[0, 0, row.shape[2] // 2, row.shape[3] // 2]) for row in to_uint8(x)]


def everything(source: ImagesConfig) -> list[Samples]:
    """What can be used of both splits, or of the one of which anything can."""
    data, found = source.build(), []
    for split in ("train", "held_out"):
        with suppress(FlowmapError):
            found.append(data.reference(split, 999))
    return found


def texts_of(source: ImagesConfig) -> list[str]:
    return sorted({text for samples in everything(source) for text in samples.prompts})


def greys_of(source: ImagesConfig) -> list[int]:
    return sorted({grey for samples in everything(source) for grey in greys(samples.x)})


def refused(build: Callable[[], Any]) -> str:
    with pytest.raises(FlowmapError) as caught:
        build()
    return str(caught.value)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the data source has logged of faults."""
    with caplog.at_level(logging.WARNING, "flowmap"):
        yield lambda: [record.getMessage() for record in caplog.records if record.name == "flowmap.data"]


def fake(samples: Samples) -> Samples:
    """In place of a backbone: latents are the means of 8 x 8 pixels; texts get an embedding, a vector and a mask."""
    x = torch.nn.functional.avg_pool2d(samples.x.flatten(0, 1), 8).unflatten(0, samples.x.shape[:2])
    prompts = samples.prompts
    if isinstance(prompts, list):
        text = torch.zeros(len(prompts), 6, 2)
        for row, prompt in zip(text, prompts, strict=True):
            for i, letter in enumerate(prompt.encode()[:6]):
                row[i] = torch.tensor([letter, 1.0])
        others = {"pooled": text.sum(1), "mask": text.any(2)}
        nulls = {"pooled": torch.full((2,), 7.0), "mask": torch.arange(6) < 1}
        prompts = EncodedText(text, torch.full((6, 2), 0.5), others, nulls)
    return Samples(x.bfloat16(), samples.labels, prompts, encoded=True)


def encode_all(source: ImagesConfig, folder: Path) -> int:
    archive = source.build()
    return sum(done for part in archive.parts() for done in archive.encode(part, fake, folder))


# Forms


def in_tars(folder: Path, count: int) -> Path:
    for part in range(2):
        keys = range(part, count, 2)
        files = {f"{i:02d}.png": toned(20 * i) for i in keys} | {f"{i:02d}.txt": b"grey %d" % i for i in keys}
        write_tar(folder / f"{part}.tar", files)
    return folder


def with_json(folder: Path, count: int) -> Path:
    files = {f"{i:02d}.JPG": shot(20 * i, form="JPEG", quality=100) for i in range(count)}
    return write_tar(
        folder / "a.tar", files | {f"{i:02d}.json": json.dumps({"caption": f"grey {i}"}).encode() for i in range(count)}
    )


def beside(folder: Path, count: int) -> Path:
    files = {f"in/{i:02d}.webp": shot(20 * i, form="WEBP", lossless=True) for i in range(count)}
    return write(folder, files | {f"in/{i:02d}.txt": f"\ufeffgrey {i}\n".encode() for i in range(count)})


def by_lines(folder: Path, count: int) -> Path:
    lines = [json.dumps({"file_name": f"in/{i:02d}.png", "caption": f"grey {i}"}) for i in range(count)]
    files = {f"in/{i:02d}.png": shot(20 * i) for i in range(count)}
    return write(folder, files | {"metadata.jsonl": ("\ufeff" + "\n\n".join(lines)).encode()})


def by_table(folder: Path, count: int) -> Path:
    lines = [f'in/{i:02d}.png,"grey {i}"' for i in range(count)]
    files = {f"in/{i:02d}.png": shot(20 * i) for i in range(count)}
    return write(folder, files | {"metadata.csv": "\r\n".join(["file_name,caption", *lines]).encode()})


def saved(folder: Path, count: int) -> Path:
    pictures = [{"bytes": shot(20 * i), "path": f"{i}.png"} for i in range(count)]
    captions = [f"grey {i}" for i in range(count)]
    return write_dataset(folder, {"image": pictures, "caption": captions}, CAPTIONED)


FORMS = [in_tars, with_json, beside, by_lines, by_table, saved]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_pictures_with_their_captions_raw_and_encoded(
    form: Callable[[Path, int], Path], tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    source = config(form(tmp_path / "raw", 10))
    assert not list(source.missing())
    spec = source.spec()
    assert (spec.shape, spec.text, spec.classes, spec.labelled, spec.fps) == ((1, 3, SIZE, SIZE), True, 0, False, None)
    train, held_out = everything(source)
    assert sorted(greys(train.x) + greys(held_out.x)) == [20 * i for i in range(10)]
    for samples in (train, held_out, source.build().batch(draw(30))):
        assert samples.prompts == [f"grey {grey // 20}" for grey in greys(samples.x)]
        assert (samples.x.dtype, samples.labels, samples.encoded) == (torch.float32, None, False)
    check_data(source)
    assert encode_all(source, tmp_path / "latents") == 10
    latents = config(tmp_path / "latents")
    check_data(latents)
    before, after = source.build().batch(draw(12)), latents.build().batch(draw(12))
    expected = fake(before)
    assert torch.equal(after.x, expected.x.float())
    assert {k: v.dtype for k, v in after.prompts.tensors().items()}["mask"] == torch.bool
    for found, wanted in ((after.prompts.tensors(), expected.prompts.tensors()), (after.prompts.nulls(),) * 2):
        assert all(torch.equal(found[name], wanted[name]) for name in ("text", "pooled", "mask"))
    assert torch.equal(after.prompts.nulls()["pooled"], torch.full((2,), 7.0))
    assert not said()


def as_classes(folder: Path, count: int) -> Path:
    """Class number i % 3 is of grey 20 i."""
    names = ("ant", "bee", "cat")
    return write(folder, {f"{names[i % 3]}/deep/{i:02d}.png": shot(20 * i) for i in range(count)})


def classes_in_tars(folder: Path, count: int) -> Path:
    files = {f"{i:02d}.png": shot(20 * i) for i in range(count)}
    files |= {f"{i:02d}.cls": b"%d\n" % (i % 3) for i in range(0, count, 2)}
    return write_tar(folder / "a.tar", files | {f"{i:02d}.json": b'{"label": %d}' % (i % 3) for i in range(count)})


def classes_by_table(folder: Path, count: int) -> Path:
    files = {f"{i:02d}.png": shot(20 * i) for i in range(count)}
    lines = [f"{i:02d}.png,{i % 3}" for i in range(count)]
    return write(folder, files | {"metadata.csv": "\n".join(["file_name,label", *lines]).encode()})


def classes_saved(folder: Path, count: int) -> Path:
    features = {"image": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}
    pictures = [{"bytes": shot(20 * i), "path": None} for i in range(count)]
    return write_dataset(folder, {"image": pictures, "label": [i % 3 for i in range(count)]}, features)


@pytest.mark.parametrize(
    ("form", "fields"),
    [(as_classes, {}), (classes_in_tars, {"classes": 3}), (classes_by_table, {"classes": 3}), (classes_saved, {})],
)
def test_every_form_gives_pictures_with_their_classes_raw_and_encoded(
    form: Callable[[Path, int], Path], fields: dict[str, int], tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    source = config(form(tmp_path / "raw", 12), condition="class", held_out=0.3, **fields)
    assert not list(source.missing())
    spec = source.spec()
    assert (spec.classes, spec.labelled, spec.text) == (3, True, False)
    samples = source.build().batch(draw(40))
    assert samples.labels is not None
    assert samples.labels.tolist() == [grey // 20 % 3 for grey in greys(samples.x)]
    assert torch.equal(samples.prompts, samples.labels)
    assert set(source.build().prompts(draw(40)).tolist()) == {0, 1, 2}
    check_data(source)
    encode_all(source, tmp_path / "latents")
    # How many classes there are is in encoded.json.
    latents = config(tmp_path / "latents", condition="class", held_out=0.3)
    assert latents.spec() == spec
    check_data(latents)
    after = latents.build().batch(draw(40))
    assert after.labels is not None
    assert torch.equal(after.labels, samples.labels)
    assert torch.equal(after.x, fake(samples).x.float())
    assert not (tmp_path / "latents" / "null.safetensors").exists()
    assert "data.classes = 4, the shards were made with 3" in refused(replace_fields(latents, classes=4).build)
    assert not said()


def replace_fields(source: ImagesConfig, **fields: Any) -> ImagesConfig:
    return ImagesConfig(**(source.model_dump() | fields))


def test_pictures_alone(tmp_path: Path) -> None:
    source = config(in_tars(tmp_path / "raw", 6), condition="none")
    assert not source.spec().conditional
    check_data(source)
    assert encode_all(source, tmp_path / "latents") == 6
    data = config(tmp_path / "latents", condition="none").build()
    assert (data.batch(draw(3)).prompts, data.prompts(draw(3))) == (None, None)
    assert 'data.condition = "caption", the shards were made with "none"' in refused(config(tmp_path / "latents").build)


def test_a_backbone_that_encodes_nothing_is_refused(tmp_path: Path) -> None:
    archive = config(in_tars(tmp_path / "raw", 6), condition="none").build()
    why = refused(lambda: list(archive.encode("0.tar", lambda samples: samples, tmp_path / "latents")))
    assert why == "the recipe's backbone encodes nothing ahead of training: it takes the data as they are"


# Sizes


def test_the_table_of_sizes_is_that_of_kohya_s_scripts() -> None:
    """Made anew from its description: sides in 64s, at most so many pixels, each as long as may be."""
    most, expected = 512 * 768, {(512, 768)}
    for width in range(384, 1025, 64):
        height = max(h for h in range(64, 1025, 64) if width * h <= most)
        expected |= {(height, width), (width, height)} if height >= 384 else set()
    assert set(bucket_sizes(512, 768, 64, 1024)) == expected
    # What sd-scripts' `make_bucket_resolutions((512, 512), 256, 1024, 64)` gives.
    wide = [(256, 1024), (256, 960), (256, 896), (256, 832), (320, 768), (320, 704), (384, 640), (448, 576), (512, 512)]
    assert bucket_sizes(512, 512, 64, 1024) == wide + [size[::-1] for size in wide[-2::-1]]
    # SDXL's own: the sizes of its table up to 2 : 1 that have as many pixels as their sides allow.
    sdxl = {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344)}
    assert sdxl <= set(bucket_sizes(1024, 1024, 64, 2048))
    for height, width, step in ((512, 512, 64), (480, 832, 16), (100, 100, 8)):
        for size in bucket_sizes(height, width, step, 4 * max(height, width)):
            assert size == (height, width) or (size[0] % step == size[1] % step == 0)
            assert size[0] * size[1] <= height * width


def test_the_nearest_size_is_nearest_by_ratio() -> None:
    sizes = bucket_sizes(512, 512, 64, 1024)
    for height, width in ((300, 301), (100, 400), (4000, 900), (512, 768), (768, 512), (10, 1000)):
        ratios = {
            size: max(size[0] * width / (size[1] * height), size[1] * height / (size[0] * width)) for size in sizes
        }
        assert ratios[nearest(sizes, height, width)] == pytest.approx(min(ratios.values()))
        turned = nearest(sizes, width, height)
        assert turned == nearest(sizes, height, width)[::-1]
    assert nearest([(512, 512), (256, 256)], 7, 7) == (512, 512)


def of_aspects(folder: Path) -> Path:
    """Twelve squares, six wide and three tall pictures; the middle of number i is of grey 10 i."""
    sizes = [(32, 32)] * 12 + [(32, 64)] * 6 + [(66, 30)] * 3
    files = {}
    for i, (height, width) in enumerate(sizes):
        files |= {f"{i:02d}.png": toned(10 * i, height, width), f"{i:02d}.txt": b"%d" % i}
    return write_tar(folder / "0.tar", files)


BUCKETS = {"buckets": True, "bucket_step": 8, "height": 16, "width": 16, "held_out": 0.2}


def test_all_samples_of_a_step_are_of_one_size_whoever_draws_them(tmp_path: Path) -> None:
    source = config(of_aspects(tmp_path / "raw"), **BUCKETS)
    spec = source.spec()
    assert spec.sizes == tuple((1, 3, *size) for size in bucket_sizes(16, 16, 8, 32))
    assert spec.shape in spec.sizes
    encode_all(source, tmp_path / "latents")
    latents = config(tmp_path / "latents", **BUCKETS)
    counts: Counter[tuple[int, ...]] = Counter()
    raw, encoded = source.build(), latents.build()
    for step in range(400):
        whole = Draw.whole(0, "stage", step, "0-student", 8)
        parts = [part for process in range(2) for part in whole.split(2, process, 2)]
        found = [raw.batch(part.child("data")) for part in parts]
        shapes = {tuple(samples.x.shape[3:]) for samples in found}
        assert len(shapes) == 1
        counts[shapes.pop()] += 1
        if step < 30:
            for part, samples in zip(parts, found, strict=True):
                after = encoded.batch(part.child("data"))
                assert torch.equal(after.x, fake(samples).x.float())
                assert torch.equal(after.prompts.text, fake(samples).prompts.text)
                assert samples.prompts == [str(grey // 10) for grey in greys(samples.x)]
    wide, tall = nearest([s[2:] for s in spec.sizes], 32, 64), nearest([s[2:] for s in spec.sizes], 66, 30)
    assert set(counts) == {(16, 16), wide, tall}
    # By the share of samples: of some 9 to 10, 5 to 6 and 2 to 3 that are trained on.
    assert counts[16, 16] > counts[wide] > counts[tall] > 20


def test_samples_are_compared_at_one_size_and_every_sample_is_drawn_alike(tmp_path: Path) -> None:
    source = config(of_aspects(tmp_path / "raw"), **BUCKETS)
    encode_all(source, tmp_path / "latents")
    latents = config(tmp_path / "latents", **BUCKETS)
    check_data(source)
    splits = everything(source)
    assert sorted(greys(splits[0].x) + greys(splits[1].x)) == [10 * i for i in range(12)]
    assert [torch.equal(fake(a).x.float(), b.x) for a, b in zip(splits, everything(latents), strict=True)] == [True] * 2
    data, drawn = source.build(), Counter()
    for step in range(600):
        drawn.update(data.batch(draw(4, step)).prompts)
    # 2400 draws of about 17 samples; 4 of a step are of one size, which widens the spread.
    mean = 2400 / len(drawn)
    assert len(drawn) >= 15
    assert all(0.6 * mean < number < 1.4 * mean for number in drawn.values())
    assert {str(i) for i in range(21)} - set(drawn) == set(data.prompts(draw(200)))


def test_encoded_json_names_the_latent_of_each_size(tmp_path: Path) -> None:
    encode_all(config(of_aspects(tmp_path / "raw"), **BUCKETS), tmp_path / "latents")
    facts = json.loads((tmp_path / "latents" / "encoded.json").read_text())
    assert facts["latents"] == {"16 x 16": [1, 3, 2, 2], "8 x 24": [1, 3, 1, 3], "24 x 8": [1, 3, 3, 1]}
    assert "latent" not in facts
    assert facts["others"] == {"mask": [[6], "bool"], "pooled": [[2], "float"]}
    assert "data.buckets = false, the shards were made with true" in refused(config(tmp_path / "latents").build)
    path = tmp_path / "latents" / "encoded.json"
    path.write_text(json.dumps(facts | {"latents": {"16 x 16": [1, 3, 2, 2]}}))
    # What is of no size that the folder says it has is a fault.
    data = config(tmp_path / "latents", **BUCKETS).build()
    assert {tuple(data.batch(draw(2, step)).x.shape) for step in range(20)} == {(2, 1, 3, 2, 2)}


def test_where_no_picture_is_of_the_size_that_is_compared_the_sizes_are_named(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "raw" / "0.tar", {"a.png": shot(0, 32, 64), "a.txt": b"a", "b.png": shot(0, 32, 64), "b.txt": b"b"}
    )
    why = refused(lambda: config(tmp_path / "raw", **BUCKETS).build().batch(draw(2)))
    assert (
        "no sample comes to 16 x 16, the size in which samples are made and compared; most come to 8 x 24 (2): " in why
    )


def test_a_size_none_of_whose_samples_can_be_used_gives_way(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    folder = of_aspects(tmp_path / "raw")
    cut = shot(7, 30, 66)[:-30]
    write_tar(folder / "1.tar", {"x.png": cut, "x.txt": b"x", "y.png": shot(7, 90, 30), "z.png": b"no", "z.txt": b"z"})
    source = config(folder, **BUCKETS)
    shapes = {tuple(source.build().batch(draw(2, step)).x.shape[3:]) for step in range(60)}
    assert len(shapes) == 3
    assert any("z: cannot be read as an image: it is none of PNG, JPEG, WEBP" in text for text in said())


@pytest.mark.parametrize(("fit", "row"), [("crop", [120] * 4), ("stretch", [0, 120, 120, 240])])
def test_the_fit_is_that_of_the_fields(fit: str, row: list[int], tmp_path: Path) -> None:
    thirds = np.repeat(np.array([0, 120, 240], dtype=np.uint8), 32)[None, :, None].repeat(32, 0).repeat(3, 2)
    write(tmp_path, {"a.png": stored(Image.fromarray(thirds)), "a.txt": b"a"})
    x = to_uint8(config(tmp_path, fit=fit).build().batch(draw(1)).x)[0, 0, 0, SIZE // 2]
    assert [int(x[i]) for i in (3, 6, 9, 12)] == row


def test_small_pictures_are_counted_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{i:02d}.png": shot(10 * i, 8 if i < 12 else SIZE, SIZE) for i in range(20)}
    write(tmp_path, files)
    with caplog.at_level(logging.WARNING, "flowmap"):
        everything(config(tmp_path, condition="none"))
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert texts[0].endswith('is 8 x 16, smaller than 16 x 16: it is enlarged (data.small = "skip" leaves such out)')
    assert "with 9 before it, it is enlarged" in texts[1]
    train, held_out = everything(config(tmp_path, condition="none", small="skip", held_out=0.4))
    assert len(train.x) + len(held_out.x) == 8


# Faults of a picture


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG of some hundred bytes that says that it has 40,000 x 40,000 pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def noise(form: str = "PNG", **how: Any) -> bytes:
    return stored(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), form, **how)


def frames(form: str) -> bytes:
    first, *others = (Image.new("RGB", (SIZE, SIZE), (grey, 0, 0)) for grey in (0, 100, 200))
    return stored(first, form, save_all=True, append_images=others)


def glass() -> bytes:
    """White in front of nothing on the left, opaque grey on the right."""
    pixels = np.full((SIZE, SIZE, 4), (255, 255, 255, 0), dtype=np.uint8)
    pixels[:, SIZE // 2 :] = (90, 90, 90, 255)
    return stored(Image.fromarray(pixels))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read as an image: it is none of PNG, JPEG, WEBP"),
    "a text": (b"hello" * 100, "cannot be read as an image: it is none of PNG, JPEG, WEBP"),
    "a gif": (frames("GIF"), "cannot be read as an image: it is none of PNG, JPEG, WEBP"),
    "a cut jpeg": (noise("JPEG")[:-500], "cannot be read as an image: "),
    "a cut png": (noise()[:-500], "cannot be read as an image: "),
    "a cut webp": (noise("WEBP")[:-500], "cannot be read as an image: "),
    "a damaged png": (noise()[:300] + bytes(40) + noise()[340:], "cannot be read as an image: "),
    "a bomb": (bomb(), "pixels"),
    "animated png": (frames("PNG"), "it is animated, or has pages: 3 pictures, and nothing says which is meant"),
    "animated webp": (frames("WEBP"), "it is animated, or has pages: 3 pictures, and nothing says which is meant"),
    "glass": (glass(), "50.00% of its pixels are transparent, and nothing says what is behind them; flatten it"),
    "inks": (stored(Image.new("CMYK", (SIZE, SIZE)), "JPEG"), "its colours are inks (CMYK) without a profile"),
    "a profile of nothing": (shot(icc_profile=b"nothing"), "its colour profile cannot be read"),
    "turned by nothing": (
        shot(form="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0"),
        "its EXIF orientation is 9, which is none of 1 to 8",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_with_a_picture_is_named(kind: str, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    content, reason = BAD[kind]
    write(tmp_path, {"bad.png": content, "a.png": shot(40), "b.png": shot(80)})
    assert greys_of(config(tmp_path, condition="none")) == [40, 80]
    assert len(said()) == 1
    assert said()[0].startswith(f"skipped {tmp_path}: bad: ")
    assert reason in said()[0]
    encode_all(config(tmp_path, condition="none"), tmp_path / "latents")
    (line,) = map(json.loads, (tmp_path / "latents" / "faults.jsonl").read_text().splitlines())
    assert (line["key"], reason in line["reason"]) == ("bad", True)
    assert line["tar"].endswith(".tar")
    assert (tmp_path / "latents" / line["tar"]).exists()


def turned(number: int) -> bytes:
    """A picture 16 high and 32 wide whose left half is dark once it is upright, stored as orientation `number`."""
    upright = Image.new("RGB", (32, 16), (200, 200, 200))
    upright.paste((40, 40, 40), (0, 0, 16, 16))
    moves = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = upright.transpose(moves[number]) if number in moves else upright
    exif = Image.Exif()
    exif[0x0112] = number
    return stored(image, exif=exif)


def deep() -> bytes:
    """A ramp of 16 bits from black to white."""
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(256, 0)
    return stored(Image.fromarray(ramp))


@pytest.mark.parametrize("number", [1, 3, 6, 8])
def test_pictures_are_upright_and_go_to_the_bucket_that_they_are_then_of(number: int, tmp_path: Path) -> None:
    write(tmp_path, {"a.png": turned(number), "b.png": shot(0), "c.png": shot(0)})
    source = config(tmp_path, condition="none", **(BUCKETS | {"held_out": 0.01}))
    found = [source.build().batch(draw(3, step)).x for step in range(20)]
    wide = next(x for x in found if x.shape[-1] > x.shape[-2])
    row = to_uint8(wide)[0, 0, 0, 4].tolist()
    assert len(row) == 24
    assert row[:9] + row[15:] == [40] * 9 + [200] * 9


def test_what_is_well_defined_is_converted(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(256, 0))
    palette = Image.new("P", (SIZE, SIZE), 3)
    palette.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 9, 99, 199])
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    blue = Image.new("RGB", (SIZE, SIZE), (9, 99, 199))
    clear = Image.new("RGBA", (SIZE, SIZE), (9, 99, 199, 255))
    cases: dict[str, tuple[bytes, Any]] = {
        "deep": (deep(), None),
        "grey": (stored(ramp), None),
        "palette": (stored(palette), [9, 99, 199]),
        "bits": (stored(Image.new("1", (SIZE, SIZE), 1)), [255, 255, 255]),
        "profile": (stored(blue, icc_profile=srgb), [9, 99, 199]),
        "opaque": (stored(clear), [9, 99, 199]),
        "named otherwise": (stored(blue, "WEBP", lossless=True), [9, 99, 199]),
    }
    for name, (content, color_of) in cases.items():
        folder = write(tmp_path / name, {"a.png": content})
        size = 256 if color_of is None else SIZE
        x = to_uint8(config(folder, condition="none", height=size, width=size).build().batch(draw(1)).x)[0, 0]
        if color_of is None:
            assert torch.equal(x, torch.arange(256).to(torch.uint8).expand(3, 256, 256)), name
        else:
            assert x[:, 3, 3].tolist() == color_of, name
    assert not said()


@pytest.mark.parametrize(("behind", "grey"), [("white", 255), ("black", 0)])
def test_what_shows_through_is_what_one_asks_for(behind: str, grey: int, tmp_path: Path) -> None:
    write(tmp_path, {"a.png": glass()})
    x = to_uint8(config(tmp_path, condition="none", transparent=behind).build().batch(draw(1)).x)[0, 0]
    assert x[:, 4, 2].tolist() == [grey] * 3
    assert x[:, 4, -2].tolist() == [90] * 3


# Faults of captions, classes and tables

WORDS: dict[str, tuple[Files, str]] = {
    "none": ({}, "it has no .txt or .json, where its caption would be"),
    "empty": ({"bad.txt": b" \n"}, "its .txt is empty"),
    "no UTF-8": ({"bad.txt": b"caf\xe9"}, "its .txt is no UTF-8 (byte 4)"),
    "half": ({"bad.json": b'{"caption": "\\ud800"}'}, "its 'caption' has half of a character"),
    "a NUL": ({"bad.txt": b"a\0b"}, "its .txt has a NUL character in it"),
    "long": ({"bad.txt": b"a" * 100_001}, "its .txt has 100001 characters, more than the 100000"),
    "no JSON": ({"bad.json": b"{"}, "its .json is no JSON"),
    "another field": ({"bad.json": b'{"text": "a"}'}, "its .json has no 'caption'"),
    "a number": ({"bad.json": b'{"caption": 3}'}, "its 'caption' is neither a string nor a list of strings"),
}


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("tars", [True, False])
def test_what_is_wrong_with_a_caption_is_named(
    kind: str, tars: bool, tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    files, reason = WORDS[kind]
    files = {"bad.png": shot(0), **files} | {
        f"{c}.{s}": shot(40) if s == "png" else b"fine" for c in "ab" for s in ("png", "txt")
    }
    where = write_tar(tmp_path / "raw" / "0.tar", files) if tars else write(tmp_path / "raw", files)
    assert texts_of(config(where)) == ["fine"]
    assert len(said()) == 1
    assert reason in said()[0]


def test_two_pictures_of_one_name_and_captions_of_none(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    files = {
        "a.png": shot(0),
        "a.jpg": shot(0, form="JPEG"),
        "a.txt": b"a",
        "b.txt": b"b",
        "c.png": shot(0),
        "c.txt": b"c",
    }
    files |= {"d.gif": frames("GIF"), "d.txt": b"d", "readme.md": b"x", "._c.png": b"x", "e.bmp": b"x"}
    for where in (write(tmp_path / "loose", files), write_tar(tmp_path / "tars" / "0.tar", files)):
        before = len(said())
        assert texts_of(config(where)) == ["c"]
        texts = said()[before:]
        assert any("1 of its files are no part of a sample and not read: e.bmp" in text for text in texts)
        assert any("a: there are .jpg and .png of this name, and nothing says which is meant" in text for text in texts)
        for key in "bd":
            assert any(f" {key}: it has no .jpg or .jpeg or .png or .webp" in text for text in texts)
        assert len(texts) == 4


def test_lines_of_a_table_are_held_to_what_is_there(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    lines = [
        '{"file_name": "a.png", "caption": "a"}',
        "{",
        "[3]",
        '{"caption": "x"}',
        '{"file_name": "none.png", "caption": "x"}',
        '{"file_name": "../raw/a.png", "caption": "x"}',
        '{"file_name": "/etc/passwd.png", "caption": "x"}',
        '{"file_name": "../../x.png", "caption": "x"}',
        '{"file_name": "b.png", "caption": "b"}',
        '{"file_name": "sub/../b.png", "caption": "b again"}',
        '{"file_name": "c.png", "caption": "c"}',
        '{"file_name": "e.png"}',
    ]
    files = {f"{name}.png": shot(0) for name in "abcde"}
    table = "\n".join(lines).encode() + b'\n{"file_name": "\xff"}'
    write(tmp_path / "raw", files | {"metadata.jsonl": table, "c.txt": b"c"})
    write(tmp_path / "raw" / "deeper", {"f.png": shot(0), "metadata.jsonl": b'{"file_name": "f.png", "caption": "f"}'})
    assert texts_of(config(tmp_path / "raw")) == ["a", "f"]
    texts = [text.removeprefix(f"skipped {tmp_path}/raw") for text in said()]
    assert sorted(texts) == [
        "/metadata.jsonl: line 13 is no UTF-8",
        "/metadata.jsonl: line 2 is no JSON",
        "/metadata.jsonl: line 3 has no 'file_name' that names a picture",
        "/metadata.jsonl: line 4 has no 'file_name' that names a picture",
        "/metadata.jsonl: line 5 names 'none.png', which is not there",
        "/metadata.jsonl: line 6 names '../raw/a.png', which is outside of the folder",
        "/metadata.jsonl: line 7 names '/etc/passwd.png', which is outside of the folder",
        "/metadata.jsonl: line 8 names '../../x.png', which is outside of the folder",
        ": b: line 10 of metadata.jsonl names it again, and nothing says which is meant",
        ": c: it has a .txt and a line in metadata.jsonl; remove one of them",
        ": d: it has no .txt or .json, where its caption would be",
        ": e: its .json has no 'caption'",
    ]
    encode_all(config(tmp_path / "raw"), tmp_path / "latents")
    recorded = [json.loads(line) for line in (tmp_path / "latents" / "faults.jsonl").read_text().splitlines()]
    assert Counter(line["tar"] for line in recorded)["metadata.jsonl"] == 8
    assert len(recorded) == 12


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"name,caption\na.png,a", "its first line has no 'file_name', the column that names pictures"),
        (b"file_name,caption\na.png,a,b,c", "line 2 has not as many columns as the first one"),
        (b"file_name,caption\na.png", "line 2 has not as many columns as the first one"),
        (b"file_name,caption\na.png,caf\xe9", "it is no UTF-8; what follows is not read"),
        (b"file_name,caption\na.png," + b"x" * 200_000, "it is no CSV (field larger than field limit"),
    ],
)
def test_a_table_that_is_none_is_said(table: bytes, reason: str, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    write(tmp_path, {"a.png": shot(0), "metadata.csv": table})
    assert everything(config(tmp_path)) == []
    assert reason in said()[0]


@pytest.mark.parametrize("found", [b"7", b"-1", b"cat", b"", b"1.0", b"\xff", b"99999999999999999999"])
def test_a_class_is_one_of_those_there_are(found: bytes, tmp_path: Path, said: Callable[[], list[str]]) -> None:
    write(tmp_path, {"a.png": shot(0), "a.cls": found, "b.png": shot(0), "b.cls": b"6", "metadata.csv": b"file_name"})
    (samples,) = everything(config(tmp_path, condition="class", classes=7))
    assert samples.labels is not None
    assert samples.labels.tolist() == [6]
    assert any("a: its .cls is " in t and "not a number from 0 to 6 (data.classes)" in t for t in said())


def test_folders_of_classes_without_pictures_and_pictures_without_a_class(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    as_classes(tmp_path, 9)
    write(tmp_path, {"loose.png": shot(0), ".cache/x.png": shot(0)})
    (tmp_path / "dog").mkdir()
    source = config(tmp_path, condition="class")
    assert source.spec().classes == 4
    everything(source)
    assert said() == [
        f"skipped {tmp_path}: 1 of its classes have no picture: dog",
        f"skipped {tmp_path}: loose: it lies in no class's folder",
    ]
    (finding,) = config(in_tars(tmp_path / "tars", 4), condition="class").missing()
    assert finding.field == ("classes",)
    assert "nothing says how many classes there are" in finding.message


# Faults of places


def test_what_is_no_place_of_pictures_says_what_would_be(tmp_path: Path) -> None:
    write(tmp_path, {"empty/readme.txt": b"x", "both/a.png": shot(0)})
    write_tar(tmp_path / "both" / "0.tar", {"a.png": shot(0)})
    saved(tmp_path / "splits" / "train", 4)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for place, reason in (
        ("nowhere", "no .tar file or folder matches"),
        (
            "empty",
            "Read are pictures (jpg, jpeg, png, webp) in tars or in folders, each with its caption",
        ),
        ("both", "has tars, and pictures beside them (a.png); move either to a folder of its own"),
        ("splits", f"has a dataset's splits (train); name one of them: {tmp_path / 'splits'}/train"),
    ):
        (finding,) = config(tmp_path / place).missing()
        assert (finding.level, reason in finding.message) == ("error", True)
        assert finding.message in refused(config(tmp_path / place).build)


def test_a_saved_dataset_names_the_column_that_is_meant(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    pictures = [{"bytes": shot(20 * i), "path": None} for i in range(4)]
    pictures[1] = {"bytes": None, "path": "/elsewhere/x.png"}
    features = {"img": {"_type": "Image"}, "text": {"_type": "Value", "dtype": "string"}}
    rows: dict[str, list[Any]] = {"img": [*pictures, None], "text": [*"abcd", "e"]}
    folder = write_dataset(tmp_path / "saved", rows, features, files=1)
    why = refused(config(folder).build)
    assert why == f"data.image: the dataset {folder} has no column 'image'; it has img, text. Did you mean 'img'?"
    assert "Did you mean 'text'?" in refused(config(folder, image="img").build)
    assert "column 'text' of" in refused(config(folder, image="text", caption="text").build)
    assert texts_of(config(folder, image="img", caption="text")) == ["a", "c", "d"]
    assert sorted(text.rsplit(": ", 1)[1] for text in said()) == [
        "it has no picture (null)",
        "its bytes are not in the dataset, only a path",
    ]
    file = folder / "data-00000-of-00001.arrow"
    data = config(folder, image="img", caption="text").build()
    file.write_bytes(file.read_bytes()[:-400])
    assert "was cut or replaced while it was in use" in refused(lambda: data.batch(draw(1)))
    assert len(texts_of(config(folder, image="img", caption="text"))) < 3
    assert any(text.startswith(f"skipped {file}: it is cut off or damaged (") for text in said())


def test_what_the_datasets_library_saved_is_read() -> None:
    """Written by its 5.2.0: `select` and `shuffle` of ten pictures of grey 20 i, captions "grey i", class i % 3."""
    source = config(Path(__file__).parent / "golden" / "images" / "saved_dataset")
    assert greys_of(source) == [20 * i for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    for samples in everything(source):
        assert samples.prompts == [f"grey {grey // 20}" for grey in greys(samples.x)]
    classes = replace_fields(source, condition="class")
    assert classes.spec().classes == 3
    for samples in everything(classes):
        assert samples.prompts.tolist() == [grey // 20 % 3 for grey in greys(samples.x)]


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "saved", 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (finding,) = config(folder).missing()
    assert "pip install 'flowmap[arrow]'" in finding.message
    assert finding.message in refused(config(folder).build)


def test_encoding_goes_on_after_pictures_have_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a folder are told by what is in them: what has changed is encoded anew, and is not there twice."""
    monkeypatch.setattr("flowmap_images.folders._PER_PART", 4)
    source = config(beside(tmp_path / "raw", 16))
    parts = source.build().parts()
    assert len(parts) == 4
    encode_all(source, tmp_path / "latents")
    write(tmp_path / "raw", {"in/more.png": shot(250), "in/more.txt": b"more"})
    write(tmp_path / "raw", {"in/00.txt": b"longer than it was"})
    now = config(tmp_path / "raw").build().parts()
    gone = sorted(set(parts) - set(now))
    assert 1 <= len(gone) <= len(set(now))
    why = refused(lambda: encode_all(source, tmp_path / "latents"))
    assert f"as it is now ({gone[0]}); remove them, or choose another folder" in why


def test_names_in_any_encoding_and_links(tmp_path: Path) -> None:
    write(tmp_path / "raw", {"ü/ö.png": shot(20), "ü/ö.txt": "ä".encode()})
    odd = os.fsencode(tmp_path / "raw") + b"/caf\xe9"
    for suffix, content in ((b".png", shot(40)), (b".txt", b"coffee")):
        with open(odd + suffix, "wb") as file:
            file.write(content)
    (tmp_path / "raw" / "round").symlink_to(tmp_path / "raw" / "ü", target_is_directory=True)
    source = config(tmp_path / "raw", held_out=0.01)
    assert sorted(text for samples in everything(source) for text in samples.prompts) == ["coffee", "ä", "ä"]
    assert encode_all(source, tmp_path / "latents") == 3
    assert sum(len(samples.x) for samples in everything(config(tmp_path / "latents"))) == 3


def test_fields_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is shorter than a side of height x width = 512 x 768"):
        ImagesConfig(path="x", height=512, width=768, longest_side=700)
    with pytest.raises(ValidationError, match="bucket_step = 4 makes 513 buckets, more than 256"):
        ImagesConfig(path="x", height=1024, width=1024, buckets=True, bucket_step=4)


# The rehearsal's twin


@pytest.mark.parametrize("condition", ["caption", "class", "none"])
@pytest.mark.parametrize("buckets", [False, True])
def test_the_twin_for_a_rehearsal(condition: str, buckets: bool, tmp_path: Path) -> None:
    source = ImagesConfig(path="nowhere", condition=condition, buckets=buckets, classes=5 * (condition == "class"))
    tiny = source.rehearsed(tmp_path)
    assert not list(tiny.missing())
    side = 64 if buckets else 32
    assert tiny.spec().shape == (1, 3, side, side)
    assert (tiny.spec().text, tiny.spec().classes) == (source.spec().text, source.spec().classes)
    assert bool(tiny.spec().sizes) == buckets
    check_data(tiny)
    data = tiny.build()
    assert len({tuple(data.batch(draw(2, step)).x.shape) for step in range(30)}) == (3 if buckets else 1)
    assert len(data.reference("held_out", 99).x) >= 2
    assert source.rehearsed(tmp_path) == tiny
