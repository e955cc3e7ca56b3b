"""`write_shards`: what goes in comes out again, to the same bytes each time, and nothing half-written is taken."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.media import write_video
from support.tars import bytes_of, write_tar

from cfvid.artifacts import digest_file
from cfvid.data import shard_writer
from cfvid.data.loader import Request
from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.readers import read_source
from cfvid.data.shard_writer import write_shards
from cfvid.data.skips import read_skips
from cfvid.errors import DataError, InputsChanged
from cfvid.media.source import Member
from cfvid.modalities import MODALITIES
from cfvid.sections.data import DataConfig, SourceConfig

SUFFIXES = frozenset({".mp4", ".jpg"})
COLUMNS = ["sample_id", "labels", "split", "start_s", "end_s", "unsure_labels"]


def read(path: Path, tmp_path: Path, suffixes: Any = SUFFIXES) -> Manifest:
    source = SourceConfig(path=str(path))
    return read_source(
        source, data=DataConfig(pretrain=[source], targets={}), suffixes=suffixes, cache=tmp_path / "cache"
    )


def odd_samples(root: Path) -> Manifest:
    """Samples whose ids and labels are all that a key of WebDataset must not be."""
    names = [
        "a/1.mp4",
        "a/1.jpg",
        "b.c/d.e.f.mp4",
        "ü ü/日本.jpg",
        "no_ending.jpg",
        ".x/.hidden.mp4",
        "//odd//",
        "x" * 300,
    ]
    samples = []
    for number, name in enumerate([*names, "../up", "a/1", "tab\t.mp4"]):
        path = f"{number}.{'jpg' if name.endswith('.jpg') else 'MP4'}"
        (root / path).write_bytes(name.encode() * 50 * (number + 1))
        labels = [(), ("l",), ("b", "a"), ("ü|\n,",)][number % 4]
        times = (None, None) if number % 3 else (0.1 * number, 1e9 / 3 + number)
        samples.append(
            Sample(name, path, str(root), labels, ["train", "val"][number % 2], *times, ("u",) * (number % 2))
        )
    return from_samples(samples)


def by_id(manifest: Manifest) -> dict[str, tuple[Any, ...]]:
    rows = manifest.table.select(COLUMNS).to_pylist()
    media = [bytes_of(manifest, sample) for sample in manifest]
    return {row["sample_id"]: (*row.values(), content) for row, content in zip(rows, media, strict=True)}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "media").mkdir()
    return odd_samples(tmp_path / "media")


@pytest.mark.parametrize("size", [{"samples_per_shard": 2}, {"bytes_per_shard": 8000}, {}])
def test_everything_comes_back(size: dict[str, int], manifest: Manifest, tmp_path: Path) -> None:
    written = write_shards(manifest, tmp_path / "shards", suffixes=SUFFIXES, **size)
    assert written.num_samples == len(manifest)
    again = read(tmp_path / "shards", tmp_path)
    assert by_id(again) == by_id(manifest)
    assert all(isinstance(again.locate(sample), Member) for sample in again)
    # And once more, from shards.
    write_shards(again, tmp_path / "second", suffixes=SUFFIXES, samples_per_shard=100)
    assert by_id(read(tmp_path / "second", tmp_path)) == by_id(manifest)


def test_shards_are_as_large_as_asked_for(manifest: Manifest, tmp_path: Path) -> None:
    written = write_shards(manifest, tmp_path / "2", suffixes=SUFFIXES, samples_per_shard=2)
    assert written.shards == [*(f"train-{n:06d}.tar" for n in range(3)), *(f"val-{n:06d}.tar" for n in range(3))]
    for shard in written.shards:
        with tarfile.open(tmp_path / "2" / shard) as archive:
            assert 2 <= len(archive.getnames()) <= 4
    limit = 30_000
    large = write_shards(manifest, tmp_path / "kb", suffixes=SUFFIXES, bytes_per_shard=limit).shards
    assert 2 < len(large) < len(manifest)
    for shard in large:
        with tarfile.open(tmp_path / "kb" / shard) as archive:
            used = sum(member.size for member in archive)
            assert used <= limit or len(archive.getnames()) == 2


def test_readable_keys_where_there_can_be_some(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.c.mp4"):
        (tmp_path / name).touch()
    rows = [("train/x/a.mp4", "a.mp4"), ("train/x/b.c.mp4", "b.c.mp4"), ("train/y.z/q", "a.mp4")]
    samples = [Sample(name, path, str(tmp_path), (), "train", None, None) for name, path in rows]
    write_shards(from_samples(samples), tmp_path / "s", suffixes=SUFFIXES)
    with tarfile.open(tmp_path / "s" / "train-000000.tar") as archive:
        assert archive.getnames()[::2] == ["train/x/a.mp4", "train/x/b_c.mp4", "train/y.z/q.mp4"]
        about = archive.extractfile("train/x/b_c.json")
        assert about is not None
        assert json.load(about) == {"sample_id": "train/x/b.c.mp4", "split": "train"}


def test_groups_are_in_the_json(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    rows = [
        Sample(n, "a.mp4", str(tmp_path), (), "train", None, None, group=g) for n, g in (("a", "film"), ("b", None))
    ]
    write_shards(from_samples(rows), tmp_path / "s", suffixes=SUFFIXES)
    assert [sample.group for sample in read(tmp_path / "s", tmp_path)] == ["film", None]


def test_the_same_samples_give_the_same_bytes(manifest: Manifest, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "media", moved)
    table = manifest.table.take(list(reversed(range(len(manifest)))))
    rooted = table.set_column(table.schema.get_field_index("root"), "root", [[str(moved)] * len(manifest)])
    for name, samples in (("one", manifest), ("two", Manifest(rooted))):
        write_shards(samples, tmp_path / name, suffixes=SUFFIXES, samples_per_shard=4)
    shards = sorted(path.name for path in (tmp_path / "one").glob("*.tar"))
    assert len(shards) == 4
    for shard in shards:
        assert digest_file(tmp_path / "one" / shard) == digest_file(tmp_path / "two" / shard)
    with tarfile.open(tmp_path / "one" / shards[0]) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_a_stopped_writing_goes_on(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(manifest, tmp_path / "whole", suffixes=SUFFIXES, samples_per_shard=2)
    write, done = shard_writer._write_shard, []

    def dying(path: Path, *rest: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        write(path, *rest)
        done.append(path.name)

    monkeypatch.setattr(shard_writer, "_write_shard", dying)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write_shards(manifest, out, suffixes=SUFFIXES, samples_per_shard=2)
    with pytest.raises(DataError, match="not all written"):
        read(out, tmp_path)
    with pytest.raises(InputsChanged, match="delete this one"):
        write_shards(manifest, out, suffixes=SUFFIXES, samples_per_shard=3)
    times = {name: (out / name).stat().st_mtime_ns for name in done}
    monkeypatch.setattr(shard_writer, "_write_shard", write)
    for _ in range(2):  # the second time there is nothing to do
        written = write_shards(manifest, out, suffixes=SUFFIXES, samples_per_shard=2)
        assert {name: (out / name).stat().st_mtime_ns for name in done} == times
    for name in [*written.shards, "record.json", "inputs.json"]:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_samples_without_a_file_are_left_out_and_told(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "media" / "0.MP4").unlink()
    written = write_shards(manifest, tmp_path / "s", suffixes=SUFFIXES)
    assert (written.num_samples, written.num_left_out) == (len(manifest) - 1, 1)
    [skip] = read_skips(tmp_path / "s" / "skips.jsonl")
    assert (skip.sample_id, skip.path, skip.reasons) == ("a/1.mp4", "0.MP4", ("no such file",))
    assert set(read(tmp_path / "s", tmp_path).ids) == set(manifest.ids) - {"a/1.mp4"}
    shutil.rmtree(tmp_path / "media")
    with pytest.raises(DataError, match="None of the samples has a file"):
        write_shards(manifest, tmp_path / "none", suffixes=SUFFIXES)
    assert not (tmp_path / "none").exists()


def test_folders_and_files_that_are_not_for_this(manifest: Manifest, tmp_path: Path) -> None:
    write_tar(tmp_path / "foreign" / "a.tar", {"a.jpg": b""})
    with pytest.raises(DataError, match="has shards that cfvid did not write"):
        write_shards(manifest, tmp_path / "foreign", suffixes=SUFFIXES)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["a.tar"]
    with pytest.raises(DataError, match="would not be taken for a sample again"):
        write_shards(manifest, tmp_path / "s", suffixes={".jpg"})


@pytest.mark.parametrize("split", ["", "a.b/c", "..", "ü", "x  y"])
def test_odd_names_of_splits(split: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    write_shards(
        from_samples([Sample("a", "a.jpg", str(tmp_path), (), split, None, None)]), tmp_path / "s", suffixes=SUFFIXES
    )
    assert [s.split for s in read(tmp_path / "s", tmp_path)] == [split]


def test_a_file_that_changes_meanwhile(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = shard_writer._plan

    def late(*arguments: Any) -> Any:
        (tmp_path / "media" / "0.MP4").write_bytes(b"short")
        return plan(*arguments)

    monkeypatch.setattr(shard_writer, "_plan", late)
    with pytest.raises(DataError, match=r"0.MP4 has changed while shards were written"):
        write_shards(manifest, tmp_path / "s", suffixes=SUFFIXES)
    assert list((tmp_path / "s").glob("*.tar")) == []


# ---------------------------------------------------------------------------------------------- what is decoded


def test_clips_are_the_same_from_files_and_shards(tmp_path: Path) -> None:
    modality = MODALITIES["video"](
        MODALITIES["video"].Input(num_frames=4, frame_rate_hz=8, crop_size=32, resize=32, score_clips=2)
    )
    for number, name in enumerate(["train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4"]):
        write_video(tmp_path / "media" / name, 20 + number)
    files = read(tmp_path / "media", tmp_path)
    write_shards(files, tmp_path / "shards", suffixes=SUFFIXES)
    shards = read(tmp_path / "shards", tmp_path)
    assert shards.ids == files.ids
    for decoder in modality.decoders:
        for look in ("train", "extract", "score", "preview"):
            for one, two in zip(files, shards, strict=True):
                views = [
                    modality.load(Request(s.sample_id, m.locate(s), 0.2, 1.5, look, 7), decoder)  # type: ignore[arg-type]
                    for s, m in ((one, files), (two, shards))
                ]
                np.testing.assert_array_equal(*views)
