"""Manifests that were written on other systems: their paths are understood, or named in one message with an example."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cfvid.data.manifest_files import read_manifest
from cfvid.data.readers import read_source
from cfvid.errors import DataError
from cfvid.sections.data import DataConfig, SourceConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "ü b.png", "back\\slash.png", " blank.png", "x.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def paths_of(root: Path, *paths: str, head: bytes = b"", end: str = "\n") -> list[str]:
    lines = ["sample_id,path,label,split", *(f"{i},{path},c,train" for i, path in enumerate(paths))]
    (root / "m.csv").write_bytes(head + "".join(line + end for line in lines).encode())
    return [sample.path for sample in read_manifest(root / "m.csv")]


def test_paths_are_read_as_they_are_called_here(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`a\\1.png` in a manifest was "no such file"."""
    with caplog.at_level(logging.INFO, logger="cfvid"):
        found = paths_of(root, "a\\1.png", "a/2.png", "a/1.png ", " .\\a\\2.png", "\ta\\2.png")
    assert found == ["a/1.png", "a/2.png", "a/1.png", "./a/2.png", "a/2.png"]
    assert "4 paths are read as they are called here, first: 'a\\\\1.png' as 'a/1.png'" in caplog.text


def test_what_is_there_as_it_is_written_is_left_alone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert paths_of(root, "back\\slash.png", " blank.png") == ["back\\slash.png", " blank.png"]
    assert caplog.text == ""
    assert paths_of(root, "a\\9.png", "a/1.png") == ["a\\9.png", "a/1.png"]
    assert "1 paths with backslashes, blanks at their ends or file: name no file, first: 'a\\\\9.png'" in caplog.text


def test_byte_order_marks_line_ends_and_blanks_around_columns(root: Path) -> None:
    assert paths_of(root, "a\\1.png", "a/2.png", head=b"\xef\xbb\xbf", end="\r\n") == ["a/1.png", "a/2.png"]
    (root / "m.csv").write_text("sample_id, path, label, split\n007, a/1.png, 010, train\n")
    manifest = read_source(
        SourceConfig(path=str(root / "m.csv")),
        data=DataConfig(pretrain=["unused"], targets={}),
        suffixes=(),
        cache=root / "cache",
    )
    [sample] = manifest
    assert (sample.sample_id, sample.path, sample.labels, sample.split) == ("007", "a/1.png", ("010",), "train")


def test_uris_of_files(root: Path) -> None:
    uri = (root / "ü b.png").as_uri()
    assert paths_of(root, uri, uri.replace("file://", "file://localhost")) == [str(root / "ü b.png")] * 2
    with pytest.raises(DataError, match="leads out of"):
        read_manifest(root / "m.csv").check_paths()
    read_manifest(root / "m.csv", trusted_roots=[str(root)]).check_paths()


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        (
            ["C:\\data\\a\\1.png", "C:\\data\\b\\2.png", "a/1.png"],
            r"2 of 3 paths .*: C:\\data\\a\\1.png \(sample 0\).*no C: here.*Leave out C:\\data,.* a/1.png,.*media_root",
        ),
        (["d:/set/1.png"], r"1 of 1 .*no d: here.*Leave out d:/set, so that this one reads 1.png"),
        (["C:\\a\\1.png", "D:\\a\\1.png"], r"2 of 2 .*Leave out C:, so that this one reads a/1.png"),
        (["\\\\nas\\share\\a\\1.png"], r"no \\\\nas\\share here.*so that this one reads 1.png"),
        (["file:///C:/data/1.png"], r"first: C:/data/1.png"),
        (["file://nas/share/1.png"], r"first: //nas/share/1.png"),
    ],
)
def test_drives_and_servers_are_named_before_work(paths: list[str], told: str, root: Path) -> None:
    with pytest.raises(DataError, match="(?s)" + told):
        paths_of(root, *paths)


def test_backslashes_lead_no_further_than_slashes(root: Path) -> None:
    (root / "set").mkdir()
    (root / "set" / "m.csv").write_text("sample_id,path,split\n1,..\\a\\1.png,train\n")
    with pytest.raises(DataError, match="leads out of"):
        read_manifest(root / "set" / "m.csv").check_paths()


def test_members_of_shards_are_called_as_the_shard_has_them(root: Path) -> None:
    (root / "m.csv").write_text("sample_id,path,split,member_offset,member_size\n1,x.tar!/a\\b.png,train,512,1\n")
    assert read_manifest(root / "m.csv")[0].path == "x.tar!/a\\b.png"
