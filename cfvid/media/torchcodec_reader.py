"""Videos through TorchCodec, which has to be installed by those who want it, and FFmpeg's shared libraries with it.

It decodes on the CPU: frames are cropped and resized there, by child processes that must not touch a GPU.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cfvid.errors import MissingPackage, UnreadableSample
from cfvid.media.opening import open_packets, orientation_of
from cfvid.media.packets import Packets, several_key_frames
from cfvid.media.source import Opener
from cfvid.media.video_reader import Change, Frames, TruncatedVideo, VideoFacts, check_size, in_parts, unchanged

_SEEKS_BY_TIME = frozenset({"matroska,webm", "flv", "asf"})
"""Containers in which a seek by time leads to a key frame, however many there are."""
_MAX_HELD_BACK = 16
"""Frames that a decoder keeps for their order, at most (H.264, HEVC)."""
_INSTALL = "pip install 'cfvid[torchcodec]'"
_INSTALL_FFMPEG = "Install FFmpeg with its shared libraries (Debian, Ubuntu: apt-get install ffmpeg; or by conda)."


class TorchCodecReader:
    """TorchCodec: goes to the key frame before a wanted frame and on to its time; turns pictures, and mirrors none.

    It takes what comes after a key frame for decodable, so that it is only used where that is so. Every frame that it
    gives must have the time that the container has for it.
    """

    is_of_one_size = True
    """It scales them by itself, whatever is asked for."""

    def __init__(self, opened: Opener) -> None:
        container, stream, packets = open_packets(opened)
        try:
            _refuse_bad_seeks(packets)
            self._stream_index = stream.index
            orientation = orientation_of(stream, packets)
        finally:
            container.close()
        if not orientation.is_turn:
            raise UnreadableSample(f"TorchCodec does not show what is {orientation.name}")
        self.facts = VideoFacts(packets.codec, orientation, tuple(packets.notes))
        file = opened()
        self._source = file if isinstance(file, str) else file.read()
        self._half_tick_s = packets.seconds_per_tick / 2
        self._decoder = self._new_decoder()
        if len(self._decoder) != len(packets.times_s):
            raise UnreadableSample("TorchCodec and the container differ in frames")
        self.times_s = packets.times_s

    @staticmethod
    def check_installed() -> None:
        """See that there is a TorchCodec that works.

        Raises:
            MissingPackage: when there is none, or it does not find FFmpeg.
        """
        try:
            from torchcodec.decoders import VideoDecoder
        except ModuleNotFoundError as error:
            fix = f"{_INSTALL}. {_INSTALL_FFMPEG}"
            raise MissingPackage("The package torchcodec is not installed.", why=str(error), fix=fix) from error
        except (ImportError, RuntimeError, OSError) as error:
            raise _broken(error) from error
        # Newer versions can be imported without FFmpeg and say so when they are used.
        try:
            VideoDecoder(b"no video")
        except (ImportError, OSError) as error:
            raise _broken(error) from error
        except (RuntimeError, ValueError) as error:
            if "libtorchcodec" in str(error):
                raise _broken(error) from error

    def _new_decoder(self) -> Any:
        from torchcodec.decoders import VideoDecoder

        return VideoDecoder(
            self._source,
            stream_index=self._stream_index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
            seek_mode="exact",
        )

    def read(self, indices: Sequence[int], change: Change = unchanged) -> np.ndarray:
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        width, height = self._decoder.metadata.width, self._decoder.metadata.height
        check_size(width, height)
        if wanted[-1] >= len(self.times_s):
            raise IndexError(f"there are {len(self.times_s)} frames")
        try:
            frames = Frames(len(wanted), change)
            for part in in_parts(wanted, frame_bytes=3 * width * height):
                frames.add_all(self._frames(self._decoder, part))
        except Exception:  # it raises more kinds than it documents
            frames = self._in_order(wanted, Frames(len(wanted), change))
        return frames.at(places)

    def _frames(self, decoder: Any, wanted: np.ndarray) -> np.ndarray:
        """uint8, (n, H, W, 3)."""
        batch = decoder.get_frames_at(wanted.tolist())
        at_s = batch.pts_seconds.numpy() - decoder.metadata.begin_stream_seconds
        if (np.abs(at_s - self.times_s[wanted]) > self._half_tick_s).any():
            raise UnreadableSample("TorchCodec gives frames of other times than those asked for")
        frames: np.ndarray = batch.data.numpy()
        return frames

    def _in_order(self, wanted: np.ndarray, frames: Frames) -> Frames:
        """The frames by decoding all from the first one on, which needs no seek and leads up to the damage."""
        decoder, keep = self._new_decoder(), set(wanted.tolist())
        for index in range(int(wanted[-1]) + 1):
            frame = self._next(decoder, index)
            if frame is None:
                raise TruncatedVideo(index)
            if index in keep:
                frames.add(frame[0])
        return frames

    def _next(self, decoder: Any, index: int) -> np.ndarray | None:
        """The frame after the last one; None where it does not decode."""
        for _ in range(1 + _MAX_HELD_BACK):
            try:
                return self._frames(decoder, np.array([index]))
            except UnreadableSample:  # a later frame
                return None
            except Exception:  # a damaged packet, while good frames of those before may still be held back
                continue
        return None

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            del self._decoder


def _refuse_bad_seeks(packets: Packets) -> None:
    faults = set(packets.seek_faults)
    if packets.format in _SEEKS_BY_TIME:
        faults.discard(several_key_frames(packets.format))
    if packets.pts is None:
        faults.add("a container without times")
    elif packets.in_decoding_order:
        faults.add("times in decoding order")
    if faults:
        raise UnreadableSample(f"TorchCodec seeks wrongly with {', '.join(sorted(faults))}")


def _broken(error: Exception) -> MissingPackage:
    """What it tells of every version of FFmpeg that it looked for, in one line."""
    missing = re.findall(r"OSError: (?!Could not load this library)(.+)", str(error))
    missing = missing or [str(error).strip().partition("\n")[0]]
    return MissingPackage(
        "The package torchcodec does not work: it cannot load FFmpeg's libraries, or its own with this torch.",
        why="; ".join(dict.fromkeys(missing)),
        fix=f"{_INSTALL_FFMPEG} PyAV's own does not count. If it is there: pip install --upgrade 'cfvid[torchcodec]'.",
    )
