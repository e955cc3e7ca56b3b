"""What all official readers share: files found as they are listed, and nothing lost without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.official import VIDEOS, add_text, add_videos

from cfvid.data.official.text import lines_of, number_within, read_json_file, read_json_list
from cfvid.data.official.tree import Tree
from cfvid.errors import DataError


def tree(root: Path, **options: object) -> Tree:
    return Tree(root, suffixes=VIDEOS, **options)


def test_files_are_found_in_any_folder_and_with_another_suffix(tmp_path: Path) -> None:
    add_videos(tmp_path, "deep/er/a/1.mp4", "b/1.MP4", "b/x.y.mp4", "a/2.mp4")
    add_text(tmp_path, "a/3.txt", "no video")
    here = tree(tmp_path)
    assert here.find("a/1.avi") == "deep/er/a/1.mp4"
    assert here.find("b/1.avi") == "b/1.MP4"
    assert here.find("1") == "b/1.MP4"  # the nearest to the root
    assert here.find("b/x.y.avi") == "b/x.y.mp4"
    assert [here.find(name) for name in ("a/3.txt", "a/4.avi", "c/1.avi", "x.mp4")] == [None] * 4


def test_paths_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    add_videos(tmp_path, "set/1.mp4", "secret.mp4")
    for listed in ("../secret.mp4", "/etc/passwd", "a/../../secret.mp4"):
        with pytest.raises(DataError, match="leads out of"):
            tree(tmp_path / "set").find(listed)


def test_linked_folders_need_trust(tmp_path: Path) -> None:
    add_videos(tmp_path, "far/1.mp4")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "videos").symlink_to(tmp_path / "far")
    with pytest.raises(DataError, match="leads out of"):
        tree(tmp_path / "set")
    here = tree(tmp_path / "set", trusted_roots=[str(tmp_path / "far")])
    prepared = here.prepared([here.sample("1.avi", labels=["a"], split="train")])
    assert prepared.manifest.locate(prepared.manifest[0]).is_file()


def test_what_is_only_listed_or_only_there(tmp_path: Path) -> None:
    add_videos(tmp_path, "1.mp4", "2.mp4", "extra.mp4")
    here = tree(tmp_path)
    listed = [here.sample(f"{n}.avi", labels=["a"], split="train", usual="videos") for n in (1, 2, 2, 3)]
    prepared = here.prepared(listed)
    assert prepared.manifest.ids == ["1", "2"]
    assert (prepared.not_found, prepared.not_listed) == (("videos/3.avi",), ("extra.mp4",))


def test_more_than_half_missing_names_a_place(tmp_path: Path) -> None:
    add_videos(tmp_path, "1.mp4")
    here = tree(tmp_path)
    two, three = ([here.sample(f"{n}.avi", labels=[], split="train") for n in range(1, last)] for last in (3, 4))
    assert len(here.prepared(two).manifest) == 1
    prepared = here.prepared(three)
    assert len(prepared.manifest) == 1
    told = rf"2 of 3 files .* {tmp_path}\.\n.*would be {tmp_path}/2\.avi\n.*--allow-missing"
    with pytest.raises(DataError, match=told):
        prepared.refuse_shortage()
    with pytest.raises(DataError, match=rf"1 of 1 files .* {tmp_path}\.\n.*would be {tmp_path}/2\.avi\n.*unpacked\.$"):
        here.prepared([here.sample("2.avi", labels=[], split="train")])
    with pytest.raises(DataError, match="list no samples"):
        here.prepared([])


def test_a_sample_that_is_listed_in_two_ways_is_refused(tmp_path: Path) -> None:
    add_videos(tmp_path, "1.mp4")
    here = tree(tmp_path)
    with pytest.raises(
        DataError, match="list 1 in two ways.*\n.*split train and labels a, then split train and labels b"
    ):
        here.prepared([here.sample("1.avi", labels=[label], split="train") for label in "ab"])


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent does not exist"):
        tree(tmp_path / "absent")


def test_lines_of_all_systems(tmp_path: Path) -> None:
    add_text(tmp_path, "list.txt", "a ü.avi 1", "", "  b.avi\t2  ", start="\ufeff", end="\r\n")
    lines = list(lines_of(tmp_path / "list.txt"))
    assert [(line.number, line.text) for line in lines] == [(1, "a ü.avi 1"), (3, "b.avi\t2")]
    assert [line.split_last("FILE NUMBER") for line in lines] == [("a ü.avi", "1"), ("b.avi", "2")]
    with pytest.raises(DataError, match=r"list.txt:3: not a digit: 'b.avi"):
        number_within("x", lines[1], below=9, expected="a digit")


@pytest.mark.parametrize("number", ["-1", "9", "1.0", "²", "", "1" * 5000])
def test_other_numbers_are_refused(number: str, tmp_path: Path) -> None:
    add_text(tmp_path, "list.txt", "a")
    (line,) = lines_of(tmp_path / "list.txt")
    with pytest.raises(DataError, match="list.txt:1"):
        number_within(number, line, below=9, expected="a digit")


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xfc 1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        list(lines_of(tmp_path / "latin.txt"))
    for text, told in (("{", "not JSON"), ("[" * 100_000, "not JSON"), ("[1]", "no list"), ('{"a": 1}', "no list")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=told):
            read_json_list(tmp_path / "x.json", of="a")
    (tmp_path / "x.json").write_text('\ufeff{"a": []}', encoding="utf-8")
    assert read_json_file(tmp_path / "x.json") == {"a": []}
