"""Members of shards -> samples: keys, labels, splits and ids as WebDataset and cfvid mean them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from support.tars import bytes_of, write_tar

from cfvid.data.manifest import Manifest, Sample, from_samples
from cfvid.data.manifest_files import read_manifest, write_manifest
from cfvid.data.readers import read_sources
from cfvid.data.shard_names import holds_only_shards
from cfvid.data.shards import read_shards
from cfvid.errors import DataError
from cfvid.media.source import Member, read_bytes
from cfvid.sections.data import DataConfig, SourceConfig

SUFFIXES = frozenset({".jpg", ".png"})


def read(place: Path | str, tmp_path: Path, **options: Any) -> Manifest:
    return read_shards(str(place), suffixes=SUFFIXES, cache=tmp_path / "cache", **options)


def rows(manifest: Manifest) -> list[tuple[str, tuple[str, ...], str]]:
    return [(sample.sample_id, sample.labels, sample.split) for sample in manifest]


def about(**values: Any) -> bytes:
    return json.dumps(values).encode()


def test_keys_end_at_the_first_dot_of_the_last_part(tmp_path: Path) -> None:
    names = ["a.jpg", "a.b/c.d.JPG", "d/e.png", "d/f.PnG", ".hidden.jpg", "d/._e.jpg", "no ending", "g.jpg.txt"]
    write_tar(tmp_path / "s.tar", {name: name.encode() for name in names})
    manifest = read(tmp_path / "s.tar", tmp_path)
    assert manifest.ids == ["a", "a.b/c", "d/e", "d/f"]
    for sample in manifest:
        member = manifest.locate(sample)
        assert isinstance(member, Member)
        assert sample.path == f"s.tar!/{read_bytes(member).decode()}"


def test_labels(tmp_path: Path) -> None:
    members = {
        "cls.jpg": b"",
        "cls.cls": b" 7\n",
        "txt.jpg": b"",
        "txt.txt": "ü b\n".encode(),
        "both.jpg": b"",
        "both.txt": b"no",
        "both.cls": b"yes",
        "one.jpg": b"",
        "one.cls": b"no",
        "one.json": about(label="yes", caption="other"),
        "number.jpg": b"",
        "number.json": about(label=3),
        "many.jpg": b"",
        "many.json": about(labels=["a", 2], label="no", unsure_labels=["c"]),
        "empty.jpg": b"",
        "empty.cls": b"kept",
        "empty.json": about(label=None, labels=[]),
        "list.jpg": b"",
        "list.json": b"[1, 2]",
        "none.jpg": b"",
    }
    write_tar(tmp_path / "s.tar", members)
    manifest = read(tmp_path / "s.tar", tmp_path)
    assert {s.sample_id: s.labels for s in manifest} == {
        "cls": ("7",),
        "txt": ("ü b",),
        "both": ("yes",),
        "one": ("yes",),
        "number": ("3",),
        "many": ("a", "2"),
        "empty": ("kept",),
        "list": (),
        "none": (),
    }
    assert manifest.sample("many").unsure_labels == ("c",)


def test_a_label_separator(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"", "a.txt": b"x|y||z"})
    assert read(tmp_path / "s.tar", tmp_path, label_separator="|")[0].labels == ("x", "y", "z")


def test_ids_times_and_splits_of_the_json(tmp_path: Path) -> None:
    told = about(sample_id="its id", split="test", start_s=1, end_s=2.5, group="film")
    write_tar(tmp_path / "train-0.tar", {"a.jpg": b"", "a.json": told, "b.jpg": b"", "b.json": about(sample_id="")})
    first, second = read(tmp_path / "train-0.tar", tmp_path)
    assert (first.sample_id, first.split, first.start_s, first.end_s) == ("its id", "test", 1.0, 2.5)
    assert (first.group, second.group) == ("film", None)
    assert (second.sample_id, second.split, second.start_s, second.end_s) == ("b", "train", None, None)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "Expecting"),
        (b"[" * 100_000, "recursion"),
        (about(label={"a": 1}), "its label is dict"),
        (about(start_s="1"), "start_s is no number"),
        (about(end_s=True), "end_s is no number"),
        (b'{"sample_id": [1]}', "sample_id is list"),
        (b'{"start_s": 1e999}', "no finite number"),
        (about(start_s=2, end_s=1), "ends before it starts"),
    ],
)
def test_json_that_describes_no_sample(content: bytes, why: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"", "a.json": content})
    with pytest.raises(DataError, match=why):
        read(tmp_path / "s.tar", tmp_path)


@pytest.mark.parametrize(
    ("shards", "options", "expected"),
    [
        (["train-000.tar", "val-000.tar"], {}, ["train", "val"]),
        (["train/0.tar", "val/0.tar"], {}, ["train", "val"]),
        (["set_val_03.tar", "set_train_07.tar"], {}, ["val", "train"]),
        (["train-0.tar", "test-12.tar"], {}, ["train", "test"]),
        (["0.tar", "1.tar"], {}, ["train", "train"]),
        (["test-0.tar"], {}, ["train"]),
        (["train/val-0.tar"], {}, ["val"]),
        (["a-0.tar", "b-0.tar"], {"train_split": "b", "val_split": "a"}, ["a", "b"]),
    ],
)
def test_splits_of_the_names(shards: list[str], options: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    for number, shard in enumerate(shards):
        write_tar(tmp_path / "set" / shard, {f"{number}.jpg": b""})
    manifest = read(tmp_path / "set", tmp_path, **options)
    assert [manifest.sample(str(n)).split for n in range(len(shards))] == expected


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        (["training-0.tar", "validation-0.tar"], ["training", "validation"]),
        (["Train/0.tar", "Val/0.tar"], ["Train", "Val"]),
        (["dev/0.tar", "test/0.tar"], ["train", "train"]),  # no word for training: all of it is a pool
    ],
)
def test_other_usual_names_of_splits(shards: list[str], expected: list[str], tmp_path: Path) -> None:
    """Shards called training-*.tar and validation-*.tar were all trained on."""
    for number, shard in enumerate(shards):
        (tmp_path / shard).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / shard, {f"{number}.jpg": b""})
    assert [sample.split for sample in read(tmp_path, tmp_path)] == expected


def test_members_that_systems_left_are_no_samples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cfvid")
    root = tmp_path / "set"
    members = ["a.jpg", "__MACOSX/a.jpg", "@eaDir/b.jpg", ".git/c.jpg", "d.heic"]
    (root / "@eaDir").mkdir(parents=True)
    write_tar(root / "s.tar", dict.fromkeys(members, b""))
    write_tar(root / "@eaDir" / "t.tar", {"e.jpg": b""})
    assert read(root, tmp_path).ids == ["a"]
    assert "hidden or of a system (3), .heic (1; Pillow does not read it" in caplog.text
    assert holds_only_shards(root, suffixes=SUFFIXES)


def test_the_split_of_a_folder_of_shards(tmp_path: Path) -> None:
    """Two sources, a folder each: samples to score on must not be trained on."""
    for split in ("train", "val"):
        write_tar(tmp_path / "set" / split / "0.tar", {f"{split}.jpg": b""})
    for pattern in ("", "/0.tar", "/{0..0}.tar"):
        manifest = sources(tmp_path, *(f"set/{split}{pattern}" for split in ("train", "val")))
        assert [sample.split for sample in manifest] == ["train", "val"]


def test_keys_that_collide_have_their_shard_in_front(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shard, keys in {"train-0": "ab", "train-1": "bc", "val-0": "a"}.items():
        write_tar(tmp_path / "set" / f"{shard}.tar", {f"{key}.jpg": key.encode() for key in keys})
    assert read(tmp_path / "set" / "train-0.tar", tmp_path).ids == ["a", "b"]
    with caplog.at_level(logging.INFO, logger="cfvid"):
        manifest = read(tmp_path / "set", tmp_path)
    assert manifest.ids == ["train-0/a", "train-0/b", "train-1/b", "train-1/c", "val-0/a"]
    assert "keys occur in several shards" in caplog.text


def test_ids_of_the_json_that_collide_are_told(tmp_path: Path) -> None:
    for shard in "01":
        write_tar(tmp_path / "set" / f"{shard}.tar", {"a.jpg": b"", "a.json": about(sample_id="same")})
    with pytest.raises(DataError, match="occur more than once, first: same"):
        read(tmp_path / "set", tmp_path)


def test_two_media_of_one_key(tmp_path: Path) -> None:
    write_tar(tmp_path / "1.tar", {"a.mask.png": b"mask", "a.jpg": b"it", "a.edge.png": b"edge", "b.left.png": b"only"})
    manifest = read(tmp_path / "1.tar", tmp_path)
    assert [sample.path for sample in manifest] == ["1.tar!/a.jpg", "1.tar!/b.left.png"]
    for names in (["a.jpg", "a.png"], ["a.b.png", "a.c.png"], ["a.jpg", "a.jpg"]):
        path = tmp_path / "2.tar"
        path.write_bytes(tar_of(names))
        with pytest.raises(DataError, match=rf"two samples of the key 'a': {names[0]} and {names[1]}"):
            read(path, tmp_path)


def tar_of(names: list[str]) -> bytes:
    """With names that may occur twice."""
    import io
    import tarfile

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return content.getvalue()


def test_members_of_no_use_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"", "a.npy": b"", "a.pyd": b"", "b.npy": b"", "README": b""})
    with caplog.at_level(logging.INFO, logger="cfvid"):
        assert read(tmp_path / "s.tar", tmp_path).ids == ["a"]
    assert "ignored: .npy (2), .pyd (1), no ending (1)" in caplog.text


# ---------------------------------------------------------------------------------------------- as sources


def sources(tmp_path: Path, *configs: dict[str, Any] | str) -> Manifest:
    named = [SourceConfig(**({"path": c} if isinstance(c, str) else c)) for c in configs]
    data = DataConfig(pretrain=named, targets={}, root=str(tmp_path))
    return read_sources(named, data=data, suffixes=SUFFIXES, cache=tmp_path / "cache")


def test_every_way_to_name_them_is_the_same_source(tmp_path: Path) -> None:
    import fsspec

    for split, key in (("train", "a"), ("val", "b")):
        path = write_tar(tmp_path / "set" / f"{split}-00.tar", {f"{key}.jpg": b"", f"{key}.cls": b"x"})
        fsspec.filesystem("memory").pipe(f"/sources/{split}-00.tar", path.read_bytes())
    expected = [("a", ("x",), "train"), ("b", ("x",), "val")]
    digests = set()
    for name in ("set", "set/*.tar", "set/{train,val}-{00..00}.tar", "memory://sources", "memory://sources/*-00.tar"):
        manifest = sources(tmp_path, name)
        assert rows(manifest) == expected
        digests.add(manifest.digest)
    assert len(digests) == 1
    assert rows(sources(tmp_path, {"path": "set", "kind": "shards", "train_split": "val", "val_split": "x"})) == [
        ("b", ("x",), "train")
    ]
    with pytest.raises(DataError, match="has no samples"):
        sources(tmp_path, {"path": "set", "kind": "folder"})


def test_several_sources(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tar(tmp_path / name / "train-0.tar", {"a.jpg": b""})
    assert sources(tmp_path, "one/train-*.tar", "two/train-*.tar").ids == ["one/train-*/a", "two/train-*/a"]
    assert sources(tmp_path, "one", "two").ids == ["one/a", "two/a"]
    with pytest.raises(DataError, match="given twice"):
        sources(tmp_path, "memory://x/a.tar", "memory://x/a.tar")


def test_the_digest_does_not_know_where_a_member_lies(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a.jpg": b"one", "b.jpg": b"two"})
    before = read(tmp_path / "s.tar", tmp_path)
    write_tar(tmp_path / "s.tar", {"a.jpg": b"x" * 2000, "b.jpg": b"two"})
    after = read(tmp_path / "s.tar", tmp_path)
    assert before.digest == after.digest
    assert before[1].member_offset != after[1].member_offset
    renamed = after.table.set_column(1, "path", [["t.tar!/a.jpg", "t.tar!/b.jpg"]])
    assert Manifest(renamed).digest != before.digest


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_manifest_file_of_members(name: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "set" / "s.tar", {"a.jpg": b"one", "b,ü.jpg": b"two", "b,ü.json": about(start_s=1, end_s=2)})
    manifest = read(tmp_path / "set" / "s.tar", tmp_path)
    assert write_manifest(manifest, tmp_path / name) == []
    again = read_manifest(tmp_path / name)
    assert [sample.path for sample in again] == ["set/s.tar!/a.jpg", "set/s.tar!/b,ü.jpg"]
    assert [bytes_of(again, sample) for sample in again] == [b"one", b"two"]
    assert [(s.start_s, s.end_s) for s in again] == [(None, None), (1.0, 2.0)]


def test_a_manifest_file_does_not_name_urls(tmp_path: Path) -> None:
    remote = Sample("a", "s.tar!/a.jpg", "s3://bucket", (), "train", None, None, (), 512, 4)
    with pytest.raises(DataError, match="s3://bucket is a URL"):
        write_manifest(from_samples([remote]), tmp_path / "m.csv")


@pytest.mark.parametrize(
    "change",
    [{"member_size": None}, {"member_offset": None}, {"member_offset": 0}, {"member_size": -1}, {"path": "a.jpg"}],
)
def test_members_without_a_place(change: dict[str, Any]) -> None:
    values = {"path": "s.tar!/a.jpg", "member_offset": 512, "member_size": 4, **change}
    with pytest.raises(DataError, match="Sample a has no place in a shard"):
        from_samples([Sample("a", root="/r", labels=(), split="train", start_s=None, end_s=None, **values)])


def test_files_with_the_mark_in_their_names_are_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tar!" / "a.jpg"
    path.parent.mkdir()
    path.touch()
    manifest = from_samples([Sample("a", "x.tar!/a.jpg", str(tmp_path), (), "train", None, None)])
    assert manifest.locate(manifest[0]) == path
