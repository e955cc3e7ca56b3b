"""TorchCodec's reader gives what PyAV gives, up to the same damage; where it cannot be used, one error says so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from support.decoders import needs_torchcodec
from support.media import clip_numbers, numbers_of, write_video
from support.tiny import tiny_config, write_pictures

from cfvid.artifacts import is_complete
from cfvid.data.loader import open_pool
from cfvid.errors import MissingPackage, UnreadableSample
from cfvid.media.torchcodec_reader import TorchCodecReader
from cfvid.media.video import TruncatedVideo, attempts_with, open_video
from cfvid.modalities import MODALITIES
from cfvid.pipeline import run_stages
from cfvid.sections.stages import RuntimeConfig

ASKED_FOR = RuntimeConfig(video_decoder="torchcodec", num_workers=1)
DEFAULT = ("decord", "pyav")


@needs_torchcodec
@pytest.mark.parametrize("size", [(128, 96), (100, 66)], ids=["wide", "odd"])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"pixels": "yuvj420p"},
        {"options": {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}},
        {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=0"}},
    ],
    ids=["h264", "full range", "bt709", "hevc"],
)
def test_the_same_bytes_as_pyav(kind: dict[str, Any], size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (12, height // 2, width // 2, 3), dtype=np.uint8)
    path = write_video(tmp_path / "clip.mp4", list(noise.repeat(2, axis=1).repeat(2, axis=2)), gop=5, **kind)
    with open_video(path, decoder="torchcodec") as ours, open_video(path, decoder="pyav") as theirs:
        np.testing.assert_array_equal(ours.times_s, theirs.times_s)
        for indices in (range(12), [7], [11, 2, 2]):
            np.testing.assert_array_equal(ours.read(indices), theirs.read(indices))


@needs_torchcodec
def test_the_same_bytes_as_pyav_of_real_videos(shared_data: Path) -> None:
    paths = sorted((shared_data / "video_transfer_fight").rglob("*.mp4"))[::60]
    assert paths
    for path in paths:
        with open_video(path, decoder="torchcodec") as ours, open_video(path, decoder="pyav") as theirs:
            indices = np.linspace(0, len(ours.times_s) - 1, 5).astype(int)
            np.testing.assert_array_equal(ours.read(indices), theirs.read(indices))


@needs_torchcodec
def test_what_is_claimed_and_does_not_decode(tmp_path: Path) -> None:
    path = write_video(tmp_path / "claims.mp4", 30, filler_packets=5)
    with open_video(path, decoder="torchcodec") as reader:
        assert len(reader.times_s) == 35
        with pytest.raises(TruncatedVideo) as caught:
            reader.read([3, 31])
        assert caught.value.num_decodable == 30
        assert numbers_of(reader.read(range(30))) == list(range(30)), "the decoder holds back the last ones"
        with pytest.raises(UnreadableSample, match="there are 35 frames"):
            reader.read([35])


@needs_torchcodec
def test_damage_is_told_where_it_is_needed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "damaged.mp4", 60, gop=10)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][25:27]
    content = bytearray(path.read_bytes())
    for start, size in packets:
        content[start : start + size] = bytes(size)
    path.write_bytes(content)
    with open_video(path, decoder="torchcodec") as reader:
        assert numbers_of(reader.read([5, 45])) == [5, 45]
        with pytest.raises(TruncatedVideo) as caught:
            reader.read([5, 28])
        num_decodable = caught.value.num_decodable
        assert 20 < num_decodable <= 27
        assert numbers_of(reader.read(range(num_decodable))) == list(range(num_decodable))


@needs_torchcodec
def test_a_guarded_process_reads_by_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 30)
    wrong = write_video(tmp_path / "b.avi", 30, codec="mpeg4", options={"bf": "2"})
    with open_pool(clip_numbers, attempts=DEFAULT, runtime=ASKED_FOR) as pool:
        first, second = pool.imap([str(path), str(wrong)])
    assert first.attempt == "torchcodec"
    assert first.value is not None
    assert first.value[:4].tolist() == [0, 1, 3, 4]
    assert second.attempt == "pyav", "the other decoders follow"
    assert second.reasons[0].startswith("torchcodec: TorchCodec seeks wrongly with ")


# ---------------------------------------------------------------------------------------------- not there


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was never installed."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


def test_it_takes_part_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchCodecReader, "check_installed", lambda: None)
    assert attempts_with("torchcodec", DEFAULT) == ("torchcodec", "decord", "pyav")
    assert attempts_with("pyav", DEFAULT) == ("pyav", "decord")
    assert attempts_with("torchcodec", ("pillow",)) == ("pillow",)
    for modality in MODALITIES.values():
        assert "torchcodec" not in modality.decoders


@pytest.mark.usefixtures("absent")
def test_a_run_that_asks_for_what_is_not_installed_ends_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for split in ("train", "val"):
        for label in ("a", "b"):
            write_video(folder / split / label / "1.mp4", 2)
    config = tiny_config(
        folder, modality="frame", runtime__video_decoder="torchcodec", pretrain__arch="resnet18", data__targets={}
    )
    with pytest.raises(MissingPackage, match="torchcodec is not installed") as caught:
        run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert caught.value.fix is not None
    assert "pip install 'cfvid[torchcodec]'" in caught.value.fix
    assert "apt-get install ffmpeg" in caught.value.fix
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.usefixtures("absent")
def test_pictures_do_not_need_it(tmp_path: Path) -> None:
    config = tiny_config(
        write_pictures(tmp_path / "pictures"), runtime__video_decoder="torchcodec", pretrain__training__epochs=1
    )
    run_stages(config, tmp_path / "run", stages=["pretrain"])
    assert is_complete(tmp_path / "run" / "pretrain")


_LIBRARIES = """Could not load libtorchcodec. Likely causes:
          1. FFmpeg is not properly installed in your environment.
        [start of libtorchcodec loading traceback]
FFmpeg version 8:
OSError: libavutil.so.60: cannot open shared object file: No such file or directory
OSError: Could not load this library: libtorchcodec_core8.so
FFmpeg version 7:
OSError: libavutil.so.59: cannot open shared object file: No such file or directory
[end of libtorchcodec loading traceback]."""


def test_without_the_libraries_of_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions say so when they are used, older ones when they are imported."""

    def failing(_source: bytes) -> None:
        raise RuntimeError(_LIBRARIES)

    fake = ModuleType("torchcodec.decoders")
    fake.VideoDecoder = failing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    with pytest.raises(MissingPackage) as caught:
        TorchCodecReader.check_installed()
    assert caught.value.why == (
        "libavutil.so.60: cannot open shared object file: No such file or directory; "
        "libavutil.so.59: cannot open shared object file: No such file or directory"
    )
    assert "shared libraries" in str(caught.value.fix)
    at_import = caught.value

    class Failing(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(_LIBRARIES)

    monkeypatch.setitem(sys.modules, "torchcodec.decoders", Failing("torchcodec.decoders"))
    with pytest.raises(MissingPackage) as caught:
        attempts_with("torchcodec", DEFAULT)
    assert str(caught.value) == str(at_import)


def test_one_that_works_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def working(source: bytes) -> None:
        tried.append(source)
        raise RuntimeError("Failed to open input buffer: Invalid data found when processing input")

    fake = ModuleType("torchcodec.decoders")
    fake.VideoDecoder = working  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    TorchCodecReader.check_installed()
    assert len(tried) == 1
