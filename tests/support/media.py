"""Videos and pictures made for tests: every frame says its own number, every corner its own colour."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from cfvid.data.clips import read_clips
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.media.video import open_video

BITS = 6
"""Frame numbers below 64 are written into pixels as this many upright bars."""
CORNERS = np.array([[[230, 20, 20], [20, 230, 20]], [[20, 20, 230], [230, 230, 20]]], dtype=np.uint8)
"""Red, green / blue, yellow: what an upright test picture looks like."""


def numbered_frame(number: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8, (H, W, 3): the bits of a number as black and white bars, the lowest one at the left."""
    columns = np.arange(width) * BITS // width
    row = np.where((number >> columns) & 1, 255, 0).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(frame_HWC: np.ndarray) -> int:
    """The number in a frame, whatever its size."""
    height, width = frame_HWC.shape[:2]
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    levels = frame_HWC[height // 4 : -(height // 4)][:, centres].mean(axis=(0, 2))
    if ((levels > 80) & (levels < 175)).any():
        raise ValueError(f"no clear number in a frame with bars of {levels.round()}")
    return int(sum(int(level > 127) << bit for bit, level in enumerate(levels)))


def numbers_of(frames_NHWC: np.ndarray) -> list[int]:
    """The numbers in several frames."""
    return [number_of(frame) for frame in frames_NHWC]


def corners_picture(*, width: int = 96, height: int = 64) -> np.ndarray:
    """uint8, (H, W, 3): four quarters in the colours of `CORNERS`."""
    return np.repeat(np.repeat(CORNERS, height // 2, axis=0), width // 2, axis=1)


def corners_of(picture_HWC: np.ndarray) -> np.ndarray:
    """uint8, (2, 2): which of the four colours (0 red, 1 green, 2 blue, 3 yellow) is nearest in each quarter."""
    height, width = picture_HWC.shape[:2]
    points = picture_HWC[[height // 4, 3 * height // 4]][:, [width // 4, 3 * width // 4]].astype(int)
    return np.abs(points[:, :, None] - CORNERS.reshape(4, 3).astype(int)).sum(-1).argmin(-1)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray] | int = 30,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 15,
    times_ms: Sequence[int] | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    hide_first: int = 0,
    filler_packets: int = 0,
    rotation: int = 0,
    matrix: tuple[int, int, int, int] | None = None,
    size: tuple[int, int] = (96, 64),
) -> Path:
    """Encode frames, or that many numbered ones.

    Args:
        path: its suffix is the container.
        frames: uint8, (H, W, 3) each, or how many numbered frames.
        codec: FFmpeg's name of the encoder.
        pixels: FFmpeg's name of the pixel format.
        rate: frames per second, unless `times_ms` are given.
        times_ms: presentation times, for variable rates.
        gop: frames between key frames.
        options: of the encoder.
        hide_first: an edit list hides this many frames at the start, as after cutting without encoding.
        filler_packets: H.264 packets at the end that hold no picture.
        rotation: clockwise degrees that a player is told to turn the picture by (mp4 and mov only).
        matrix: of the display, instead: a, b, c, d, by which a point's new x is `a x + c y` and its new y `b x + d y`.
        size: (width, height) of numbered frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pictures = (
        [numbered_frame(n, width=width, height=height) for n in range(frames)] if isinstance(frames, int) else frames
    )
    base = Fraction(1, 1000) if times_ms else Fraction(1, rate)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = times_ms[number] if times_ms else number, base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            packet.pts -= hide_first
            packet.dts -= hide_first
            container.mux(packet)
        for number in range(filler_packets):
            container.mux(_filler_packet(stream, len(pictures) + number, base))
    if rotation:
        matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[rotation]
    if matrix:
        _write_matrix(path, *matrix)
    return path


def _filler_packet(stream: Any, number: int, base: Fraction) -> av.Packet:
    nal_unit = b"\x0c" + b"\xff" * 40 + b"\x80"
    packet = av.Packet(b"\x00\x00\x00\x01" + nal_unit)
    packet.stream, packet.time_base = stream, base
    packet.pts = packet.dts = number
    packet.duration = 1
    return packet


def _write_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Patch the matrix of the track header: a, b, u, c, d, v, x, y, w in 16.16 (w in 2.30) fixed point."""
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], dtype=">i4").tobytes()
    data = path.read_bytes()
    start = data.index(b"tkhd") + 4 + 40
    path.write_bytes(data[:start] + matrix + data[start + 36 :])


def write_audio(path: Path) -> Path:
    """A second of silence, no video stream."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        for start in range(0, 16000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), dtype=np.float32), format="fltp", layout="mono")
            frame.pts, frame.sample_rate = start, 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def clip_numbers(path: str, decoder: str) -> np.ndarray:
    """Work for a guarded pool: the numbers in a clip of 16 frames at 10 Hz from a video's start: int64, (16,)."""
    with open_video(Path(path), decoder=decoder) as reader:
        (clip,) = read_clips(reader, lambda _: [0.0], num_frames=16, frame_rate_hz=10.0, short_clip="repeat")
    return np.array(numbers_of(clip))


def manifest_of(paths: Sequence[Path]) -> Manifest:
    """Unlabelled training samples, named as their files."""
    return from_samples([Sample(p.name, p.name, str(p.parent), (), "train", None, None) for p in paths])
