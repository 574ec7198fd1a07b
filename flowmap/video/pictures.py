"""Draw samples as pictures."""

from __future__ import annotations

import io
import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flowmap.errors import FlowmapError


def tiles(images: NDArray[np.floating], columns: int | None = None, scale: int = 6) -> NDArray[np.uint8]:
    """Grey images `[N, h, w]` in [0, 1] as one sheet `[H, W, 3]`, enlarged `scale` times without smoothing."""
    count, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    gap = 1
    sheet = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap), dtype=np.float64)
    for index, image in enumerate(images):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = np.clip(image, 0, 1)
    grey = np.rint(sheet * 255).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    return np.repeat(grey[..., None], 3, axis=2)


def scatter(points: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Points `[N, D]` as a scatter plot `[H, W, 3]` of their first two coordinates (a histogram if D = 1)."""
    figure = Figure(figsize=(3, 3), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.1, 0.85, 0.87))
    if points.shape[1] == 1:
        axes.hist(points[:, 0], bins=60, color="#2f6f9f")
    else:
        axes.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, linewidths=0, color="#2f6f9f")
        axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture `[H, W, 3]` as PNG bytes, which say that its colours are sRGB."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise FlowmapError(f"a picture must be uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}")
    buffer = io.BytesIO()
    said = PngInfo()
    said.add(b"sRGB", b"\0")
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=said)
    return buffer.getvalue()
