"""`check` on real files: sound, broken, copied, cut short; what it found in words; and leaks between sets."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from support.media import write_video

from cfvid.cli import main
from cfvid.data import check as module
from cfvid.data.check import check, read_check, summary
from cfvid.data.leaks import Leak, find_leaks, num_without_hash
from cfvid.data.loader import Request
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.probe import perceptual_hash, probe
from cfvid.errors import DataError
from cfvid.media.video import OPTIONAL_DECODERS, VIDEO_DECODERS
from cfvid.sections.stages import RuntimeConfig

HERE = RuntimeConfig(num_workers=0)


def scene(seed: int, *, side: int = 96) -> np.ndarray:
    """A picture with large and small structures: uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def moving(seed: int, *, side: int = 96, num_frames: int = 24) -> list[np.ndarray]:
    return [np.roll(scene(seed, side=side), 2 * n * side // 96, axis=1) for n in range(num_frames)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "train" / "wave" / "sound.mp4", moving(0))
    write_video(root / "train" / "wave" / "long.mp4", moving(1, num_frames=48), rate=12)
    write_video(root / "train" / "run" / "claims more.mp4", moving(2), filler_packets=6)
    (root / "train" / "run" / "broken.mp4").write_bytes(b"no video at all")
    (root / "val" / "wave").mkdir(parents=True)
    shutil.copy(root / "train" / "wave" / "sound.mp4", root / "val" / "wave" / "copy.mp4")
    return root


def manifest_of(root: Path, suffix: str) -> Manifest:
    samples = []
    for path in sorted(root.rglob(f"*{suffix}")):
        name = path.relative_to(root).as_posix()
        split, label = name.split("/")[:2]
        samples.append(Sample(name, name, str(root), (label,), split, None, None))
    return from_samples(samples)


def rows_of(table: pa.Table) -> dict[str, dict]:
    return {Path(row["path"]).name: row for row in table.to_pylist()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_is_decoded_once(videos: Path, tmp_path: Path, num_workers: int) -> None:
    manifest = manifest_of(videos, ".mp4")
    runtime = RuntimeConfig(num_workers=num_workers)
    table = check(manifest, tmp_path / "check.parquet", decoders=list(VIDEO_DECODERS), runtime=runtime)
    assert table["sample_id"].to_pylist() == manifest.ids
    assert read_check(tmp_path / "check.parquet").equals(table)
    assert not list(tmp_path.glob("*.partial.jsonl"))
    rows = rows_of(table)
    sound, long, broken = (rows[name] for name in ("sound.mp4", "long.mp4", "broken.mp4"))
    assert (sound["width"], sound["height"], sound["num_frames"], sound["codec"]) == (96, 96, 24, "h264")
    assert sound["duration_s"] == pytest.approx(24 / 15, abs=0.01)
    assert long["frame_rate_hz"] == pytest.approx(12, abs=0.1)
    assert sound["sha256"] == rows["copy.mp4"]["sha256"]
    assert len(sound["hashes"]) == 3
    assert broken["decoder"] is None
    assert len(broken["reasons"]) == len(VIDEO_DECODERS)
    assert broken["hashes"] is None
    assert rows["claims more.mp4"]["num_frames"] == 24


def test_segments_of_whole_videos_are_looked_at_alone(videos: Path, tmp_path: Path) -> None:
    whole = manifest_of(videos, "long.mp4")[0]
    part = Sample("part", whole.path, whole.root, whole.labels, "train", 1.0, 3.0)
    table = check(from_samples([part]), tmp_path / "c.parquet", decoders=list(VIDEO_DECODERS), runtime=HERE)
    [row] = table.to_pylist()
    assert row["num_frames"] == 24
    assert row["duration_s"] == pytest.approx(2.0, abs=0.1)


def test_a_check_goes_on_where_it_was_stopped(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, out = manifest_of(videos, ".mp4"), tmp_path / "check.parquet"
    whole = check(manifest, tmp_path / "whole.parquet", decoders=list(VIDEO_DECODERS), runtime=HERE)
    seen: list[str] = []

    def stopping(request: object, decoder: str) -> np.ndarray:
        seen.append(request.sample_id)  # type: ignore[attr-defined]
        if len(set(seen)) == 4:
            raise KeyboardInterrupt
        return PROBE(request, decoder)  # type: ignore[arg-type]

    PROBE = module.probe
    monkeypatch.setattr(module, "probe", stopping)
    with pytest.raises(KeyboardInterrupt):
        check(manifest, out, decoders=list(VIDEO_DECODERS), runtime=HERE)
    assert not out.exists()
    partial = tmp_path / "check.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 1 + 3
    with open(partial, "a") as file:
        file.write('{"sample_id": "train/wave/so')  # killed while writing
    monkeypatch.setattr(module, "probe", lambda r, d: (seen.append(f"again {r.sample_id}"), PROBE(r, d))[1])
    resumed = check(manifest, out, decoders=list(VIDEO_DECODERS), runtime=HERE)
    assert resumed.to_pylist() == whole.to_pylist()
    again = {i.removeprefix("again ") for i in seen if i.startswith("again")}
    assert again == {*manifest.ids[3:], "train/run/broken.mp4"}  # which may have been mended


def test_a_check_of_other_files_does_not_go_on(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "check.parquet"
    samples = list(manifest_of(videos, ".mp4"))
    moved = from_samples([replace(sample, root=str(tmp_path / "nowhere")) for sample in samples])
    wrong = check(moved, out, decoders=list(VIDEO_DECODERS), runtime=HERE)
    assert wrong["decoder"].null_count == len(samples)
    of_what = {"of": "something else"}
    rows = [{**row, "decoder": "decord"} for row in wrong.to_pylist()]
    (tmp_path / "check.partial.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [of_what, *rows]))
    right = check(from_samples(samples), out, decoders=list(VIDEO_DECODERS), runtime=HERE)
    assert right["decoder"].null_count == 1


def test_what_was_found_in_words(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check.parquet"
    assert main(["data", "check", str(videos), "--modality", "video", "--out", str(out), "--workers", "0"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "5 samples, 1 of them cannot be read",
        "train: 4 samples, 2 to 2 of each class (2)",
        "val: 1 samples, 1 to 1 of each class (1)",
        "width: 96 to 96 px, the median 96",
        "codec: h264 (4)",
        "1 files have copies, e.g. train/wave/sound.mp4, val/wave/copy.mp4",
        "1 files are in several splits",
    ):
        assert line in shown
    assert main(["data", "stats", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == summary(read_check(out))


def test_pictures(tmp_path: Path) -> None:
    for name, picture in {"a.jpg": scene(0), "b.png": scene(1)}.items():
        (tmp_path / "set" / "train" / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "set" / "train" / "x" / name)
    manifest = manifest_of(tmp_path / "set", ".*")
    rows = rows_of(check(manifest, tmp_path / "c.parquet", decoders=["pillow"], runtime=HERE))
    assert {name: row["codec"] for name, row in rows.items()} == {"a.jpg": "jpeg", "b.png": "png"}
    assert all(row["num_frames"] is None and len(row["hashes"]) == 1 for row in rows.values())


def test_only_a_check_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("nothing")
    with pytest.raises(DataError, match="cannot be read as a check"):
        read_check(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"\.parquet"):
        check(from_samples([]), tmp_path / "x.csv", decoders=["pillow"], runtime=HERE)


# ---------------------------------------------------------------------------------------------- leaks


def distance(one: np.ndarray, other: np.ndarray) -> int:
    first, second = perceptual_hash(one), perceptual_hash(other)
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


def test_hashes_of_the_same_picture_are_near_and_of_others_far(tmp_path: Path) -> None:
    for seed in range(20):
        picture = scene(seed)
        Image.fromarray(picture).resize((61, 61)).save(tmp_path / "small.jpg", quality=40)
        assert distance(picture, np.asarray(Image.open(tmp_path / "small.jpg"))) <= 6
        assert distance(picture, scene(seed + 100)) > 12
    assert perceptual_hash(np.full((40, 40, 3), 7, np.uint8)) is None


def test_videos_that_were_encoded_again_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool and a target that share one scene, at another size and rate; and one copy of a file."""
    pool, target = tmp_path / "pool", tmp_path / "target"
    for seed in range(4):
        write_video(pool / "train" / "x" / f"{seed}.mp4", moving(seed))
    write_video(pool / "train" / "x" / "black.mp4", [np.zeros((64, 64, 3), np.uint8)] * 20)
    write_video(target / "val" / "y" / "smaller.mp4", moving(2, side=64), options={"crf": "33"})
    write_video(target / "val" / "y" / "another.mp4", moving(77))
    write_video(target / "train" / "y" / "taught.mp4", moving(3))
    shutil.copy(pool / "train" / "x" / "0.mp4", target / "val" / "y" / "same.mp4")
    for root in (pool, target):
        arguments = ["data", "check", str(root), "--modality", "video", "--workers", "0"]
        assert main([*arguments, "--out", str(root / "check.parquet")]) == 0
    capsys.readouterr()
    checks = [str(root / "check.parquet") for root in (pool, target)]
    assert main(["data", "leaks", *checks, "--out", str(tmp_path / "leaks.csv")]) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 samples of the target look like one of 5 of the pool" in shown
    assert "val/y/same.mp4 looks like train/x/0.mp4: 0 bits apart" in shown
    assert "1 samples were not compared" in shown
    lines = (tmp_path / "leaks.csv").read_text().splitlines()
    assert {tuple(line.split(",")[:2]) for line in lines[1:]} == {
        ("train/x/0.mp4", "val/y/same.mp4"),
        ("train/x/2.mp4", "val/y/smaller.mp4"),
    }
    assert main(["data", "leaks", *checks, "--splits", "train", "test"]) == 3
    assert "Its splits are train, val" in capsys.readouterr().err


def test_each_frame_has_to_be_alike() -> None:
    schema = pa.schema([("sample_id", pa.string()), ("hashes", pa.list_(pa.uint64()))])

    def table(**hashes: list[int] | None) -> pa.Table:
        rows = [{"sample_id": name, "hashes": values} for name, values in hashes.items()]
        return pa.Table.from_pylist(rows, schema=schema)

    # `far` differs in the last frame alone, by more than the limit, though by less than three times as much.
    found = find_leaks(
        table(a=[1, 2, 3], c=None), table(near=[1, 2, 3 ^ 0b1111], far=[1, 2, 3 ^ 0xFFFF]), max_distance=6
    )
    assert found == [Leak("a", "near", 4)]
    assert find_leaks(table(c=None), table(a=[1, 2, 3])) == []
    assert num_without_hash(table(a=[1], b=None)) == 1
    with pytest.raises(DataError, match="pictures, the other of videos"):
        find_leaks(table(still=[5]), table(clip=[5, 5, 7]))


def test_what_a_user_should_know_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How it is shown, and what became of its times; the codec is that of the stream which is decoded."""
    root = tmp_path / "videos" / "train" / "a"
    write_video(root / "mirrored.mp4", moving(0), matrix=(-1, 0, 0, 1))
    once = write_video(tmp_path / "once.ts", moving(1))
    (root / "twice.ts").write_bytes(once.read_bytes() * 2)
    write_two_streams(root / "thumbnail first.mkv")
    shutil.copytree(root, tmp_path / "videos" / "val" / "a")
    out = tmp_path / "check.parquet"
    command = ["data", "check", str(tmp_path / "videos"), "--modality", "video", "--out", str(out), "--workers", "0"]
    assert main(command) == 0
    rows = rows_of(read_check(out))
    assert rows["mirrored.mp4"]["orientation"] == "mirrored left to right"
    assert rows["twice.ts"]["num_frames"] == 48
    assert rows["twice.ts"]["notes"] == ["times start again at frame 24 and are read as going on"]
    two = rows["thumbnail first.mkv"]
    assert (two["width"], two["height"], two["codec"]) == (160, 96, "h264")
    shown = capsys.readouterr().out
    assert "2 x times start again at frame N and are read as going on" in shown
    assert "orientation: as stored (4), mirrored left to right (2)" in shown


def write_two_streams(path: Path) -> None:
    """A small MJPEG stream before a larger one of H.264, which is the one to show."""
    with av.open(str(path), "w") as container:
        streams: list[Any] = []
        for codec, pixels, size in (("mjpeg", "yuvj420p", (64, 48)), ("libx264", "yuv420p", (160, 96))):
            streams.append(container.add_stream(codec, rate=15))
            streams[-1].width, streams[-1].height = size
            streams[-1].pix_fmt = pixels
        for stream in streams:
            for number in range(8):
                picture = np.full((stream.height, stream.width, 3), 20 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))


def test_checks_of_before_have_no_orientation(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "check.parquet"
    table = check(manifest_of(videos, "sound.mp4"), out, decoders=list(VIDEO_DECODERS), runtime=HERE)
    pyarrow.parquet.write_table(table.drop_columns(["orientation", "notes"]), out)
    assert read_check(out)["orientation"].null_count == 1
    assert "orientation: unknown (1)" in summary(read_check(out))


def test_a_picture_is_checked_for_its_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 5
    path = tmp_path / "train" / "a" / "turned.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(scene(0)).save(path, exif=exif)
    [row] = check(manifest_of(tmp_path, ".jpg"), tmp_path / "c.parquet", decoders=["pillow"], runtime=HERE).to_pylist()
    assert row["orientation"] == "mirrored along the diagonal from the top left"


def test_the_decoder_that_was_asked_for_is_used(videos: Path) -> None:
    """TorchCodec's turn was given to Pillow."""
    request = Request("a", str(videos / "train" / "wave" / "sound.mp4"), None, None, "score", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPTIONAL_DECODERS, "torchcodec", VIDEO_DECODERS["pyav"])
        assert b'"num_frames": 24' in probe(request, "torchcodec").tobytes()
