"""Readers: what users have -> samples, with the splits called train and val, and nothing lost without a word."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from cfvid.data.folders import files_below, read_folder
from cfvid.data.manifest import Manifest
from cfvid.data.readers import read_kinetics_csv, read_source, read_sources
from cfvid.errors import ConfigError, DataError
from cfvid.sections.data import DataConfig, SourceConfig

SUFFIXES = frozenset({".mp4", ".webm"})


def make(root: Path, *files: str) -> Path:
    """Empty files."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def read(*sources: str | dict[str, Any], tmp_path: Path, **options: Any) -> Manifest:
    configs = [SourceConfig(**({"path": s} if isinstance(s, str) else s)) for s in sources]
    data = DataConfig(pretrain=configs, targets={}, **{"root": str(tmp_path), **options})
    return read_sources(configs, data=data, suffixes=SUFFIXES, cache=tmp_path / "cache")


def rows(manifest: Manifest) -> list[tuple[str, tuple[str, ...], str]]:
    return [(sample.sample_id, sample.labels, sample.split) for sample in manifest]


# ---------------------------------------------------------------------------------------------- folders


def test_class_folders_with_splits(tmp_path: Path) -> None:
    make(tmp_path / "set", "train/a/2.mp4", "train/a/1.MP4", "val/b c/ü.webm", "train/a/deep/er/3.mp4")
    assert rows(read("set", tmp_path=tmp_path)) == [
        ("train/a/1.MP4", ("a",), "train"),
        ("train/a/2.mp4", ("a",), "train"),
        ("train/a/deep/er/3.mp4", ("a",), "train"),
        ("val/b c/ü.webm", ("b c",), "val"),
    ]


def test_class_folders_without_splits_and_flat_pools(tmp_path: Path) -> None:
    make(tmp_path, "classes/a/1.mp4", "classes/val/2.mp4", "classes/3.mp4", "flat/1.mp4", "flat/2.mp4")
    assert rows(read("classes", tmp_path=tmp_path)) == [
        ("3.mp4", (), "train"),
        ("a/1.mp4", ("a",), "train"),
        ("val/2.mp4", ("val",), "train"),
    ]
    assert rows(read("flat", tmp_path=tmp_path)) == [("1.mp4", (), "train"), ("2.mp4", (), "train")]


def test_flat_splits_have_no_labels(tmp_path: Path) -> None:
    make(tmp_path / "set", "train/1.mp4", "val/2.mp4")
    assert rows(read("set", tmp_path=tmp_path)) == [("train/1.mp4", (), "train"), ("val/2.mp4", (), "val")]


def test_splits_are_renamed_and_the_others_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "set", "training/a/1.mp4", "test/a/2.mp4", "dev/a/3.mp4", "dev/a/4.mp4", "stray.mp4")
    source = {"path": "set", "train_split": "training", "val_split": "test"}
    with caplog.at_level(logging.INFO, logger="cfvid"):
        manifest = read(source, tmp_path=tmp_path)
    assert rows(manifest) == [("test/a/2.mp4", ("a",), "val"), ("training/a/1.mp4", ("a",), "train")]
    assert "not used are the splits '' (1 samples), 'dev' (2 samples)" in caplog.text


def test_a_single_source_can_be_read_with_all_its_splits(tmp_path: Path) -> None:
    make(tmp_path / "set", "train/a/1.mp4", "test/a/2.mp4")
    source = SourceConfig(path=str(tmp_path / "set"))
    manifest = read_source(
        source, data=DataConfig(pretrain=[source], targets={}), suffixes=SUFFIXES, cache=tmp_path / "cache"
    )
    assert rows(manifest) == [("test/a/2.mp4", ("a",), "test"), ("train/a/1.mp4", ("a",), "train")]


def test_other_files_are_ignored_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "set", "a/1.mp4", "a/1.txt", "README", "a/.hidden.mp4", ".git/x.mp4", "a/2.mp4.part")
    with caplog.at_level(logging.INFO, logger="cfvid"):
        assert read("set", tmp_path=tmp_path).ids == ["a/1.mp4"]
    assert "3 files are no media of this modality and were ignored: .part (1), .txt (1), no ending (1)" in caplog.text
    assert "set: hidden files and those of systems were ignored: .git (1), .hidden.mp4 (1)" in caplog.text


