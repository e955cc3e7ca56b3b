"""A folder of small decoded videos: what a decoder gave once need not be decoded again in the next epoch.

    FOLDER/
      KEY.clip      one video, or one segment of it: all its frames, uncompressed
      FILE.busy     somebody is decoding it, by whatever decoder, or died while doing so
      KEY.no        why it is not kept
      total         bytes of all entries
      full          why nothing is added any more

A key is a digest of all that the pixels depend on: the file's place, size and time, the segment, the small size, the
decoder and the versions of what decodes and resizes. Frames carry checksums; what is damaged is decoded again. No fault
of the folder or its disk is a fault of the run: an entry is there and whole, or the video is decoded.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cfvid import __version__
from cfvid.artifacts import TEMPORARY_PREFIX, atomic_file, digest_of
from cfvid.errors import ArtifactError
from cfvid.media.source import Media, state_of

logger = logging.getLogger(__name__)

_FORMAT = 1
_MAGIC = b"cfvclip1"
_HEADER = struct.Struct("<8sQQQQQI")
"""Magic, frame times, first frame, frames, height, width; checksum of what stands between this and the frames."""
_LARGEST_SHARE = 0.01
"""Of the limit, that one entry may take: a few long videos would leave no room for all the short ones."""
_STALE_S = 3600.0
"""After so long whoever was decoding is taken to be dead."""


@dataclass(frozen=True)
class ClipCache:
    """Where small videos are kept, and how many."""

    folder: str
    limit_bytes: int
    """Of all entries together."""
    fill_s: float
    """Seconds that decoding a whole video for the cache may take."""

    def place_of(self, media: Media, *, decoder: str, **how: Any) -> Place | None:
        """Where a video's entry is or would be; None for what cannot be told from its successor: behind a URL, or gone.

        Args:
            media: the file, or the member of a shard.
            decoder: who decodes it.
            **how: whatever else the frames depend on, as JSON-like values.
        """
        file = state_of(media)
        if file is None:
            return None
        return Place(self, digest_of([_FORMAT, file, decoder, _versions(), how]), digest_of([file, how]))

    def used_bytes(self) -> int:
        """Bytes of all entries, and of those being written."""
        with contextlib.suppress(OSError, ValueError):
            return int((Path(self.folder) / "total").read_text())
        with contextlib.suppress(OSError):
            return sum(path.stat().st_size for path in Path(self.folder).glob("*.clip"))
        return 0

    def reserve(self, num_bytes: int) -> bool:
        """Whether there is room for so many more bytes, which then count as used; fewer than none give some back."""
        with FileLock(Path(self.folder) / ".lock"):
            total = max(0, self.used_bytes() + num_bytes)
            if num_bytes > 0 and total > self.limit_bytes:
                self.stop(f"runtime.clip_cache_gb ({self.limit_bytes / 1e9:g} GB) is reached")
                return False
            with atomic_file(Path(self.folder) / "total") as temporary:
                temporary.write_text(str(total))
        return True

    def stop(self, reason: str) -> None:
        """Let nobody add anything, until the next `begin`."""
        with contextlib.suppress(OSError):
            (Path(self.folder) / "full").write_text(reason)

    def is_full(self) -> str | None:
        """Why nothing is added any more; None while there is room."""
        with contextlib.suppress(OSError):
            return (Path(self.folder) / "full").read_text()
        return None

    def begin(self) -> None:
        """Make the folder, and remove what killed processes left; entries may be added again.

        Never fails: without a folder nothing is kept.
        """
        with contextlib.suppress(OSError):
            folder = Path(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "full").unlink(missing_ok=True)
            for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
                if _is_stale(leftover):
                    leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class Place:
    """Where one entry is or would be."""

    cache: ClipCache
    key: str
    file_key: str
    """The same for all decoders: where one hangs or crashes, the next one is not to try as much."""

    def _file(self, suffix: str) -> Path:
        return Path(self.cache.folder) / f"{self.key}.{suffix}"

    def open(self) -> Entry | None:
        """The entry; None where there is none, or where it is damaged as far as its header tells."""
        try:
            return Entry(self._file("clip"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.discard()
            return None

    def discard(self) -> None:
        """Remove a damaged entry."""
        with contextlib.suppress(OSError):
            self._file("clip").unlink(missing_ok=True)
            with FileLock(Path(self.cache.folder) / ".lock"):
                (Path(self.cache.folder) / "total").unlink(missing_ok=True)  # counted anew: it may have been cut short

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether this process is to make the entry: nobody else is, nothing stands against it, and there is room.

        When the decoder kills this process meanwhile, the claim stays, so that the next one does not try again.
        """
        busy = Path(self.cache.folder) / f"{self.file_key}.busy"
        try:
            if _is_stale(busy):
                busy.unlink(missing_ok=True)
            is_ours = not (self._file("no").exists() or self._file("clip").exists() or self.cache.is_full())
            if is_ours:
                os.close(os.open(busy, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError as error:
            is_ours = False
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self.cache.stop(os.strerror(error.errno))
        try:
            yield is_ours
        finally:
            if is_ours:
                with contextlib.suppress(OSError):
                    busy.unlink(missing_ok=True)

    def refuse(self, reason: str) -> None:
        """Note that this video is not kept."""
        with contextlib.suppress(OSError):
            self._file("no").write_text(reason)

    def write(self, times_s: np.ndarray, first: int, num_frames: int, blocks: Iterator[np.ndarray]) -> None:
        """Keep a video.

        Args:
            times_s: float64, (F,), of all frames of the file.
            first: index of the first frame that is kept.
            num_frames: how many are.
            blocks: uint8, (n, H, W, 3) each, together `num_frames`.

        Raises:
            NotKept: when it is too large, there is no room, or frames differ in size.
        """
        head = next(blocks)
        num_bytes = num_frames * head[0].nbytes
        if num_bytes > _LARGEST_SHARE * self.cache.limit_bytes:
            raise NotKept(f"{num_bytes} bytes are more than {_LARGEST_SHARE:.0%} of the limit")
        try:
            if not self.cache.reserve(num_bytes):
                raise NotKept(None)
            try:
                with atomic_file(self._file("clip")) as temporary:
                    _write(temporary, times_s, first, num_frames, head, blocks)
            except BaseException:
                with contextlib.suppress(OSError, ArtifactError):
                    self.cache.reserve(-num_bytes)
                raise
        except (OSError, ArtifactError) as error:
            self.cache.stop(str(error))
            raise NotKept(None) from error


class NotKept(Exception):
    """A video that is not kept: why, or None where the cache as a whole is to blame."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Entry:
    """One kept video, open for reading.

    Raises:
        OSError: when it is not there or cannot be read.
        ValueError: when it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise ValueError("cut short")
            magic, num_times, self.first, self._num, height, width, checksum = _HEADER.unpack(header)
            size = os.fstat(file.fileno()).st_size
            self._start = _HEADER.size + 8 * num_times + 4 * self._num
            self._shape = (height, width, 3)
            self.frame_bytes = height * width * 3
            if magic != _MAGIC or size != self._start + self._num * self.frame_bytes:
                raise ValueError("not as long as it says")
            tables = file.read(self._start - _HEADER.size)
            if zlib.crc32(tables, zlib.crc32(header[:-4])) != checksum:
                raise ValueError("damaged")
        self.times_s: np.ndarray = np.frombuffer(tables, "<f8", num_times)
        self._checksums = np.frombuffer(tables, "<u4", self._num, offset=8 * num_times)

    def read(self, indices: Sequence[int]) -> np.ndarray | None:
        """Frames by index into `times_s`: uint8, (n, H, W, 3); None where one of them is damaged."""
        wanted, places = np.unique(np.asarray(indices) - self.first, return_inverse=True)
        assert 0 <= wanted[0] <= wanted[-1] < self._num, "frames of another segment"
        frames = np.empty((len(wanted), *self._shape), np.uint8)
        try:
            with open(self._path, "rb", buffering=0) as file:
                for frame, index in zip(frames, wanted.tolist(), strict=True):
                    # Not memory-mapped: a file that is cut short meanwhile would crash this process.
                    body = os.pread(file.fileno(), self.frame_bytes, self._start + index * self.frame_bytes)
                    if len(body) != self.frame_bytes or zlib.crc32(body) != self._checksums[index]:
                        return None
                    frame[:] = np.frombuffer(body, np.uint8).reshape(self._shape)
        except OSError:
            return None
        return frames[places]


def _write(
    path: Path, times_s: np.ndarray, first: int, num_frames: int, head: np.ndarray, blocks: Iterator[np.ndarray]
) -> None:
    height, width = head.shape[1:3]
    checksums: list[int] = []
    with open(path, "wb") as file:
        file.seek(_HEADER.size + 8 * len(times_s) + 4 * num_frames)
        block: np.ndarray | None = head
        while block is not None:
            if block.shape[1:] != head.shape[1:]:
                raise NotKept("frames differ in size")
            checksums += [zlib.crc32(frame.data) for frame in block]
            file.write(block.data)
            block = next(blocks, None)
        assert len(checksums) == num_frames
        tables = times_s.astype("<f8").tobytes() + np.asarray(checksums, "<u4").tobytes()
        header = _HEADER.pack(_MAGIC, len(times_s), first, num_frames, height, width, 0)[:-4]
        file.seek(0)
        file.write(header + struct.pack("<I", zlib.crc32(tables, zlib.crc32(header))) + tables)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _STALE_S
    except OSError:
        return False


@functools.cache
def _versions() -> list[str]:
    """Of what decodes and resizes."""
    versions = [__version__]
    for name in ("decord", "av", "torch", "torchvision", "pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return versions
