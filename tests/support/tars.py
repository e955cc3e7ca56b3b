"""Tar shards with any members, honest and hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from cfvid.data.manifest import Manifest, Sample
from cfvid.media.source import Member, read_bytes


def tar_bytes(members: Mapping[str, bytes], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed tar of these members, in their order."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """`tar_bytes` as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def write_special(path: Path, name: str, kind: bytes, *, target: str = "") -> Path:
    """A tar of a sound text and one member of another type: a link, a device, a folder."""
    with tarfile.open(path, "w") as archive:
        sound = tarfile.TarInfo("sound.cls")
        sound.size = 1
        archive.addfile(sound, io.BytesIO(b"1"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


def patched_size(content: bytes, offset: int, size: bytes) -> bytes:
    """A tar whose header at `offset` claims another size: 12 bytes, with a right checksum."""
    header = bytearray(content[offset : offset + 512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:offset] + bytes(header) + content[offset + 512 :]


def bytes_of(manifest: Manifest, sample: Sample) -> bytes:
    """A sample's bytes, wherever it lies."""
    media = manifest.locate(sample)
    return read_bytes(media) if isinstance(media, Member) else media.read_bytes()