def test_sources_that_are_not_there_or_empty(tmp_path: Path) -> None:
    make(tmp_path, "empty/x.txt", "odd/train/a/1.txt", "odd/other/a/1.mp4", "file.csv")
    (tmp_path / "void").mkdir()
    for source, told in (
        ("absent", r"absent does not exist.*\n.*data.root"),
        ({"path": "absent", "kind": "folder"}, "does not exist"),
        ("void", "The source void has no samples"),
        ("empty", "read as folder; media files end in .mp4, .webm"),
        ("odd", r"can be splits or classes: train could be either.*\n.*train has no media, other has folders of media"),
        ({"path": "odd", "train_split": "train"}, r"its splits are 'other' \(1 samples\); asked for are train, val"),
        ({"path": "file.csv", "kind": "folder"}, "is no folder"),
        ({"path": "empty", "kind": "manifest"}, "is no file"),
        ({"path": "empty", "kind": "kinetics"}, "is no file"),
        ("file.csv", "cannot be read as a manifest"),
    ):
        with pytest.raises(DataError, match=told):
            read(source, tmp_path=tmp_path)
    with pytest.raises(ConfigError, match="no embedded data set is called 'nothing'"):
        read("embedded:nothing", tmp_path=tmp_path)


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    names = [f"{letter}/{number}.mp4" for letter in "zab" for number in (10, 9, 1)]
    one, other = make(tmp_path / "one", *names), make(tmp_path / "other", *reversed(names))
    assert read_folder(one, suffixes=SUFFIXES).ids == read_folder(other, suffixes=SUFFIXES).ids
    assert read_folder(one, suffixes=SUFFIXES).digest == read_folder(other, suffixes=SUFFIXES).digest


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "set", "a/1.mp4")
    try:
        with open(os.fsencode(tmp_path) + b"/set/a/\xff.mp4", "wb"):
            pass
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(DataError, match=r"not UTF-8: 'a/\\udcff.mp4'"):
        read("set", tmp_path=tmp_path)


# ---------------------------------------------------------------------------------------------- links


def test_linked_folders(tmp_path: Path) -> None:
    make(tmp_path, "set/a/1.mp4", "far/2.mp4", "other/3.mp4")
    root = tmp_path / "set"
    (root / "again").symlink_to(root / "a")
    (root / "a" / "circle").symlink_to(root)
    assert [file.as_posix() for file in files_below(root)] == ["a/1.mp4"]

    (root / "b").symlink_to(tmp_path / "far")
    with pytest.raises(DataError, match=r"b leads out of .*\n.*\n.*trusted_roots"):
        read("set", tmp_path=tmp_path)
    (tmp_path / "far" / "circle").symlink_to(tmp_path / "far")
    manifest = read("set", tmp_path=tmp_path, trusted_roots=["far"])
    assert rows(manifest) == [("a/1.mp4", ("a",), "train"), ("b/2.mp4", ("b",), "train")]
    assert manifest.locate(manifest[1]) == root / "b" / "2.mp4"


def test_files_are_in_the_order_of_their_paths_part_by_part(tmp_path: Path) -> None:
    make(tmp_path, "a/b/file", "a-b/c", "a b", "a.mp4", "ab/c", "a/b.d/e", "a/b d", "Z/a", "é/a")
    found = files_below(tmp_path)
    assert len(found) == 9
    assert found == sorted(found)


def test_the_source_itself_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path, "real/train/a/1.mp4")
    (tmp_path / "set").symlink_to(tmp_path / "real")
    manifest = read("set", tmp_path=tmp_path)
    assert manifest.ids == ["train/a/1.mp4"]
    assert manifest.locate(manifest[0]).is_file()


# ---------------------------------------------------------------------------------------------- several sources


def test_several_sources_have_prefixes(tmp_path: Path) -> None:
    make(tmp_path, "one/train/a/1.mp4", "two.v2/train/a/1.mp4", "two.v2/val/b/1.mp4")
    (tmp_path / "three.csv").write_text("sample_id,path,split,label\nx,one/train/a/1.mp4,train,c\n")
    assert rows(read("one", "two.v2", "three.csv", tmp_path=tmp_path)) == [
        ("one/train/a/1.mp4", ("a",), "train"),
        ("two.v2/train/a/1.mp4", ("a",), "train"),
        ("two.v2/val/b/1.mp4", ("b",), "val"),
        ("three/x", ("c",), "train"),
    ]


def test_groups_of_several_sources_are_kept_apart(tmp_path: Path) -> None:
    make(tmp_path, "1.mp4")
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("sample_id,path,split,group\n1,1.mp4,train,film\n2,1.mp4,train,\n")
    assert [s.group for s in read("one.csv", "two.csv", tmp_path=tmp_path)] == ["one/film", None, "two/film", None]
    assert [s.group for s in read("one.csv", tmp_path=tmp_path)] == ["film", None]


