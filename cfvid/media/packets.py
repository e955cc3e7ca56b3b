"""What a container tells of its video stream without decoding: frame times, key frames, what makes seeking unsafe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.source import Opener


@dataclass
class Packets:
    """What the container tells of its video stream, read without decoding."""

    format: str
    seconds_per_tick: float
    pts: np.ndarray | None = None
    """int64, (F,): presentation times of what is shown, ascending; None where the container does not give them."""
    pts_at: dict[int, int | None] = field(default_factory=dict)
    """The times of packets by their position in the file."""
    key_pts: list[int] = field(default_factory=list)
    """The times of key frames, ascending."""
    seek_faults: set[str] = field(default_factory=set)
    """Why a decoder that relies on key frames and counts would get other frames than those asked for."""

    @property
    def in_decoding_order(self) -> bool:
        """Whether the times are right as a whole but not those of the frames in their packets: AVI has no others."""
        return self.format == "avi"

    @property
    def times_s(self) -> np.ndarray:
        """float64, (F,): the first one is 0."""
        assert self.pts is not None
        return (self.pts - self.pts[0]) * self.seconds_per_tick


def open_stream(opened: Opener) -> tuple[Any, Any]:
    """The container and its main video stream; pictures attached to audio files are none."""
    import av

    av.logging.set_level(None)
    # FFmpeg's own rule for what a local file may refer to, which it does not apply to bytes in memory.
    allowed = {"protocol_whitelist": "file,crypto,data"}
    container = av.open(opened(), mode="r", options=allowed, metadata_errors="ignore")
    stream: Any = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise UnreadableSample("no video stream")
    stream.thread_type = "NONE"
    return container, stream


def read_packets(container: Any, stream: Any) -> Packets:
    """Go through the file once, up to its end or its first damage."""
    found = Packets(container.format.name, float(stream.time_base or 1))
    shown: list[int | None] = []
    key_pts = None
    num_keys = 0
    for packet in until_damage(container.demux(stream)):
        if packet.size == 0:
            continue
        if packet.pos is not None and packet.pos >= 0:
            found.pts_at[packet.pos] = packet.pts
        if packet.is_keyframe:
            if packet.pts is not None:
                found.key_pts.append(packet.pts)
            key_pts, num_keys = packet.pts, num_keys + 1
            if num_keys > 1 and not _starts_afresh(packet, stream.codec_context):
                found.seek_faults.add("open groups of pictures")
        elif key_pts is not None and packet.pts is not None and packet.pts < key_pts:
            found.seek_faults.add("open groups of pictures")
        if packet.is_discard:
            found.seek_faults.add("an edit list")
        else:
            shown.append(packet.pts)
    known = [pts for pts in shown if pts is not None]
    if known and len(known) == len(shown):
        found.pts = np.unique(np.asarray(known, dtype=np.int64))
        if found.format.startswith("mov,") and found.pts[0] * found.seconds_per_tick > 0.5:
            found.seek_faults.add("an edit list")  # nothing is shown at first
    found.key_pts.sort()
    if num_keys > 1 and not found.format.startswith("mov,"):
        found.seek_faults.add(several_key_frames(found.format))
    return found


def several_key_frames(container_format: str) -> str:
    """The fault of containers that are not known to lead to the right one."""
    return f"several key frames in {container_format}"


def _starts_afresh(key_packet: Any, codec: Any) -> bool:
    """Whether no later frame needs what came before this key frame.

    H.264 and HEVC also mark frames as key frames after which only the frames shown later can be decoded. H.264 tells of
    these in a message before them; without one, FFmpeg knows that frames refer to none but the one before.
    """
    if codec.name not in {"h264", "hevc"} or not codec.extradata or codec.extradata[0] != 1:
        return True
    length_size = (codec.extradata[4 if codec.name == "h264" else 21] & 3) + 1
    headers = _unit_headers(bytes(key_packet), length_size)
    if codec.name == "hevc":
        return any(16 <= header >> 1 & 0x3F <= 20 for header in headers)
    types = {header & 0x1F for header in headers}
    return 5 in types or 6 not in types


def _unit_headers(packet: bytes, length_size: int) -> list[int]:
    """The first byte of each of a packet's units, which in mp4 are preceded by their lengths."""
    headers = []
    place = 0
    while place + length_size < len(packet):
        headers.append(packet[place + length_size])
        place += length_size + int.from_bytes(packet[place : place + length_size], "big")
    return headers


def until_damage(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets up to the end of the file or its first damage."""
    import av

    try:
        yield from packets
    except av.FFmpegError:
        return
