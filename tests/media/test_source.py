"""What decoders open: files as they are, members of shards as exactly their own bytes."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from support.tars import tar_bytes, write_tar

from cfvid.errors import UnreadableSample
from cfvid.media import source
from cfvid.media.image import read_image
from cfvid.media.source import Member, below, is_url, opener, read_bytes

CONTENT = {"a.bin": b"first", "b/ü.bin": bytes(range(256)) * 5, "c.bin": b"", "d.bin": b"last"}
OFFSETS = {"a.bin": 512, "c.bin": 4608, "d.bin": 5120}
"""In a tar of CONTENT: the second member has three blocks more for its name, and three of data."""


def member(shard: str, name: str) -> Member:
    return Member(shard, name, OFFSETS[name], len(CONTENT[name]))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "s.tar", CONTENT)


def test_a_member_is_its_own_bytes(shard: Path) -> None:
    for name in OFFSETS:
        assert read_bytes(member(str(shard), name)) == CONTENT[name]
    assert str(member("x/s.tar", "a.bin")) == "x/s.tar!/a.bin"


def test_a_member_behind_a_url_is_one_range(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/shards/s.tar", shard.read_bytes())
    asked: list[tuple[int, int]] = []
    plain = type(files).cat_file

    def noted(self: object, path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        return plain(self, path, start=start, end=end)

    monkeypatch.setattr(type(files), "cat_file", noted)
    assert read_bytes(member("memory://shards/s.tar", "d.bin")) == b"last"
    assert asked == [(5120 - 512, 5120 + 4)]
    assert read_bytes(member(f"file://{shard}", "d.bin")) == b"last"


def test_openers_start_anew_each_time(shard: Path) -> None:
    opened = opener(member(str(shard), "d.bin"))
    shard.unlink()  # the bytes are there
    for _ in range(2):
        file = opened()
        assert not isinstance(file, str)
        assert file.read() == b"last"
        assert file.name.endswith("s.tar!/d.bin")
    path = shard.with_name("file.bin")
    path.touch()
    assert opener(path)() == str(path)
    assert opener(str(path))() == str(path)


def test_no_file() -> None:
    with pytest.raises(UnreadableSample, match="no such file"):
        opener("/nowhere/at/all.png")


@pytest.mark.parametrize(
    "members",
    [
        {"other": b"x" * 600, **CONTENT},
        {"d.bin": b"last", **{k: v for k, v in CONTENT.items() if k != "d.bin"}},
        {**{k: v for k, v in CONTENT.items() if k != "d.bin"}, "e.bin": b"last"},
        {**CONTENT, "d.bin": b"longer"},
        {"a.bin": b"first"},
    ],
    ids=["moved", "reordered", "renamed", "resized", "cut"],
)
def test_a_shard_that_was_written_anew_gives_no_other_bytes(members: dict[str, bytes], shard: Path) -> None:
    shard.write_bytes(tar_bytes(members))
    with pytest.raises(UnreadableSample, match="not as it was when it was indexed"):
        read_bytes(member(str(shard), "d.bin"))


@pytest.mark.parametrize("offset", [0, 100, 512, 10**12])
def test_places_that_are_none(offset: int, shard: Path) -> None:
    with pytest.raises(UnreadableSample, match="not as it was"):
        read_bytes(Member(str(shard), "d.bin", offset, 4))


def test_members_too_large_for_memory(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.touch()
    os.truncate(path, 2**40)  # takes no space
    with pytest.raises(UnreadableSample, match="exceeds the limit"):
        read_bytes(Member(str(path), "a.bin", 512, source.MAX_MEMBER_BYTES + 1))


def test_a_picture_of_a_shard_and_its_faults_read_like_a_file(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(picture)
    content = {"a.png": picture.read_bytes(), "b.png": b"no picture"}
    shard = str(write_tar(tmp_path / "s.tar", content))
    whole = len(content["a.png"])
    assert (read_image(Member(shard, "a.png", 512, whole)) == read_image(picture)).all()
    (tmp_path / "b.png").write_bytes(content["b.png"])
    reasons = set()
    for media in (tmp_path / "b.png", Member(shard, "b.png", 512 + -(-whole // 512) * 512 + 512, 10)):
        with pytest.raises(UnreadableSample) as caught:
            read_image(media)
        reasons.add(str(caught.value))
    assert len(reasons) == 1


def test_urls_and_paths() -> None:
    assert [is_url(text) for text in ("s3://b/k", "simplecache::s3://b", "memory://", "file:///x")] == [True] * 4
    assert [is_url(text) for text in ("/a/b", "a:/b", "C:\\x", "embedded:shapes", "", "://x", "a b://c")] == [False] * 7
    assert below("s3://b", "x") == "s3://b/x"
    assert below("memory://", "x") == "memory://x"
