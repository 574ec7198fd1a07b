"""Read and write video: clips and images of a fixed size as tensors, and MP4 files.

Pixels are uint8 `[T, 3, H, W]` here and float32 in [-1, 1] in data space; `to_float` and `to_uint8` go between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, final

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from flowmap.configs import Fit, SampleSpec
from flowmap.errors import FlowmapError

_ROWS = _COLUMNS = 8
_WIDEST = 256
_PART = ".part-"  # as flowmap.folder has it, which is a layer above
_LAST = 0.01  # of a frame: what rounding of timestamps may take from the end of a clip


class ClipError(FlowmapError):
    """A clip, an image or its caption cannot be used; the text says why."""


def read_clip(source: Path | BinaryIO, frames: int, spec: SampleSpec) -> Tensor:
    """The first `frames` frames of a video as samples of `spec` are made, in colour: uint8 `[frames, 3, H, W]`.

    H and W are the last two of `spec.shape`, and `spec.fit` says how a frame comes to them. By `spec.frame_choice`,
    frame k is the one nearest to k / `spec.fps` seconds after the first, or counted by the rate that the video
    declares; without `fps` every frame is taken. What comes after the last frame that is needed is not decoded.
    Raises ClipError if the video cannot be read, is damaged, is too short, or declares no rate to count by.
    """
    fps, counted = spec.fps, spec.frame_choice == "rate"
    where = f"{source}: " if isinstance(source, Path) else ""
    chosen: list[NDArray[np.uint8]] = []
    decoded, declared = _Counted(iter(())), 0
    try:
        with av.open(str(source) if isinstance(source, Path) else source, "r") as container:
            stream = _video(container)
            declared = stream.frames
            # Without this a decoder paints over damage and says nothing.
            stream.codec_context.options = {"err_detect": "explode"}
            decoded = _Counted(container.decode(stream))
            rate = float(stream.average_rate or 0)
            for frame in _by_rate(decoded, fps, rate) if fps and counted else _paced(decoded, fps, rate or fps or 25):
                chosen.append(_fitted(_upright(frame), spec))
                if len(chosen) == frames:
                    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).contiguous()
    except ClipError as error:
        raise ClipError(f"{where}{error}") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ClipError(f"{where}{_why(error, decoded.count)}") from None
    pace = "" if fps is None else f" chosen by rate for {fps:g} fps" if counted else f" at {fps:g} fps"
    cut = f" (it breaks off: {decoded.count} of its {declared} frames are there)" if decoded.count < declared else ""
    raise ClipError(f"{where}it has {len(chosen)} frames{pace}, {frames} are needed{cut}")


def read_image(path: Path, spec: SampleSpec) -> Tensor:
    """An image as the frames of `spec`, in colour: uint8 `[1, 3, H, W]`. Raises ClipError."""
    try:
        with Image.open(path) as image:
            pixels = _fitted(ImageOps.exif_transpose(image).convert("RGB"), spec)
    except FileNotFoundError:
        raise ClipError(f"{path}: there is no such file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(f"{path}: cannot be read as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write `frames` `[T, H, W, 3]` as H.264 (MPEG-4 where x264 is missing), 4:2:0; the file is whole or absent.

    An odd height or width grows by one pixel, which repeats the edge: 4:2:0 has no odd sizes. Raises FlowmapError
    if the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or frames.size == 0:
        raise FlowmapError(f"{path}: a video must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    part = path.with_name(_PART + path.name)
    try:
        with part.open("wb") as file, av.open(file, "w", format="mp4") as container:
            good = "libx264" in av.codecs_available
            stream = container.add_stream("libx264" if good else "mpeg4", rate=Fraction(fps).limit_denominator(1001))
            assert isinstance(stream, VideoStream)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
            stream.options = {"crf": "18"} if good else {"qscale": "3"}
            for picture in frames:
                container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode(None))
        part.replace(path)
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        raise FlowmapError(f"cannot write {path}: {_reason(error)}", code=1) from error
    finally:
        with suppress(OSError):
            part.unlink()


def to_float(pixels: Tensor) -> Tensor:
    """Pixels of uint8 as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Data space to uint8, rounded; what lies outside [-1, 1] is clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def strips(x: Tensor) -> NDArray[np.uint8]:
    """Videos `[N, F, 3, H, W]` in data space as rows of evenly spaced frames; images (F = 1) several in a row.

    At most eight rows of eight, none wider than 256 pixels; what a row lacks is black.
    """
    if x.shape[1] == 1:
        count = min(len(x), _ROWS * _COLUMNS)
        across = min(_COLUMNS, math.ceil(math.sqrt(count)))
        images = torch.cat([x[:count, 0].cpu(), x.new_full((-count % across, *x.shape[2:]), -1.0, device="cpu")])
        shown = images.unflatten(0, (-1, across))
    else:
        times = torch.linspace(0, x.shape[1] - 1, min(_COLUMNS, x.shape[1])).round().long()
        shown = x[:_ROWS].cpu()[:, times]
    rows, columns, colours, height, width = shown.shape
    frames = shown.reshape(rows * columns, colours, height, width).float()
    if width > _WIDEST:
        size = (max(1, round(height * _WIDEST / width)), _WIDEST)
        frames = interpolate(frames, size=size, mode="bilinear", antialias=True)
    height, width = frames.shape[2:]
    sheet = to_uint8(frames).reshape(rows, columns, colours, height, width).permute(0, 3, 1, 4, 2)
    return np.ascontiguousarray(sheet.reshape(rows * height, columns * width, colours).numpy())


