"""Pictures and video in files, read as they are meant to be seen.

May be imported by `use`, by whoever shows samples, and by plugins of data, for whom these names are.
"""

from flowmap.errors import ClipError
from flowmap.video.clips import clip_as, image_as, read_clip, strips, to_float, to_uint8, write_mp4

__all__ = ["ClipError", "clip_as", "image_as", "read_clip", "strips", "to_float", "to_uint8", "write_mp4"]
