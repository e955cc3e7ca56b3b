"""What a decoder opens: a file, or a member of a tar shard, whose bytes are read first.

A member is read by one request for its own bytes, from a local shard as from one behind a URL. Epochs take samples in
random order from all shards: a local copy of whole shards that does not hold all of them would fetch each one anew
for nearly every sample.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cfvid.errors import UnreadableSample

MAX_MEMBER_BYTES = 2_000_000_000
"""Larger members are refused: their bytes are held in memory."""
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")
"""How files start that are no media but name others: FFmpeg would open those, in the network too."""
_MANIFEST = b"<MPD"
"""Stands near the start of another kind of them (DASH)."""
_START_BYTES = 4096
"""How many bytes from the start of a file FFmpeg needs to tell what the file is."""
_IN_NO_TEXT = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"})
_VIDEO_AS_TEXT = b"YUV4MPEG2 "
"""How the one container starts that may look like text."""
_PAUSES_S = (0.2, 1.0)
"""Before a request that failed is made again."""
_URL = re.compile(r"^\w[\w+.-]*(::\w[\w+.-]*)*://")


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar."""

    shard: str
    """A path, or a URL that fsspec opens."""
    name: str
    offset: int
    """Of its first byte in the shard."""
    size: int
    """In bytes."""

    def __str__(self) -> str:
        return f"{self.shard}!/{self.name}"


Media = str | os.PathLike[str] | Member
"""A file by its path, or a member of a shard."""
Opener = Callable[[], str | BinaryIO]
"""Gives, each time anew, what libraries open from its start: a path, or a file in memory."""


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return _URL.match(text) is not None


def state_of(media: Media) -> list[str | int] | None:
    """Place, size and time of a file, or of a member's shard with the place in it: it stays as long as the bytes do.

    None for what cannot be told from its successor: behind a URL, or gone.
    """
    file = media.shard if isinstance(media, Member) else os.fspath(media)
    if is_url(file):
        return None
    try:
        status = Path(file).stat()
    except OSError:
        return None
    state: list[str | int] = [str(Path(file).absolute()), status.st_size, status.st_mtime_ns]
    return [*state, media.name, media.offset, media.size] if isinstance(media, Member) else state


def below(root: str, name: str) -> str:
    """What lies in a folder, or behind the start of a URL."""
    return f"{root}{name}" if root.endswith("/") else f"{root}/{name}"


def opener(media: Media) -> Opener:
    """How libraries open a file or a member; a member's bytes are read here, once.

    Raises:
        UnreadableSample: when the file is missing, or the member is not where it was.
    """
    if not isinstance(media, Member):
        path = os.fspath(media)
        if not Path(path).is_file():
            raise UnreadableSample("no such file")
        # What stands before a colon would be the name of a protocol to FFmpeg.
        place = path if Path(path).is_absolute() else f"./{path}"
        return lambda: place
    content = read_bytes(media)

    def in_memory() -> BinaryIO:
        file = io.BytesIO(content)
        file.name = str(media)  # whose ending helps FFmpeg to tell what it is
        return file

    return in_memory


def refuse_text(opened: Opener) -> None:
    """Refuse what no container of videos starts like, before any decoder is asked what it is.

    FFmpeg decides by the content, whatever a file is called, and its builds differ in what they know: each opens what
    playlists, lists of files and descriptions of sessions name, and all of these are text.

    Raises:
        UnreadableSample: for text, and for what starts like a playlist.
    """
    file = opened()
    if isinstance(file, str):
        with open(file, "rb") as opened_file:
            start = opened_file.read(_START_BYTES)
    else:
        start = file.read(_START_BYTES)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_PLAYLISTS) or _MANIFEST in start:
        raise UnreadableSample("a playlist, not a video")
    is_text = start == start.translate(None, _IN_NO_TEXT)
    if start and is_text and not start.startswith(_VIDEO_AS_TEXT):
        raise UnreadableSample("text, not a video")


def read_bytes(member: Member) -> bytes:
    """All bytes of a member.

    Raises:
        UnreadableSample: when the member is too large, or is not where it was when its shard was indexed.
    """
    if member.size > MAX_MEMBER_BYTES:
        raise UnreadableSample(f"a member of {member.size} bytes exceeds the limit of {MAX_MEMBER_BYTES}")
    start = member.offset - tarfile.BLOCKSIZE
    content = _read_range(member.shard, start, member.offset + member.size) if start >= 0 else b""
    header, body = content[: tarfile.BLOCKSIZE], content[tarfile.BLOCKSIZE :]
    if len(body) != member.size or not _is_header_of(member, header):
        raise UnreadableSample("the shard is not as it was when it was indexed")
    return body


def _is_header_of(member: Member, header: bytes) -> bool:
    """Whether this block, which stands before the bytes, is the member's: the shard may have been written anew."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    # What does not fit the block stands in blocks of its own before it.
    fits_size = member.size < 8**11
    fits_name = len(member.name) < 100 and member.name.isascii()
    same_name = plain_name(info.name) == member.name or not fits_name
    return same_name and (info.size == member.size or not fits_size)


def plain_name(name: str) -> str:
    """A member's name without `./` and doubled slashes."""
    return PurePosixPath(name).as_posix()


def _read_range(shard: str, start: int, end: int) -> bytes:
    if not is_url(shard):
        with open(shard, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)
    for pause_s in (*_PAUSES_S, None):
        try:
            return _fetch(shard, start, end)
        except UnreadableSample:
            raise
        except Exception as error:  # each protocol raises kinds of its own
            if pause_s is None or isinstance(error, FileNotFoundError | PermissionError | ImportError):
                reason = " ".join(str(error).replace(shard, "the shard").split())[:200]
                raise UnreadableSample(f"the shard cannot be read: {type(error).__name__}: {reason}") from error
            time.sleep(pause_s)
    raise AssertionError


def _fetch(url: str, start: int, end: int) -> bytes:
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url)
    content: bytes = files.cat_file(path, start=start, end=end)
    if len(content) > end - start:
        raise UnreadableSample("the shard's server ignores range requests: it sends all of the shard for each sample")
    return content
