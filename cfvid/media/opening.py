"""What readers know of a video before they read from it: its packets, and how its first frames decode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from cfvid.media.orientation import AS_STORED, Orientation, of_frame
from cfvid.media.packets import Packets, drop_undecodable_start, open_stream, read_packets
from cfvid.media.source import Opener


def open_packets(opened: Opener) -> tuple[Any, Any, Packets]:
    """The container, its main video stream, and what is in it; the container is at its end.

    Frames that a player would not show, since the file starts between key frames, are not among its times.

    Raises:
        UnreadableSample: as `open_stream`.
    """
    container, stream = open_stream(opened)
    try:
        packets = read_packets(container, stream)
        if packets.may_start_late and packets.pts is not None and not packets.in_decoding_order:
            container.close()
            container, stream = open_stream(opened)
            first = next(decoded(stream, packets.on_one_clock(container.demux(stream))), None)
            drop_undecodable_start(packets, None if first is None else first.pts)
    except BaseException:
        container.close()
        raise
    return container, stream, packets


def decoded(stream: Any, packets: Iterable[Any]) -> Iterator[Any]:
    """Frames up to the first damage, with those that the decoder still held back for their order."""
    import av

    try:
        for packet in packets:
            yield from packet.decode()
    except av.FFmpegError:
        with contextlib.suppress(av.FFmpegError):
            yield from stream.codec_context.decode(None)


def orientation_of(stream: Any, packets: Packets) -> Orientation:
    """How the first key frame is shown. The decoder is at its end afterwards."""
    import av

    if packets.first_key is not None:
        codec = stream.codec_context
        with contextlib.suppress(av.FFmpegError):
            for frame in (*codec.decode(packets.first_key), *codec.decode(None)):
                return of_frame(frame)
    return AS_STORED
