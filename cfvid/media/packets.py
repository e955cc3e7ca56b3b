"""What a container tells of its video stream without decoding: frame times, key frames, what makes seeking unsafe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cfvid.errors import UnreadableSample
from cfvid.media.source import Opener

CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "gxf", "dv", "wtv", "rm", "nut", "nsv"),
    *("ivf", "h261", "h263", "h264", "hevc", "vvc", "m4v", "mpegvideo", "mjpeg", "av1", "obu", "vc1", "dirac", "dnxhd"),
    *("cavsvideo", "avs2", "avs3", "yuv4mpegpipe", "gif", "apng", "swf", "flic", "smk", "bink", "roq", "vmd", "smjpeg"),
    *("dfa", "film_cpk", "nuv", "pva", "ty", "vivo", "dhav", "lxf", "amv", "live_flv"),
)
"""FFmpeg's names of the containers that are opened: of those that hold all they show.

FFmpeg decides by a file's content what it is, whatever its name, and has others that name further files, also in the
network, which it would open: playlists, lists of files, series of pictures, descriptions of sessions.
"""
_MAY_JUMP = frozenset({"mpegts", "mpeg"})
"""Containers made to be cut and joined: a leap of their clock says that other material follows."""
_LEAP_S = 10.0
"""Forwards, and more than between two frames; FFmpeg's own threshold."""
_BACK_S = 0.5
"""Backwards, and more than clocks that are only not quite right."""
_STARTS_AGAIN = "times that start again"
_STARTS_LATE = "a start between key frames"


@dataclass
class Packets:
    """What the container tells of its video stream, read without decoding."""

    format: str
    codec: str
    seconds_per_tick: float
    pts: np.ndarray | None = None
    """int64, (F,): presentation times of what is shown, ascending; None where the container does not give them."""
    pts_at: dict[int, int | None] = field(default_factory=dict)
    """The times of packets by their position in the file."""
    key_pts: list[int] = field(default_factory=list)
    """The times of key frames, ascending."""
    seek_faults: set[str] = field(default_factory=set)
    """Why a decoder that relies on key frames and counts would get other frames than those asked for."""
    shifts: list[int] = field(default_factory=lambda: [0])
    """What is added to the times of each stretch of the file; several where its clock starts again."""
    in_decoding_order: bool = False
    """Whether the times are right as a whole but not those of the frames in their packets: AVI has no others."""
    is_each_time_once: bool = False
    """Whether no two packets have the same time."""
    may_start_late: bool = False
    """Whether its first frames may need others that are not there."""
    first_key: Any = None
    """The packet of the first key frame."""
    notes: list[str] = field(default_factory=list)
    """What is made of it that a user should know."""

    @property
    def times_s(self) -> np.ndarray:
        """float64, (F,): the first one is 0."""
        assert self.pts is not None
        return (self.pts - self.pts[0]) * self.seconds_per_tick

    def on_one_clock(self, packets: Iterable[Any]) -> Iterable[Any]:
        """Packets from the first one on, with times that go on where the file's start again."""
        return packets if len(self.shifts) == 1 else self._shifted(packets)

    def _shifted(self, packets: Iterable[Any]) -> Iterator[Any]:
        clock = _Clock(self.format, self.seconds_per_tick)
        for packet in packets:
            shift = self.shifts[clock.stretch_of(packet)]
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            yield packet


class _Clock:
    """Tells where the clock of a file's packets starts again, as where recordings were joined."""

    def __init__(self, container_format: str, seconds_per_tick: float) -> None:
        self._back = _BACK_S / seconds_per_tick
        self._leap = _LEAP_S / seconds_per_tick if container_format in _MAY_JUMP else float("inf")
        self._stretch = 0
        self._first: int | None = None
        self._last: int | None = None

    def stretch_of(self, packet: Any) -> int:
        """The number of the stretch of one clock in which the next packet lies, from 0 on."""
        dts = packet.dts
        if dts is None:
            return self._stretch
        if self._first is None or self._last is None:
            self._first = dts
        elif dts < self._last - self._back or self._last > dts <= self._first or dts > self._last + self._leap:
            self._stretch, self._first = self._stretch + 1, dts
        self._last = dts
        return self._stretch


