"""What clips and pictures say of themselves: honoured, or a named fault; and what ours say."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from torch import Tensor

from flowmap.errors import ClipError
from flowmap.plugin import SampleSpec
from flowmap.video import clip_as, image_as, pacing, stills, write_mp4
from flowmap.video import frames as frames_module
from flowmap.video.pictures import png

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 32
SPEC = SampleSpec((1, 3, SIDE, SIDE), fps=16.0)
ORANGE = (200, 60, 30)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ONE, UNIT = 1 << 16, 1 << 30  # of a display matrix


def quarters(side: int = SIDE) -> NDArray[np.uint8]:
    """Red and green above, blue and white below."""
    half = side // 2
    picture = np.zeros((side, side, 3), np.uint8)
    picture[:half, :half], picture[:half, half:], picture[half:, :half], picture[half:, half:] = RED, GREEN, BLUE, WHITE
    return picture


def letters(pixels: Tensor) -> str:
    """The colours of the quarters of `[3, H, W]`, row by row."""
    names = {RED: "R", GREEN: "G", BLUE: "B", WHITE: "W"}
    on = 255 * (pixels > 127).int()
    down, across = (size // 4 for size in pixels.shape[1:])
    places = [(y, x) for y in (down, 3 * down) for x in (across, 3 * across)]
    return "".join(names.get(tuple(on[:, y, x].tolist()), "?") for y, x in places)


def film(
    picture: NDArray[np.uint8],
    *,
    codec: str = "libx264",
    container: str = "mp4",
    layout: str = "yuv420p",
    matrix: int = 5,
    full: bool = False,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    change: Callable[[Any], Any] = lambda stream: None,
    number: int = 5,
) -> bytes:
    """A clip of `picture` (RGB or RGBA), coded by swscale's `matrix` and range, that says `tags` of its colours."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=16)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], layout
        stream.options = options or ({"crf": "1"} if codec == "libx264" else {})
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        change(stream)
        for _ in range(number):
            kind = "rgba" if picture.shape[2] == 4 else "rgb24"
            given = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=kind)
            coded = given.reformat(format=layout, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            out.mux(stream.encode(coded))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def tagged(matrix: int, full: bool = False, primaries: int = 2, transfer: int = 2) -> dict[str, int]:
    return {
        "colorspace": matrix,
        "color_range": 2 if full else 1,
        "color_primaries": primaries,
        "color_trc": transfer,
    }


def plain(colour: tuple[int, ...] = ORANGE, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, len(colour)))


def read(content: bytes, number: int = 1, spec: SampleSpec = SPEC) -> Tensor:
    return clip_as(io.BytesIO(content), number, spec)