def _video(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        raise ClipError("it has no video in it")
    return container.streams.video[0]


@final
class _Counted:
    """Frames, and how many of them have been decoded."""

    def __init__(self, frames: Iterator[VideoFrame]) -> None:
        self._frames = frames
        self.count = 0

    def __iter__(self) -> Iterator[VideoFrame]:
        for frame in self._frames:
            self.count += 1
            yield frame


def _paced(decoded: Iterable[VideoFrame], fps: float | None, rate: float) -> Iterator[VideoFrame]:
    """The frames nearest to 0, 1 / fps, 2 / fps ... seconds; `rate` is that of videos without timestamps."""
    wanted, start, before = 0, 0.0, -1.0
    previous: VideoFrame | None = None
    for index, frame in enumerate(decoded):
        if fps is None:
            yield frame
            continue
        time = index / rate if frame.time is None else frame.time
        start = time if previous is None else start
        time -= start
        while wanted / fps <= time:
            nearer = previous if previous is not None and wanted / fps - before < time - wanted / fps else frame
            yield nearer
            wanted += 1
        previous, before = frame, time
    if fps is None or previous is None:
        return
    # The last frame is shown for a while too.
    shown = float(previous.duration * previous.time_base) if previous.duration and previous.time_base else 1 / rate
    while wanted < (before + shown) * fps - _LAST:
        yield previous
        wanted += 1


def _by_rate(decoded: Iterable[VideoFrame], fps: float, rate: float) -> Iterator[VideoFrame]:
    """The first frame, and each one with which a sum of `fps` / `rate` a frame is full; of slower clips every frame.

    The sum is one of float64 after the other, and its rounding counts, as in the released AnyFlow reader: 24 fps give
    frames 0, 2, 4, 5, 7, 8, ... for 16, where fractions would give 0, 2, 3, 5, 6, 8. Raises ClipError without a rate.
    """
    if not rate:
        raise ClipError('it declares no frame rate, and its frames are to be chosen by it (frame_choice = "rate")')
    due = 1.0
    for frame in decoded:
        if due >= 1:
            yield frame
            due -= 1
        due += fps / rate


def _upright(frame: VideoFrame) -> Image.Image:
    """The frame as it is meant to be seen: telephones store a rotation beside the pixels."""
    pixels = frame.to_ndarray(format="rgb24")
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90))))


def _fitted(image: Image.Image, spec: SampleSpec) -> NDArray[np.uint8]:
    """Bring to the size of `spec`, in its way; antialiased."""
    *_, height, width = spec.shape
    return _FITS[spec.fit](image, height, width)


def _cropped(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Scale to cover, bicubic; keep the middle."""
    scale = max(height / image.height, width / image.width)
    across, down = min(width / scale, image.width), min(height / scale, image.height)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.uint8)


def _stretched(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Squash, bilinear, in float32 as torchvision's Resize does; rounded to 8 bits."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)[0]
    return np.asarray(resized.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())


_FITS: dict[Fit, Callable[[Image.Image, int, int], NDArray[np.uint8]]] = {"crop": _cropped, "stretch": _stretched}


def _why(error: Exception, decoded: int) -> str:
    if decoded:
        return f"it is damaged: it cannot be decoded after frame {decoded} ({_reason(error)})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"it cannot be read as a video ({_reason(error)})"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
