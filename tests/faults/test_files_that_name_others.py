"""Files under a video's name by which FFmpeg would open other files, or the network: refused, and nothing is opened.

Text of the concat demuxer in an .mp4 was read as the videos that it names.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from support.decoders import each_video_decoder
from support.media import numbers_of, write_video
from support.tars import write_tar

from cfvid.errors import UnreadableSample
from cfvid.media.decord_reader import DecordReader
from cfvid.media.packets import CONTAINERS, open_stream
from cfvid.media.source import Media, Member, opener
from cfvid.media.video import open_video

NAMES = {
    "concat": "ffconcat version 1.0\nfile other.mp4\n",
    "concat after blanks": "\n\n ffconcat version 1.0\nfile other.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?>\n<MPD type="static" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    "<Period><BaseURL>{url}</BaseURL></Period></MPD>\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "vobsub": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n",
    "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>\n',
    "asx": '<ASX version="3.0"><Entry><Ref href="{url}"/></Entry></ASX>\n',
}


@pytest.fixture
def visitors() -> Iterator[tuple[str, list[bytes]]]:
    """A URL, and what comes to it."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                seen.append(b"somebody")
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.ts", seen
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=10)


def places_of(content: bytes, folder: Path, suffix: str = ".mp4") -> list[Media]:
    """A file beside good ones, and a member of a shard beside it."""
    write_video(folder / "other.mp4", 4)
    write_video(folder / "other.ts", 4)
    path = folder / f"named{suffix}"
    path.write_bytes(content)
    shard = write_tar(folder / "shard.tar", {path.name: content})
    return [path, Member(str(shard), path.name, 512, len(content))]


@each_video_decoder
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_text_is_refused_as_text(
    decoder: str, kind: str, suffix: str, visitors: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    url, seen = visitors
    for place in places_of(NAMES[kind].format(url=url).encode(), tmp_path, suffix):
        with pytest.raises(UnreadableSample, match="text, not a video|a playlist"), open_video(place, decoder=decoder):
            pass
    assert not seen


@pytest.mark.parametrize("kind", NAMES)
def test_containers_that_name_others_are_none_of_those_that_are_opened(
    kind: str, visitors: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    """Also without a look at the text: FFmpeg is told which containers it may take a file for."""
    url, seen = visitors
    for place in places_of(NAMES[kind].format(url=url).encode(), tmp_path):
        with pytest.raises((UnreadableSample, av.FFmpegError)):
            open_stream(opener(place))
    assert not seen
    assert not {"concat", "hls", "dash", "imf", "sdp", "rtsp", "image2", "vobsub", "mlv", "lavfi"} & {*CONTAINERS}


@each_video_decoder
def test_a_playlist_with_bytes_that_are_no_text(decoder: str, tmp_path: Path) -> None:
    """Builds of FFmpeg differ in what they take it for."""
    content = b"#EXTM3U\n#EXTINF:5,\nother.ts\n" + bytes(100) + write_video(tmp_path / "x.ts", 4).read_bytes()
    for place in places_of(content, tmp_path, ".ts"):
        with pytest.raises(UnreadableSample, match="a playlist"), open_video(place, decoder=decoder):
            pass


@each_video_decoder
def test_paths_are_never_names_of_protocols_or_patterns(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4|b.mp4", "data:a.mp4", "frame%03d.mp4", "http:x.mp4"):
        write_video(Path(name).absolute(), 3)
        with open_video(name, decoder=decoder) as reader:
            assert numbers_of(reader.read([2, 0])) == [2, 0]


def test_series_of_pictures_are_no_videos(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"frame{number:03}.mp4", 1)
        (tmp_path / f"frame{number:03}.mp4").rename(tmp_path / f"frame{number:03}.png")
    with pytest.raises(UnreadableSample, match="no such file"), open_video(tmp_path / "frame%03d.png", decoder="pyav"):
        pass


def test_decord_sees_nothing_that_pyav_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has an FFmpeg of its own, which cannot be told what to leave alone."""
    import decord

    opened: list[object] = []
    monkeypatch.setattr(decord, "VideoReader", lambda *args, **_: opened.append(args))
    for place in places_of(NAMES["concat"].encode(), tmp_path):
        with pytest.raises((UnreadableSample, av.FFmpegError)):
            DecordReader(opener(place))
    assert not opened
