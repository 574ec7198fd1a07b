"""Tars that are written here."""

from __future__ import annotations

import io
import tarfile


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to a tar that is being written; it has no date, so that the same content makes the same tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