def test_sources_of_the_same_name_get_distinct_prefixes(tmp_path: Path) -> None:
    make(tmp_path, "x/videos/a/1.mp4", "y/videos/a/1.mp4", "z/a/1.mp4")
    assert read("x/videos", "y/videos/", "z", tmp_path=tmp_path).ids == [
        "x/videos/a/1.mp4",
        "y/videos/a/1.mp4",
        f"{tmp_path.name}/z/a/1.mp4",
    ]
    for folder in "xy":
        (tmp_path / folder / "list.csv").write_text("sample_id,path,split\n1,videos/a/1.mp4,train\n")
    assert read("x/list.csv", "y/list.csv", tmp_path=tmp_path).ids == ["x/list/1", "y/list/1"]


def test_the_same_source_twice_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "x/videos/a/1.mp4")
    for second in ("x/videos", "x/../x/videos", str(tmp_path / "x" / "videos")):
        with pytest.raises(DataError, match="is given twice"):
            read("x/videos", second, tmp_path=tmp_path)
    with pytest.raises(DataError, match="is given twice"):
        read("embedded:gestures", "embedded:gestures", tmp_path=tmp_path)


def test_each_source_has_its_own_splits_and_root(tmp_path: Path) -> None:
    make(tmp_path, "one/train/a/1.mp4", "one/val/a/1.mp4", "two/fit/a/1.mp4", "two/hold/a/1.mp4", "m/x.mp4")
    (tmp_path / "list.csv").write_text("sample_id,path,split,label\nx,x.mp4,all,p;q\n")
    manifest = read(
        "one",
        {"path": "two", "train_split": "fit", "val_split": "hold"},
        {"path": "list.csv", "train_split": "all", "media_root": "m", "label_separator": ";"},
        tmp_path=tmp_path,
    )
    assert [(s.sample_id, s.split) for s in manifest] == [
        ("one/train/a/1.mp4", "train"),
        ("one/val/a/1.mp4", "val"),
        ("two/fit/a/1.mp4", "train"),
        ("two/hold/a/1.mp4", "val"),
        ("list/x", "train"),
    ]
    assert manifest[4].labels == ("p", "q")
    assert all(manifest.locate(sample).is_file() for sample in manifest)


# ---------------------------------------------------------------------------------------------- Kinetics

HEADER = "label,youtube_id,time_start,time_end,split"


def kinetics(root: Path, *lines: str, header: str = HEADER) -> Path:
    path = root / "kinetics.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_kinetics_files_are_found_as_downloaders_name_them(tmp_path: Path) -> None:
    make(
        tmp_path,
        "media/riding a bike/aaaaaaaaaaa_000010_000020.mp4",
        "media/train/riding a bike/bbbbbbbbbbb.webm",
        "media/val/-cccccccccc_000000_000010.mp4",
        "media/ddddddddddd.mp4",
        "media/ddddddddddd_000001_000011.mp4",
        "media/eeeeeeeeeee.txt",
    )
    kinetics(
        tmp_path,
        "riding a bike,aaaaaaaaaaa,10,20,train",
        "riding a bike,bbbbbbbbbbb,3,13,train",
        "dancing,-cccccccccc,0,10,val",
        "dancing,ddddddddddd,1,11,val",
        "dancing,ddddddddddd,50,60,val",
        "dancing,eeeeeeeeeee,5,15,train",
    )
    manifest = read({"path": "kinetics.csv", "media_root": "media"}, tmp_path=tmp_path)
    found = {s.sample_id: (s.path, s.labels, s.split, s.start_s, s.end_s) for s in manifest}
    bike, dance = ("riding a bike",), ("dancing",)
    assert {s.sample_id[:11]: s.group for s in manifest} == {
        **dict.fromkeys(("aaaaaaaaaaa", "bbbbbbbbbbb", "-cccccccccc", "eeeeeeeeeee")),
        "ddddddddddd": "ddddddddddd",  # of which there are two clips
    }
    assert found == {
        "aaaaaaaaaaa_000010_000020": ("riding a bike/aaaaaaaaaaa_000010_000020.mp4", bike, "train", None, None),
        "bbbbbbbbbbb_000003_000013": ("train/riding a bike/bbbbbbbbbbb.webm", bike, "train", 3.0, 13.0),
        "-cccccccccc_000000_000010": ("val/-cccccccccc_000000_000010.mp4", dance, "val", None, None),
        "ddddddddddd_000001_000011": ("ddddddddddd_000001_000011.mp4", dance, "val", None, None),
        "ddddddddddd_000050_000060": ("ddddddddddd.mp4", dance, "val", 50.0, 60.0),
        "eeeeeeeeeee_000005_000015": ("dancing/eeeeeeeeeee_000005_000015.mp4", dance, "train", None, None),
    }


