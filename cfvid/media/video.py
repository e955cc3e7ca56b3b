"""Videos through decord, with PyAV where decord fails (or the other way round), behind one small protocol.

TorchCodec is a third decoder, for those who ask for it. A reader is opened, used and closed inside one process and one
thread: sharing a decord reader aborts the process. Frames come upright and by presentation time, so a variable frame
rate needs no special case.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.decord_reader import DecordReader
from cfvid.media.pyav_reader import PyAVReader
from cfvid.media.source import Media, Opener, opener, refuse_text
from cfvid.media.torchcodec_reader import TorchCodecReader
from cfvid.media.video_reader import Change, TruncatedVideo, VideoFacts, VideoFile, unchanged

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v"),
        *(".mkv", ".webm", ".avi", ".divx", ".flv", ".wmv", ".asf", ".ogv", ".mxf"),
        *(".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".mts", ".m2ts"),
    }
)

VIDEO_DECODERS: dict[str, Callable[[Opener], VideoFile]] = {"decord": DecordReader, "pyav": PyAVReader}
"""Those that are always there, in the order in which they are tried."""
OPTIONAL_DECODERS = {"torchcodec": TorchCodecReader}
"""Those that have to be installed, and take part only where `runtime.video_decoder` names them."""

_NOISE = re.compile(r"\[\d\d:\d\d:\d\d\] |/\S+?\.(?:cc|h):\d+: |Check failed: .*?\)(?= [A-Z]| *$)|\[Errno \d+\] ")
"""In messages: decord's clock, source lines and conditions with addresses, PyAV's codes."""


def attempts_with(chosen: str, attempts: tuple[str, ...]) -> tuple[str, ...]:
    """Names of decoders in the order in which they are tried, where one of videos is chosen to be the first.

    Raises:
        MissingPackage: when the chosen one is optional, would be tried and does not work.
    """
    if chosen in OPTIONAL_DECODERS and not VIDEO_DECODERS.keys().isdisjoint(attempts):
        OPTIONAL_DECODERS[chosen].check_installed()
        return (chosen, *(name for name in attempts if name != chosen))
    return tuple(sorted(attempts, key=lambda name: name != chosen))


@contextlib.contextmanager
def open_video(media: Media, *, decoder: str) -> Iterator[VideoFile]:
    """Open a video, a file or a member of a shard, with one decoder by name.

    Raises:
        UnreadableSample: with the decoder's own message, whatever it raises.
    """
    with _as_unreadable(media):
        opened = opener(media)
        refuse_text(opened)
        reader = (VIDEO_DECODERS | OPTIONAL_DECODERS)[decoder](opened)
    try:
        yield _SafeReader(reader, media)
    finally:
        reader.close()


class _SafeReader:
    """A reader whose errors, of whatever kind, are UnreadableSample. Those of its user stay what they are."""

    def __init__(self, reader: VideoFile, media: Media) -> None:
        self._reader, self._media = reader, media
        self.times_s = reader.times_s

    @property
    def is_of_one_size(self) -> bool:
        return self._reader.is_of_one_size

    @property
    def facts(self) -> VideoFacts:
        return self._reader.facts

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        with _as_unreadable(self._media):
            return self._reader.read(indices, change)

    def close(self) -> None:
        self._reader.close()


@contextlib.contextmanager
def _as_unreadable(media: Media) -> Iterator[None]:
    try:
        yield
    except (UnreadableSample, TruncatedVideo):
        raise
    except Exception as error:  # decoders raise more kinds than they document
        raise UnreadableSample(_reason(error, media)) from error


def _reason(error: Exception, media: Media) -> str:
    """What a decoder said, without what differs from file to file: reasons are counted."""
    message = _NOISE.sub("", str(error).replace(str(media), "the file"))
    return f"{type(error).__name__}: {' '.join(message.split())[:300]}"