def open_stream(opened: Opener) -> tuple[Any, Any]:
    """The container and its main video stream; pictures attached to audio files are none.

    Raises:
        UnreadableSample: without such a stream, and for containers that are not among `CONTAINERS`.
    """
    import av

    av.logging.set_level(None)
    allowed = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
    try:
        container = av.open(opened(), mode="r", options=allowed, metadata_errors="ignore")
    except av.ArgumentError as error:
        raise UnreadableSample("not in a container of videos") from error
    stream: Any = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise UnreadableSample("no video stream")
    stream.thread_type = "NONE"
    return container, stream


def read_packets(container: Any, stream: Any) -> Packets:
    """Go through the file once, up to its end or its first damage."""
    found = Packets(container.format.name, stream.codec_context.name, float(stream.time_base or 1))
    found.in_decoding_order = found.format == "avi"
    clock = _Clock(found.format, found.seconds_per_tick)
    shown: list[list[int | None]] = [[]]
    first = key = None
    num_keys = 0
    for packet in until_damage(container.demux(stream)):
        if packet.size == 0:
            continue
        first = packet if first is None else first
        if packet.pos is not None and packet.pos >= 0:
            found.pts_at[packet.pos] = packet.pts
        if clock.stretch_of(packet) == len(shown):
            shown.append([])
        if packet.is_keyframe:
            if packet.pts is not None:
                found.key_pts.append(packet.pts)
            key, num_keys = packet, num_keys + 1
            if num_keys == 1:
                found.first_key = packet
            elif not _starts_afresh(packet, stream.codec_context):
                found.seek_faults.add("open groups of pictures")
        elif key is not None and packet.pts is not None and key.pts is not None and packet.pts < key.pts:
            found.seek_faults.add("open groups of pictures")
            found.may_start_late |= num_keys == 1
        if packet.is_discard:
            found.seek_faults.add("an edit list")
        else:
            shown[-1].append(packet.pts)
    found.may_start_late |= first is not found.first_key
    _join(found, shown)
    if found.pts is not None and found.format.startswith("mov,") and found.pts[0] * found.seconds_per_tick > 0.5:
        found.seek_faults.add("an edit list")  # nothing is shown at first
    found.key_pts.sort()
    if num_keys > 1 and not found.format.startswith("mov,"):
        found.seek_faults.add(several_key_frames(found.format))
    return found


def _join(found: Packets, stretches: list[list[int | None]]) -> None:
    """Set the times of all stretches on one clock, each one frame after the one before."""
    known = [np.unique([pts for pts in times if pts is not None]).astype(np.int64) for times in stretches]
    if len(stretches) > 1:
        found.seek_faults.add(_STARTS_AGAIN)
    if None in itertools.chain(*stretches) or not any(map(len, known)):
        return
    found.shifts, end = [], None
    for times in known:
        shift = 0 if end is None or len(times) == 0 else end - int(times[0])
        found.shifts.append(shift)
        if len(times):
            step = np.median(np.diff(times)) if len(times) > 1 else 1 / (25 * found.seconds_per_tick)
            end = int(times[-1]) + shift + max(1, round(float(step)))
    found.pts = np.concatenate([times + shift for times, shift in zip(known, found.shifts, strict=True)])
    found.is_each_time_once = len(found.pts) == sum(map(len, stretches))
    starts = np.cumsum([len(times) for times in known])[:-1]
    found.notes += [f"times start again at frame {start} and are read as going on" for start in starts]


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


def drop_undecodable_start(packets: Packets, first_pts: int | None) -> None:
    """Leave out the frames shown before the first one that decodes: others that they need are not there."""
    assert packets.pts is not None
    num_missing = 0 if first_pts is None else int(np.searchsorted(packets.pts, first_pts))
    if 0 < num_missing < len(packets.pts):
        packets.pts = packets.pts[num_missing:]
        packets.seek_faults.add(_STARTS_LATE)
        packets.notes.append(f"the first {num_missing} frames are left out: they need others that are not there")
