"""Read and write video: clips and images of a fixed size as tensors, and MP4 files.

Pixels are uint8 `[T, 3, H, W]` here and float32 in [-1, 1] in data space; `to_float` and `to_uint8` go between.
"""

from __future__ import annotations

import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from flowmap.errors import ClipError, FlowmapError
from flowmap.schema.specs import SampleSpec
from flowmap.video.colour import BT709, LIMITED
from flowmap.video.fitting import fitted
from flowmap.video.frames import MOST_PIXELS, seen, too_large
from flowmap.video.pacing import Counted, by_rate, paced
from flowmap.video.stills import read_still

_ROWS = _COLUMNS = 8
_WIDEST = 256
_PART = ".part-"  # as flowmap.files.folder has it, which is a layer above
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails
# Not more: FFmpeg's formats include lists of other files and addresses, and decoders that nobody has looked at lately.
_READ = "mp4, mov, mkv, webm, avi, mpeg and ts"
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts"
_CODECS = {
    *("h264", "hevc", "av1", "vp8", "vp9", "theora", "h263", "mpeg1video", "mpeg2video", "mpeg4"),
    *("msmpeg4v2", "msmpeg4v3", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "qtrle", "png"),
    *("rawvideo", "v210"),
}
# Sizes of coded frames are rounded up to blocks; what is read of them is asked for in `seen`.
_OPTIONS = {"format_whitelist": _FORMATS, "max_pixels": str(2 * MOST_PIXELS)}
# x264's mbtree looks at memory that nobody has written: the same frames then make now this file and now that.
_X264 = {"crf": "18", "x264-params": "mbtree=0"}


def read_clip(source: Path | BinaryIO, frames: int, height: int, width: int, fps: float | None) -> Tensor:
    """The first `frames` frames of a video, scaled to cover `height` x `width` and cropped; see `clip_as`."""
    return clip_as(source, frames, SampleSpec((frames, 3, height, width), fps=fps))


def clip_as(source: Path | BinaryIO, frames: int, spec: SampleSpec) -> Tensor:
    """The first `frames` frames of a video as samples of `spec` are made, in colour: uint8 `[frames, 3, H, W]`.

    H and W are the last two of `spec.shape`, and `spec.fit` says how a frame comes to them. By `spec.frame_choice`,
    frame k is the one nearest to k / `spec.fps` seconds after the first, or counted by the rate that the video
    declares; without `fps` every frame is taken. What comes after the last frame that is needed is not decoded.
    Frames are upright and in the colours of BT.709 (`flowmap.video.frames`). Raises ClipError if the video cannot be
    read, is damaged, is too short or too large, declares no rate to count by, or says of itself what is not well
    defined.
    """
    fps, counted = spec.fps, spec.frame_choice == "rate"
    where = f"{source}: " if isinstance(source, Path) else ""
    chosen: list[NDArray[np.uint8]] = []
    decoded, declared = Counted(iter(())), 0
    opened = False
    try:
        with av.open(
            str(source) if isinstance(source, Path) else source, "r", options=_OPTIONS, metadata_errors="replace"
        ) as container:
            opened = True
            stream = _video(container)
            declared = stream.frames
            pixel = stream.sample_aspect_ratio
            # Without this a decoder paints over damage and says nothing.
            stream.codec_context.options = {"err_detect": "explode", **_OPTIONS}
            decoded = Counted(container.decode(stream))
            rate = float(stream.average_rate or 0)
            for frame in by_rate(decoded, fps, rate) if fps and counted else paced(decoded, fps, rate or fps or 25):
                chosen.append(fitted(seen(frame, pixel), spec))
                if len(chosen) == frames:
                    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).contiguous()
    except ClipError as error:
        raise ClipError(f"{where}{error}") from None
    except Exception as error:  # decoders of strangers' files raise anything
        raise ClipError(f"{where}{_why(error, decoded.count, opened)}") from None
    pace = "" if fps is None else f" chosen by rate for {fps:g} fps" if counted else f" at {fps:g} fps"
    cut = f" (it breaks off: {decoded.count} of its {declared} frames are there)" if decoded.count < declared else ""
    raise ClipError(f"{where}it has {len(chosen)} frames{pace}, {frames} are needed{cut}")


def image_as(path: Path, spec: SampleSpec) -> Tensor:
    """An image as the frames of `spec`, in colour: uint8 `[1, 3, H, W]`. Raises ClipError (`flowmap.video.stills`)."""
    return torch.from_numpy(fitted(read_still(path), spec)).permute(2, 0, 1)[None].contiguous()


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    """Write `frames` `[T, H, W, 3]` as H.264 (MPEG-4 where x264 is missing), 4:2:0; the file is whole or absent.

    The file says what its colours are: BT.709 of limited range, and so they are coded, whatever the size.
    The same frames make the same file.
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
            stream.options = dict(_X264) if good else {"qscale": "3"}
            context = stream.codec_context
            # How many there are would decide, a little, what is coded; by itself it is how many cores there are.
            context.thread_count = 1
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
            for picture in frames:
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                coded = frame.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED)
                container.mux(stream.encode(coded))
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
    """The stream to read: the first that is no cover picture. Raises ClipError if there is none, or it is not read."""
    for stream in container.streams.video:
        if stream.disposition & _COVER:
            continue
        # PyAV has no context where FFmpeg has no decoder, whatever its types say.
        context: VideoCodecContext | None = stream.codec_context
        codec = context and context.codec.canonical_name
        if context is None or codec not in _CODECS:
            raise ClipError(f"its codec ({codec or 'an unknown one'}) is not read; convert it to H.264")
        if context.width * context.height > MOST_PIXELS:
            raise ClipError(too_large(context.width, context.height))
        if ("alpha_mode", "1") in ((key.lower(), value) for key, value in stream.metadata.items()):
            raise ClipError("it has transparent parts beside its pictures (alpha_mode), and nothing behind; flatten it")
        return stream
    raise ClipError("it has no video in it")


def _why(error: Exception, decoded: int, opened: bool) -> str:
    if decoded:
        return f"it is damaged: it cannot be decoded after frame {decoded} ({_reason(error)})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    # What FFmpeg says of a format that it knows and may not read.
    other = isinstance(error, av.ArgumentError) and not opened
    return f"it cannot be read as a video ({f'it is none of {_READ}' if other else _reason(error)})"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