def test_kinetics_without_labels_or_splits_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    make(tmp_path, "aaaaaaaaaaa.mp4")
    path = kinetics(tmp_path, "aaaaaaaaaaa,1.5,11.5", header="youtube_id,time_start,time_end")
    [sample] = read_kinetics_csv(path, suffixes=SUFFIXES)
    assert (sample.labels, sample.split, sample.start_s, sample.end_s) == ((), "train", 1.5, 11.5)
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\ndancing,aaaaaaaaaaa,1,11,val\n".encode())
    [sample] = read("kinetics.csv", tmp_path=tmp_path)
    assert (sample.labels, sample.split, sample.path) == (("dancing",), "val", "aaaaaaaaaaa.mp4")


def test_kinetics_folders_of_other_downloaders(tmp_path: Path) -> None:
    make(tmp_path, "riding_a_bike/aaaaaaaaaaa_000010_000020.mp4", "val/bbbbbbbbbbb_000000_000010.mp4")
    path = kinetics(tmp_path, "riding a bike,aaaaaaaaaaa,10,20,train", "dancing,bbbbbbbbbbb,0,10,validate")
    bike, dance = read_kinetics_csv(path, suffixes=SUFFIXES)
    assert (bike.path, bike.labels) == ("riding_a_bike/aaaaaaaaaaa_000010_000020.mp4", ("riding a bike",))
    assert (dance.path, dance.split) == ("val/bbbbbbbbbbb_000000_000010.mp4", "validate")


@pytest.mark.parametrize("line", ["dancing,aaaaaaaaaaa,soon,11,val", "dancing,aaaaaaaaaaa", "dancing,a,nan,inf,val"])
def test_kinetics_rows_of_another_format(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"kinetics.csv:2: this row is not Kinetics' CSV format"):
        read_kinetics_csv(kinetics(tmp_path, line), suffixes=SUFFIXES)


def test_kinetics_without_media_folder_or_with_hostile_names(tmp_path: Path) -> None:
    kinetics(tmp_path, "../../etc,aaaaaaaaaaa,1,11,val")
    with pytest.raises(DataError, match="leads out of"):
        read("kinetics.csv", tmp_path=tmp_path)
    with pytest.raises(DataError, match="absent does not exist"):
        read({"path": "kinetics.csv", "media_root": "absent"}, tmp_path=tmp_path)


# ---------------------------------------------------------------------------------------------- what is read as what


def test_embedded_sets(tmp_path: Path, cache: Path) -> None:
    source = SourceConfig(path="embedded:gestures")
    data = DataConfig(pretrain=[source], targets={})
    manifest = read_sources([source], data=data, suffixes=SUFFIXES, cache=cache)
    assert (len(manifest.split("train")), len(manifest.split("val")), len(manifest.classes)) == (120, 72, 6)
    assert manifest.locate(manifest[0]).is_file()


def test_a_csv_is_told_by_its_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "a.mp4")
    caplog.set_level(logging.INFO, logger="cfvid")
    (tmp_path / "m.csv").write_text("sample_id,path,split\na,a.mp4,train\n")
    kinetics(tmp_path, "dancing,a,1,11,val")
    (tmp_path / "list.txt").write_text("sample_id,path,split\na,a.mp4,train\n")
    assert read("m.csv", tmp_path=tmp_path).ids == ["a"]
    assert read("list.txt", tmp_path=tmp_path).ids == ["a"]
    assert read("kinetics.csv", tmp_path=tmp_path).ids == ["a_000001_000011"]
    with pytest.raises(DataError, match="has no column"):
        read({"path": "kinetics.csv", "kind": "manifest"}, tmp_path=tmp_path)
    assert caplog.text.count("read as manifest, 1 samples, 0 classes") == 2
    assert caplog.text.count("read as kinetics, 1 samples, 1 classes") == 1


def test_real_folders(shared_data: Path, tmp_path: Path) -> None:
    manifest = read("video_transfer_fight", "video_pretrain_tennis", tmp_path=tmp_path, root=str(shared_data))
    assert (len(manifest.split("train")), len(manifest.split("val")), len(manifest.classes)) == (140, 53, 9)
    with open(shared_data / "hard_media" / "manifest.csv", encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert listed
    assert len(read("hard_media", tmp_path=tmp_path, root=str(shared_data))) > 20
