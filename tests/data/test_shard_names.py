"""How shards are named: braces, wildcards, folders and URLs; nothing is run, and nothing found outside its folder."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from cfvid.data.shard_names import expand_braces, find_shards, holds_only_shards, names_shards
from cfvid.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{,x}a", ["a", "xa"]),
        ("a{x}b", ["a{x}b"]),
        ("a{0..}b", ["a{0..}b"]),
        ("{5..5}", ["5"]),
    ],
)
def test_braces(text: str, expected: list[str]) -> None:
    assert expand_braces(text) == expected


@pytest.mark.parametrize("text", ["{0..99999999999}", "{0..9999}{0..9999}", "{0..999}" * 40, "{5..4}"])
def test_braces_that_stand_for_too_much(text: str) -> None:
    with pytest.raises(DataError, match="more than|goes down"):
        expand_braces(text)


def test_one_shard_and_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "s/train-0.tar", "s/train-1.tar", "s/val-0.tar", "s/x.json", "s/.hidden.tar")
    for text, names in {
        "s/train-0.tar": ["train-0.tar"],
        "s/train-{0..1}.tar": ["train-0.tar", "train-1.tar"],
        "s/{val,train}-0.tar": ["train-0.tar", "val-0.tar"],
        "s/*.tar": ["train-0.tar", "train-1.tar", "val-0.tar"],
        "s/{train-*,train-0}.tar": ["train-0.tar", "train-1.tar"],
        "s/t*-?.tar": ["train-0.tar", "train-1.tar"],
        "s": ["train-0.tar", "train-1.tar", "val-0.tar"],
    }.items():
        found = find_shards(f"{tmp_path}/{text}")
        assert (found.root, found.names) == (f"{tmp_path}/s", names), text
        assert found.places == [f"{tmp_path}/s/{name}" for name in names]


def test_folders_and_patterns_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/0.tar", "val/0.tar", "val/deep/1.tar", ".old/2.tar")
    assert find_shards(str(tmp_path)).names == ["train/0.tar", "val/0.tar", "val/deep/1.tar"]
    assert find_shards(f"{tmp_path}/{{train,val}}/{{0..0}}.tar").names == ["train/0.tar", "val/0.tar"]
    assert find_shards(f"{tmp_path}/*/0.tar").root == str(tmp_path)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(touch(tmp_path, "a-0.tar"))
    assert (
        find_shards("a-0.tar").names == find_shards("a-{0..0}.tar").names == find_shards("*.tar").names == ["a-0.tar"]
    )
    assert find_shards("a-*.tar").places == ["./a-0.tar"]


def test_names_with_special_characters(tmp_path: Path) -> None:
    touch(tmp_path, "a[1]/x{0..1}.tar", "a[1]/x0.tar")
    assert find_shards(f"{tmp_path}/a[1]/x{{0..1}}.tar").names == ["x{0..1}.tar"]
    assert find_shards(f"{tmp_path}/a[1]").names == ["x0.tar", "x{0..1}.tar"]


def test_a_missing_number_is_kept_to_be_told(tmp_path: Path) -> None:
    touch(tmp_path, "a-0.tar", "a-2.tar")
    assert find_shards(f"{tmp_path}/a-{{0..2}}.tar").names == ["a-0.tar", "a-1.tar", "a-2.tar"]


@pytest.mark.parametrize("text", ["none-*.tar", "empty", "memory://no/such/*.tar"])
def test_no_shards(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="names no shards"):
        find_shards(text if "://" in text else f"{tmp_path}/{text}")


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_urls(protocol: str, tmp_path: Path) -> None:
    home = "/names" if protocol == "memory" else str(tmp_path)
    files = fsspec.filesystem(protocol)
    for name in ("t-0.tar", "t-1.tar", "v-0.tar", "x.json"):
        files.pipe(f"{home}/{name}", b"")
    url = f"{protocol}://{home}"
    for text, names in {
        "t-{0..1}.tar": ["t-0.tar", "t-1.tar"],
        "{t,v}-*.tar": ["t-0.tar", "t-1.tar", "v-0.tar"],
        "": ["t-0.tar", "t-1.tar", "v-0.tar"],
        "v-0.tar": ["v-0.tar"],
    }.items():
        found = find_shards(f"{url}/{text}")
        assert found.names == names
        assert found.places == [f"{url}/{name}" for name in names]
    assert find_shards("memory://top-{0..0}.tar").places == ["memory://top-0.tar"]


@pytest.mark.parametrize("text", ["pipe:cat x.tar", "pipe:aws s3 cp s3://b/x-{0..1}.tar -"])
def test_commands_are_refused(text: str) -> None:
    assert names_shards(text)
    with pytest.raises(DataError, match="commands are never run"):
        find_shards(text)


def test_which_folders_are_taken_for_shards(tmp_path: Path) -> None:
    media = {".mp4"}
    assert holds_only_shards(touch(tmp_path / "1", "a.tar", "a.json", "README.md", ".lock"), suffixes=media)
    assert not holds_only_shards(touch(tmp_path / "2", "a.tar", "b.MP4"), suffixes=media)
    assert not holds_only_shards(touch(tmp_path / "3", "a.tar", "class/b.mp4"), suffixes=media)
    assert not holds_only_shards(touch(tmp_path / "4", "a.json"), suffixes=media)


def test_shards_that_are_not_all_written(tmp_path: Path) -> None:
    touch(tmp_path, "a-0.tar", "inputs.json")
    for text in (str(tmp_path), f"{tmp_path}/a-0.tar", f"{tmp_path}/a-*.tar"):
        with pytest.raises(DataError, match="not all written"):
            find_shards(text)
    touch(tmp_path, "record.json")
    assert find_shards(str(tmp_path)).names == ["a-0.tar"]