def middle(content: bytes) -> list[int]:
    return read(content)[0, :, SIDE // 2, SIDE // 2].tolist()


def fault(content: bytes, spec: SampleSpec = SPEC) -> str:
    with pytest.raises(ClipError) as caught:
        read(content, spec=spec)
    return str(caught.value)


def with_display(content: bytes, *matrix: int) -> bytes:
    """An mp4 with another display matrix, of nine numbers."""
    start = content.index(b"tkhd")
    place = start + 8 + (32 if content[start + 4] else 20) + 16
    return content[:place] + struct.pack(">9i", *matrix) + content[place + 36 :]


# Turned and mirrored

TURNS = {
    "as it is": ((ONE, 0, 0, ONE), "RGBW"),
    "rotated by 90": ((0, ONE, -ONE, 0), "BRWG"),
    "rotated by 180": ((-ONE, 0, 0, -ONE), "WBGR"),
    "rotated by 270": ((0, -ONE, ONE, 0), "GWRB"),
    "left for right": ((-ONE, 0, 0, ONE), "GRWB"),
    "upside down": ((ONE, 0, 0, -ONE), "BWRG"),
    "transposed": ((0, ONE, ONE, 0), "RBGW"),
    "transposed across": ((0, -ONE, -ONE, 0), "WGBR"),
    "rotated and twice as large": ((0, 2 * ONE, -2 * ONE, 0), "BRWG"),
}


@pytest.mark.parametrize("kind", TURNS)
def test_clips_are_turned_and_mirrored_as_their_display_matrix_says(kind: str) -> None:
    (a, b, c, d), expected = TURNS[kind]
    content = with_display(film(quarters()), a, b, 0, c, d, 0, 0, 0, UNIT)
    assert letters(read(content)[0]) == expected


@pytest.mark.parametrize("matrix", [(ONE, ONE, -ONE, ONE), (ONE, ONE // 2, 0, ONE), (0, 0, 0, 0), (ONE, 0, ONE, 0)])
def test_a_display_matrix_that_is_no_right_angle_is_a_fault(matrix: tuple[int, ...]) -> None:
    a, b, c, d = matrix
    assert "turned by less than a right angle" in fault(with_display(film(quarters()), a, b, 0, c, d, 0, 0, 0, UNIT))


def test_a_turned_clip_of_another_shape_is_cropped_as_it_is_seen() -> None:
    """A clip of 32 x 96 that lies on its side is one of 96 x 32: its middle third is kept, as of one that stands."""
    wide = np.repeat(np.stack([RED, GREEN, BLUE]).astype(np.uint8), SIDE, axis=0)[None].repeat(SIDE, 0)
    turned = with_display(film(wide), 0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT)
    assert letters(read(turned)[0]) == "GGGG"


EXIF = {1: "RGBW", 2: "GRWB", 3: "WBGR", 4: "BWRG", 5: "RBGW", 6: "BRWG", 7: "WGBR", 8: "GWRB"}


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [0, *EXIF])
def test_pictures_are_turned_and_mirrored_as_exif_says(orientation: int, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"quality": 100} if ending == "webp" else {}
    Image.fromarray(quarters()).save(tmp_path / f"a.{ending}", exif=exif, **how)
    assert letters(image_as(tmp_path / f"a.{ending}", SPEC)[0]) == EXIF.get(orientation, "RGBW")


def test_an_orientation_that_there_is_not_is_a_fault(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", exif=exif)
    assert "its EXIF orientation is 9, which is none of 1 to 8" in image_fault(tmp_path / "a.jpg")


def image_fault(path: Path) -> str:
    with pytest.raises(ClipError) as caught:
        image_as(path, SPEC)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


# The shape of pixels


def ring(height: int, width: int) -> NDArray[np.uint8]:
    """A white disc in the middle, half as high and half as wide as the picture."""
    y, x = np.ogrid[:height, :width]
    inside = ((y - height / 2) / (height / 4)) ** 2 + ((x - width / 2) / (width / 4)) ** 2 < 1
    return np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, 2)


def extent(pixels: Tensor) -> tuple[int, int]:
    """How high and how wide the disc is in `[3, H, W]`."""
    white = pixels[0] > 127
    return int(white.any(1).sum()), int(white.any(0).sum())


@pytest.mark.parametrize("turned", [False, True])
def test_clips_of_oblong_pixels_are_seen_in_their_shape(turned: bool) -> None:
    """64 x 32 pixels, each twice as high as wide (1:2), show a square, in which the disc is a circle."""

    def oblong(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)

    content = film(ring(SIDE, 2 * SIDE), change=oblong)
    if turned:
        content = with_display(content, 0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT)
    high, wide = extent(read(content)[0])
    assert abs(high - wide) <= 1
    assert abs(high - SIDE // 2) <= 2
    # Squashed to size, the shape of pixels is lost with that of the frame.
    squashed = SampleSpec((1, 3, SIDE, SIDE), fps=16.0, fit="stretch")
    assert abs(extent(read(content, spec=squashed)[0])[0] - SIDE // 2) <= 2


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("png", {"dpi": (144, 72)}),
        ("jpg", {"dpi": (144, 72)}),
        ("tiff", {"dpi": (144, 72)}),
        ("bmp", {"dpi": (144, 72)}),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_pictures_of_oblong_pixels_are_seen_in_their_shape(
    ending: str, how: dict[str, Any], orientation: int, tmp_path: Path
) -> None:
    """Twice as many pixels in an inch across as down: each is half as wide as high."""
    if orientation != 1:
        if ending == "bmp":
            pytest.skip("a BMP has no orientation")
        exif = Image.Exif()
        exif[0x0112] = orientation
        how = how | {"exif": exif}
    Image.fromarray(ring(SIDE, 2 * SIDE)).save(tmp_path / f"a.{ending}", **how)
    high, wide = extent(image_as(tmp_path / f"a.{ending}", SPEC)[0])
    assert abs(high - wide) <= 1
    assert abs(high - SIDE // 2) <= 2


def test_pixels_that_no_camera_makes_are_a_fault(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "a.png", dpi=(10, 10000))
    assert "its pixels are 999 times as wide as high" in image_fault(tmp_path / "a.png")


# Colours of clips

MATRICES = {"BT.709": (1, 1), "BT.601 (525)": (6, 5), "BT.601 (625)": (5, 5), "FCC": (4, 4), "SMPTE 240M": (7, 7)}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", [*MATRICES, "BT.2020"])
def test_the_matrix_and_the_range_that_a_clip_names_are_taken(kind: str, full: bool) -> None:
    named, swscale = {**MATRICES, "BT.2020": (9, 9)}[kind]
    content = film(plain(), matrix=swscale, full=full, tags=tagged(named, full))
    assert middle(content) == pytest.approx(ORANGE, abs=4)


@pytest.mark.parametrize(("height", "width", "matrix"), [(32, 32, 5), (576, 720, 5), (720, 1280, 1), (1088, 608, 1)])
def test_a_clip_that_names_none_is_taken_as_players_do(height: int, width: int, matrix: int) -> None:
    assert middle(film(plain(ORANGE, height, width), matrix=matrix)) == pytest.approx(ORANGE, abs=4)


@pytest.mark.parametrize("layout", ["yuv420p10le", "yuv422p10le", "yuv444p", "yuv444p10le", "nv12"])
def test_more_bits_and_finer_chroma_are_the_same_colours(layout: str) -> None:
    assert middle(film(plain(), layout=layout, matrix=1, tags=tagged(1, False, 1, 1))) == pytest.approx(ORANGE, abs=4)


@pytest.mark.parametrize(
    ("codec", "container", "layout"),
    [
        *(("ffv1", "matroska", layout) for layout in ("bgr0", "yuv420p12le", "yuv420p16le", "gbrp16le")),
        *(("png", "mov", layout) for layout in ("rgb24", "rgb48be")),
        ("mjpeg", "avi", "yuvj420p"),
        ("mpeg4", "mpegts", "yuv420p"),
        ("libvpx-vp9", "webm", "yuv420p"),
        ("prores_ks", "mov", "yuv422p10le"),
    ],
)
def test_other_codecs_show_the_same_colours(codec: str, container: str, layout: str) -> None:
    full = layout == "yuvj420p"
    assert middle(film(plain(), codec=codec, container=container, layout=layout, full=full)) == pytest.approx(
        ORANGE, abs=6
    )


REFUSED = {
    "PQ": (tagged(9, False, 9, 16), "by PQ (HDR)"),
    "HLG": (tagged(9, False, 9, 18), "by HLG (HDR)"),
    "linear": (tagged(1, False, 1, 8), "by linear light"),
    "BT.2020": (tagged(9, False, 9, 14), "those of BT.2020"),
    "P3": (tagged(1, False, 12, 1), "those of Display P3"),
    "constant luminance": (tagged(10, False, 1, 1), "(BT.2020 constant luminance)"),
    "YCgCo": (tagged(8, False, 1, 1), "(YCgCo)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_colours_that_are_not_a_screens_are_a_fault(kind: str) -> None:
    tags, reason = REFUSED[kind]
    assert reason in fault(film(plain(), tags=tags))
    assert "convert it to BT.709" in fault(film(plain(), tags=tags))


def test_transparent_clips_are_a_fault_and_opaque_ones_none() -> None:
    opaque, clear = plain((*ORANGE, 255)), np.array(plain((*ORANGE, 255)))
    clear[:4] = (9, 9, 9, 0)
    for codec, container, layout in (
        ("png", "mov", "rgba"),
        ("qtrle", "mov", "argb"),
        ("prores_ks", "mov", "yuva444p10le"),
        ("ffv1", "matroska", "yuva420p"),
    ):
        how = {"codec": codec, "container": container, "layout": layout}
        assert middle(film(opaque, **how)) == pytest.approx(ORANGE, abs=4)
        assert "12.50% of its pixels are transparent" in fault(film(clear, **how))


def test_transparency_beside_the_pictures_is_a_fault() -> None:
    clear = plain((*ORANGE, 0))
    assert "(alpha_mode)" in fault(film(clear, codec="libvpx-vp9", container="webm", layout="yuva420p"))


def test_interlaced_clips_are_a_fault() -> None:
    content = film(quarters(), options={"crf": "1", "x264-params": "interlaced=1"})
    assert "it is interlaced" in fault(content)


def test_two_pictures_in_a_frame_are_a_fault() -> None:
    content = film(quarters(), options={"crf": "1", "x264-params": "frame-packing=3"})
    assert "two pictures, one for each eye" in fault(content)


def test_a_cover_is_not_taken_for_a_clip() -> None:
    """A song with a picture of its cover."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        song, cover = out.add_stream("aac", rate=8000), out.add_stream("mjpeg", rate=16)
        cover.height = cover.width = SIDE
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(plain()), format="rgb24")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        out.mux([*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode(None)])
        out.mux([*song.encode(silence), *song.encode(None)])
    content = buffer.getvalue()
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic
    assert fault(content) == "it has no video in it"


# Colours of pictures


def profile(of: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(of)).tobytes()


def swapped_profile() -> bytes:
    """sRGB's profile with the colours of its red and green exchanged."""
    content = profile()
    return content.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)


def test_a_colour_profile_is_honoured(tmp_path: Path) -> None:
    for name, icc, expected in (("srgb", profile(), "RGBW"), ("swapped", swapped_profile(), "GRBW")):
        for ending in ("png", "jpg", "webp", "tiff"):
            how = {"lossless": True} if ending == "webp" else {}
            path = tmp_path / f"{name}.{ending}"
            Image.fromarray(quarters()).save(path, icc_profile=icc, **how)
            assert letters(image_as(path, SPEC)[0]) == expected


def test_a_profile_that_cannot_be_read_or_is_of_other_colours_is_a_fault(tmp_path: Path) -> None:
    grey = Image.fromarray(quarters()).convert("L")
    for image, icc in ((Image.fromarray(quarters()), b"junk" * 50), (grey, profile()), (grey, profile("LAB"))):
        image.save(tmp_path / "a.png", icc_profile=icc)
        assert "its colour profile cannot be read" in image_fault(tmp_path / "a.png")


def test_inks_without_a_profile_are_a_fault(tmp_path: Path) -> None:
    Image.fromarray(quarters()).convert("CMYK").save(tmp_path / "a.jpg")
    assert "its colours are inks (CMYK)" in image_fault(tmp_path / "a.jpg")


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, SIDE, dtype=np.uint16)[None].repeat(SIDE, 0)
    for ending in ("png", "tiff"):
        Image.fromarray(values).save(tmp_path / f"a.{ending}")
        found = image_as(tmp_path / f"a.{ending}", SPEC)[0, 0, 0]
        assert (found - torch.linspace(0, 255, SIDE)).abs().max() <= 1
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "f.tiff")
    assert "of a kind that is not read (Pillow calls it F)" in image_fault(tmp_path / "f.tiff")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i.tiff")
    assert "of a kind that is not read" in image_fault(tmp_path / "i.tiff")


def test_palettes_and_greys_are_the_colours_that_they_stand_for(tmp_path: Path) -> None:
    image = Image.fromarray(quarters())
    image.quantize(8).save(tmp_path / "p.png")
    assert letters(image_as(tmp_path / "p.png", SPEC)[0]) == "RGBW"
    image.convert("1", dither=Image.Dither.NONE).save(tmp_path / "1.png")
    assert set(image_as(tmp_path / "1.png", SPEC).flatten().tolist()) == {0, 255}


def _transparent(path: Path, mode: str) -> None:
    image = Image.fromarray(quarters())
    if mode == "colour key":
        image.save(path, transparency=RED)
    elif mode == "palette":
        image.quantize(8).save(path, transparency=0)
    elif mode == "grey of 16 bits":
        Image.fromarray(np.full((SIDE, SIDE), 7, np.uint16)).save(path, transparency=7)
    else:
        image.putalpha(Image.fromarray(np.where(quarters()[..., 0] > 0, 255, 0).astype(np.uint8)))
        image.convert(mode).save(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "colour key", "palette", "grey of 16 bits"])
def test_transparent_pictures_are_a_fault(mode: str, tmp_path: Path) -> None:
    _transparent(tmp_path / "a.png", mode)
    text = image_fault(tmp_path / "a.png")
    assert "transparent" in text
    assert text.endswith("flatten it")


def test_opaque_alpha_is_none(tmp_path: Path) -> None:
    for ending in ("png", "webp", "tiff"):
        Image.fromarray(quarters()).convert("RGBA").save(tmp_path / f"a.{ending}")
        assert letters(image_as(tmp_path / f"a.{ending}", SPEC)[0])[3] == "W"


def with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + chunk + content[33:]


def saved(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_png_says_that_its_numbers_are_not_a_screens(tmp_path: Path) -> None:
    path, content = tmp_path / "a.png", saved(quarters())
    white = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    wide = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    for kind, data, reason in (
        (b"gAMA", struct.pack(">I", 45455), None),
        (b"gAMA", struct.pack(">I", 100000), "a gamma of 1, not of 0.4545"),
        (b"cHRM", white, None),
        (b"cHRM", wide, "its primaries are not those of sRGB"),
        (b"cICP", bytes((1, 13, 0, 1)), None),
        (b"cICP", bytes((9, 16, 0, 1)), "by PQ (HDR)"),
        (b"cICP", bytes((12, 13, 0, 1)), "those of Display P3"),
    ):
        path.write_bytes(with_chunk(content, kind, data))
        if reason is None:
            assert letters(image_as(path, SPEC)[0]) == "RGBW"
        else:
            assert reason in image_fault(path)


# What ours say


@pytest.mark.parametrize(("height", "width"), [(32, 32), (720, 1280)])
def test_our_mp4s_say_what_their_colours_are_and_it_is_true(height: int, width: int, tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", plain(ORANGE, height, width)[None].repeat(2, 0), 16)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
    luma, blue, red = (int(np.frombuffer(plane, np.uint8)[0]) for plane in frame.planes)
    # BT.709-6, 3.2 to 3.5, of 8 bits.
    r, g, b = (value / 255 for value in ORANGE)
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    expected = 16 + 219 * y, 128 + 224 * (b - y) / 1.8556, 128 + 224 * (r - y) / 1.5748
    assert (luma, blue, red) == pytest.approx(expected, abs=2)
    assert middle((tmp_path / "a.mp4").read_bytes()) == pytest.approx(ORANGE, abs=4)


def test_our_pngs_say_that_they_are_srgb() -> None:
    with Image.open(io.BytesIO(png(quarters()))) as image:
        assert image.info["srgb"] == 0
        assert np.array_equal(np.array(image), quarters())


# What strangers' files may do


def test_a_title_that_is_no_utf8_does_not_matter() -> None:
    content = film(quarters())
    place = content.index(b"VideoHandler")
    content = content[:place] + b"Vid\xe9oHandle\xff" + content[place + 12 :]
    assert letters(read(content)[0]) == "RGBW"


def test_only_formats_of_a_list_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all no PostScript, which Pillow gives to another program, and no lists of files and addresses."""

    started: list[Any] = []

    def start(*words: Any, **_: Any) -> None:
        started.append(words)
        raise OSError("not in a test")

    monkeypatch.setattr("subprocess.Popen", start)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(eps)
    assert "cannot be read as an image" in image_fault(tmp_path / "a.png")
    assert not started
    for ending in ("gif", "ppm", "ico"):
        Image.fromarray(quarters()).save(tmp_path / f"a.{ending}")
        assert "cannot be read as an image" in image_fault(tmp_path / f"a.{ending}")
    clip = film(quarters())
    (tmp_path / "a.mp4").write_bytes(clip)
    for content in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n".encode(),
        f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n".encode(),
        film(quarters(), codec="gif", container="gif", layout="rgb8"),
    ):
        assert fault(content).startswith("it cannot be read as a video (")
        (tmp_path / "list.mp4").write_bytes(content)
        with pytest.raises(ClipError):
            clip_as(tmp_path / "list.mp4", 1, SPEC)


def test_codecs_that_are_not_read_are_named() -> None:
    content = film(quarters(), codec="flv", container="avi")
    assert fault(content) == "its codec (flv1) is not read; convert it to H.264"
    unknown = film(quarters()).replace(b"avc1", b"zzzz")
    assert fault(unknown) == "its codec (an unknown one) is not read; convert it to H.264"


def test_pictures_and_frames_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = film(quarters())
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    monkeypatch.setattr("flowmap.video.clips.MOST_PIXELS", SIDE * SIDE - 1)
    assert fault(clip).startswith("its frames have 32 x 32 pixels, more than the ")
    monkeypatch.setattr(stills, "MOST_PIXELS", SIDE * SIDE - 1)
    assert "it has 32 x 32 pixels, more than the 1023 that are read" in image_fault(tmp_path / "a.png")
    monkeypatch.undo()
    # A frame may be larger than the file says ahead of it.
    monkeypatch.setattr(frames_module, "MOST_PIXELS", SIDE * SIDE - 1)
    assert fault(clip).startswith("its frames have 32 x 32 pixels")


def test_a_picture_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    """12000 x 12000 pixels of one colour are 0.4 MB as a PNG and 432 MB in memory: only its header is read."""
    header = struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0)
    content = with_chunk(saved(quarters())[:33], b"IHDR", b"")[:8]
    body = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(content + body + saved(quarters())[33:])
    assert "it has 12000 x 12000 pixels" in image_fault(tmp_path / "a.png")


def test_so_many_frames_are_decoded_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    content = film(quarters(), number=9)
    monkeypatch.setattr(pacing, "MOST_DECODED", 4)
    assert len(read(content, 4)) == 4
    with pytest.raises(ClipError, match="its first 4 frames are not long enough"):
        read(content, 5)


# Damage of any kind


def mutated(content: bytes, seed: int) -> bytes:
    """`content` with some bytes changed, left out, doubled or cut off."""
    random = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        place, size = int(random.integers(len(data))), int(random.integers(1, 17))
        kind = random.integers(6)
        if kind == 0:
            data[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[place : place + size] = random.bytes(size)
        elif kind == 2:
            del data[place : place + size]
        elif kind == 3:
            data[place:place] = data[place : place + size]
        elif kind == 4:
            data[place : place + 4] = bytes((0, 255)[int(random.integers(2))] for _ in range(4))
        elif len(data) > 2:
            del data[max(2, place) :]
    return bytes(data)


def clip_or_fault(reading: Callable[[], Tensor]) -> Tensor | str:
    try:
        return reading()
    except ClipError as error:
        return str(error)


def is_clip(content: bytes) -> bool:
    """Whether it is read as a clip; if not, there is a fault of one line."""
    found = clip_or_fault(lambda: read(content, 5))
    if isinstance(found, str):
        assert found.splitlines() == [found]
        return False
    assert (found.dtype, found.shape) == (torch.uint8, (5, 3, SIDE, SIDE))
    return True


def clips() -> Iterator[bytes]:
    yield film(quarters(), matrix=1, tags=tagged(1, False, 1, 1))
    yield with_display(film(quarters(), options={"crf": "30"}), 0, ONE, 0, -ONE, 0, 0, 0, 0, UNIT)
    yield film(quarters(), codec="libvpx-vp9", container="webm")
    yield film(quarters(), codec="mjpeg", container="avi", layout="yuvj420p")
    yield film(quarters(), codec="png", container="mov", layout="rgb24")


def test_a_damaged_clip_is_a_clip_or_a_fault() -> None:
    outcomes = {True: 0, False: 0}
    for number, content in enumerate(clips()):
        for seed in range(60):
            outcomes[is_clip(mutated(content, 1000 * number + seed))] += 1
    assert min(outcomes.values()) > 20


def is_picture(path: Path) -> bool:
    """Whether the file is read as a picture; if not, there is a fault that names the file."""
    found = clip_or_fault(lambda: image_as(path, SPEC))
    if isinstance(found, str):
        assert found.startswith(f"{path}: ")
        return False
    assert (found.dtype, found.shape) == (torch.uint8, (1, 3, SIDE, SIDE))
    return True


def pictures() -> Iterator[tuple[str, bytes]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    info = PngImagePlugin.PngInfo()
    info.add_text("title", "quarters", zip=True)
    image = Image.fromarray(quarters())
    for ending, how in (
        ("png", {"exif": exif, "icc_profile": profile(), "pnginfo": info, "dpi": (72, 72)}),
        ("jpeg", {"exif": exif, "icc_profile": profile(), "dpi": (72, 72)}),
        ("webp", {"exif": exif, "icc_profile": profile()}),
        ("bmp", {}),
        ("tiff", {"compression": "tiff_lzw", "icc_profile": profile()}),
        ("tiff", {"tiffinfo": TiffImagePlugin.ImageFileDirectory_v2()}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, ending, **how)
        yield ending, buffer.getvalue()


def test_a_damaged_picture_is_a_picture_or_a_fault(tmp_path: Path) -> None:
    outcomes = {True: 0, False: 0}
    for number, (ending, content) in enumerate(pictures()):
        path = tmp_path / f"a.{ending}"
        for seed in range(60):
            path.write_bytes(mutated(content, 1000 * number + seed))
            outcomes[is_picture(path)] += 1
    assert min(outcomes.values()) > 20
