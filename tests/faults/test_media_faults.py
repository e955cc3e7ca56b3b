"""Fault matrix, rows 6 to 11 and 13: media that are broken, odd, hostile or gone."""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.decoders import each_video_decoder
from support.media import (
    clip_numbers,
    corners_of,
    corners_picture,
    manifest_of,
    numbers_of,
    write_audio,
    write_video,
)

from cfvid.data.clip_sampling import ShortClip
from cfvid.data.clips import read_clips
from cfvid.data.loader import Request, SampleLoader, open_pool
from cfvid.data.skips import SkipLedger
from cfvid.errors import UnreadableSample
from cfvid.media.guard import GuardedPool, Outcome
from cfvid.media.image import read_image
from cfvid.media.video import VIDEO_DECODERS, open_video
from cfvid.modalities import MODALITIES
from cfvid.modalities.base import Modality
from cfvid.sections.stages import RuntimeConfig

DECODERS = tuple(VIDEO_DECODERS)


@pytest.fixture(scope="module")
def pool() -> Iterator[GuardedPool]:
    with GuardedPool(clip_numbers, attempts=DECODERS, num_workers=2, deadline_s=10) as pool:
        yield pool


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds; as long as the clips that are read."""
    return write_video(tmp_path_factory.mktemp("whole") / "whole.mp4", 30)


WHOLE = [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]
"""The frames on screen at 16 instants of a tenth of a second, at 15 frames per second."""


def read(pool: GuardedPool, paths: list[Path]) -> list[Outcome]:
    return list(pool.imap(str(path) for path in paths))


# ---------------------------------------------------------------------------------------------- row 6


def test_broken_files_are_skipped_and_their_neighbours_are_not_touched(
    pool: GuardedPool, whole: Path, tmp_path: Path
) -> None:
    broken = {
        "missing": None,
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "zeros": bytes(20_000),
        "head alone": whole.read_bytes()[:200],
        "tail alone": whole.read_bytes()[-2000:],
    }
    paths = []
    for name, contents in broken.items():
        paths += [tmp_path / f"{name}.mp4", whole]
        if contents is not None:
            paths[-2].write_bytes(contents)
    paths += [write_audio(tmp_path / "audio.mp4"), whole]
    outcomes = read(pool, paths)
    for bad, good in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert bad.value is None, bad.payload
        assert len(bad.reasons) == len(DECODERS)
        assert all(str(tmp_path) not in reason for reason in bad.reasons)
        assert good.value is not None
        assert good.value.tolist() == WHOLE
    assert "no video stream" in outcomes[-2].reasons[-1]


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts", ".flv", ".mp4"])
def test_a_truncated_file_gives_its_own_frames_or_nothing(pool: GuardedPool, suffix: str, tmp_path: Path) -> None:
    """Cut anywhere, the last frame is held; next to the cut, frames may miss that are stored after later ones."""
    data = write_video(tmp_path / f"whole{suffix}", 30, gop=5).read_bytes()
    paths = []
    for share in (0.3, 0.5, 0.7, 0.9, 0.97):
        paths.append(tmp_path / f"{share}{suffix}")
        paths[-1].write_bytes(data[: int(len(data) * share)])
    outcomes = read(pool, paths)
    for outcome in outcomes:
        if outcome.value is None:
            assert len(outcome.reasons) == len(DECODERS)
            continue
        shown, wanted = outcome.value, np.array(WHOLE)
        assert (np.diff(shown) >= 0).all()
        # AVI has no times: after a frame that misses, the count is one off.
        assert (shown <= wanted + (suffix == ".avi")).all()
        assert (shown == wanted)[wanted <= shown.max() - 4].all()
    # The table of contents of mp4 comes last; AVI starts with a head of 5 of its 8 kB here.
    num_read = sum(outcome.value is not None for outcome in outcomes)
    assert num_read >= {".mp4": 0, ".avi": 2}.get(suffix, 3)


def test_flipped_bits_never_end_the_run(pool: GuardedPool, whole: Path, tmp_path: Path) -> None:
    """Any byte may be wrong: each file gives a clip or reasons, and good files between them stay good."""
    rng = np.random.default_rng(0)
    data = np.frombuffer(whole.read_bytes(), dtype=np.uint8)
    paths = []
    for number in range(40):
        flipped = data.copy()
        places = rng.choice(len(data), size=1 + number % 20, replace=False)
        flipped[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        paths += [tmp_path / f"{number}.mp4", whole]
        paths[-2].write_bytes(flipped.tobytes())
    outcomes = read(pool, paths)
    for bad, good in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert bad.value is not None or len(bad.reasons) == len(DECODERS)
        assert good.value is not None
        assert good.value.tolist() == WHOLE
        assert good.reasons == ()


# ---------------------------------------------------------------------------------------------- row 7


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("repeat", [0, 3, 6, 9, 9, 9, 9, 9]), ("wrap", [0, 3, 6, 9, 2, 5, 8, 1])],
)
def test_frames_that_are_claimed_but_do_not_decode(policy: ShortClip, expected: list[int], tmp_path: Path) -> None:
    """Ten frames and fifty empty packets: what decodes is taken for the whole video."""
    path = write_video(tmp_path / "claims.mp4", 10, rate=15, filler_packets=50)
    with open_video(path, decoder="pyav") as reader:
        assert len(reader.times_s) == 60
        (clip,) = read_clips(reader, lambda _: [0.0], num_frames=8, frame_rate_hz=5.0, short_clip=policy)
        assert numbers_of(clip) == expected
        with pytest.raises(UnreadableSample, match="the video has 0.67 s"):
            read_clips(reader, lambda _: [0.0], num_frames=8, frame_rate_hz=5.0, short_clip="error")


def test_claims_do_not_move_clips_past_the_end(tmp_path: Path) -> None:
    """Clips are planned again for the frames that are there."""
    path = write_video(tmp_path / "claims.mp4", 10, rate=10, filler_packets=90)
    plans = []

    def at_the_end(times_s: np.ndarray) -> list[float]:
        plans.append(len(times_s))
        return [float(times_s[-1]) - 0.2]

    with open_video(path, decoder="pyav") as reader:
        (clip,) = read_clips(reader, at_the_end, num_frames=3, frame_rate_hz=10.0, short_clip="error")
    assert numbers_of(clip) == [7, 8, 9]
    assert plans[0] == 100
    assert plans[-1] == 10


def test_claims_cost_no_deadline(pool: GuardedPool, tmp_path: Path) -> None:
    path = write_video(tmp_path / "claims.mp4", 10, filler_packets=50)
    (outcome,) = read(pool, [path])
    assert outcome.attempt == "pyav"
    assert not any("killed" in reason or "crashed" in reason for reason in outcome.reasons)
    assert outcome.value is not None
    assert outcome.value.tolist() == [min(number, 9) for number in WHOLE]


# ---------------------------------------------------------------------------------------------- row 8


def modality(name: str) -> Modality:
    options = {"crop_size": 32, "resize": 32}
    if name == "video":
        options |= {"num_frames": 8, "frame_rate_hz": 5.0, "score_clips": 2}
    return MODALITIES[name](MODALITIES[name].Input(**options))


def test_the_decoder_of_the_settings_is_tried_first(whole: Path) -> None:
    manifest = manifest_of([whole])
    for first in DECODERS:
        ledger = SkipLedger(num_samples=1, budget=0.0, stage="test")
        runtime = RuntimeConfig.model_validate({"num_workers": 0, "video_decoder": first})
        with open_pool(lambda _, decoder: np.array(decoder), attempts=DECODERS, runtime=runtime) as pool:
            loader = SampleLoader(manifest, pool=pool, ledger=ledger)
            outcomes = list(loader.outcomes([loader.request(manifest.ids[0], look="score")], ahead=1))
        assert [outcome.attempt for outcome in outcomes] == [first]
        assert not ledger.fallbacks


def test_what_decord_cannot_read_goes_to_pyav_and_is_counted(whole: Path, tmp_path: Path) -> None:
    av1 = write_video(tmp_path / "av1.mp4", 16, codec="libsvtav1", options={"preset": "12"}, size=(96, 64))
    narrow = write_video(tmp_path / "narrow.mp4", 16, size=(48, 48))
    copy = tmp_path / "whole.mp4"
    copy.write_bytes(whole.read_bytes())
    manifest = manifest_of([av1, narrow, copy])
    ledger = SkipLedger(num_samples=3, budget=0.0, stage="test")
    video = modality("video")
    with GuardedPool(video.load, attempts=DECODERS, num_workers=1, deadline_s=20) as pool:
        loader = SampleLoader(manifest, pool=pool, ledger=ledger)
        (batch,) = loader.batches(manifest.ids, batch_size=3, look="score")
    assert batch.sample_ids == ["av1.mp4", "narrow.mp4", "whole.mp4"]
    assert batch.inputs.shape == (3, 2, 3, 8, 32, 32)
    assert ledger.skips == []
    with pytest.raises(UnreadableSample), open_video(av1, decoder="decord") as reader:
        reader.read([0])
    # A decord that reads 48-wide clips is welcome to; AV1 it cannot.
    assert dict(ledger.fallbacks) in ({"pyav": 1}, {"pyav": 2})
    for path in (av1, narrow):
        with open_video(path, decoder="pyav") as reader:
            assert numbers_of(reader.read(range(16))) == list(range(16))


# ---------------------------------------------------------------------------------------------- row 9


@each_video_decoder
def test_variable_rates_show_what_is_on_screen(decoder: str, tmp_path: Path) -> None:
    times_ms = [0, 40, 80, 400, 410, 420, 1000, 2500, 2600]
    path = write_video(tmp_path / "vfr.mp4", 9, times_ms=times_ms)
    with open_video(path, decoder=decoder) as reader:
        (clip,) = read_clips(reader, lambda _: [0.0], num_frames=14, frame_rate_hz=5.0, short_clip="repeat")
        (late,) = read_clips(
            reader, lambda _: [0.0], num_frames=2, frame_rate_hz=2.0, short_clip="repeat", start_s=0.405, end_s=2.5
        )
    #  instants: 0.0 0.2 0.4 0.6 0.8 1.0 1.2 1.4 1.6 1.8 2.0 2.2 2.4 2.6
    assert numbers_of(clip) == [0, 2, 3, 5, 5, 6, 6, 6, 6, 6, 6, 6, 6, 8]
    assert numbers_of(late) == [3, 5]


@each_video_decoder
def test_a_video_of_one_frame_is_a_still_clip(decoder: str, tmp_path: Path) -> None:
    request = Request("a", str(write_video(tmp_path / "one.mp4", 1)), None, None, "train", 0)
    clip = modality("video").load(request, decoder)
    assert clip.shape == (1, 3, 8, 32, 32)
    assert (clip == clip[:, :, :1]).all()


@each_video_decoder
def test_turned_videos_are_upright_in_what_networks_see(decoder: str, tmp_path: Path) -> None:
    stored = np.ascontiguousarray(np.rot90(corners_picture(width=96, height=96)))
    path = write_video(tmp_path / "turned.mp4", [stored] * 4, rotation=90)
    views = modality("video").load(Request("a", str(path), None, None, "extract", 0), decoder)
    assert corners_of(views[0, :, 0].transpose(1, 2, 0)).tolist() == [[0, 1], [2, 3]]


def test_a_video_cut_without_encoding_starts_where_players_start_it(pool: GuardedPool, tmp_path: Path) -> None:
    """The frames that its edit list hides are decoded but not shown."""
    path = write_video(tmp_path / "cut.mp4", 30, hide_first=7)
    (outcome,) = read(pool, [path])
    assert outcome.value is not None
    assert outcome.value.tolist() == [7 + number for number in WHOLE]


# ---------------------------------------------------------------------------------------------- row 10


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
def test_damaged_pictures_are_skipped_or_whole(suffix: str, tmp_path: Path) -> None:
    """Cut off or with flipped bits: an error that names itself, never half a picture passed off as whole."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    for number in range(30):
        damaged = bytearray(data[: rng.integers(1, len(data) * 9 // 10)] if number % 2 else data)
        for place in rng.integers(0, len(damaged), 5):
            damaged[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(damaged)
        try:
            pixels = read_image(path)
        except UnreadableSample:
            continue
        assert number % 2 == 0, "a picture without its end was read"
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


# ---------------------------------------------------------------------------------------------- row 11


def write_large_png(path: Path, side: int) -> None:
    """A whole, valid grey PNG that is small on disk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    compressor = zlib.compressobj(1)
    row = bytes(side + 1)
    pixels = b"".join([*(compressor.compress(row) for _ in range(side)), compressor.flush()])
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [20_000, 9_000])  # past Pillow's own limit, and past cfvid's alone
def test_a_decompression_bomb_is_refused_before_its_pixels_are_allocated(side: int, tmp_path: Path) -> None:
    write_large_png(tmp_path / "bomb.png", side)
    assert (tmp_path / "bomb.png").stat().st_size < 4_000_000
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from cfvid.errors import UnreadableSample
        from cfvid.media.image import read_image

        def peak_mb():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
        before = peak_mb()
        try:
            read_image(Path(sys.argv[1]))
        except UnreadableSample as error:
            print(peak_mb() - before, error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "bomb.png")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    growth_mb, _, reason = done.stdout.partition(" ")
    assert "exceed" in reason
    assert float(growth_mb) < 20


@each_video_decoder
def test_huge_frames_are_refused(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 4)
    monkeypatch.setattr("cfvid.media.video_reader.MAX_FRAME_PIXELS", 96 * 64 - 1)
    with open_video(path, decoder=decoder) as reader, pytest.raises(UnreadableSample, match="exceed the memory limit"):
        reader.read([0])


# ---------------------------------------------------------------------------------------------- row 13


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_go_away_in_mid_run_are_in_the_ledger(num_workers: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(40)]
    for path in paths:
        Image.new("RGB", (40, 40), "red").save(path)
    manifest = manifest_of(paths)
    ledger = SkipLedger(num_samples=40, budget=0.1, stage="test")
    image = modality("image")
    seen: list[str] = []
    with GuardedPool(image.load, attempts=image.decoders, num_workers=num_workers, deadline_s=20) as pool:
        loader = SampleLoader(manifest, pool=pool, ledger=ledger)
        for batch in loader.batches(manifest.ids, batch_size=4, look="extract"):
            seen += batch.sample_ids
            if len(seen) == 4:
                paths[35].unlink()
                paths[36].unlink()
                paths[36].mkdir()
    assert seen == [path.name for path in paths if path not in (paths[35], paths[36])]
    assert [skip.sample_id for skip in ledger.skips] == ["35.png", "36.png"]
    assert all(skip.reasons and skip.reasons[0].startswith("pillow: ") for skip in ledger.skips)


# ---------------------------------------------------------------------------------------------- real media


@pytest.fixture(scope="module")
def hard_media(shared_data: Path) -> dict[str, dict[str, str]]:
    """Odd, broken and hostile files by their path, each with what was observed when they were collected."""
    folder = shared_data / "hard_media"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with (folder / "manifest.csv").open(newline="") as file:
        return {str(folder / row["file"]): row for row in csv.DictReader(file)}


FORMATS_NOT_READ = {"TGA", "PSD", "SGI", "SUN", "XBM", "DDS", "ICO"}


@pytest.mark.parametrize(
    ("name", "decoders"),
    [("video", ("decord",)), ("video", ("pyav",)), ("video", DECODERS), ("frame", DECODERS), ("image", ("pillow",))],
)
def test_hard_media(name: str, decoders: tuple[str, ...], hard_media: dict[str, dict[str, str]]) -> None:
    """No crash and no hang; each file is decoded or has its reasons; little differs from what was observed."""
    kind = "image" if name == "image" else "video"
    rows = {path: row for path, row in hard_media.items() if row["file"].startswith(kind)}
    requests = [Request(row["file"], path, None, None, "score", 0) for path, row in rows.items()]
    with GuardedPool(modality(name).load, attempts=decoders, num_workers=2, deadline_s=5) as pool:
        outcomes = list(pool.imap(requests))
    assert len(outcomes) == len(rows)
    surprises = []
    for outcome in outcomes:
        row = rows[outcome.payload.media]
        assert outcome.value is not None or len(outcome.reasons) == len(decoders), row["file"]
        assert not any("killed" in reason or "crashed" in reason for reason in outcome.reasons), outcome
        readable = row["status"] != "fail" and row["format"] not in FORMATS_NOT_READ
        if (outcome.value is not None) != readable:
            surprises.append((row["file"], row["status"], outcome.reasons))
    if decoders != ("decord",):  # which reads less by far, and may
        assert len(surprises) <= 0.04 * len(rows), surprises
