"""Indexes of shards: every member's place, from headers alone, and not looked for twice."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import known_implementations
from support.tars import tar_bytes, write_tar

from cfvid.data import tar_index
from cfvid.data.tar_index import read_indexes
from cfvid.errors import DataError, MissingPackage

LONG = "folder/" * 40 + "ü" * 60
CONTENT = {
    "a.jpg": b"x" * 700,
    "a.cls": b"7",
    f"{LONG}.jpg": b"yy",
    "./b.JSON": b'{"label": "\xc3\xbc"}',
    "c.txt": b"\xff",
}


def read(shard: Path | str, cache: Path) -> list[dict[str, Any]]:
    [table] = read_indexes([str(shard)], cache=cache)
    return table.to_pylist()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_member_lies_where_the_index_says(form: int, tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(content := tar_bytes(CONTENT, form=form))
    rows = read(path, tmp_path / "cache")
    assert [row["name"] for row in rows] == ["a.jpg", "a.cls", f"{LONG}.jpg", "b.JSON", "c.txt"]
    assert [content[row["offset"] :][: row["size"]] for row in rows] == list(CONTENT.values())
    assert [row["text"] for row in rows] == [None, "7", None, '{"label": "ü"}', "\ufffd"]


def test_folders_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("a/b.jpg"))
    assert [row["name"] for row in read(tmp_path / "s.tar", tmp_path / "cache")] == ["a/b.jpg"]


def test_media_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "s.tar", {f"{n}.mp4": bytes(10**6) for n in range(5)})
    num_read = 0

    class Counting(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            nonlocal num_read
            data = super().read(size)
            num_read += len(data)
            return data

    with Counting(path) as file:
        rows = list(tar_index._scan(file, path.stat().st_size))
    assert len(rows) == 5
    assert num_read < 10_000


def test_a_shard_is_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [write_tar(tmp_path / f"{n}.tar", {f"{n}.jpg": b"x"}) for n in range(3)]
    scanned: list[int] = []
    scan = tar_index._scan
    monkeypatch.setattr(tar_index, "_scan", lambda file, size: scanned.append(size) or scan(file, size))
    first = read_indexes([str(shard) for shard in shards], cache=tmp_path / "cache")
    again = read_indexes([str(shard) for shard in shards], cache=tmp_path / "cache")
    assert len(scanned) == 3
    assert all(one.equals(two) for one, two in zip(first, again, strict=True))

    write_tar(shards[1], {"new.jpg": b"y"})
    assert [row["name"] for row in read(shards[1], tmp_path / "cache")] == ["new.jpg"]
    assert len(scanned) == 4
    before = shards[1].stat()
    write_tar(shards[1], {"z.jpg": b"z"})  # as large, and with its times put back: not all of them can be
    os.utime(shards[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [row["name"] for row in read(shards[1], tmp_path / "cache")] == ["z.jpg"]


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", CONTENT)
    rows = read(shard, tmp_path / "cache")
    [kept] = (tmp_path / "cache" / "shards").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert read(shard, tmp_path / "cache") == rows


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").touch()
    assert len(read(write_tar(tmp_path / "s.tar", CONTENT), tmp_path / "cache")) == 5
    assert "cannot be kept" in caplog.text


def test_behind_a_url(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/index/s.tar", tar_bytes(CONTENT))
    rows = read("memory://index/s.tar", tmp_path / "cache")
    assert rows == read(write_tar(tmp_path / "s.tar", CONTENT), tmp_path / "cache")
    files.pipe("/index/s.tar", tar_bytes({"b.jpg": b""}))
    assert [row["name"] for row in read("memory://index/s.tar", tmp_path / "cache")] == ["b.jpg"]


def test_urls_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read("memory://index/absent.tar", tmp_path)
    with pytest.raises(DataError, match=r"nosuch://x.tar cannot be opened"):
        read("nosuch://x.tar", tmp_path)


def test_a_package_that_a_url_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"class": "absent_module.FileSystem", "err": "Install absent_module"}
    monkeypatch.setitem(known_implementations, "absent", entry)
    with pytest.raises(MissingPackage, match="Install absent_module"):
        read("absent://x.tar", tmp_path)
